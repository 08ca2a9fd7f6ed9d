"""The ring between capture and analysis: absolute sample numbers, one writer, cursors that count their overruns.

Gaps take up sample numbers and no memory. Live, the oldest audio is overwritten and each cursor that had not read
it gets that stretch as skipped; from a file (`wait=True`) the writer waits instead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from pam_daemon.records import Term

_KEPT_SPANS = 256  # that all cursors have read

FloatArray = npt.NDArray[np.float32]
# 16-bit full scale: the largest positive value that a converter can give.
CLIPPED = np.float32(32767 / 32768)


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio that a cursor read: `samples` (n,) begin at sample number `start`."""

    start: int
    samples: FloatArray


@dataclass(frozen=True, slots=True)
class Unheard:
    """A stretch without audio to analyse."""

    start: int
    samples: int
    term: Term
    reason: str
    estimated: bool = False
    uncertainty_s: float = 0.0

    @property
    def end(self) -> int:
        return self.start + self.samples


@dataclass(slots=True)
class _Span:
    """Sample numbers [start, end) of one kind; audio lies in the store from position `stored`."""

    start: int
    end: int
    stored: int
    gap: Unheard | None


class Ring:
    """One stream's samples (float32, full scale +-1).

    `changed` is notified at every write and read; streams of one worker share it.
    """

    def __init__(self, capacity: int, *, wait: bool = False, changed: threading.Condition | None = None) -> None:
        self.changed = changed or threading.Condition()
        self.closed = False
        self.elapsed_samples = 0  # the next sample number
        self.gap_samples = 0
        self.clipped_samples = 0
        self._store: FloatArray = np.zeros(capacity, np.float32)
        self._stored = 0  # audio samples ever stored
        self._spans: deque[_Span] = deque()
        self._read_spans: deque[_Span] = deque(maxlen=_KEPT_SPANS)  # before those, for who asks by sample number
        self._cursors: list[Cursor] = []
        self._wait = wait
        self._head: tuple[int, int] | None = None  # a sample number, and when the sample before it was captured

    def cursor(self) -> Cursor:
        """A reader that begins at the next sample."""
        with self.changed:
            cursor = Cursor(self, self.elapsed_samples)
            self._cursors.append(cursor)
            return cursor

    def write(self, samples: FloatArray, monotonic_ns: int | None = None) -> None:
        """Append samples (n,); what is not finite becomes a gap `invalid`.

        `monotonic_ns` is when the sample after the last was captured.
        """
        for finite, part in _split_finite(samples):
            if finite:
                self._write_audio(part)
            else:
                self.gap(len(part), "invalid")
        with self.changed:
            self._head = None if monotonic_ns is None else (self.elapsed_samples, monotonic_ns)
            self.changed.notify_all()

    def gap(self, samples: int, reason: str, *, estimated: bool = False, uncertainty_s: float = 0.0) -> None:
        """Append a stretch that was not captured."""
        with self.changed:
            start = self.elapsed_samples
            unheard = Unheard(start, samples, "gap", reason, estimated, uncertainty_s)
            self._spans.append(_Span(start, start + samples, self._stored, unheard))
            self.elapsed_samples += samples
            self.gap_samples += samples
            self.changed.notify_all()

    def close(self) -> None:
        """No more will come; a writer that waits for room gives up."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def captured_ns(self, sample: int, sample_rate_hz: int) -> int | None:
        """The monotonic clock when this sample was captured; None from a file."""
        with self.changed:
            if self._head is None:
                return None
            head, head_ns = self._head
            return head_ns - (head - sample) * 1_000_000_000 // sample_rate_hz

    def heard_since(self, sample: int) -> int | None:
        """Where the audio without a gap that holds a sample begins; None where it holds none, or is long gone."""
        with self.changed:
            span = self._audio_span(sample)
            return None if span is None else span.start

    def audio(self, start: int, end: int) -> FloatArray | None:
        """A copy of samples [start, end), or up to the first gap; None where `start` is not audio that is still stored.

        No cursor moves.
        """
        with self.changed:
            span = self._audio_span(start)
            if span is None:
                return None
            stored = span.stored + start - span.start
            overwritten = stored < self._stored - len(self._store)
            return None if overwritten else self._copy(stored, min(end, span.end) - start)

    def _audio_span(self, sample: int) -> _Span | None:
        spans = chain(reversed(self._spans), reversed(self._read_spans))
        return next((span for span in spans if span.start <= sample < span.end and span.gap is None), None)

    def _write_audio(self, samples: FloatArray) -> None:
        while len(samples):
            part = samples[: len(self._store)]
            with self.changed:
                if self._wait:
                    self.changed.wait_for(lambda: self.closed or self._room() > 0)
                    part = part[: self._room()]
                if self.closed:
                    return
                self._append(part)
                self.changed.notify_all()
            samples = samples[len(part) :]

    def _append(self, samples: FloatArray) -> None:
        capacity, count = len(self._store), len(samples)
        at = self._stored % capacity
        first = min(count, capacity - at)
        self._store[at : at + first] = samples[:first]
        self._store[: count - first] = samples[first:]
        last = self._spans[-1] if self._spans else None
        if last is not None and last.gap is None:
            last.end += count
        else:
            start = self.elapsed_samples
            self._spans.append(_Span(start, start + count, self._stored, None))
        self._stored += count
        self.elapsed_samples += count
        for cursor in self._cursors:
            cursor.pending_samples += count
        self.clipped_samples += int(np.count_nonzero(np.abs(samples) >= CLIPPED))

    def _room(self) -> int:
        """Audio samples that can be stored before the slowest cursor is overrun."""
        unread = max((cursor.pending_samples for cursor in self._cursors), default=0)
        return len(self._store) - unread

    def _forget_read_spans(self) -> None:
        oldest = min(cursor.position for cursor in self._cursors)
        while len(self._spans) > 1 and self._spans[0].end <= oldest:
            self._read_spans.append(self._spans.popleft())

    def _copy(self, stored: int, count: int) -> FloatArray:
        capacity = len(self._store)
        at = stored % capacity
        first = min(count, capacity - at)
        return np.concatenate([self._store[at : at + first], self._store[: count - first]])


class Cursor:
    """A place in the ring; reads are in order and cover every sample number once."""

    def __init__(self, ring: Ring, position: int) -> None:
        self.position = position
        self.skipped_samples = 0
        self.pending_samples = 0  # audio captured and not yet read here, overwritten or not
        self._ring = ring

    def read(self, limit: int) -> Heard | Unheard | None:
        """The next stretch of one kind, of at most `limit` samples if audio; None when there is none yet."""
        ring = self._ring
        with ring.changed:
            span = next((span for span in ring._spans if span.end > self.position), None)
            if span is None:
                return None
            piece = self._read_gap(span.gap) if span.gap else self._read_audio(span, limit)
            ring._forget_read_spans()
            ring.changed.notify_all()
            return piece

    @property
    def exhausted(self) -> bool:
        """Nothing is left and nothing more will come."""
        with self._ring.changed:
            return self._ring.closed and self.position == self._ring.elapsed_samples

    @property
    def lost_samples(self) -> int:
        """Audio that cannot be read here any more: skipped, or overwritten and not yet read as such."""
        with self._ring.changed:
            return self.skipped_samples + max(0, self.pending_samples - len(self._ring._store))

    def _read_gap(self, gap: Unheard) -> Unheard:
        # A cursor made in the middle of a gap reads the rest of it.
        rest = replace(gap, start=self.position, samples=gap.end - self.position)
        self.position = gap.end
        return rest

    def _read_audio(self, span: _Span, limit: int) -> Heard | Unheard:
        ring, start = self._ring, self.position
        stored = span.stored + start - span.start
        overwritten = ring._stored - len(ring._store) - stored
        count = min(span.end - start, overwritten if overwritten > 0 else limit)
        self.position += count
        self.pending_samples -= count
        if overwritten > 0:
            self.skipped_samples += count
            return Unheard(start, count, "skipped", "overrun")
        return Heard(start, ring._copy(stored, count))


def _split_finite(samples: FloatArray) -> Iterator[tuple[bool, FloatArray]]:
    """Stretches that are wholly finite or wholly not."""
    finite = np.isfinite(samples)
    if finite.all():
        yield True, samples
        return
    edges = np.flatnonzero(np.diff(finite)) + 1
    for flags, part in zip(np.split(finite, edges), np.split(samples, edges), strict=True):
        yield bool(flags[0]), part
