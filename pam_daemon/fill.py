"""The capture thread's work: fills the rings from a source, one a channel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from pam_daemon.analysis.reports import Origin
from pam_daemon.analysis.stream import Stream
from pam_daemon.capture.live_clock import LiveClock
from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.file import Recording
from pam_daemon.capture.sources.player import block_samples, paced
from pam_daemon.clock import Clock

_BLOCK_SAMPLES = 32_768  # where the speed of a replay is not bounded: as much as costs little memory at any rate


def fill(
    pieces: Iterable[Audio | Missing],
    streams: Sequence[Stream],
    rows: Sequence[int],
    clock: Clock,
    moved: Callable[[], None],
) -> None:
    """Write a source's pieces to the streams' rings, stream i from row `rows[i]`; close them at the end, come what may.

    `moved` is called at every piece. Streams without an origin are live: the first piece gives them their clock.
    """
    live: LiveClock | None = None
    end = 0
    try:
        for piece in pieces:
            moved()
            first, end = end, end + (piece.samples.shape[1] if isinstance(piece, Audio) else piece.samples)
            if streams[0].origin is None:
                live = LiveClock(streams[0].sample_rate_hz, clock, end, _captured_ns(piece, clock))
                for stream in streams:
                    stream.origin = Origin.live(live)
            elif live is not None:
                captured_ns = piece.monotonic_ns if isinstance(piece, Audio) else None
                for event in live.observe(first, end, captured_ns):
                    for stream in streams:
                        stream.tell(event)
            for stream, row in zip(streams, rows, strict=True):
                _write(piece, stream, row)
    finally:
        for stream in streams:
            stream.ring.close()


def _write(piece: Audio | Missing, stream: Stream, row: int) -> None:
    if isinstance(piece, Audio):
        stream.hear(piece.samples[row])
        stream.ring.write(piece.samples[row], piece.monotonic_ns)
    else:
        stream.ring.gap(piece.samples, piece.reason, estimated=piece.estimated, uncertainty_s=piece.uncertainty_s)


def _captured_ns(piece: Audio | Missing, clock: Clock) -> int:
    """The monotonic clock at a piece's end."""
    captured_ns = piece.monotonic_ns if isinstance(piece, Audio) else None
    return clock.monotonic_ns() if captured_ns is None else captured_ns


def file_pieces(
    recording: Recording, speed: float | None, stop: threading.Event, clock: Clock
) -> Iterator[Audio | Missing]:
    """A recording's pieces as fast as they are taken (None), or so many times faster than they were recorded."""
    rate_hz = recording.sample_rate_hz
    if speed is not None:
        for piece, _ in paced(recording.blocks(block_samples(rate_hz)), rate_hz, speed, stop, clock):
            yield piece
        return
    for piece in recording.blocks(_BLOCK_SAMPLES):
        if stop.is_set():
            return
        yield piece
