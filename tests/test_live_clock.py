"""The live clock: drift, jitter, gaps and steps of UTC, tried through the injected clock without waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.capture.live_clock import LiveClock
from pam_daemon.clock import NS_PER_S, utc_less_monotonic_ns
from pam_daemon.records import Event

RATE_HZ = 48_000
BLOCK = 4800


@dataclass
class Rig:
    """A device of some true rate whose blocks come late by chance, and the clock that watches it."""

    drift_ppm: float = 0.0
    jitter_s: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)
    end: int = 0
    true_s: float = 0.0
    events: list[Event] = field(default_factory=list)
    live: LiveClock | None = None

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(3)

    def listen(self, seconds: float) -> None:
        for _ in range(round(seconds * RATE_HZ / BLOCK)):
            self.true_s += BLOCK / (RATE_HZ * (1 + self.drift_ppm * 1e-6))
            captured_ns = round((self.true_s + self._random.exponential(self.jitter_s)) * NS_PER_S)
            self.clock.now_ns = captured_ns
            first, self.end = self.end, self.end + BLOCK
            if self.live is None:
                self.live = LiveClock(RATE_HZ, self.clock, self.end, captured_ns)
            else:
                self.events += self.live.observe(first, self.end, captured_ns)

    def miss(self, seconds: float, believed_s: float) -> None:
        """Nothing is captured for so long, and the stream's numbers go on by what is believed."""
        assert self.live
        self.true_s += seconds
        self.clock.now_ns = round(self.true_s * NS_PER_S)
        first, self.end = self.end, self.end + round(believed_s * RATE_HZ)
        self.events += self.live.observe(first, self.end, None)

    def error_s(self, sample: int | None = None, true_s: float | None = None) -> float:
        """The clock's UTC of a sample (the next) against the truth."""
        assert self.live
        sample, true_s = (self.end, self.true_s) if sample is None or true_s is None else (sample, true_s)
        utc_ns = self.live.at(sample).utc_ns(sample)
        assert utc_ns is not None
        return (utc_ns - self.clock.began_utc_ns) / NS_PER_S - true_s


@pytest.mark.parametrize("drift_ppm", [-150.0, -20.0, 0.0, 35.0, 150.0])
def test_a_device_that_drifts_is_never_far_off_and_its_rate_is_told(drift_ppm: float) -> None:
    """Twelve hours: by its nominal rate alone it would be off by seconds."""
    rig = Rig(drift_ppm, jitter_s=0.005)
    for _ in range(12):
        rig.listen(3600)
        assert abs(rig.error_s()) < 0.02
    assert rig.live and rig.events == []
    state = rig.live.state()
    assert state.drift_ppm == pytest.approx(drift_ppm, abs=1.0)
    assert state.drift_uncertainty_ppm is not None and state.drift_uncertainty_ppm < 1.0
    assert state.offset_s == pytest.approx(-drift_ppm * 1e-6 * 12 * 3600, abs=0.05)
    assert state.quality == "synchronised"


def test_nothing_is_said_of_the_rate_before_it_can_be_known() -> None:
    rig = Rig()
    rig.listen(60)
    assert rig.live and rig.live.state().drift_ppm is None


@pytest.mark.parametrize("step_s", [-86_400.0, -1.5, -0.06, 0.06, 2.0, 1_700_000_000.0])
def test_a_step_of_utc_is_an_event_and_moves_only_what_comes_after(step_s: float) -> None:
    """As when NTP sets the clock of a machine that booted without one."""
    rig = Rig(jitter_s=0.002)
    rig.listen(600)
    assert rig.live
    before = [(sample, rig.live.at(sample).utc(sample)) for sample in range(0, rig.end, 100_000)]
    stepped_at = rig.end
    rig.clock.began_utc_ns += round(step_s * NS_PER_S)
    rig.listen(100)
    assert [(sample, rig.live.at(sample).utc(sample)) for sample, _ in before] == before
    assert abs(rig.error_s()) < 0.01
    assert abs(rig.error_s(stepped_at + BLOCK, 600 + BLOCK / RATE_HZ)) < 0.01
    (event,) = rig.events
    assert (event.what, event.severity) == ("clock_step", "warning")
    assert event.data["step_s"] == pytest.approx(step_s, abs=0.001)


def test_slewing_is_no_step() -> None:
    """UTC may creep by 500 ppm against the monotonic clock: it is followed."""
    rig = Rig()
    rig.listen(60)
    for _ in range(600):
        rig.clock.began_utc_ns += 500_000
        rig.listen(1)
    assert rig.events == []
    assert abs(rig.error_s()) < 0.02


def test_a_step_while_the_device_is_away_is_noticed_before_it_comes_back() -> None:
    rig = Rig()
    rig.listen(60)
    rig.clock.began_utc_ns += 3600 * NS_PER_S
    rig.miss(1.0, 1.0)
    assert [event.what for event in rig.events] == ["clock_step"]
    assert abs(rig.error_s()) < 0.01


@given(st.floats(-0.1, 0.1), st.floats(0.5, 500))
def test_after_a_gap_of_which_the_length_is_an_estimate_utc_is_right(wrong_s: float, gap_s: float) -> None:
    """Sample numbers keep the estimate's error; UTC does not."""
    rig = Rig()
    rig.listen(60)
    rig.miss(gap_s, gap_s + wrong_s)
    rig.listen(1)
    assert abs(rig.error_s()) < 0.001
    assert rig.events == []


def test_samples_that_jump_without_a_gap_are_an_event() -> None:
    """A device that gave sound twice, or lost some unseen."""
    rig = Rig()
    rig.listen(120)
    rig.true_s += 0.2
    rig.listen(60)
    (event,) = rig.events
    assert event.what == "sample_step" and event.data["step_s"] == pytest.approx(0.2, abs=0.01)
    assert abs(rig.error_s()) < 0.01


def test_the_begin_stays_the_begin_through_months() -> None:
    """More links than are kept: the first sample's UTC, and with it the ids' key, does not move."""
    rig = Rig(drift_ppm=100)
    rig.listen(1)
    assert rig.live
    began_utc = rig.live.began_utc
    for _ in range(1500):
        rig.true_s += 10
        first, rig.end = rig.end, rig.end + round(10 * (1 + 100e-6) * RATE_HZ)
        rig.clock.now_ns = round(rig.true_s * NS_PER_S)
        rig.live.observe(first, rig.end, rig.clock.now_ns)
    assert rig.live.at(0).utc(0) == rig.live.began_utc == began_utc
    assert abs(rig.error_s()) < 0.02


class HeldUp(FakeClock):
    """Time passes while it is read: so much before each answer, in turn."""

    def __init__(self, holds_ms: list[float]) -> None:
        super().__init__()
        self._holds_ns = [round(hold * 1e6) for hold in holds_ms]

    def monotonic_ns(self) -> int:
        self.now_ns += self._holds_ns.pop(0) if self._holds_ns else 0
        return super().monotonic_ns()


@pytest.mark.parametrize("least", range(5))
def test_a_thread_that_waits_between_the_clocks_sees_no_step_of_utc(least: int) -> None:
    """Ten readings, five pairs; the second of a pair comes 400 ms after the first, but for one that is hardly late."""
    waits_ms = [400.0] * 5
    waits_ms[least] = 0.5
    clock = HeldUp([wait for pair_ms in waits_ms for wait in (0.0, pair_ms)])
    assert abs(utc_less_monotonic_ns(clock) - clock.began_utc_ns) <= 0.5e6
