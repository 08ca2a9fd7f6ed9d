"""What the journal no longer keeps: by age, by size, detections last, and nothing that somebody still needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
from bridges import Sea, sea_fixture  # noqa: F401 - as above
from fakes import BEGAN_UTC_NS, FakeClock, event
from house import House
from hypothesis import given, settings
from hypothesis import strategies as st
from live import (
    PATIENCE_S,
    Station,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from sound import DEVICE, SoundServer

from pam_daemon.clock import NS_PER_S, rfc3339
from pam_daemon.config import JournalPlace, Webhook
from pam_daemon.journal import Journal
from pam_daemon.journal.retention import Retention
from pam_daemon.outlets.bridge import Place, place_path
from pam_daemon.records import Event, Kind, Mode, Record, Wire, record_id, topic
from pam_daemon.subscribe import Subscriber

DAY_NS = 86_400 * NS_PER_S
BEGAN_NS = BEGAN_UTC_NS
KINDS: Sequence[Kind] = ("effort", "gap", "event", "alert", "detection")
EVER = 2**62


class Body(msgspec.Struct, frozen=True):
    """What retention looks at."""

    what: str
    rule: str
    label: str
    padding: str = ""


def made(
    number: int,
    kind: Kind,
    day: float,
    *,
    stream: str = "ch1",
    what: str = "test",
    padding: int = 0,
    mode: Mode = "live",
) -> Record:
    """A record of a day; of what an alert's rule or an event's `what` is."""
    utc = rfc3339(BEGAN_NS + int(day * DAY_NS))
    body: Any = Body(what, what, "upcall", "x" * padding)
    return Record(kind, "pamd", stream, mode, record_id(kind, "pamd", stream, "key", number), utc, body)


def retaining(
    journal: Journal,
    day: float,
    *,
    keep_days: float | None = None,
    megabytes: float | None = None,
    needed_day: float = 10_000,
    handed_over: dict[str, int] | None = None,
    told: list[Event] | None = None,
) -> Retention:
    return Retention(
        journal,
        JournalPlace(keep_days=keep_days, largest_megabytes=megabytes),
        lambda: BEGAN_NS + int(needed_day * DAY_NS),
        lambda: handed_over or {},
        [].append if told is None else told.append,
        FakeClock(BEGAN_NS + int(day * DAY_NS)),
    )


def tidied(retention: Retention, journal: Journal) -> list[Wire]:
    """What is left when there is no more to do."""
    before: list[Wire] | None = None
    while (left := journal.since(0, limit=10**6)) != before:
        before = left
        retention.tidy()
    return left


def of(wires: Iterable[Wire], *kinds: str) -> list[int]:
    return [wire["seq"] for wire in wires if wire["kind"] in kinds]


def asked_for(wires: Iterable[Wire]) -> set[int]:
    """The last alert of each rule, and the last begin of each stream."""
    last: dict[tuple[str, str], int] = {}
    for wire in wires:
        if wire["kind"] == "alert" or (wire["kind"] == "event" and wire["what"] == "stream_began"):
            last[wire["kind"], wire["rule"] if wire["kind"] == "alert" else wire["stream"]] = wire["seq"]
    return set(last.values())


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(["ch1", "ch2"]),
        st.sampled_from(["test", "stream_began"]),
        st.floats(0, 2),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(
    RECORDS,
    st.sampled_from([None, 5.0, 20.0]),
    st.sampled_from([None, 0.0, 0.05]),
    st.floats(0, 60),
    st.dictionaries(st.sampled_from(KINDS), st.integers(0, 60)),
)
def test_what_is_needed_is_kept_detections_outlive_the_rest_and_the_chain_is_as_it_was(
    records: list[tuple[Kind, str, str, float]],
    keep_days: float | None,
    megabytes: float | None,
    needed_day: float,
    handed_over: dict[str, int],
) -> None:
    """Whatever the limits, and whoever is behind: also with the journal opened anew, and begun again, in between."""
    with tempfile.TemporaryDirectory() as directory, closing(Journal(Path(directory) / "journal")) as journal:
        day = 0.0
        for number, (kind, stream, what, days) in enumerate(records):
            day += days
            journal.append([made(number, kind, day, stream=stream, what=what)])
        before = journal.since(0, limit=1000)
        now_day = day + 3
        limits: Any = {"keep_days": keep_days, "megabytes": megabytes, "needed_day": needed_day}
        retaining(journal, now_day, **limits, handed_over=handed_over).tidy()
        left = tidied(retaining(journal, now_day, **limits, handed_over=handed_over), journal)

        kept = {wire["seq"] for wire in left}
        gone = [wire for wire in before if wire["seq"] not in kept]
        assert [wire for wire in before if wire["seq"] in kept] == left
        aged = rfc3339(BEGAN_NS + int((now_day - (keep_days or 0)) * DAY_NS))
        needed = rfc3339(BEGAN_NS + int(needed_day * DAY_NS))
        assert all(wire["time_utc"] <= needed for wire in gone)  # which are told in microseconds
        assert all(wire["seq"] <= handed_over.get(wire["kind"], EVER) for wire in gone)
        assert asked_for(before) <= kept
        if megabytes is None:
            assert not of(gone, "detection")
            assert keep_days is not None or not gone
            assert all(wire["time_utc"] <= aged for wire in gone)
        may_go = [
            wire
            for wire in before
            if wire["time_utc"] < rfc3339(BEGAN_NS + int(min(needed_day, now_day - 26 / 24) * DAY_NS))
            and wire["seq"] <= handed_over.get(wire["kind"], EVER)
        ]
        if of(gone, "detection"):
            assert kept & set(of(may_go, "effort", "gap", "event", "alert")) <= asked_for(may_go)
        if megabytes == 0.0:  # nothing fits
            assert kept & {wire["seq"] for wire in may_go} <= asked_for(may_go)
        for kind in KINDS:
            assert journal.expired([kind]) == max(of(gone, kind), default=0)

        ((wire, _),) = journal.append([made(1000, "effort", now_day)])
        assert wire["seq"] == len(before) + 1
        assert wire["prev_seq"] == max((w["seq"] for w in before if topic(w) == topic(wire)), default=None)


def test_the_file_stays_within_its_size_and_its_room_is_used_again(tmp_path: Path) -> None:
    """A month of records through a journal with room for some days: its file does not grow, and it has the newest."""
    told: list[Event] = []
    limit = 10_000_000  # of which a WAL takes 4 MB
    with closing(Journal(tmp_path / "journal")) as journal:
        largest = 0
        for day in range(30):
            for n in range(0, 400, 20):
                journal.append([made(day * 400 + m, KINDS[m % 5], day, padding=6000) for m in range(n, n + 20)])
            retention = retaining(journal, day + 0.5, megabytes=limit / 1e6, told=told)
            for _ in range(12):
                retention.tidy()
            files = [tmp_path / "journal", tmp_path / "journal-wal"]
            largest = max(largest, sum(file.stat().st_size for file in files))
        left = journal.since(0, limit=10**5)
        assert retention.status is not None
        assert retention.status.bytes <= limit
        assert retention.status.oldest_utc["detection"] <= retention.status.oldest_utc["effort"]
    assert largest < 1.5 * limit  # what one day brings beyond; without deleting it is 80 MB
    assert len(of(left, "detection")) > len(of(left, "effort"))
    assert set(of(left, *KINDS)) >= set(range(29 * 400 + 1, 30 * 400 + 1))
    assert {one.what for one in told} == {"journal_trimmed"}


def test_a_limit_that_cannot_be_kept_to_is_told_once(tmp_path: Path) -> None:
    """What a bridge has not taken is kept, whatever the size; when it has, all is within the limit again."""
    told: list[Event] = []
    waiting = {"effort": 0}
    with closing(Journal(tmp_path / "journal")) as journal:
        journal.append([made(n, "effort", n / 100, padding=3000) for n in range(3000)])
        retention = retaining(journal, 40, megabytes=12.0, handed_over=waiting, told=told)
        assert len(tidied(retention, journal)) == 3000
        assert [(one.what, one.severity) for one in told] == [("journal_too_large", "warning")]
        retention.tidy()
        assert len(told) == 1
        waiting["effort"] = 2500
        left = tidied(retention, journal)
        assert 500 < len(left) < 3000
        assert of(left, "effort")[-1] == 3000
        assert [one.what for one in told] == ["journal_too_large", "journal_trimmed"]
        assert told[-1].data == {"deleted": {"effort": 3000 - len(left)}}


def test_who_comes_back_for_what_was_deleted_is_told(tmp_path: Path) -> None:
    """A subscriber with a place: how far the station's deletions went beyond it, and by `prev_seq` that it lost some.
    One that had all is told nothing, nor one that asks for kinds of which all are there."""
    with ExitStack() as exits:
        house = House(tmp_path / "journal", exits)
        house.journal.append([made(n, KINDS[n % 5], n / 10) for n in range(300)])
        for name in ("late", "filtered"):
            (tmp_path / name).write_text(f'{{"schema": "pamd-place/1", "places": {{"{house.journal.log}": 20}}}}')
        (tmp_path / "present").write_text(f'{{"schema": "pamd-place/1", "places": {{"{house.journal.log}": 290}}}}')
        left = tidied(retaining(house.journal, 30, keep_days=10), house.journal)
        expired = house.journal.expired()
        assert 190 < expired <= 200
        outcomes = {}
        for name, kinds in (("late", None), ("filtered", ["detection"]), ("present", None)):
            with Subscriber(house.publisher.endpoint, state=tmp_path / name, kinds=kinds) as subscriber:
                got: list[Wire] = []
                for wire in subscriber.records(timeout_s=20):
                    got += [wire] if wire["kind"] != "status" else []
                    if wire["kind"] == "status":
                        break
                outcomes[name] = (subscriber.expired_seq, subscriber.lost_records > 0)
            after = 290 if name == "present" else 20
            assert got == [wire for wire in left if wire["seq"] > after and (not kinds or wire["kind"] in kinds)]
    assert outcomes == {"late": (expired, True), "filtered": (0, False), "present": (0, False)}


def test_a_bridge_that_comes_back_for_what_was_deleted_says_so(sea: Sea) -> None:
    """While it was not in the configuration it held nothing up."""
    sea.journal(*(made(n, "alert", n / 10, what=f"{n}") for n in range(10)))
    with closing(sea.open_journal()) as journal:
        place_path(sea.path, "web").write_bytes(msgspec.json.encode(Place(journal.log, 2)))
        journal.expire(dict.fromkeys(range(1, 6), "alert"))
    with sea.bridged(Webhook("web", "http://127.0.0.1:9/")) as bridges:
        end_s = time.monotonic() + 30
        while not sea.told("bridge_lost"):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert bridges.handed_over() == {"alert": 2}
    (lost,) = sea.told("bridge_lost")
    assert lost.data["seq"] == 2
    assert "after 2 to 5" in lost.text


def test_a_station_that_listens_deletes_what_is_old(server: SoundServer, station: Station) -> None:
    """What was there before it started, within seconds, and says so; detections stay, and what it makes itself."""
    kinds: Sequence[Kind] = ("effort", "event", "alert", "detection")
    with closing(Journal(station.directory / "journal")) as journal:
        journal.append([made(n, kinds[n % 4], n / 1000, mode="replay") for n in range(300)])
        old = journal.since(0, limit=300)
    with station.running("--device", DEVICE, "--set", "journal.keep_days=1"):
        station.await_heard()
        end_s = time.monotonic() + PATIENCE_S
        while not station.events("journal_trimmed"):
            assert time.monotonic() < end_s
            time.sleep(0.2)
        held = station.status()["status"]["journal"]
    left = [wire for wire in station.records if wire["seq"] <= 300]
    assert of(left, *KINDS) == sorted({*of(old, "detection"), *asked_for(old)})
    (told,) = station.events("journal_trimmed")
    assert sum(told["data"]["deleted"].values()) == 300 - len(left)
    assert held["bytes"] > 0
    assert held["oldest_utc"]["detection"] == next(wire["time_utc"] for wire in old if wire["kind"] == "detection")
    assert station.events("stream_began")


def test_a_kill_in_the_middle_of_a_deletion_leaves_the_journal_whole(tmp_path: Path) -> None:
    """kill -9, until all are gone: what is told as deleted is, what is not is there, no number is given twice, SQLite
    agrees."""
    path = tmp_path / "journal"
    with closing(Journal(path)) as journal:
        journal.append([event(n, kind="effort") for n in range(20_000)])
    seen = 0
    for life in range(1000):
        with subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 * life)
            os.kill(process.pid, signal.SIGKILL)
        with closing(Journal(path)) as journal:
            expired = journal.expired(["effort"])
            left = of(journal.since(0, limit=10**6), "effort")
            assert left == list(range(expired + 1, 20_001))
            assert expired > seen
            seen = expired
            ((wire, _),) = journal.append([event(100_000 + life)])
            assert wire["seq"] > 20_000
            with journal._file.connection() as db:
                assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        if not left:
            break
    assert life >= 2, "the first kills came too late"


def delete_all(path: Path) -> None:
    """Until it is killed; a line once the first step is done."""
    with closing(Journal(path)) as journal:
        retention = retaining(journal, 10_000, keep_days=1)
        retention.tidy()
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        while True:
            retention.tidy()


if __name__ == "__main__":
    delete_all(Path(sys.argv[1]))
