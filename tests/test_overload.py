"""Overload: said once when it begins and once when it is over, with a wider hop between where one is configured."""

from __future__ import annotations

from pam_daemon.analysis.overload import Overload


def judged(overload: Overload, lags_s: list[float]) -> list[tuple[int, str, int]]:
    """Where something was said, what, and the stride from then on."""
    said = []
    for number, lag_s in enumerate(lags_s):
        if event := overload.judge(lag_s, 0):
            said.append((number, event.what, overload.stride))
    return said


def test_it_begins_above_the_lag_and_is_over_well_below() -> None:
    """In between nothing flaps."""
    lags_s = [1.0, 9.9, 10.1, 30.0, 9.0, 4.1, 3.9, 9.0, 10.0, 10.1]
    assert judged(Overload(10.0, 4, 0.5), lags_s) == [(2, "overload", 4), (6, "overload_over", 1), (9, "overload", 4)]


def test_without_a_wider_hop_it_says_that_it_will_skip() -> None:
    overload = Overload(10.0, 1, 0.5)
    event = overload.judge(20.0, 7)
    assert event and "skipped" in event.text and event.data["skipped_samples"] == 7
    assert overload.stride == 1


def test_the_worst_is_told_at_the_end() -> None:
    overload = Overload(10.0, 2, 0.5)
    for lag_s in (11.0, 40.0, 20.0):
        overload.judge(lag_s, 0)
    event = overload.judge(1.0, 0)
    assert event and event.data["worst_lag_s"] == 40.0 and event.data["hop_s"] == 0.5
