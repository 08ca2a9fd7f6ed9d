"""The journal on a disk that fills, turns read-only or goes away: numbered, held, read as if written, written later."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from disk import FragileDisk, SmallDisk, fragile_disk, small_disk
from fakes import FakeClock, event
from house import numbers
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.errors import JournalError
from pam_daemon.journal import Journal
from pam_daemon.journal.held import Held
from pam_daemon.records import Event, Wire, topic


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(name="fragile")
def fragile_fixture(tmp_path: Path) -> Iterator[FragileDisk]:
    with fragile_disk(tmp_path / "disk") as disk:
        yield disk


def durable(wires: list[Wire]) -> list[bool]:
    return [wire["durable"] for wire in wires]


def test_on_a_full_disk_records_go_on_and_are_written_when_there_is_room(disk: SmallDisk) -> None:
    """Same numbers, seen by another connection at once, found again by id, told by two events."""
    told: list[Event] = []
    held = Held(told.append, retry_every_s=0, clock=FakeClock())
    with closing(Journal(disk.path / "journal", held=held)) as journal:
        journal.append([event(n, stream=f"ch{n % 2}") for n in range(4)])
        disk.fill()
        fresh = [wire for wire, new in journal.append([event(n, stream=f"ch{n % 2}") for n in range(4, 7)]) if new]
        assert [(wire["seq"], wire["prev_seq"], wire["durable"]) for wire in fresh] == [
            (5, 3, False),
            (6, 4, False),
            (7, 5, False),
        ]
        assert journal.append([event(1, stream="ch1"), event(4, stream="ch0")]) == [
            (journal.since(1)[0], False),
            (fresh[0], False),
        ]
        with closing(Journal(journal.path, held=held)) as reader:
            assert reader.since(0)[4:] == fresh
            assert numbers(reader.since(0, limit=5)) == [1, 2, 3, 4, 5]
            assert numbers(reader.since(2, streams=["ch0"])) == [3, 5, 7]
            assert reader.since(0, kinds=["gap"]) == []
            assert numbers(list(reader.latest("event"))) == [7, 6, 5, 4, 3, 2, 1]
            assert reader.ends() == (1, 7)
        assert (held.refused, len(held)) == (True, 3)
        disk.make_room()
        assert journal.write_held()
        assert (held.refused, len(held)) == (False, 0)
    with closing(Journal(disk.path / "journal")) as journal:
        assert journal.since(4) == [wire | {"durable": True} for wire in fresh]
    assert [(one.what, one.severity) for one in told] == [("disk_refused", "error"), ("disk_accepted", "info")]
    assert "full" in told[0].data["error"]
    assert told[1].data == {"held": 3, "written": 3, "dropped": 0}


def test_what_falls_out_is_counted_and_seen_by_prev_seq(disk: SmallDisk) -> None:
    """The oldest go first; the hole they leave shows in the next record of the topic, also after a restart."""
    told: list[Event] = []
    held = Held(told.append, limit=3, retry_every_s=0, clock=FakeClock())
    with closing(Journal(disk.path / "journal", held=held)) as journal:
        journal.append([event(0, stream="rare")])
        disk.fill()
        journal.append([event(1, stream="rare")])
        journal.append([event(n) for n in range(2, 7)])
        assert (len(held), held.dropped) == (3, 3)
        assert numbers(journal.since(0)) == [1, 5, 6, 7]
        disk.make_room()
    assert told[-1].data == {"held": 6, "written": 3, "dropped": 3}
    assert told[-1].severity == "warning"
    with closing(Journal(disk.path / "journal")) as journal:
        ((rare, _), (often, _)) = journal.append([event(7, stream="rare"), event(8)])
        assert (rare["seq"], rare["prev_seq"]) == (8, 2)
        assert (often["seq"], often["prev_seq"]) == (9, 7)


def test_a_disk_is_not_tried_again_at_once(disk: SmallDisk) -> None:
    """Room alone changes nothing before it is time; the end does not wait."""
    clock = FakeClock()
    held = Held(retry_every_s=2.0, clock=clock)
    with closing(Journal(disk.path / "journal", held=held)) as journal:
        journal.append([event(0)])
        disk.fill()
        journal.append([event(1)])
        disk.make_room()
        clock.now_ns += 1_999_999_999
        assert durable([wire for wire, _ in journal.append([event(2)])]) == [False]
        assert not journal.write_held()
        clock.now_ns += 1
        assert durable([wire for wire, _ in journal.append([event(3)])]) == [True]
        disk.fill()
        journal.append([event(4)])
        disk.make_room()
    with closing(Journal(disk.path / "journal")) as journal:
        assert numbers(journal.since(0)) == [1, 2, 3, 4, 5]


def test_a_process_that_was_killed_gives_no_number_twice(disk: SmallDisk) -> None:
    """It held records that others have seen; one that ended well leaves no hole."""
    killed = Journal(disk.path / "journal")
    killed.append([event(0)])
    disk.fill()
    seen = killed.append([event(1), event(2)])
    disk.make_room()
    with closing(Journal(disk.path / "journal")) as after:
        ((wire, _),) = after.append([event(3)])
        assert wire["seq"] > max(numbers([seen for seen, _ in seen]))
    killed._file.close()
    with closing(Journal(disk.path / "journal")) as at_last:
        ((following, _),) = at_last.append([event(4)])
        assert following["seq"] == wire["seq"] + 1


def test_the_end_on_a_full_disk_says_what_is_lost(disk: SmallDisk) -> None:
    journal = Journal(disk.path / "journal")
    journal.append([event(0)])
    disk.fill()
    journal.append([event(1), event(2)])
    with pytest.raises(JournalError, match="2 records are lost"):
        journal.close()


def test_a_journal_that_cannot_begin_is_refused(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(JournalError, match="check the path, its permissions and the disk"):
        Journal(disk.path / "journal")


def test_places_wait_for_the_disk(disk: SmallDisk) -> None:
    held = Held(retry_every_s=0, clock=FakeClock())
    with closing(Journal(disk.path / "journal", held=held)) as journal:
        journal.reserve()
        journal.keep_places({"ch1": 1})
        disk.fill()
        journal.keep_places({"ch1": 2})
        assert held.refused
        assert journal.places() == {"ch1": 1}
        disk.make_room()
        journal.keep_places({"ch1": 3})
        assert not held.refused
        assert journal.places() == {"ch1": 3}


def test_a_disk_that_fails_can_be_unmounted_repaired_and_mounted_again(fragile: FragileDisk) -> None:
    """Meanwhile what is held is read, that the rest cannot be is said once; numbers and order are as ever."""
    told: list[Event] = []
    held = Held(told.append, retry_every_s=0, clock=FakeClock())
    with (
        closing(Journal(fragile.path / "journal", held=held)) as journal,
        closing(Journal(journal.path, held=held)) as reader,
    ):
        journal.append([event(0), event(1)])
        assert numbers(reader.since(0)) == [1, 2]
        fragile.break_()
        assert durable([wire for wire, _ in journal.append([event(2)])]) == [False]
        assert numbers(reader.since(0)) == [1, 2, 3]
        fragile.unmount()
        assert durable([wire for wire, _ in journal.append([event(3), event(2)])]) == [False, False]
        assert [numbers(reader.since(0)) for _ in range(2)] == [[3, 4]] * 2
        assert reader.ends() == (3, 4)
        with closing(Journal(fragile.path / "journal")) as stranger:  # somebody's, on the bare mount point
            stranger.append([event(9)])
        assert not journal.write_held()
        for path in fragile.path.iterdir():
            path.unlink()
        fragile.repair()
        assert durable([wire for wire, _ in journal.append([event(4)])]) == [True]
        assert numbers(reader.since(0)) == [1, 2, 3, 4, 5]
        assert all(durable(reader.since(0)))
    assert [one.what for one in told] == ["disk_refused", "disk_unreadable", "disk_accepted"]


def test_a_damaged_file_is_no_matter_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with closing(Journal(path)) as journal:
        journal.append([event(n) for n in range(500)])
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\x55" * (path.stat().st_size - 8192))
    with pytest.raises(JournalError, match="malformed"), closing(Journal(path)) as journal:
        journal.since(0)


VERSION_2 = "drop table expired; pragma user_version = 2;"


@pytest.mark.parametrize("version", [1, 2])
def test_a_journal_of_an_earlier_version_goes_on(tmp_path: Path, version: int) -> None:
    """Its log, its records and its numbers."""
    path = tmp_path / "journal"
    with closing(Journal(path)) as journal:
        journal.append([event(n) for n in range(3)])
        log = journal.log
    with closing(sqlite3.connect(path)) as db:  # as pamd wrote it then
        db.executescript(VERSION_2)
        db.executescript(
            """
            alter table meta drop column reserved;
            alter table record rename to new;
            create table record (
              seq integer primary key autoincrement,
              id text not null unique,
              kind text not null,
              stream text not null,
              prev_seq integer,
              wire blob not null
            );
            insert into record select * from new;
            drop table new;
            create index record_kind on record (kind, seq);
            pragma user_version = 1;
            """
            if version == 1
            else ""
        )
    for number in (3, 4):
        with closing(Journal(path)) as journal:
            assert journal.log == log
            ((wire, _),) = journal.append([event(number)])
            assert (wire["seq"], wire["prev_seq"]) == (number + 1, number)
            assert numbers(journal.since(0)) == list(range(1, number + 2))


@dataclass
class Station:
    """A journal's writer and its reader, killed and restarted as a test wishes, and all that they ever said."""

    path: Path
    limit: int
    given: dict[str, Wire] = field(default_factory=dict)  # by id
    sent: list[Wire] = field(default_factory=list)
    lost: list[Wire] = field(default_factory=list)  # that a killed one held
    dropped: int = 0
    began_with: list[dict[str, int]] = field(default_factory=list)  # of each life, the last committed seq by topic
    life: dict[str, int] = field(default_factory=dict)  # by id, in which it was given

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.held = Held(limit=self.limit, retry_every_s=0, clock=FakeClock())
        self.writer = Journal(self.path, held=self.held)
        self.writer.reserve()
        self.began_with.append(dict(self.held.topics))
        self.reader = Journal(self.path, held=self.held)

    def do(self, step: int | str, disk: SmallDisk, fresh: Iterator[int]) -> None:
        match step:
            case "fill":
                disk.fill()
            case "make room":
                disk.make_room()
            case "retry":
                self.writer.write_held()
            case "publish":
                self.publish()
            case "kill":
                self.kill()
                disk.make_room()
                self.start()
            case int(records):
                self.append(records, fresh)
                if self.limit == 100:  # else some fall out before they are sent
                    self.publish()

    def kill(self) -> None:
        """Nothing is written any more; what was held is gone."""
        self.publish()
        self.lost += [wire for wire in self.reader.since(0, limit=10_000) if not wire["durable"]]
        self.dropped += self.held.dropped
        for journal in (self.reader, self.writer):
            journal._file.close()  # as the kernel does

    def append(self, records: int, fresh: Iterator[int]) -> None:
        batch = [event(next(fresh), stream=f"ch{number % 2}") for number in range(records)]
        for wire, new in self.writer.append(batch):
            assert new
            self.given[wire["id"]] = wire
            self.life[wire["id"]] = len(self.began_with) - 1

    def publish(self) -> None:
        while records := self.reader.since(self.sent[-1]["seq"] if self.sent else 0, limit=3):
            self.sent += records


