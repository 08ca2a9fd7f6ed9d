"""The flood guard: it marks by rate alone, and a stream says so."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.analysis.flood import FloodGuard


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(0, 5), st.integers(1, 100))
def test_a_flood_is_so_many_calls_in_so_short_a_time(steps: list[int], count: int, window: int) -> None:
    guard, peaks = FloodGuard(count, window), list(itertools.accumulate(steps))
    for place, peak in enumerate(peaks):
        near = [other for other in peaks[: place + 1] if peak - other < window]
        assert guard.heard(peak) == (0 < count <= len(near))


def test_a_flood_is_over_when_no_call_of_it_came_for_a_window() -> None:
    """It counts its calls, and is told once."""
    guard = FloodGuard(3, 100)
    assert [guard.heard(peak) for peak in (0, 40, 80, 120, 500)] == [False, False, True, True, False]
    assert guard.calls == 2
    assert [guard.ends(decided) for decided in (219, 220, 221)] == [False, True, False]
    assert [guard.heard(peak) for peak in (1000, 1010, 1020)] == [False, False, True]
    assert guard.calls == 1
