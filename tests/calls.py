"""Calls at whole seconds, as candidates for alert rules and as records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fakes import BEGAN_UTC_NS

from pam_daemon.alerts.tally import Candidate, Rule
from pam_daemon.clock import NS_PER_S, rfc3339
from pam_daemon.records import Body, Detection, Gap, Kind, Latency, ModelName, Record, record_id

MODEL = ModelName("toy", "0" * 64)
SEPARATION_S = 3
FLOOD_EVERY_S = 25.0
RATE_HZ = 1000


def rule(**fields: Any) -> Rule:
    neutral = Rule("rule", "a", 3, 60.0, 0, 0.0, 1, fields.get("window_s", 60.0), 0.0, 0.9, 0.0, None)
    return replace(neutral, **fields)


def ns(seconds: float) -> int:
    return BEGAN_UTC_NS + round(seconds * NS_PER_S)


def utc(seconds: float) -> str:
    return rfc3339(ns(seconds))


@dataclass(frozen=True, order=True)
class Call:
    """A detection, and what its id is made of; times in whole seconds."""

    at_s: int
    stream: str
    label: str
    score: float
    flood: bool
    began_s: int = 0  # when its stream did

    @property
    def record(self) -> Record:
        peak_s = self.at_s - self.began_s
        start = (peak_s - 1) * RATE_HZ
        body = Detection(
            start_utc=utc(self.at_s - 1),
            end_utc=utc(self.at_s + 1),
            peak_utc=utc(self.at_s),
            start_s=peak_s - 1.0,
            end_s=peak_s + 1.0,
            peak_s=float(peak_s),
            start_sample=start,
            end_sample=start + 2 * RATE_HZ,
            label=self.label,
            score=self.score,
            threshold=0.5,
            threshold_source="model",
            windows=1,
            continuing=False,
            truncated=False,
            model=MODEL,
            level_dbfs=None,
            latency_ms=Latency(0.0, None, None, None, None),
            flood=self.flood,
        )
        return record("detection", self.stream, utc(self.began_s), start, body, self.label)

    @property
    def candidate(self) -> Candidate:
        made = self.record
        assert isinstance(made.body, Detection) and made.id is not None
        began_utc = utc(self.began_s)
        return Candidate.of(made.body, self.stream, made.id, began_utc, made.body.start_sample, began_utc)


def record(kind: Kind, stream: str, key: str, sample: int, body: Body, *rest: str) -> Record:
    return Record(kind, "pamd", stream, "live", record_id(kind, "pamd", stream, key, sample, *rest), utc(0), body)


def gap(stream: str, start_s: int, end_s: int, reason: str = "absent") -> Record:
    body = Gap("gap", start_s * RATE_HZ, (end_s - start_s) * RATE_HZ, utc(start_s), end_s - start_s, reason, True, 0.1)
    return record("gap", stream, "", start_s, body, reason, str(end_s))
