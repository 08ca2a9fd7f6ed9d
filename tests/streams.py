"""One stream under test, with a model that is a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from fakes import BEGAN_UTC_NS, TOY_RATE_HZ, TOY_WINDOW, FakeClock

from pam_daemon.analysis.detect import Threshold
from pam_daemon.analysis.reports import Origin
from pam_daemon.analysis.stream import Analysis, Stream, Timing
from pam_daemon.capture.ring import FloatArray
from pam_daemon.clock import SampleClock
from pam_daemon.config import Flood
from pam_daemon.records import Mode, ModelName, Record, Wire

MODEL = ModelName("toy", "0" * 64)
KEY = "f" * 64
NOW = Timing(0, 0)


def analysis(hop: int = 1000, mode: Mode = "replay", flood: Flood | None = None) -> Analysis:
    return Analysis(
        station="pamd",
        mode=mode,
        model=MODEL,
        labels=("loud",),
        model_rate_hz=TOY_RATE_HZ,
        window_samples=TOY_WINDOW,
        hop_samples=hop,
        threshold=Threshold(0.5, "model"),
        min_separation_s=1.5,
        floor_dbfs=-90.0,
        flood=flood or Flood(),
    )


def file_origin(rate_hz: int) -> Origin:
    return Origin(SampleClock(rate_hz, BEGAN_UTC_NS), lambda sample: (KEY, sample))


def loudness(windows: Sequence[FloatArray]) -> FloatArray:
    """Scores (windows, 1) of windows (samples,), each from its own samples alone."""
    scores = [[min(1.0, 40 * float(np.mean(np.square(window, dtype=np.float64))))] for window in windows]
    result: FloatArray = np.array(scores, np.float32).reshape(-1, 1)
    return result


def noise(rng: np.random.Generator, count: int) -> FloatArray:
    """Quiet, and loud in some stretches."""
    level = rng.choice([0.02, 0.02, 0.3], size=count // 4000 + 1).repeat(4000)[:count]
    samples: FloatArray = (rng.standard_normal(count) * level).astype(np.float32)
    return samples


@dataclass
class Bench:
    """One stream under test, and what became of it."""

    stream: Stream
    rng: np.random.Generator
    records: list[Record] = field(default_factory=list)

    def round(self, limit: int) -> None:
        taken = self.stream.take(limit)
        self.check()
        assert len(taken) <= limit
        assert all(window.shape == (TOY_WINDOW,) and np.isfinite(window).all() for window in taken)
        self.records += self.stream.settle(loudness(taken), NOW, FakeClock())

    def write(self, what: str, seconds: float) -> None:
        count = max(1, round(seconds * self.stream.sample_rate_hz))
        if what == "gap":
            self.stream.ring.gap(count, "overflow", estimated=count % 2 == 0, uncertainty_s=0.1)
            return
        samples = noise(self.rng, count)
        if what == "bad":
            samples[self.rng.integers(0, count, size=3)] = [np.nan, np.inf, -np.inf]
        self.stream.ring.write(samples)

    def check(self) -> None:
        """The identity, with each term as it is published."""
        status = self.stream.status(None)
        terms = (status.analysed_samples, status.gap_samples, status.skipped_samples, status.pending_samples)
        assert min(terms) >= 0
        assert status.elapsed_samples == sum(terms)

    def wires(self, kind: str) -> list[Wire]:
        return [record.wire() for record in self.records if record.kind == kind]
