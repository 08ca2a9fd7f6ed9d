"""The capture loop: a device's buffer, emptied in time, into blocks; what it lost is measured with the clock.

PortAudio restarts an overrun stream without counting what was lost, and may lose more without any flag: so the frames
that came are held against the monotonic clock.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pam_daemon.capture.sources import Audio, Missing, Outage

BLOCK_S = 0.1
POLL_S = 0.02  # a hung or unplugged device blocks a read for ever, so the loop looks before it reads
_LONGEST_WATCH_S = 0.6  # between two reads: more than a burst of most devices
_NS_PER_S = 1_000_000_000


class InputStream(Protocol):
    """What is used of PortAudio's blocking input stream."""

    @property
    def read_available(self) -> int:
        """Frames that can be read without waiting."""
        ...

    def read(self, frames: int) -> tuple[NDArray[np.float32], bool]:
        """Frames of shape (frames, channels), and whether frames before them were lost."""
        ...


class StopEvent(Protocol):
    """What is used of a `threading.Event`."""

    def wait(self, timeout: float) -> bool:
        """Wait until it is set or the time is over; whether it is set."""
        ...


@dataclass(slots=True)
class Pace:
    """Frames held against the monotonic clock: finds losses, whatever the device says of them.

    A frame's lag is the clock's time when it was seen, less its place in the stream. A device that delivers in bursts
    makes the lag larger for a moment; only a loss keeps it large. The least lag is the reference; it may rise slowly,
    for no sound card's clock is exact.
    """

    sample_rate_hz: int
    tolerance_s: float = 0.1
    """The least loss that is found without an overflow flag; also how far a measured loss may be off."""
    settle_s: float = 2.0
    """How long a large lag is watched before it is called a loss: several bursts of the device."""
    drift_ppm: float = 500.0
    """Far more than any sound card's."""
    watching: bool = field(default=False, init=False)
    """Whether a loss is suspected: what came since then is to be held back."""
    _frames: int = field(default=0, init=False)  # read and lost
    _reference_s: float = field(default=math.inf, init=False)
    _seen_ns: int = field(default=0, init=False)
    _watched_s: float = field(default=0.0, init=False)
    _least_lag_s: float = field(default=math.inf, init=False)
    _flagged: bool = field(default=False, init=False)

    def observe(self, now_ns: int, frames: int, waiting: int, overflowed: bool) -> int:
        """Count frames just read, with those seen waiting behind them; gives the frames lost before the suspicion."""
        self._frames += frames
        lag_s = now_ns / _NS_PER_S - (self._frames + waiting) / self.sample_rate_hz
        passed_s = (now_ns - self._seen_ns) / _NS_PER_S
        drift_s = self.drift_ppm * 1e-6 * passed_s
        self._seen_ns = now_ns
        late = lag_s > self._reference_s + self.tolerance_s
        if not self.watching and not late and not overflowed:
            self._reference_s = min(lag_s, self._reference_s + drift_s)
            return 0
        if not self.watching:
            self.watching, self._watched_s, self._least_lag_s = True, 0.0, math.inf
        # A process that was stopped has not watched: of a longer pause only a moment counts.
        self._watched_s += min(passed_s, _LONGEST_WATCH_S)
        self._least_lag_s = min(self._least_lag_s, lag_s)
        self._flagged |= overflowed
        caught_up = not late and not self._flagged
        return self.conclude() if caught_up or self._watched_s >= self.settle_s else 0

    def captured_ns(self, waiting: int, now_ns: int) -> int:
        """When the sample after the last that was read was captured: by the least lag, for bursts only add to it."""
        by_arrival_ns = now_ns - waiting * _NS_PER_S // self.sample_rate_hz
        if math.isinf(self._reference_s):
            return by_arrival_ns
        return min(by_arrival_ns, int((self._reference_s + self._frames / self.sample_rate_hz) * _NS_PER_S))

    def conclude(self) -> int:
        """End the suspicion, if there is one, on what is known now; gives the frames lost."""
        if not self.watching:
            return 0
        excess_s = self._least_lag_s - self._reference_s
        flagged, self._flagged, self.watching = self._flagged, False, False
        if excess_s <= self.tolerance_s and not flagged:
            return 0
        lost = max(round(excess_s * self.sample_rate_hz), 1)  # at least one, for the device says so
        self._frames += lost
        return lost


@dataclass(slots=True)
class _Reader:
    """Reads blocks, and holds them back while a loss is suspected, so that `Missing` comes before them."""

    stream: InputStream
    pace: Pace
    monotonic_ns: Callable[[], int]
    held: list[Audio] = field(default_factory=list)

    def take(self, frames: int) -> list[Audio | Missing]:
        """Read so many frames; gives what can be passed on now."""
        data, overflowed = self.stream.read(frames)
        waiting, now_ns = self.stream.read_available, self.monotonic_ns()
        lost = self.pace.observe(now_ns, frames, waiting, overflowed)
        samples = np.ascontiguousarray(data.T, dtype=np.float32)
        self.held.append(Audio(samples, self.pace.captured_ns(waiting, now_ns)))
        return [] if self.pace.watching else self._released(lost)

    def finish(self) -> list[Audio | Missing]:
        """What is still held back, on what is known now of a loss before it."""
        return self._released(self.pace.conclude())

    def _released(self, lost: int) -> list[Audio | Missing]:
        missing = [Missing(lost, "overflow", estimated=True, uncertainty_s=self.pace.tolerance_s)] if lost else []
        held, self.held = self.held, []
        return [*missing, *held]


def capture(
    stream: InputStream, stop: StopEvent, pace: Pace, *, no_data_s: float, monotonic_ns: Callable[[], int]
) -> Iterator[Audio | Missing]:
    """Blocks of at most 0.1 s until `stop` is set, then what is in the device's buffer at that moment.

    Raises:
        Outage: No frame has come for `no_data_s`, or the stream raises it; what was held back comes first.
    """
    reader = _Reader(stream, pace, monotonic_ns)
    try:
        for frames in _portions(stream, stop, max(round(BLOCK_S * pace.sample_rate_hz), 1), no_data_s):
            yield from reader.take(frames)
    except Outage:
        yield from reader.finish()
        raise
    yield from reader.finish()


def _portions(stream: InputStream, stop: StopEvent, block_frames: int, no_data_s: float) -> Iterator[int]:
    """How much to read next: a block, or what is there once no more comes; ends with all of it when `stop` is set."""
    idle_polls, seen, wait_s = 0, 0, POLL_S  # polls, not the clock: a process that was stopped has not waited for data
    while not stop.wait(wait_s):
        available = stream.read_available
        if available >= block_frames or 0 < available == seen:
            yield min(available, block_frames)
            idle_polls, seen, wait_s = 0, 0, 0.0
            continue
        idle_polls, seen, wait_s = idle_polls + 1, available, POLL_S
        if idle_polls * POLL_S > no_data_s:
            raise Outage("hung", f"has given no data for {no_data_s:g} s; check that it is connected and not in use")
    rest = stream.read_available
    while rest > 0:
        yield min(rest, block_frames)
        rest -= block_frames
