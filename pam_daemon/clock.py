"""Time: the machine's clocks behind one seam, and the sample clock from which every UTC is derived."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """What the house knows of the machine's time; tests inject their own."""

    def monotonic_ns(self) -> int: ...

    def utc_ns(self) -> int: ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def utc_ns(self) -> int:
        return time.time_ns()


@dataclass(frozen=True, slots=True)
class SampleClock:
    """Sample number to UTC. Replaying faster changes nothing: no other clock is asked."""

    sample_rate_hz: int
    start_utc_ns: int | None  # UTC of sample 0; None where nobody knows (a file without a time)

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
