"""The detector against a slow and obvious one that was written from the words of its definition alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pam_daemon.analysis.detect import Call, Detector, Threshold
from pam_daemon.analysis.windows import Place

HALF_WINDOW = 2000

Scored = tuple[int, float]  # centre, score


def place(centre: int) -> Place:
    return Place(centre, centre - HALF_WINDOW, centre, centre + HALF_WINDOW, -20.0)


def detect(windows: Sequence[Scored], threshold: float, separation: int) -> list[Call]:
    detector, held = Detector(separation), Threshold(threshold, "model")
    calls = [call for centre, score in windows for call in detector.push(place(centre), score, held)]
    return [*calls, *detector.end()]


@dataclass(frozen=True)
class Piece:
    """Indexes of adjacent windows of one score."""

    indexes: list[int]

    @property
    def place(self) -> int:
        return self.indexes[(len(self.indexes) - 1) // 2]


def reference(windows: Sequence[Scored], threshold: float, separation: int) -> list[Call]:
    """With all the scores of the segment at hand, paragraph by paragraph."""
    centres = [centre for centre, _ in windows]
    scores = [score for _, score in windows]

    # "run: consecutive windows of one segment with score >= threshold"
    run_of: list[int | None] = []
    for index, score in enumerate(scores):
        goes_on = index > 0 and run_of[index - 1] is not None
        run_of.append(None if score < threshold else run_of[index - 1] if goes_on else index)

    # "Adjacent windows of equal score are one plateau"
    plateaus: list[list[int]] = []
    for index, score in enumerate(scores):
        if index and score == scores[index - 1]:
            plateaus[-1].append(index)
        else:
            plateaus.append([index])

    # "cut from its start into pieces spanning less than min_separation_s"
    pieces: list[Piece] = []
    for plateau in plateaus:
        rest = plateau
        while rest:
            own = [index for index in rest if centres[index] - centres[rest[0]] < separation]
            pieces.append(Piece(own))
            rest = rest[len(own) :]

    # "A piece in a run is a detection if no window less than min_separation_s from its place scores higher and no
    # detection already found lies less than that before it."
    found: list[int] = []
    for piece in pieces:
        peak = piece.place
        near = [index for index in range(len(windows)) if abs(centres[index] - centres[peak]) < separation]
        if run_of[peak] is None or any(scores[index] > scores[peak] for index in near):
            continue
        if any(centres[peak] - centres[other] < separation for other in found):
            continue
        found.append(peak)

    # "start, end, windows are the bounds and number of the run's windows less than min_separation_s from the peak"
    calls = []
    for number, peak in enumerate(found):
        own = [
            index
            for index in range(len(windows))
            if run_of[index] == run_of[peak] and abs(centres[index] - centres[peak]) < separation
        ]
        calls.append(
            Call(
                peak=place(centres[peak]),
                first=place(centres[own[0]]),
                last=place(centres[own[-1]]),
                score=scores[peak],
                threshold=Threshold(threshold, "model"),
                windows=len(own),
                continuing=any(run_of[other] == run_of[peak] for other in found[:number]),
                truncated=own[-1] == len(windows) - 1,
            )
        )
    return calls


@st.composite
def segments(draw: st.DrawFn) -> tuple[list[Scored], int]:
    """Windows of one segment on a grid whose last window is aligned to the end, and the hop."""
    hop = draw(st.sampled_from([1, 100, 400, 700, 1000, 1500, 4000]))
    # Few levels: plateaus and ties are what is hard.
    level = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0])
    stretch = st.tuples(level, st.integers(1, 9)).map(lambda pair: [pair[0]] * pair[1])
    scores = [score for part in draw(st.lists(stretch, min_size=1, max_size=10)) for score in part]
    centres = [HALF_WINDOW + number * hop for number in range(len(scores))]
    if len(centres) > 1:
        centres[-1] -= draw(st.integers(0, hop - 1))
    return list(zip(centres, scores, strict=True)), hop


THRESHOLDS = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.75, 1.0])
SEPARATIONS = st.sampled_from([1, 999, 1000, 1001, 2500, 3000, 3100, 5000])


@settings(max_examples=300, deadline=None)
@given(segments(), THRESHOLDS, SEPARATIONS)
@example(([(2000 + 100 * n, 1.0) for n in range(40)], 100), 1.0, 3000)
@example(([(2000, 0.5), (3000, 0.5), (3001, 0.5)], 1000), 0.5, 1000)
def test_finds_what_the_words_say(segment: tuple[list[Scored], int], threshold: float, separation: int) -> None:
    windows, _ = segment
    assert detect(windows, threshold, separation) == reference(windows, threshold, separation)


@settings(max_examples=100, deadline=None)
@given(segments(), THRESHOLDS, SEPARATIONS)
def test_a_call_is_told_with_the_first_window_a_separation_after_it(
    segment: tuple[list[Scored], int], threshold: float, separation: int
) -> None:
    """No window before that one is near enough to change it, and it needs no later one: with a hop that divides the
    separation, that is the separation and half a window of audio after the peak."""
    windows, hop = segment
    detector, held = Detector(separation), Threshold(threshold, "model")
    for centre, score in windows:
        for call in detector.push(place(centre), score, held):
            late = centre - call.peak.centre
            assert separation <= late < separation + hop
            if separation % hop == 0 and centre != windows[-1][0]:
                assert late == separation
    assert all(windows[-1][0] - call.peak.centre < separation for call in detector.end())


@settings(max_examples=60, deadline=None)
@given(segments(), THRESHOLDS, SEPARATIONS)
def test_calls_come_in_order_and_apart(segment: tuple[list[Scored], int], threshold: float, separation: int) -> None:
    calls = detect(segment[0], threshold, separation)
    peaks = [call.peak.centre for call in calls]
    assert all(later - earlier >= separation for earlier, later in itertools.pairwise(peaks))
    starts = [call.first.source_start for call in calls]
    assert len(set(starts)) == len(starts), "the start is part of a detection's id"


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_score_at_the_threshold_is_a_call(threshold: float) -> None:
    (call,) = detect([(2000, threshold)], threshold, 3000)
    here, held = place(2000), Threshold(threshold, "model")
    assert call == Call(here, here, here, threshold, held, 1, continuing=False, truncated=True)


def test_a_threshold_that_changes_holds_from_the_next_window_on() -> None:
    """A call says which it reached; windows scored before keep theirs, and a run goes on over the change."""
    low, high = Threshold(0.5, "model"), Threshold(0.9, "site")
    detector = Detector(3000)
    pushed = [(2000, 0.6, low), (6000, 0.6, high), (10000, 0.95, high), (14000, 0.6, low)]
    calls = [call for centre, score, held in pushed for call in detector.push(place(centre), score, held)]
    calls += detector.end()
    assert [(call.peak.centre, call.threshold) for call in calls] == [(2000, low), (10000, high), (14000, low)]


def test_nothing_reaches_a_threshold_just_above() -> None:
    assert detect([(2000, 0.5)], math.nextafter(0.5, 1.0), 3000) == []


def test_a_long_plateau_is_one_call_a_piece_and_all_but_the_first_continue() -> None:
    windows = [(2000 + 1000 * n, 0.9) for n in range(9)]  # 3 pieces of 3 at a separation of 3000
    calls = detect(windows, 0.5, 3000)
    assert [call.peak.centre for call in calls] == [3000, 6000, 9000]
    assert [call.continuing for call in calls] == [False, True, True]
    assert [call.truncated for call in calls] == [False, False, True]


def test_of_two_middle_windows_the_earlier_is_the_place() -> None:
    (call,) = detect([(2000, 0.1), (3000, 0.9), (4000, 0.9), (5000, 0.1)], 0.5, 3000)
    assert (call.peak.centre, call.windows) == (3000, 2)


def test_a_higher_window_below_no_threshold_of_its_run_still_counts_across_runs() -> None:
    """Two runs with a dip between them, less than the separation apart: the higher one alone is a call."""
    windows = [(2000, 0.6), (3000, 0.1), (4000, 0.8), (5000, 0.1)]
    calls = detect(windows, 0.5, 3000)
    assert [(call.peak.centre, call.windows, call.continuing) for call in calls] == [(4000, 1, False)]


def test_windows_a_separation_away_are_not_near() -> None:
    windows = [(2000, 0.6), (3000, 0.1), (4000, 0.1), (5000, 0.8)]
    assert [call.peak.centre for call in detect(windows, 0.5, 3000)] == [2000, 5000]
    assert [call.peak.centre for call in detect(windows, 0.5, 3001)] == [5000]


def test_a_window_without_a_score_is_no_call_and_hides_none() -> None:
    """A model that gives not-a-number for one window does not take its neighbours' calls with it."""
    calls = detect([(2000, 0.1), (3000, 0.9), (4000, math.nan), (5000, 0.1)], 0.5, 3000)
    assert [(call.peak.centre, call.windows) for call in calls] == [(3000, 1)]
