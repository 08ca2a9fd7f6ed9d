"""A sound played in real time, as a device would give it and in its place."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.errors import SourceError

_BLOCK_S = 0.1  # of sound at a time

_Piece = TypeVar("_Piece", bound=Audio | Missing)


class Sound(Protocol):
    """What can be played: a recording, a simulated sea."""

    @property
    def name(self) -> str: ...

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def channels(self) -> int: ...

    def blocks(self, block_samples: int | None = None) -> Iterator[Audio | Missing]:
        """From the beginning, in blocks of at most so many samples."""
        ...


@dataclass(frozen=True)
class Player:
    """A Source over a sound, with as many channels as the device whose place it takes: those of the sound in turn.

    It ends with the sound, or at `stop`.
    """

    sound: Sound
    channels: int
    stop: threading.Event
    clock: Clock

    @property
    def name(self) -> str:
        return self.sound.name

    @property
    def state(self) -> str:
        """It is always heard."""
        return self.name

    @property
    def sample_rate_hz(self) -> int:
        return self.sound.sample_rate_hz

    def blocks(self) -> Iterator[Audio | Missing]:
        rows = np.arange(self.channels) % self.sound.channels
        pieces = self._whole(self.sound.blocks(block_samples(self.sample_rate_hz)))
        for piece, due_ns in paced(pieces, self.sample_rate_hz, 1.0, self.stop, self.clock):
            yield Audio(piece.samples[rows], due_ns)

    def _whole(self, pieces: Iterable[Audio | Missing]) -> Iterator[Audio]:
        for piece in pieces:
            if isinstance(piece, Missing):
                raise SourceError(f"{self.name}: cut short, and so was what was played; give a whole recording")
            yield piece


def paced(
    pieces: Iterable[_Piece], sample_rate_hz: int, speed: float, stop: threading.Event, clock: Clock
) -> Iterator[tuple[_Piece, int]]:
    """Pieces when they are over, so many times faster than they were recorded, with the monotonic clock then."""
    began_ns, samples = clock.monotonic_ns(), 0
    for piece in pieces:
        samples += piece.samples.shape[1] if isinstance(piece, Audio) else piece.samples
        due_ns = began_ns + int(samples * NS_PER_S / sample_rate_hz / speed)
        if stop.wait(max(due_ns - clock.monotonic_ns(), 0) / NS_PER_S):
            return
        yield piece, due_ns


def block_samples(sample_rate_hz: int) -> int:
    """Of a block as long as a device's."""
    return max(1, round(_BLOCK_S * sample_rate_hz))
