"""From detections to alerts, one rule at a time: pure, in stream time.

Stream time is UTC from samples, or the time since the recording began where nobody knows its UTC, in nanoseconds.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pam_daemon.alerts.coverage import Coverage
from pam_daemon.clock import NS_PER_S, parse_rfc3339, rfc3339
from pam_daemon.records import STATION_WIDE, Alert, Detection, Level, Wire, record_id

_ROUNDING_S = 0.001  # of samples at two rates


@dataclass(frozen=True, slots=True)
class Rule:
    """When detections become an alert, and how long it stands."""

    name: str
    label: str
    count: int  # detections in the window: `detected`
    window_s: float
    possible_count: int  # so many are `possible`; 0: there is no such level
    min_score: float
    streams: int  # distinct ones, for `detected`
    hold_s: float  # from the last detection that meets the rule; no shorter than the window
    cool_down_s: float
    coverage: float  # of the hold, to be `cleared`
    extend_every_s: float
    zone: dict[str, Any] | None

    def level(self, counted: Sequence[Candidate]) -> Level | None:
        """What the detections in the window amount to."""
        if len(counted) >= self.count and len({one.stream for one in counted}) >= self.streams:
            return "detected"
        return "possible" if 0 < self.possible_count <= len(counted) else None


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A detection as rules see it; they take them in this order."""

    time_ns: int
    stream: str
    label: str
    id: str
    peak_s: float
    score: float
    flood: bool
    utc: bool  # `time_ns` is
    start_sample: int
    key: str  # with the next, what ids are made of
    first_sample: int
    began_utc: str | None  # of a live stream

    @staticmethod
    def of(
        body: Detection, stream: str, identity: str, key: str, first_sample: int, began_utc: str | None
    ) -> Candidate:
        return Candidate(
            time_ns=stream_ns(body.peak_utc, body.peak_s),
            stream=stream,
            label=body.label,
            id=identity,
            peak_s=body.peak_s,
            score=body.score,
            flood=bool(body.flood),
            utc=body.peak_utc is not None,
            start_sample=body.start_sample,
            key=key,
            first_sample=first_sample,
            began_utc=began_utc,
        )

    def seconds_from(self, other: Candidate) -> float:
        """By sample numbers where both count from one begin: a live clock may move a little between them."""
        if self.key == other.key:
            return abs(self.peak_s - other.peak_s)
        return abs(self.time_ns - other.time_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class Decision:
    """An alert record in the making."""

    id: str
    body: Alert


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert that has not ended."""

    id: str  # of its `raised` record
    key: str  # with the next, what the ids of its records are made of
    first_sample: int
    body: Alert  # as of the last detection that met the rule; the revision is that of the last record
    last_ns: int
    expires_ns: int
    told_ns: int  # the last detection in the last record


class Tally:
    """One rule at work: counts what lies in its window, and holds at most one alert.

    Args:
        separation_s: detections of one stream that are closer are one call.
        flood_every_s: in a flood an alert's extension is told so often, at most.
    """

    def __init__(self, rule: Rule, station: str, coverage: Coverage, separation_s: float, flood_every_s: float) -> None:
        self.rule = rule
        self.standing: Standing | None = None
        self.retired = False  # by a change of the configuration: its alert runs out
        self._station = station
        self._coverage = coverage
        self._separation_s = separation_s
        self._flood_every_s = flood_every_s
        self._window: list[Candidate] = []  # in order
        self._last: dict[str, Candidate] = {}  # by stream: the last in the window, or before it
        self._known: tuple[int, str] | None = None  # up to this detection the process before has decided
        self._spent_ns: int | None = None  # up to here, detections belong to an alert that has ended
        self._quiet_until_ns: int | None = None  # the cool-down's end

    def take(self, one: Candidate) -> Decision | None:
        """The next detection -> the alert that it raises or extends, if that is to be told."""
        counted = self._count(one)
        level = self.rule.level(counted)
        if self.retired or level is None or (self._known is not None and (one.time_ns, one.stream) <= self._known):
            return None
        if self.standing is not None:
            return self._extend(self.standing, one, level, counted)
        if self._quiet_until_ns is not None and one.time_ns < self._quiet_until_ns:
            return None
        return self._raise(one, level, counted)

    def end(self) -> Decision:
        """The time of the alert that stands is over."""
        assert self.standing is not None, "nothing stands"
        standing, self.standing = self.standing, None
        share = self._coverage.share(standing.last_ns, standing.expires_ns)
        self._spend(standing.last_ns, standing.expires_ns)
        body = msgspec.structs.replace(
            standing.body,
            alert=standing.id,
            revision=standing.body.revision + 1,
            state="cleared" if share >= self.rule.coverage else "lapsed",
            coverage=_thousandths(share),
        )
        return Decision(self._identity(body, standing.key, standing.first_sample), body)

    def resume(self, last: Wire | None, heard: Sequence[Candidate], since_ns: int) -> None:
        """Go on after the rule's last record in the journal; where it has none, with detections from `since_ns` on.

        Args:
            heard: the detections that are in the journal too, as far back as the window reaches.
        """
        if last is None:
            self._known = (since_ns, "")
            return
        body = msgspec.convert(last, Alert)
        last_ns, expires_ns = stream_ns(body.last_utc), stream_ns(body.expires_utc)
        known = (one for one in heard if one.id == body.detections[-1])
        self._known = next(((one.time_ns, one.stream) for one in known), (last_ns, ""))
        if body.state in ("cleared", "lapsed"):
            self._spend(last_ns, expires_ns)
        else:
            key, sample = body.began_utc or "", body.start_sample
            self.standing = Standing(body.alert or last["id"], key, sample, body, last_ns, expires_ns, told_ns=last_ns)

    def _count(self, one: Candidate) -> list[Candidate]:
        """What counts with this detection; nothing where it does not itself."""
        before = self._last.get(one.stream)
        if one.label != self.rule.label or one.score < self.rule.min_score:
            return []
        if before is not None and one.seconds_from(before) < self._separation_s - _ROUNDING_S:
            return []  # a gap has cut a call in two
        self._last[one.stream] = one
        begin_ns = one.time_ns - to_ns(self.rule.window_s)
        self._window = [other for other in self._window if other.time_ns > begin_ns]
        insort(self._window, one)
        after_ns = begin_ns if self._spent_ns is None else max(begin_ns, self._spent_ns)
        return [other for other in self._window if after_ns < other.time_ns <= one.time_ns]

    def _raise(self, one: Candidate, level: Level, counted: Sequence[Candidate]) -> Decision:
        rule, first, expires_ns = self.rule, counted[0], one.time_ns + to_ns(self.rule.hold_s)
        body = Alert(
            alert=None,
            revision=0,
            label=rule.label,
            level=level,
            state="raised",
            rule=rule.name,
            first_utc=rfc3339(first.time_ns) if first.utc else None,
            max_score=max(other.score for other in counted),
            began_utc=first.began_utc,
            start_sample=first.start_sample,
            **self._as_of(one, counted, one.time_ns, expires_ns),
        )
        identity = self._identity(body, first.key, first.first_sample)
        self.standing = Standing(
            identity, first.key, first.first_sample, body, one.time_ns, expires_ns, told_ns=one.time_ns
        )
        return Decision(identity, body)

    def _extend(
        self, standing: Standing, one: Candidate, level: Level, counted: Sequence[Candidate]
    ) -> Decision | None:
        before = standing.body
        last_ns = max(standing.last_ns, one.time_ns)
        expires_ns = max(standing.expires_ns, one.time_ns + to_ns(self.rule.hold_s))
        risen = level == "detected" and before.level == "possible"
        told = risen or one.time_ns - standing.told_ns >= to_ns(self._told_every_s(one))
        body = msgspec.structs.replace(
            before,
            alert=standing.id,
            revision=before.revision + told,
            level="detected" if risen else before.level,
            state="extended",
            max_score=max(before.max_score, *(other.score for other in counted)),
            **self._as_of(one, counted, last_ns, expires_ns),
        )
        told_ns = one.time_ns if told else standing.told_ns
        self.standing = replace(standing, body=body, last_ns=last_ns, expires_ns=expires_ns, told_ns=told_ns)
        return Decision(self._identity(body, standing.key, standing.first_sample), body) if told else None

    def _as_of(self, one: Candidate, counted: Sequence[Candidate], last_ns: int, expires_ns: int) -> dict[str, Any]:
        """What each detection that meets the rule says anew."""
        window_s = self.rule.window_s
        return {
            "count": len(counted),
            "window_s": window_s,
            "last_utc": rfc3339(last_ns) if one.utc else None,
            "expires_utc": rfc3339(expires_ns) if one.utc else None,
            "detections": tuple(other.id for other in counted),
            "streams": tuple(sorted({other.stream for other in counted})),
            "coverage": _thousandths(self._coverage.share(one.time_ns - to_ns(window_s), one.time_ns)),
            "flood": one.flood,
            "zone": self.rule.zone,
        }

    def _told_every_s(self, one: Candidate) -> float:
        """Never so seldom that an alert seems to run out while it goes on."""
        every_s = max(self.rule.extend_every_s, self._flood_every_s if one.flood else 0.0)
        return min(every_s, self.rule.hold_s / 2)

    def _spend(self, last_ns: int, expires_ns: int) -> None:
        self._spent_ns = last_ns
        self._quiet_until_ns = expires_ns + to_ns(self.rule.cool_down_s)

    def _identity(self, body: Alert, key: str, first_sample: int) -> str:
        made_of = (key, first_sample, body.rule, body.label, body.revision)
        return record_id("alert", self._station, STATION_WIDE, *made_of)


def stream_ns(utc: str | None, seconds: float = 0.0) -> int:
    """Stream time, to the microsecond that records speak in: UTC, or seconds since the recording began."""
    return int(seconds * 1e6) * 1000 if utc is None else parse_rfc3339(utc)


def to_ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def _thousandths(share: float) -> float:
    """Rounded down: 0.9 is only said of what is."""
    return math.floor(share * 1000) / 1000
