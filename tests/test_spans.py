"""Where a long recording is cut: around the marks, and well away from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.sources.recordings import Mark, Span, spans

WINDOW_S = 2.0
ONE = (1.0,)


def cut(*marks: Mark, length_s: float = 60.0, guard_s: float = 1.0, labels: int = 1) -> list[Span]:
    return spans(marks, length_s, WINDOW_S, guard_s, labels)


def positive(found: list[Span]) -> list[float]:
    return [round(span.begin_s, 6) for span in found if any(span.labels)]


MARKS = st.lists(st.tuples(st.floats(0, 55), st.floats(0, 9)), max_size=8)


@given(MARKS, st.floats(0, 3))
def test_every_mark_is_heard_and_no_negative_window_is_near_one(
    marks: list[tuple[float, float]], guard_s: float
) -> None:
    made = [Mark(begin_s, min(begin_s + length_s, 60.0), ONE) for begin_s, length_s in marks]
    found = cut(*made, guard_s=guard_s)
    assert all(0 <= span.begin_s <= 60 - WINDOW_S + 1e-6 for span in found)
    assert [span.begin_s for span in found] == sorted(span.begin_s for span in found)
    windows = [span for span in found if not span.unmarked]
    for mark in made:
        middle_s = (mark.begin_s + mark.end_s) / 2
        assert any(
            span.labels == ONE and span.begin_s - 1e-6 <= middle_s <= span.begin_s + WINDOW_S + 1e-6 for span in windows
        )
    for span in found:
        if not span.unmarked:
            continue
        assert span.labels == (0.0,)
        for mark in made:
            assert (
                span.begin_s >= mark.end_s + guard_s - 1e-6 or span.begin_s + WINDOW_S <= mark.begin_s - guard_s + 1e-6
            )
        for other in found:
            assert other is span or abs(other.begin_s - span.begin_s) >= WINDOW_S - 1e-6


def test_a_short_mark_is_in_the_middle_of_its_window() -> None:
    assert positive(cut(Mark(10.0, 11.0, ONE))) == [9.5]


def test_a_mark_at_an_end_has_a_window_inside_the_recording() -> None:
    assert positive(cut(Mark(0.0, 0.6, ONE), Mark(59.8, 60.0, ONE))) == [0.0, 58.0]


def test_a_longer_mark_has_several_windows_spread_over_it() -> None:
    assert positive(cut(Mark(10.0, 15.0, ONE))) == [10.0, 11.5, 13.0]


def test_an_unmarked_recording_is_cut_from_end_to_end() -> None:
    found = cut(length_s=7.0)
    assert [span.begin_s for span in found] == [0.0, 2.0, 4.0]
    assert all(span.unmarked and span.labels == (0.0,) for span in found)


def test_a_window_has_the_labels_of_all_that_it_holds() -> None:
    found = cut(Mark(10.0, 11.0, (1.0, 0.0)), Mark(10.8, 11.4, (0.0, 1.0)), Mark(30.0, 31.0, (0.0, 0.0)), labels=2)
    assert [span.labels for span in found if not span.unmarked] == [(1.0, 1.0), (1.0, 1.0), (0.0, 0.0)]


def test_what_is_ignored_is_neither_a_call_nor_its_absence() -> None:
    found = cut(Mark(10.0, 11.0, None), Mark(30.0, 31.0, ONE), Mark(30.2, 31.2, None))
    assert positive(found) == [29.5, pytest.approx(29.7)]
    assert all(span.unmarked for span in found if span.begin_s < 20)
    assert not any(8.0 < span.begin_s < 12.0 for span in found)
