"""From scores to detections, one call each: pure, in samples, one detector a label and segment."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pam_daemon.analysis.windows import Place
from pam_daemon.records import ThresholdSource


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a score has to reach, and who says so."""

    score: float
    source: ThresholdSource


@dataclass(frozen=True, slots=True)
class Call:
    """A detection: its peak, and the run's windows less than the minimum separation from it."""

    peak: Place
    first: Place
    last: Place
    score: float
    threshold: Threshold  # that the peak reached
    windows: int
    continuing: bool  # not the first of its run
    truncated: bool  # its windows include the segment's last


@dataclass(frozen=True, slots=True)
class _Scored:
    place: Place
    score: float
    threshold: Threshold
    run: int | None  # number of the run, None below the threshold

    @property
    def centre(self) -> int:
        return self.place.centre


class Detector:
    """Finds the peaks of one segment's scores.

    Adjacent windows of equal score are one plateau, cut from its start into pieces that span less than
    `min_separation`; a piece's place is its middle window, of two the earlier. A piece at or above the threshold is a
    call if no window less than `min_separation` from its place scores higher and no call found before lies less
    than that before it. It is given out with the first window that lies `min_separation` after it.
    """

    def __init__(self, min_separation: int) -> None:
        self._min_separation = min_separation
        self._near: deque[_Scored] = deque()  # scored windows that a piece not yet decided can see
        self._pieces: deque[list[_Scored]] = deque()  # not yet decided
        self._runs = 0
        self._last: _Scored | None = None
        self._last_call: _Scored | None = None

    def push(self, place: Place, score: float, threshold: Threshold) -> Iterator[Call]:
        """Windows come in order of their centres, each with the threshold that holds for it."""
        scored = _Scored(place, score, threshold, self._run(score, threshold))
        if scored.run is not None:
            self._extend_pieces(scored)
        self._near.append(scored)
        self._last = scored
        yield from self._decide(place.centre)

    def end(self) -> Iterator[Call]:
        """The segment is over: decide what is left."""
        yield from self._decide(None)

    def _run(self, score: float, threshold: Threshold) -> int | None:
        if not score >= threshold.score:  # neither is a score that is no number
            return None
        if self._last is None or self._last.run is None:
            self._runs += 1
        return self._runs

    def _extend_pieces(self, scored: _Scored) -> None:
        piece = self._pieces[-1] if self._pieces else None
        if (
            piece is not None
            and piece[-1] is self._last
            and piece[-1].score == scored.score
            and scored.centre - piece[0].centre < self._min_separation
        ):
            piece.append(scored)
        else:
            self._pieces.append([scored])

    def _decide(self, horizon: int | None) -> Iterator[Call]:
        """Pieces that no window at or after the horizon (None: the segment's end) can change."""
        while self._pieces:
            piece = self._pieces[0]
            peak = piece[(len(piece) - 1) // 2]
            if horizon is not None and peak.centre + self._min_separation > horizon:
                break
            self._pieces.popleft()
            if self._is_call(peak):
                yield self._call(peak, ended=horizon is None)
                self._last_call = peak
        self._forget(horizon)

    def _is_call(self, peak: _Scored) -> bool:
        if self._last_call and peak.centre - self._last_call.centre < self._min_separation:
            return False
        return not any(other.score > peak.score for other in self._around(peak))

    def _call(self, peak: _Scored, *, ended: bool) -> Call:
        own = [other for other in self._around(peak) if other.run == peak.run]
        return Call(
            peak=peak.place,
            first=own[0].place,
            last=own[-1].place,
            score=peak.score,
            threshold=peak.threshold,
            windows=len(own),
            continuing=self._last_call is not None and self._last_call.run == peak.run,
            truncated=ended and own[-1] is self._last,
        )

    def _around(self, peak: _Scored) -> Iterator[_Scored]:
        return (s for s in self._near if abs(s.centre - peak.centre) < self._min_separation)

    def _forget(self, horizon: int | None) -> None:
        oldest = self._pieces[0][0].centre if self._pieces else (math.inf if horizon is None else horizon)
        while self._near and self._near[0].centre <= oldest - self._min_separation:
            self._near.popleft()
