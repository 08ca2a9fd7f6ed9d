"""A live stream's clock: sample numbers held against the machine's clocks, so that months of drift and steps of UTC
leave every new record in its right place, and move none that is out.

A device that is off by 50 ppm is wrong by 4 s after a day, and UTC is set after a boot without a clock: so the stream's
time is a chain of sample clocks, each of which holds from its first sample on.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque

import numpy as np

from pam_daemon.clock import NS_PER_S, Clock, SampleClock, rfc3339, utc_less_monotonic_ns
from pam_daemon.records import ClockState, Event

_STEP_NS = 50_000_000  # slewing moves UTC by less between two blocks
_FIRST_LINK_NS = NS_PER_S  # then after twice as long each time: the first blocks come out of a buffer that settles
_LINK_NS = 10 * NS_PER_S
_SETTLED_NS = 30 * NS_PER_S  # after the begin or a gap, samples may still find their place
_KEPT_LINKS = 1000  # more than the ring holds
_DRIFT_LINKS = (12, 360)  # the least that tell the drift, and as many as are asked: two minutes, one hour


class LiveClock:
    """The clock of a device, shared by its streams. The capture thread calls `observe`; any thread may ask the rest.

    A block's lag is the monotonic clock when its last sample was captured less that sample's place at the nominal
    rate. What delays a block only adds to the lag, so the least of a stretch is the truest.
    """

    def __init__(self, sample_rate_hz: int, clock: Clock, end: int, monotonic_ns: int) -> None:
        """Samples [0, end) came first, the last of them captured at `monotonic_ns`."""
        self.sample_rate_hz = sample_rate_hz
        self._clock = clock
        self._utc_less_ns = utc_less_monotonic_ns(clock)
        self._end = end
        self._least_lag_ns = self._lag_ns(end, monotonic_ns)
        self.start = SampleClock(sample_rate_hz, self._least_lag_ns + self._utc_less_ns)  # as it was at the begin
        self._links: tuple[tuple[int, SampleClock], ...] = ((0, self.start),)
        self._begin_stretch(monotonic_ns)
        self.began_utc = rfc3339(self.start.start_utc_ns or 0)

    def at(self, sample: int) -> SampleClock:
        """The clock that holds at a sample; for the first and what lies before it, that of the begin."""
        links = self._links
        place = bisect_right(links, sample, key=lambda link: link[0])
        return links[place - 1][1] if place and sample > 0 else self.start

    def observe(self, first: int, end: int, monotonic_ns: int | None) -> list[Event]:
        """Samples [first, end) were captured, the last of them at `monotonic_ns`; None: they are missing.

        Returns: what happened to the clocks since the last samples.
        """
        utc_less_ns = utc_less_monotonic_ns(self._clock)
        step_ns, self._utc_less_ns = utc_less_ns - self._utc_less_ns, utc_less_ns
        events: list[Event] = []
        if abs(step_ns) >= _STEP_NS:
            events.append(self._step("clock_step", "UTC was set on this machine", first, step_ns))
            self._link(first, self._least_lag_ns)
        if monotonic_ns is None:
            return events
        if first != self._end:  # after a gap, of which the length is an estimate
            self._least_lag_ns = self._lag_ns(end, monotonic_ns)
            self._link(first, self._least_lag_ns)
            self._begin_stretch(monotonic_ns)
        self._end = end
        self._least_lag_ns = min(self._least_lag_ns, self._lag_ns(end, monotonic_ns))
        if monotonic_ns >= self._due_ns:
            events += self._next_link(end, monotonic_ns)
        return events

    def state(self) -> ClockState:
        """What a status says of it."""
        sync = self._clock.sync()
        drift_ppm, uncertainty_ppm = self._drift()
        moved_ns = (self._links[-1][1].start_utc_ns or 0) - (self.start.start_utc_ns or 0)
        return ClockState(
            offset_s=round(moved_ns / NS_PER_S, 6),
            drift_ppm=drift_ppm,
            drift_uncertainty_ppm=uncertainty_ppm,
            quality=sync.quality,
            max_error_s=sync.max_error_s,
        )

    def _begin_stretch(self, monotonic_ns: int) -> None:
        """Samples without a gap begin: lags before it tell nothing of those to come."""
        self._stretch_ns = monotonic_ns
        self._wait_ns = _FIRST_LINK_NS
        self._due_ns = monotonic_ns + self._wait_ns
        self._lags: deque[tuple[int, int]] = deque(maxlen=_DRIFT_LINKS[1])  # of each link: monotonic time, least lag

    def _next_link(self, sample: int, monotonic_ns: int) -> list[Event]:
        least_ns = self._least_lag_ns
        self._link(sample, least_ns)
        self._wait_ns = min(2 * self._wait_ns, _LINK_NS)
        self._due_ns = monotonic_ns + self._wait_ns
        self._least_lag_ns = self._lag_ns(sample, monotonic_ns)
        if monotonic_ns - self._stretch_ns < _SETTLED_NS:
            return []
        step_ns = least_ns - self._lags[-1][1] if self._lags else 0
        if abs(step_ns) >= _STEP_NS:
            self._lags.clear()
        self._lags.append((monotonic_ns, least_ns))
        if abs(step_ns) < _STEP_NS:
            return []
        return [self._step("sample_step", "the device's samples jumped against the clock", sample, step_ns)]

    def _link(self, sample: int, lag_ns: int) -> None:
        holds = SampleClock(self.sample_rate_hz, lag_ns + self._utc_less_ns)
        self._links = (*self._links[1 - _KEPT_LINKS :], (sample, holds))

    def _step(self, what: str, text: str, sample: int, step_ns: int) -> Event:
        step_s = round(step_ns / NS_PER_S, 6)
        data = {"step_s": step_s, "sample": sample, "utc": rfc3339(self._clock.utc_ns())}
        return Event(what, "warning", f"{text}: {step_s:+.3f} s", data)

    def _lag_ns(self, end: int, monotonic_ns: int) -> int:
        return monotonic_ns - end * NS_PER_S // self.sample_rate_hz

    def _drift(self) -> tuple[float | None, float | None]:
        """By how many parts in a million the device is faster than its nominal rate, and the standard error of that."""
        lags = list(self._lags)
        if len(lags) < _DRIFT_LINKS[0]:
            return None, None
        at_ns, lag_ns = np.array(lags, np.float64).T
        at_ns, lag_ns = at_ns - at_ns.mean(), lag_ns - lag_ns.mean()
        spread = float(at_ns @ at_ns)
        slope = float(at_ns @ lag_ns) / spread
        rest = lag_ns - slope * at_ns
        error = math.sqrt(float(rest @ rest) / (len(lags) - 2) / spread)
        return round(-slope * 1e6, 2), round(error * 1e6, 2)
