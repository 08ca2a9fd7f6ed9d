"""Time: the machine's clocks behind one seam, and the sample clock from which every UTC is derived."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

NS_PER_S = 1_000_000_000
_TOGETHER_NS = 100_000  # two clocks read within this time were read at once
_ASK_EVERY_NS = 60 * NS_PER_S  # another process, for how good UTC is
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Sync:
    """How good the machine's UTC is, by the kernel's word."""

    quality: Literal["synchronised", "unsynchronised", "unknown"]
    max_error_s: float | None = None  # of UTC, either way; grows while nobody corrects it


class Clock(Protocol):
    """What the house knows of the machine's time; tests inject their own."""

    def monotonic_ns(self) -> int: ...

    def utc_ns(self) -> int: ...

    def sync(self) -> Sync: ...


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self._told = Sync("unknown")  # by systemd, where the kernel may not be asked
        self._ask_ns = 0

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        return time.time_ns()

    def sync(self) -> Sync:
        if (sync := _kernel_sync()) is not None:
            return sync
        if self.monotonic_ns() >= self._ask_ns:
            self._ask_ns = self.monotonic_ns() + _ASK_EVERY_NS
            self._told = _systemd_sync()
        return self._told


def utc_less_monotonic_ns(clock: Clock) -> int:
    """The distance of the two clocks: it steps where UTC is set, and creeps where it is slewed.

    Of five attempts the one that was least held up counts: a thread that waits for the processor between the two
    clocks would see a step.
    """
    least_ns, distance_ns = sys.maxsize, 0
    for _ in range(5):
        before_ns, utc_ns, after_ns = clock.monotonic_ns(), clock.utc_ns(), clock.monotonic_ns()
        if after_ns - before_ns < least_ns:
            least_ns, distance_ns = after_ns - before_ns, utc_ns - (before_ns + after_ns) // 2
        if least_ns < _TOGETHER_NS:
            break
    return distance_ns


class StreamClock(Protocol):
    """A stream's time: the sample clock that holds at a sample."""

    def at(self, sample: int) -> SampleClock: ...


@dataclass(frozen=True, slots=True)
class SampleClock:
    """Sample number to UTC. Replaying faster changes nothing: no other clock is asked."""

    sample_rate_hz: int
    start_utc_ns: int | None  # UTC of sample 0; None where nobody knows (a file without a time)

    def at(self, sample: int) -> SampleClock:
        """Itself: a recording has one clock."""
        return self

    def seconds(self, sample: int) -> float:
        return sample / self.sample_rate_hz

    def utc_ns(self, sample: int) -> int | None:
        if self.start_utc_ns is None:
            return None
        return self.start_utc_ns + sample * NS_PER_S // self.sample_rate_hz

    def utc(self, sample: int) -> str | None:
        """RFC 3339 with microseconds, or None."""
        utc_ns = self.utc_ns(sample)
        return None if utc_ns is None else rfc3339(utc_ns)


def rfc3339(utc_ns: int) -> str:
    """An instant as the wire writes it: `2009-03-29T17:15:00.000000Z`."""
    seconds, rest_ns = divmod(utc_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


def utc_ns_of(instant: datetime) -> int:
    """Nanoseconds since 1970 of an instant with a time zone, without rounding through a float."""
    delta = instant - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * NS_PER_S + delta.microseconds * 1000


def parse_rfc3339(text: str) -> int:
    """The inverse of `rfc3339`, in nanoseconds since 1970."""
    return utc_ns_of(datetime.fromisoformat(text))


class _Timex(ctypes.Structure):
    """The head of Linux's `struct timex`, adjtimex(2), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),  # microseconds
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


_STA_UNSYNC = 0x40


def _kernel_sync() -> Sync | None:
    """adjtimex(2) with nothing to adjust, which needs no privilege; None where a sandbox forbids it all the same."""
    if sys.platform != "linux":
        return Sync("unknown")
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    quality: Literal["synchronised", "unsynchronised"] = (
        "unsynchronised" if timex.status & _STA_UNSYNC else "synchronised"
    )
    return Sync(quality, timex.maxerror / 1e6)


def _systemd_sync() -> Sync:
    """What systemd-timedated, which may ask the kernel, answers over D-Bus; it knows of no error."""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return Sync("unknown")
    if answer not in ("yes", "no"):
        return Sync("unknown")
    return Sync("synchronised" if answer == "yes" else "unsynchronised")
