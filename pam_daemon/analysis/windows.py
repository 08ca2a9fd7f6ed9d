"""From samples at the source's rate to windows at the model's: resampling, segments, the sliding grid.

Window k of a segment starts at model sample k * hop; the last one is aligned to the segment's end; none spans a gap.
Gaps come out in abutting pieces of at most a minute, whatever the pieces in which they came in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import soxr

from pam_daemon.capture.ring import FloatArray, Heard, Unheard

RESAMPLING_QUALITY = "HQ"
MAX_GAP_S = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where a window lies: its centre in model samples since the segment's begin, the rest in source samples."""

    centre: int
    source_start: int
    source_centre: int
    source_end: int
    level_dbfs: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """One model input: samples (window_samples,) at the model's rate."""

    place: Place
    samples: FloatArray
    fresh_samples: int  # source samples that no window before it covered


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """The windows before and after this are not neighbours."""

    fresh_samples: int  # source samples that the last window covers but for the rounding of the rates


Item = Window | SegmentEnd | Unheard


@dataclass(frozen=True, slots=True)
class Grid:
    """How a stream is cut: rates in Hertz, window and hop in model samples."""

    source_rate_hz: int
    model_rate_hz: int
    window_samples: int
    hop_samples: int

    def source_samples(self, model_samples: int) -> int:
        """The same distance in source samples, rounded to the nearest."""
        return (2 * model_samples * self.source_rate_hz + self.model_rate_hz) // (2 * self.model_rate_hz)


class Windower:
    """Cuts one stream; output depends on the samples alone, not on the sizes of the pieces that come in."""

    def __init__(self, grid: Grid) -> None:
        self.skipped_samples = 0  # in segments shorter than a window
        self.stride = 1  # of so many windows of the grid one is cut: at most as many as make up a window's length
        self._grid = grid
        self._segment: _Segment | None = None
        self._unheard: Unheard | None = None  # may go on

    @property
    def pending_samples(self) -> int:
        """Source samples taken in, and not yet given out in a window."""
        return self._segment.pending_samples if self._segment else 0

    @property
    def open_gap(self) -> Unheard | None:
        """What is unheard now, and not yet given out: it may go on."""
        return self._unheard

    def feed(self, piece: Heard | Unheard) -> Iterator[Item]:
        """The windows that this piece completes; a stretch without audio ends the segment."""
        if isinstance(piece, Unheard):
            yield from self._end_segment()
            yield from self._extend_unheard(piece)
            return
        if self._segment is None:
            yield from self._end_unheard()
            self._segment = _Segment(self._grid, piece.start)
        yield from self._segment.feed(piece.samples, self.stride)

    def close(self) -> Iterator[Item]:
        """The stream is over: the last window, aligned to the segment's end, or the rest of a gap."""
        yield from self._end_segment()
        yield from self._end_unheard()

    def _end_segment(self) -> Iterator[Item]:
        if self._segment is None:
            return
        segment, self._segment = self._segment, None
        yield from segment.close(self.stride)
        if segment.windows:
            yield SegmentEnd(segment.pending_samples)
        else:
            self.skipped_samples += segment.pending_samples
            yield from self._extend_unheard(Unheard(segment.start, segment.pending_samples, "skipped", "short_segment"))

    def _extend_unheard(self, piece: Unheard) -> Iterator[Unheard]:
        before = self._unheard
        if before and (before.term, before.reason, before.estimated) == (piece.term, piece.reason, piece.estimated):
            # Estimates that abut are of one outage: its ends are uncertain, and no sample lies between.
            uncertainty_s = max(before.uncertainty_s, piece.uncertainty_s)
            piece = replace(before, samples=before.samples + piece.samples, uncertainty_s=uncertainty_s)
        else:
            yield from self._end_unheard()
        longest = MAX_GAP_S * self._grid.source_rate_hz
        while piece.samples > longest:
            # What is uncertain is the length: that is said of the last piece.
            yield replace(piece, samples=longest, uncertainty_s=0.0)
            piece = replace(piece, start=piece.start + longest, samples=piece.samples - longest)
        self._unheard = piece

    def _end_unheard(self) -> Iterator[Unheard]:
        if self._unheard is not None:
            yield self._unheard
            self._unheard = None


class _Segment:
    """Audio without a gap: what of it is still needed, at both rates."""

    def __init__(self, grid: Grid, start: int) -> None:
        self.start = start  # source sample number
        self.received = 0  # source samples
        self.pending_samples = 0
        self.windows = 0  # of the grid, cut or left out
        self._last_start = -1  # of the last that was cut, model samples
        self._grid = grid
        self._resampler = (
            None
            if grid.source_rate_hz == grid.model_rate_hz
            else soxr.ResampleStream(
                grid.source_rate_hz, grid.model_rate_hz, 1, dtype="float32", quality=RESAMPLING_QUALITY
            )
        )
        self._source = _Tail()
        self._model = _Tail()

    def feed(self, samples: FloatArray, stride: int) -> Iterator[Window]:
        self.received += len(samples)
        self.pending_samples += len(samples)
        self._source.append(samples)
        self._model.append(samples if self._resampler is None else self._resampler.resample_chunk(samples))
        yield from self._grid_windows(stride)

    def close(self, stride: int) -> Iterator[Window]:
        if self._resampler is not None:
            self._model.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
            yield from self._grid_windows(stride)
        last_start = self._model.end - self._grid.window_samples
        if self.windows and last_start > self._last_start:
            yield self._window(last_start, self.received)

    def _grid_windows(self, stride: int) -> Iterator[Window]:
        grid = self._grid
        while (start := self.windows * grid.hop_samples) + grid.window_samples <= self._model.end:
            if not self.windows or start - self._last_start >= stride * grid.hop_samples:
                yield self._window(start, min(grid.source_samples(start + grid.window_samples), self.received))
            self.windows += 1

    def _window(self, start: int, source_end: int) -> Window:
        grid = self._grid
        centre = start + grid.window_samples // 2
        source_start = grid.source_samples(start)
        # The last window may begin anywhere after this one's start: nothing from there on is forgotten.
        self._model.forget(start)
        self._source.forget(source_start)
        fresh = source_end - (self.received - self.pending_samples)
        self.pending_samples -= fresh
        self._last_start = start
        place = Place(
            centre,
            source_start=self.start + source_start,
            source_centre=self.start + min(grid.source_samples(centre), self.received),
            source_end=self.start + source_end,
            level_dbfs=_level_dbfs(self._source.slice(source_start, source_end)),
        )
        return Window(place, self._model.slice(start, start + grid.window_samples), fresh)


class _Tail:
    """The end of a growing sequence, addressed by absolute index."""

    def __init__(self) -> None:
        self.end = 0
        self._samples: FloatArray = np.zeros(0, np.float32)

    def append(self, samples: FloatArray) -> None:
        self._samples = np.concatenate([self._samples, samples])
        self.end += len(samples)

    def slice(self, start: int, end: int) -> FloatArray:
        first = self.end - len(self._samples)
        return self._samples[start - first : end - first]

    def forget(self, before: int) -> None:
        first = self.end - len(self._samples)
        self._samples = self._samples[max(before - first, 0) :]


def _level_dbfs(samples: FloatArray) -> float | None:
    """20 log10 rms, a full-scale square wave is 0 dB; None for digital silence."""
    # No dot product: OpenBLAS would do it on threads of its own, which then spin for a tenth of a second.
    power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
    return round(10 * math.log10(power), 2) if power > 0 else None
