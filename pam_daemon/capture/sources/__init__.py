"""Where the sound comes from: what every source gives to the capture thread, in order and without holes.

A source yields what it captured (`Audio`) and what it could not (`Missing`). The samples of both, added up from
the first item on, are the sample numbers of the stream: a source that says nothing about a loss moves every call
that follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pam_daemon.errors import SourceError


class Outage(SourceError):
    """A device that cannot be listened to; `reason` is the word for it in gap records and statuses."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Audio:
    """Consecutive samples that were captured, at least one."""

    samples: NDArray[np.float32]
    """Shape (channels, samples), full scale +-1; not-a-number and infinite values come as the source gave them."""
    monotonic_ns: int | None
    """The monotonic clock when the sample after the last was captured; None from a file."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Consecutive samples that were not captured, on all channels."""

    samples: int
    """How many, at the source's rate; positive."""
    reason: str
    """One word for the gap record: `truncated`, `overflow`..."""
    estimated: bool = False
    """True when the count was measured with a clock, not known."""
    uncertainty_s: float = 0.0
    """How far an estimated count may be off, in seconds, either way."""


class Source(Protocol):
    """A recording or a device: fixed channels at one rate."""

    @property
    def name(self) -> str:
        """What the user calls it: a file or a device."""
        ...

    @property
    def state(self) -> str:
        """What a status shows: the name while it is heard, else what is wrong (`absent`, `busy`, `failed`...)."""
        ...

    @property
    def sample_rate_hz(self) -> int:
        """Frames a second, on every channel."""
        ...

    @property
    def channels(self) -> int:
        """The first axis of every `Audio.samples`."""
        ...

    def blocks(self) -> Iterator[Audio | Missing]:
        """What was captured and what was not, in order; the first item begins at sample 0.

        Raises:
            SourceError: The source can no longer be read.
        """
        ...
