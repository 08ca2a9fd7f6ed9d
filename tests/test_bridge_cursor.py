"""What a bridge takes of the journal: from its place on, all that its filter lets through."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from bridges import (
    Sea,
    detection,
    sea_fixture,  # noqa: F401 - pytest finds fixtures by their import
)
from fakes import event
from servers import Web, await_true

from pam_daemon.config import Filter
from pam_daemon.journal.held import Held
from pam_daemon.outlets.bridge import passes, place_path
from pam_daemon.records import Kind, Wire


def test_a_place_is_kept_and_what_another_log_says_is_not_believed(sea: Sea) -> None:
    """Without a place, from what comes; in a new journal, or with a damaged place, from the beginning."""
    web = Web()
    web.start()
    sea.append(2)
    place = place_path(sea.path, "web")
    with closing(web):
        for arrived in (3, 4):
            with sea.bridged(web.choice):
                sea.append(1)
                await_true(lambda arrived=arrived: len(web.taken()) == arrived - 2)
        assert web.taken() == [wire["id"] for wire in sea.wires()[2:]]
        place.write_text("{")
        with sea.bridged(web.choice):
            await_true(lambda: len(web.taken()) == 6)
        assert web.taken()[2:] == [wire["id"] for wire in sea.wires()]
        for path in sea.path.parent.glob("journal*"):
            if path != place:
                path.unlink()
        sea.held = Held()
        sea.append(1)
        with sea.bridged(web.choice):
            await_true(lambda: web.taken()[-1:] == [sea.wires()[0]["id"]])


def test_what_waits_on_a_disk_that_cannot_be_read_is_not_passed_over(sea: Sea, tmp_path: Path) -> None:
    """The journal's file is away when the bridge begins, and comes back."""
    web = Web()
    with closing(web):
        with sea.bridged(web.choice):
            sea.append(2)
            await_true(lambda: sea.told("bridge_down"))
        away = tmp_path / "away"
        away.mkdir()
        files = [path for path in sea.path.parent.glob("journal*") if path.suffix != ".place"]
        for path in files:
            path.rename(away / path.name)
        web.start()
        with sea.bridged(web.choice) as bridges:
            await_true(lambda: bridges.status()["web"].error == "the journal's disk cannot be read")
            for path in files:
                (away / path.name).rename(path)
            await_true(lambda: len(web.taken()) == 2)
            sea.append(1)
    assert web.taken() == [wire["id"] for wire in sea.wires()]


def test_what_comes_while_others_are_handed_over_comes_once_and_what_is_left_at_the_end_too(sea: Sea) -> None:
    web = Web()
    web.start()
    with closing(web), sea.bridged(web.choice):
        for _ in range(60):
            sea.append(1)
    assert web.taken() == [wire["id"] for wire in sea.wires()]


ALERT: Wire = {"kind": "alert", "mode": "live", "label": "upcall", "max_score": 0.8, "state": "raised", "flood": False}
CALL: Wire = {"kind": "detection", "mode": "live", "label": "upcall", "score": 0.8, "flood": None}
EVENT: Wire = {"kind": "event", "mode": "live", "what": "reload"}


@pytest.mark.parametrize(
    ("wanted", "wire", "passed"),
    [
        (Filter(), ALERT, True),
        (Filter(), CALL, False),
        (Filter(kinds=("detection", "event")), CALL, True),
        (Filter(), ALERT | {"mode": "drill"}, False),
        (Filter(), ALERT | {"mode": "replay"}, False),
        (Filter(modes=("drill",)), ALERT | {"mode": "drill"}, True),
        (Filter(modes=("drill",)), ALERT, False),
        (Filter(min_score=0.8), ALERT, True),
        (Filter(min_score=0.81), ALERT, False),
        (Filter(kinds=("detection",), min_score=0.81), CALL, False),
        (Filter(labels=("moan", "upcall")), ALERT, True),
        (Filter(labels=("moan",)), ALERT, False),
        (Filter(labels=()), ALERT, False),
        (Filter(kinds=("event",), labels=("moan",), min_score=1), EVENT, True),
        (Filter(kinds=("detection",)), CALL | {"flood": True}, False),
        (Filter(kinds=("detection",), flood=True), CALL | {"flood": True}, True),
        (Filter(), ALERT | {"flood": True}, True),  # a crowd of whales is a flood too
        (Filter(), ALERT | {"flood": True, "state": "extended"}, False),
        (Filter(flood=True), ALERT | {"flood": True, "state": "extended"}, True),
        (Filter(), ALERT | {"flood": True, "state": "cleared"}, True),
        (Filter(), ALERT | {"flood": True, "state": "lapsed"}, True),
    ],
)
def test_a_bridge_takes_what_its_filter_lets_through(wanted: Filter, wire: Wire, passed: bool) -> None:
    assert passes(wanted, wire) is passed


def test_what_is_filtered_out_is_passed_over(sea: Sea) -> None:
    """Drills, other kinds and low scores between what is wanted, more than is read at a time."""
    web = Web()
    web.start()
    choice = msgspec.structs.replace(web.choice, filter=Filter(kinds=("detection",), min_score=0.5))
    kinds: list[Kind] = ["event", "gap"]
    with closing(web), sea.bridged(choice) as bridges:
        for begin in (0, 3000):
            sea.journal(*(detection(begin + n, mode="drill") for n in range(1200)))
            sea.journal(*(event(begin + n, kind=kinds[n % 2]) for n in range(10)))
            sea.journal(*(detection(begin + 1200 + n, score=n % 2 * 0.9) for n in range(20)))
        await_true(lambda: len(web.taken()) == 20)
        await_true(lambda: bridges.status()["web"].behind == 0)
    wanted = [wire["id"] for wire in everything(sea) if wire["mode"] == "live" and wire.get("score", 0) > 0.5]
    assert web.taken() == wanted


def everything(sea: Sea) -> list[Wire]:
    with closing(sea.open_journal()) as journal:
        return journal.since(0, limit=10_000)
