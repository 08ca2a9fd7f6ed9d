"""The matching of detections and marked calls, by the rule in the real data's README."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.tools.evaluate import Detected, match
from pam_daemon.tools.tables import Selection

CALL = Selection(10.0, 11.0)


@pytest.mark.parametrize(
    ("peak_s", "outcome"),
    [
        (8.4, "false"),
        (8.5, "duplicate"),  # within 1.5 s of a selection, but not near enough to find it
        (8.9, "duplicate"),
        (9.0, "found"),
        (10.5, "found"),
        (12.0, "found"),
        (12.1, "duplicate"),
        (12.6, "false"),
    ],
)
def test_a_peak_finds_a_call_up_to_one_second_outside_it(peak_s: float, outcome: str) -> None:
    matching = match([Detected(peak_s, 0.9)], [CALL])
    counts = {
        "found": len(matching.found),
        "duplicate": len(matching.duplicates),
        "false": len(matching.false),
    }
    assert counts == {"found": 0, "duplicate": 0, "false": 0} | {outcome: 1}
    assert matching.missed == (() if outcome == "found" else (CALL,))


def test_the_best_score_goes_first_and_the_other_is_a_duplicate() -> None:
    centred, better = Detected(10.5, 0.6), Detected(11.8, 0.9)
    matching = match([centred, better], [CALL])
    assert matching.found == ((better, CALL),)
    assert matching.duplicates == (centred,)


def test_of_equal_scores_the_earlier_goes_first() -> None:
    early, late = Detected(10.2, 0.9), Detected(10.5, 0.9)
    assert match([late, early], [CALL]).found == ((early, CALL),)


def test_a_detection_finds_the_nearest_free_selection() -> None:
    near, far = Selection(10.0, 11.0), Selection(12.2, 13.0)
    first, second = Detected(11.4, 0.9), Detected(11.3, 0.8)
    assert match([first, second], [near, far]).found == ((first, near), (second, far))
    assert match([Detected(11.9, 0.9)], [near, far]).found[0][1] == far


def test_inside_two_overlapping_selections_the_nearer_middle_decides() -> None:
    long, short = Selection(10.0, 20.0), Selection(17.0, 19.0)
    assert match([Detected(18.5, 0.9)], [long, short]).found[0][1] == short
    assert match([Detected(17.0, 0.9)], [Selection(16.0, 17.5), Selection(16.5, 18.0)]).found[0][1].begin_s == 16.0


def test_a_better_detection_may_take_what_another_needed() -> None:
    """Greedy, as the rule says: no rearrangement afterwards."""
    left, right = Selection(10.0, 11.0), Selection(13.0, 14.0)
    matching = match([Detected(11.5, 0.9), Detected(9.5, 0.8)], [left, right])
    assert matching.found == ((Detected(11.5, 0.9), left),)
    assert matching.missed == (right,)
    assert matching.duplicates == (Detected(9.5, 0.8),)


def test_without_selections_everything_is_false() -> None:
    detections = [Detected(2.0, 0.5), Detected(1.0, 0.9)]
    assert match(detections, []).false == (Detected(1.0, 0.9), Detected(2.0, 0.5))
    assert match([], [CALL]).missed == (CALL,)


# A coarse grid in a short time, so that ties and crowds are frequent.
QUARTERS = st.integers(0, 80).map(lambda quarters: quarters / 4)
DETECTIONS = st.lists(st.builds(Detected, QUARTERS, st.integers(1, 4).map(lambda fifths: fifths / 5)), max_size=12)
SELECTIONS = st.lists(
    st.builds(lambda begin_s, length_s: Selection(begin_s, begin_s + length_s), QUARTERS, QUARTERS), max_size=8
)


@given(DETECTIONS, SELECTIONS)
def test_every_detection_and_selection_is_counted_once(detections: list[Detected], selections: list[Selection]) -> None:
    matching = match(detections, selections)
    placed = [d for d, _ in matching.found] + list(matching.duplicates) + list(matching.false)
    assert Counter(placed) == Counter(detections)
    assert Counter([s for _, s in matching.found] + list(matching.missed)) == Counter(selections)


@given(DETECTIONS, SELECTIONS)
def test_each_outcome_keeps_its_distance(detections: list[Detected], selections: list[Selection]) -> None:
    matching = match(detections, selections)
    assert all(away_s(d, s) <= 1.0 for d, s in matching.found)
    assert all(min(away_s(d, s) for s in selections) <= 1.5 for d in matching.duplicates)
    assert all(away_s(d, s) > 1.5 for d in matching.false for s in selections)
    rejected = matching.duplicates + matching.false
    assert all(away_s(d, s) > 1.0 for d in rejected for s in matching.missed), "a free selection was passed over"


@given(st.data(), DETECTIONS, SELECTIONS)
def test_order_makes_no_difference(
    data: st.DataObject, detections: list[Detected], selections: list[Selection]
) -> None:
    shuffled = match(data.draw(st.permutations(detections)), data.draw(st.permutations(selections)))
    assert shuffled == match(detections, selections)


@given(DETECTIONS, SELECTIONS)
def test_a_duplicate_of_a_found_call_scored_no_higher(detections: list[Detected], selections: list[Selection]) -> None:
    matching = match(detections, selections)
    for duplicate in matching.duplicates:
        near = [(d, s) for d, s in matching.found if away_s(duplicate, s) <= 1.0]
        assert all(d.score >= duplicate.score for d, _ in near)


def away_s(detection: Detected, selection: Selection) -> float:
    return max(selection.begin_s - detection.peak_s, detection.peak_s - selection.end_s, 0.0)