STEPS = st.lists(
    st.one_of(st.integers(1, 4), st.sampled_from(["fill", "make room", "retry", "publish", "kill"])), max_size=20
)


@given(STEPS, st.sampled_from([3, 100]))
def test_whatever_the_disk_does_each_record_is_sent_once_in_order_and_what_is_not_dropped_is_written(
    small: SmallDisk, steps: list[int | str], limit: int
) -> None:
    """Filled and freed at any moment, killed too: what fell out and what a killed one held is all that is missing."""
    for path in small.path.iterdir():
        path.unlink()
    station, fresh = Station(small.path / "journal", limit), count()
    for step in steps:
        station.do(step, small, fresh)
    small.make_room()
    assert station.writer.write_held()
    station.publish()
    with ExitStack() as ends:
        ends.enter_context(closing(station.writer))
        ends.enter_context(closing(station.reader))
    with closing(Journal(small.path / "journal")) as journal:
        stored = journal.since(0, limit=10_000)
    given = list(station.given.values())
    assert numbers(given) == sorted(set(numbers(given)))
    assert numbers(station.sent) == sorted(set(numbers(station.sent)))
    gone = {wire["id"] for wire in station.lost}
    assert len(stored) == len(given) - len(gone) - station.dropped - station.held.dropped
    last: dict[tuple[int, str], int] = {}
    for wire in given:
        life, name = station.life[wire["id"]], topic(wire).decode()
        # What a killed one held is known to it alone.
        assert wire["prev_seq"] == last.get((life, name), station.began_with[life].get(name))
        last[life, name] = wire["seq"]
    for wire in [*stored, *station.sent]:
        assert wire | {"durable": None} == station.given[wire["id"]] | {"durable": None}
    assert all(durable(stored))
    if limit == 100:
        assert numbers(station.sent) == numbers(given)


@pytest.fixture(name="small", scope="module")
def small_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small") / "disk") as disk:
        yield disk
