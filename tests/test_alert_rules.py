"""Alert rules by example: the presets, what ends an alert, what a change of rules and a restart leave standing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from calls import FLOOD_EVERY_S, SEPARATION_S, Call, ns, rule, utc

from pam_daemon.alerts.recall import recall
from pam_daemon.alerts.rules import Pace, promise, resolve
from pam_daemon.alerts.tally import Candidate, Rule
from pam_daemon.alerts.watch import Progress, Watch, missed_by
from pam_daemon.clock import NS_PER_S
from pam_daemon.config import AlertRule, Preset
from pam_daemon.errors import ConfigError
from pam_daemon.journal import Journal
from pam_daemon.records import Alert, Detection, Event, Mode, Position, Record, record_id


def watching(*rules: Rule, patience_s: float = 3600.0) -> Watch:
    watch = Watch("pamd", rules, float(SEPARATION_S), FLOOD_EVERY_S, patience_s)
    watch.begin(["ch1"])
    return watch


def hear(
    watch: Watch,
    until_s: float,
    *at_s: int,
    missed: Sequence[tuple[int, int]] = (),
    flood: bool = False,
    began_s: int = 0,
    label: str = "a",
) -> list[Alert]:
    """One stream, decided up to a time, with calls and gaps that were not told yet."""
    calls = [Call(one, "ch1", label, 0.9, flood, began_s).candidate for one in at_s]
    gaps = [("ch1", ns(start_s), ns(end_s)) for start_s, end_s in missed]
    decisions = watch.advance(calls, gaps, [Progress("ch1", ns(began_s), ns(until_s))])
    return [decision.body for decision in decisions]


def states(alerts: Sequence[Alert]) -> list[tuple[str, str, int]]:
    return [(alert.state, alert.level, alert.count) for alert in alerts]


def preset(name: Preset, **fields: Any) -> Rule:
    (made,) = resolve([AlertRule("rule", preset=name, **fields)], ["a"], Position(42.3, -70.5))
    return made


HOUR_S = 3600


def test_tally_15min_goes_from_possible_to_detected_and_clears_after_15_min_of_silence() -> None:
    watch = watching(preset("tally-15min"))
    assert states(hear(watch, 100, 50)) == [("raised", "possible", 1)]
    assert states(hear(watch, 500, 400, 420)) == [("extended", "possible", 2), ("extended", "detected", 3)]
    assert states(hear(watch, 1400, 950)) == [("extended", "detected", 3)]  # the first is 15 min old
    assert hear(watch, 950 + 899) == []
    (cleared,) = hear(watch, 950 + 900)
    assert (cleared.state, cleared.coverage, cleared.revision) == ("cleared", 1.0, 4)
    assert (cleared.first_utc, cleared.last_utc, cleared.expires_utc) == (utc(50), utc(950), utc(950 + 900))


def test_three_in_60s_wants_three_in_60s_again_to_be_extended() -> None:
    watch = watching(preset("three-in-60s"))
    assert hear(watch, 300, 0, 40, 99, 159, 250) == []
    assert states(hear(watch, 400, 260, 309)) == [("raised", "detected", 3)]
    assert hear(watch, 800, 400, 500, 600) == []
    (cleared,) = hear(watch, 309 + 600)
    assert (cleared.state, cleared.last_utc) == ("cleared", utc(309))


def test_hold_24h_stands_for_a_day() -> None:
    watch = watching(preset("hold-24h"))
    (raised,) = hear(watch, 100, 10, 20, 30)
    assert raised.expires_utc == utc(30 + 24 * HOUR_S)
    assert hear(watch, 30 + 24 * HOUR_S - 1) == []
    assert states(hear(watch, 30 + 24 * HOUR_S)) == [("cleared", "detected", 3)]


def test_slow_zone_15d_is_a_circle_of_20_nautical_miles() -> None:
    """Every corner is 20 nautical miles from the station; the ring is closed and runs counterclockwise."""
    (raised,) = hear(watching(preset("slow-zone-15d")), 100, 10, 20, 30)
    assert raised.expires_utc == utc(30 + 15 * 24 * HOUR_S)
    assert raised.zone is not None and raised.zone["type"] == "Polygon"
    (ring,) = raised.zone["coordinates"]
    assert ring[0] == ring[-1] and len(ring) > 30
    for longitude_deg, latitude_deg in ring:
        north, east = latitude_deg - 42.3, (longitude_deg + 70.5)
        haversine = (
            math.sin(math.radians(north / 2)) ** 2
            + math.cos(math.radians(42.3))
            * math.cos(math.radians(latitude_deg))
            * math.sin(math.radians(east / 2)) ** 2
        )
        assert abs(2 * 3440.065 * math.asin(math.sqrt(haversine)) - 20) < 0.01
    area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in itertools.pairwise(ring))
    assert area > 0


def test_an_alert_lapses_where_its_hold_was_not_listened_to() -> None:
    """Of 900 s, 90 may be missed, and no second more."""
    for missed_s, state in ((90, "cleared"), (91, "lapsed")):
        watch = watching(rule(count=1, hold_s=900.0))
        hear(watch, 100, 50)
        (ended,) = hear(watch, 950, missed=[(300, 300 + missed_s)])
        assert (ended.state, ended.coverage) == (state, math.floor(1000 * (1 - missed_s / 900)) / 1000)


def test_a_gap_that_goes_on_moves_time_before_it_is_told_in_a_record() -> None:
    watch = watching(rule(count=1, hold_s=100.0, window_s=10.0))
    hear(watch, 60, 50)
    (ended,) = watch.advance([], [], [Progress("ch1", ns(0), ns(150), unheard_since_ns=ns(70))])
    assert (ended.body.state, ended.body.coverage) == ("lapsed", 0.2)


def test_in_a_flood_alerts_are_raised_and_extended_and_that_is_told_less_often() -> None:
    """Every 4 s a call: each extends the alert, one in 25 s is told."""
    watch = watching(rule(count=3, window_s=20.0, hold_s=100.0))
    alerts = hear(watch, 900, *range(100, 500, 4), flood=True)
    assert [alert.state for alert in alerts] == ["raised", *["extended"] * (len(alerts) - 2), "cleared"]
    assert all(alert.flood for alert in alerts)
    assert [alert.last_utc for alert in alerts[:3]] == [utc(108), utc(136), utc(164)]
    assert alerts[-1].last_utc == utc(496)


def test_what_comes_before_the_last_recordings_end_or_has_no_utc_is_of_another_time() -> None:
    """Recordings in order are one time, and what lies between them was not listened to; else what stands lapses."""
    watch = watching(rule(count=2, window_s=900.0, hold_s=900.0), patience_s=0.0)
    assert hear(watch, 100, 50) == []
    watch.begin(["ch1"])
    (raised,) = hear(watch, 700, 650, began_s=600)
    assert (raised.count, raised.coverage) == (2, round(150 / 900 - 0.0005, 3))  # [0, 100) and [600, 650)
    watch.begin(["ch1"])
    (lapsed,) = hear(watch, 300, 250, began_s=200)
    assert (lapsed.state, lapsed.revision) == ("lapsed", 1)
    watch.begin(["ch1"])
    timeless = [
        Candidate.of(
            msgspec.structs.replace(body, peak_utc=None), "ch1", str(body.peak_s), "f" * 64, body.start_sample, None
        )
        for body in (call.record.body for call in (Call(5, "ch1", "a", 0.9, False), Call(9, "ch1", "a", 0.9, False)))
        if isinstance(body, Detection)
    ]
    (raised,) = (one.body for one in watch.advance(timeless, [], [Progress("ch1", 0, 20 * NS_PER_S, utc=False)]))
    assert (raised.first_utc, raised.last_utc, raised.expires_utc, raised.began_utc) == (None, None, None, None)
    assert (raised.count, raised.coverage) == (2, 0.01)
    assert raised.detections == ("5.0", "9.0")


def test_live_utc_that_is_set_back_a_little_ends_nothing_and_far_back_begins_another_time() -> None:
    watch = watching(rule(count=1, window_s=60.0, hold_s=7200.0))
    assert states(hear(watch, 10_000, 9990)) == [("raised", "detected", 1)]
    assert hear(watch, 8000, 7990) == []  # it stands for longer already
    assert states(hear(watch, 5000, 4990)) == [("lapsed", "detected", 1), ("raised", "detected", 1)]


def test_a_time_that_utc_left_out_was_not_listened_to() -> None:
    step = Event("clock_step", "warning", "", {"step_s": 300.0, "sample": 0, "utc": utc(400)})
    assert missed_by("ch1", step) == ("ch1", ns(100), ns(400))
    back = Event("clock_step", "warning", "", {"step_s": -300.0, "sample": 0, "utc": utc(400)})
    assert missed_by("ch1", back) is None


def test_after_a_change_of_rules_what_stands_stands_as_long_as_was_promised() -> None:
    """A rule that is gone extends nothing; one that has changed goes on with its alert; a new one begins to count."""
    kept, gone = rule(name="kept", count=2, hold_s=300.0), rule(name="gone", count=1, hold_s=200.0)
    watch = watching(kept, gone)
    assert [alert.rule for alert in hear(watch, 20, 5, 10)] == ["gone", "kept", "gone"]
    watch.change([replace(kept, hold_s=60.0), rule(name="new", count=1, window_s=5.0, hold_s=10.0)])
    assert [(alert.rule, alert.state, alert.expires_utc) for alert in hear(watch, 51, 40)] == [
        ("kept", "extended", utc(310)),
        ("new", "raised", utc(50)),
        ("new", "cleared", utc(50)),
    ]
    assert [(alert.rule, alert.state) for alert in hear(watch, 400)] == [("gone", "cleared"), ("kept", "cleared")]
    assert [(alert.rule, alert.expires_utc) for alert in hear(watch, 520, 505, 510)] == [
        ("new", utc(515)),
        ("kept", utc(570)),
        ("new", utc(520)),
        ("new", utc(520)),
    ]


def resumed(records: Sequence[Record], rules: Sequence[Rule], directory: Path) -> Watch:
    """A watch that begins on a journal with these records, in a process at 1000 s."""
    places_ns = {"ch1": ns(900)}
    with closing(Journal(directory / "journal")) as journal:
        journal.append(records)
        watch = watching(*rules)
        watch.resume(*recall(journal, "pamd", "live", rules, places_ns), places_ns)
    return watch


def alert_record(body: Alert, mode: Mode = "live") -> Record:
    made_of = (utc(0), body.start_sample, body.rule, body.label, body.revision)
    return Record("alert", "pamd", "_", mode, record_id("alert", "pamd", "_", *made_of), utc(0), body)


def test_an_alert_whose_rule_is_gone_at_the_restart_runs_out(tmp_path: Path) -> None:
    calls = [Call(at_s, "ch1", "a", 0.9, False) for at_s in (500, 510)]
    (raised, *_) = hear(watching(rule(count=2, hold_s=600.0)), 600, 500, 510)
    watch = resumed([*(call.record for call in calls), alert_record(raised)], [rule(name="other")], tmp_path)
    assert hear(watch, 1100, 1050, began_s=1000, missed=[(900, 1000)]) == []
    (ended,) = hear(watch, 1200, began_s=1000)
    assert (ended.rule, ended.state, ended.revision, ended.expires_utc) == ("rule", "lapsed", 1, utc(1110))
    assert ended.alert == alert_record(raised).id


def test_records_of_a_replay_feed_no_live_rule(tmp_path: Path) -> None:
    """Not after a restart either, where both stand in one journal."""
    foreign = [msgspec.structs.replace(Call(at_s, "ch1", "a", 0.9, False).record, mode="replay") for at_s in (880, 890)]
    watch = resumed(foreign, [rule(count=3, window_s=900.0, hold_s=900.0)], tmp_path)
    assert hear(watch, 1100, 1050, began_s=1000) == []
    assert states(hear(watch, 1200, 1060, 1070, began_s=1000)) == [("raised", "detected", 3)]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, ["rule whales", "count"]),
        ({"count": 3}, ["rule whales", "window_s"]),
        ({"preset": "tally-15min", "hold_s": 60.0}, ["hold_s 60", "window_s 900"]),
        ({"preset": "tally-15min", "count": 1}, ["possible_count 1", "count 1"]),
        ({"preset": "tally-15min", "label": "c"}, ["label c", "a, b"]),
        ({"preset": "tally-15min"}, ["no label", "a, b"]),
        ({"preset": "slow-zone-15d", "label": "a"}, ["station.latitude_deg"]),
    ],
)
def test_a_rule_that_cannot_be_is_refused_in_one_line(fields: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve([AlertRule("whales", **fields)], ["a", "b"], None)
    assert [part for part in named if part not in str(caught.value)] == []


def test_a_zone_that_holds_a_pole_is_refused() -> None:
    with pytest.raises(ConfigError, match="pole"):
        resolve([AlertRule("whales", preset="slow-zone-15d")], ["a"], Position(-89.7, 0.0))


def test_what_a_rule_promises_follows_from_hop_and_separation() -> None:
    """Three calls 1.5 s apart, known 1.5 s after the last one's window; with a hop of 0.4 s they are 1.6 s apart."""
    three = rule(count=3, window_s=60.0)
    assert promise(three, Pace(0.5, 2.0, 1.5), 1) == (4.5, 62.5)
    assert promise(three, Pace(0.4, 2.0, 1.5), 1) == pytest.approx((4.8, 62.6))
    assert promise(three, Pace(0.5, 2.0, 1.5), 3) == (1.5, 62.5)
    ten = rule(count=10, window_s=10.0)
    with pytest.raises(ConfigError, match=r"10 calls in 10 s cannot be.*13\.5 s"):
        promise(ten, Pace(0.5, 2.0, 1.5), 1)
    assert promise(ten, Pace(0.5, 2.0, 1.5), 2) == (7.5, 12.5)
    with pytest.raises(ConfigError, match="streams 2: there are 1"):
        promise(rule(streams=2), Pace(0.5, 2.0, 1.5), 1)
