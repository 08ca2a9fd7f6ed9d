"""The journal: numbers in order, once by id, the same after reopening, and a word about what cannot be one."""

from __future__ import annotations

import select
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fakes import event
from house import numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_daemon.errors import JournalError
from pam_daemon.journal import Bell, Journal
from pam_daemon.journal.held import Held
from pam_daemon.records import Kind, Record, topic


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal")) as opened:
        yield opened


def test_what_is_appended_is_what_was_made_and_four_numbers(journal: Journal) -> None:
    ((wire, new),) = journal.append([event(1)])
    assert new
    assert wire == event(1).wire() | {"log": journal.log, "seq": 1, "prev_seq": None, "durable": True}
    assert journal.since(0) == [wire]


def test_a_duplicate_burns_no_number_and_comes_back_as_stored(journal: Journal) -> None:
    ((first, _),) = journal.append([event(1)])
    later = event(1)
    remade = Record(later.kind, later.station, later.stream, "live", later.id, "2030-01-01T00:00:00Z", later.body)
    assert journal.append([remade, event(2), event(2)]) == [
        (first, False),
        (journal.since(1)[0], True),
        (journal.since(1)[0], False),
    ]
    assert [wire["seq"] for wire in journal.since(0)] == [1, 2]


RECORDS = st.lists(
    st.builds(
        event,
        st.integers(0, 6),
        kind=st.sampled_from(["event", "gap"]),
        station=st.sampled_from(["north", "south"]),
        stream=st.sampled_from(["ch1", "_"]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=5))
def test_numbers_have_no_holes_and_prev_seq_tells_the_last_of_the_topic(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]]
) -> None:
    """Whatever comes twice, in one batch or in several, and with the journal opened anew for each."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    logs = set()
    for batch in batches:
        with closing(Journal(path)) as journal:
            logs.add(journal.log)
            stored = journal.append(batch)
            assert [wire["id"] for wire, _ in stored] == [record.id for record in batch]
    with closing(Journal(path)) as journal:
        logs.add(journal.log)
        wires = journal.since(0)
    assert len(logs) == 1
    expected = list(dict.fromkeys(record.id for batch in batches for record in batch))
    assert [wire["id"] for wire in wires] == expected
    assert [wire["seq"] for wire in wires] == list(range(1, len(wires) + 1))
    last: dict[bytes, int] = {}
    for wire in wires:
        assert wire["prev_seq"] == last.get(topic(wire))
        last[topic(wire)] = wire["seq"]


def test_another_journal_is_another_log(journal: Journal, tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "other")) as other:
        assert other.log != journal.log


def test_since_gives_what_comes_after_by_kind_stream_and_number(journal: Journal) -> None:
    kinds: list[Kind] = ["event", "gap"]
    journal.append([event(n, kind=kinds[n % 2], stream=f"ch{n % 3}") for n in range(12)])
    assert numbers(journal.since(9)) == [10, 11, 12]
    assert numbers(journal.since(12)) == []
    assert numbers(journal.since(0, limit=2)) == [1, 2]
    assert numbers(journal.since(0, kinds=["gap"])) == [2, 4, 6, 8, 10, 12]
    assert numbers(journal.since(0, streams=["ch0", "ch1"], kinds=["event"])) == [1, 5, 7, 11]
    assert numbers(journal.since(5, streams=["ch0"], limit=1)) == [7]
    assert numbers(journal.since(0, kinds=[])) == []
    assert numbers(journal.since(0, kinds=["'; drop table record; --"])) == []
    assert journal.ends() == (1, 12)


def test_an_empty_journal_has_no_ends(journal: Journal) -> None:
    assert journal.ends() == (None, None)


def test_a_commit_rings_the_bell_and_a_duplicate_does_not(tmp_path: Path) -> None:
    with closing(Bell()) as bell, closing(Journal(tmp_path / "journal", [bell])) as journal:

        def rung() -> bool:
            return bool(select.select([bell.fileno()], [], [], 0)[0])

        assert not rung()
        journal.append([event(1)])
        assert rung()
        bell.clear()
        assert not rung()
        journal.append([event(1)])
        assert not rung()
        for _ in range(100_000):  # more than a pipe holds
            bell.ring()
        assert rung()


def test_another_connection_sees_a_record_once_it_is_committed(journal: Journal) -> None:
    with closing(Journal(journal.path)) as reader:
        assert reader.log == journal.log
        journal.append([event(1)])
        assert numbers(reader.since(0)) == [1]


@pytest.mark.parametrize("one_station", [True, False])
def test_two_writers_share_the_numbers(tmp_path: Path, one_station: bool) -> None:
    """Each thread with its own connection, every record in both; processes of their own may leave a hole."""
    held = Held() if one_station else None
    journals = [Journal(tmp_path / "journal", held=held) for _ in range(2)]

    def write(turn: int) -> None:
        for number in range(50):
            journals[turn].append([event(number if turn else 49 - number)])

    threads = [threading.Thread(target=write, args=(turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for opened in journals:
        opened.close()
    with closing(Journal(tmp_path / "journal")) as journal:
        wires = journal.since(0)
    assert len({wire["id"] for wire in wires}) == len(wires) == 50
    assert [wire["prev_seq"] for wire in wires] == [None, *numbers(wires)[:-1]]
    assert not one_station or numbers(wires) == list(range(1, 51))


def test_a_record_that_cannot_be_stored_takes_its_batch_with_it(journal: Journal) -> None:
    """And no number: the journal is as before, and goes on."""
    whole = event(2)
    nameless = Record(whole.kind, whole.station, whole.stream, whole.mode, None, whole.time_utc, whole.body)
    with pytest.raises(JournalError):
        journal.append([event(1), nameless])
    assert journal.since(0) == []
    journal.append([event(3)])
    assert numbers(journal.since(0)) == [1]


def refusal(path: Path) -> str:
    with pytest.raises(JournalError) as caught:
        Journal(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_text_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("heard a whale today\n" * 100)
    before = path.read_bytes()
    assert "not a database" in refusal(path)
    assert path.read_bytes() == before


def test_another_database_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table whales (name text)")
    before = path.read_bytes()
    assert "not a pamd journal" in refusal(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.db"]


def test_a_journal_of_another_version_is_refused(journal: Journal) -> None:
    with closing(sqlite3.connect(journal.path)) as db:
        db.execute("pragma user_version = 99")
    assert "version 99" in refusal(journal.path)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path)
    refusal(tmp_path / "no folder" / "journal")
    refusal(Path("/proc/journal"))


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    with closing(Journal(path)) as journal:
        journal.append([event(1)])
        assert numbers(journal.since(0)) == [1]


@pytest.mark.parametrize(
    "damage", ["update record set wire = 'no JSON'", "update record set wire = 5", "delete from meta"]
)
def test_a_journal_whose_rows_are_damaged_says_so_in_one_line(journal: Journal, damage: str) -> None:
    journal.append([event(1)])
    with closing(sqlite3.connect(journal.path)) as db:
        db.execute(damage)
        db.commit()
    with pytest.raises(JournalError, match="is damaged"), closing(Journal(journal.path)) as again:
        again.since(0)
