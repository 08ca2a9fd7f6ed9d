"""The capture thread's work: fills the rings from a source, one a channel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.sources import Audio, Missing
from pam_daemon.sources.file import Recording
from pam_daemon.stream import Origin, Stream

_BLOCK_S = 0.1  # of sound at a time, where the speed of a replay is bounded
_BLOCK_SAMPLES = 32_768  # where it is not: as much as costs little memory at any rate


def fill(
    pieces: Iterable[Audio | Missing],
    streams: Sequence[Stream],
    rows: Sequence[int],
    clock: Clock,
    moved: Callable[[], None],
) -> None:
    """Write a source's pieces to the streams' rings, stream i from row `rows[i]`; close them at the end, come what may.

    `moved` is called at every piece. A stream without an origin gets one from the clocks: the UTC at which its first
    sample was captured.
    """
    try:
        for piece in pieces:
            moved()
            for stream, row in zip(streams, rows, strict=True):
                if stream.origin is None:
                    stream.origin = Origin.live(stream.sample_rate_hz, _start_utc_ns(piece, stream, clock))
                if isinstance(piece, Audio):
                    stream.ring.write(piece.samples[row], piece.monotonic_ns)
                else:
                    stream.ring.gap(
                        piece.samples,
                        piece.reason,
                        estimated=piece.estimated,
                        uncertainty_s=piece.uncertainty_s,
                    )
    finally:
        for stream in streams:
            stream.ring.close()


def file_pieces(
    recording: Recording, speed: float | None, stop: threading.Event, clock: Clock
) -> Iterator[Audio | Missing]:
    """A recording's pieces as fast as they are taken (None), or so many times faster than they were recorded."""
    rate_hz = recording.sample_rate_hz
    began_ns, samples = clock.monotonic_ns(), 0
    for piece in recording.blocks(_BLOCK_SAMPLES if speed is None else max(1, round(_BLOCK_S * rate_hz))):
        samples += piece.samples.shape[1] if isinstance(piece, Audio) else piece.samples
        if speed is not None:
            due_ns = began_ns + int(samples * NS_PER_S / rate_hz / speed)
            stop.wait(max(due_ns - clock.monotonic_ns(), 0) / NS_PER_S)
        if stop.is_set():
            return
        yield piece


def _start_utc_ns(piece: Audio | Missing, stream: Stream, clock: Clock) -> int:
    """UTC of the first sample of a stream's first piece."""
    samples = piece.samples.shape[1] if isinstance(piece, Audio) else piece.samples
    ended_ns = clock.monotonic_ns()
    if isinstance(piece, Audio) and piece.monotonic_ns is not None:
        ended_ns = piece.monotonic_ns
    ago_ns = clock.monotonic_ns() - ended_ns + samples * NS_PER_S // stream.sample_rate_hz
    return clock.utc_ns() - ago_ns
