"""A damaged journal: kept aside, another log begun, an event says so, and a station that listens goes on listening."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import soundfile
from bridges import Sea
from disk import small_disk
from fakes import FakeClock, event, toy_model
from house import numbers
from live import (
    PAMD,
    PATIENCE_S,
    Station,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from sound import DEVICE, SoundServer
from test_retention import made

from pam_daemon.config import Filter, Webhook
from pam_daemon.errors import JournalError
from pam_daemon.journal import Journal
from pam_daemon.journal.held import Held
from pam_daemon.outlets.bridge import place_path
from pam_daemon.records import Event, Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.wire.sockets import free_endpoint

RECORDS = 3000


@pytest.fixture(scope="module")
def sound_journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a journal of some hundred pages."""
    path = tmp_path_factory.mktemp("sound") / "journal"
    with closing(Journal(path)) as journal:
        for first in range(0, RECORDS, 100):
            journal.append([event(n, stream=f"ch{n % 3}") for n in range(first, first + 100)])
        journal.keep_places({"ch1": 1})
    assert path.stat().st_size > 300 * 4096
    return path.read_bytes()


def with_bytes(offset: int, content: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:offset] + content + whole[offset + len(content) :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "no byte": lambda _: b"",
    "text": lambda _: b"heard a whale today\n" * 100,
    "zeros": lambda whole: bytes(len(whole)),
    "a header of noise": with_bytes(0, random.Random(0).randbytes(100)),
    "a format of the future": with_bytes(18, b"\x07\x07"),
    "cut in the first page": lambda whole: whole[:1000],
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "cut by a page": lambda whole: whole[:-4096],
    "no version": with_bytes(60, bytes(4)),
    "another application": with_bytes(68, b"\x01\x02\x03\x04"),
    "the first page of noise": with_bytes(0, random.Random(1).randbytes(4096)),
    "the schema of noise": with_bytes(100, random.Random(2).randbytes(3996)),
}


def mended(path: Path, told: list[Event]) -> Held:
    return Held(told.append, retry_every_s=0, clock=FakeClock(), mends=True)


def assert_goes_on(path: Path, held: Held, told: list[Event], damaged: bytes) -> None:
    """With another log, which has what came since, all of it durable; and with the damaged file."""
    (one,) = [one for one in told if one.what == "journal_damaged"]
    kept_as = Path(one.data["kept_as"])
    assert kept_as.name.startswith("journal.damaged-20090329T171500Z")
    assert len(kept_as.read_bytes()) >= len(damaged)
    assert one.data["log"] == held.log != one.data["before"]
    with closing(Journal(path)) as journal:
        assert journal.log == held.log
        stored = journal.since(0, limit=10_000)
        assert stored
        assert all(
            wire["durable"] and wire["id"] == event(wire["data"]["number"], stream=wire["stream"]).id for wire in stored
        )
        assert stored[0]["prev_seq"] is None
        with journal._file.connection() as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_damaged_at_the_start_is_kept_aside(tmp_path: Path, sound_journal: bytes, damage: str) -> None:
    """By a station that mends; who only reads it is told, and leaves it alone."""
    path = tmp_path / "journal"
    damaged = DAMAGES[damage](sound_journal)
    path.write_bytes(damaged)
    if damaged:
        with pytest.raises(JournalError), closing(Journal(path)):
            pass
        assert path.read_bytes() == damaged
    told: list[Event] = []
    held = mended(path, told)
    with closing(Journal(path, held=held)) as journal:
        ((wire, _),) = journal.append([event(7)])
        assert (wire["prev_seq"], wire["durable"]) == (None, True)
        assert journal.places() == {}
    assert_goes_on(path, held, told, damaged)
    assert Path(told[0].data["kept_as"]).read_bytes() == damaged
    assert not held.refused


def test_a_wal_without_its_database_is_kept_aside(tmp_path: Path) -> None:
    """SQLite would delete it, with the records that are in it alone."""
    path, copy = tmp_path / "journal", tmp_path / "other" / "journal"
    copy.parent.mkdir()
    with closing(Journal(path)) as journal:
        journal.append([event(1)])
        wal = path.with_name("journal-wal").read_bytes()
    copy.with_name("journal-wal").write_bytes(wal)
    with pytest.raises(JournalError, match="WAL without its database"):
        Journal(copy)
    told: list[Event] = []
    with closing(Journal(copy, held=mended(copy, told))) as journal:
        journal.append([event(2)])
    assert Path(f"{told[0].data['kept_as']}-wal").read_bytes() == wal


def test_what_is_somebody_elses_or_of_a_newer_pamd_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """Also by a station that mends."""
    newer, other = tmp_path / "newer", tmp_path / "other"
    Journal(newer).close()
    with closing(sqlite3.connect(newer)) as db:
        db.execute("pragma user_version = 99")
    with closing(sqlite3.connect(other)) as db:
        db.execute("create table whales (name text)")
    for path, words in ((newer, "version 99, of a newer pamd"), (other, "not a pamd journal")):
        before = path.read_bytes()
        with pytest.raises(JournalError, match=words):
            Journal(path, held=Held(mends=True))
        assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newer", "other"]


def overwrite(path: Path, chance: random.Random) -> None:
    """Noise, zeros, or a page from elsewhere, at a place past the first page; or the end cut off."""
    size, how = path.stat().st_size, chance.randrange(4)
    offset = chance.randrange(4096, size)
    with path.open("r+b") as file:
        if how == 3:
            file.truncate(offset)
            return
        if how == 2:
            offset -= offset % 4096
            file.seek(chance.randrange(1, size // 4096) * 4096)
            content = file.read(4096)
        else:
            content = chance.randbytes(5000) if how else bytes(5000)
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_overwritten_while_it_runs_the_writer_goes_on(
    tmp_path: Path, sound_journal: bytes, seed: int
) -> None:
    """Damage is found at the latest when all is read, by the writer or by a reader: no exception; what was appended
    since the last begin is there, in order, its numbers above all before; or the damage was none."""
    path, chance, told = tmp_path / "journal", random.Random(seed), list[Event]()
    path.write_bytes(sound_journal)
    held = mended(path, told)
    with closing(Journal(path, held=held)) as writer, closing(Journal(path, held=held)) as reader:
        writer.reserve()
        log = writer.log
        if seed % 2:
            writer.append([event(RECORDS)])
            reader.since(0, limit=10)
        writer.close()  # all of it in the file, and nothing in a cache
        reader.close()
        overwrite(path, chance)
        damaged = path.read_bytes()
        given = []
        for number in range(RECORDS + 1, RECORDS + 6):
            given += [wire for wire, _ in writer.append([event(number, stream=f"ch{number % 3}")])]
            reader.since(chance.randrange(RECORDS), limit=100)
        reader.since(0, limit=10_000), list(reader.latest("event")), reader.places(), reader.ends()
        writer.append([event(n, stream=f"ch{n % 3}") for n in (0, RECORDS // 2, RECORDS - 1)])  # the index by id
        given += [wire for wire, _ in writer.append([event(RECORDS + 6)])]
        assert numbers(given) == sorted(set(numbers(given)))
        assert numbers(given)[0] > RECORDS
        assert not held.refused
        stored = {wire["seq"]: wire for wire in reader.since(RECORDS, limit=10_000)}
        assert reader.log == writer.log
        assert stored[given[-1]["seq"]]["id"] == given[-1]["id"]
        if not told:
            assert writer.log == log
            return
        assert writer.log != log
        assert writer.began_after >= RECORDS
        after = [wire for wire in given if wire["seq"] > writer.began_after]
        assert [stored[wire["seq"]]["id"] for wire in after] == [wire["id"] for wire in after]
    assert_goes_on(path, held, told, damaged)


def test_what_was_held_comes_first_in_the_new_log(tmp_path: Path, sound_journal: bytes) -> None:
    """It went out under the old one with the same numbers; the chain of each topic begins anew."""
    path, told = tmp_path / "journal", list[Event]()
    path.write_bytes(sound_journal)
    held = mended(path, told)
    with closing(Journal(path, held=held)) as journal:
        journal.reserve()
        journal._file.close()  # nothing is in a cache
        path.write_bytes(bytes(len(sound_journal)))
        sent = [journal.append([event(RECORDS + n, stream=f"ch{n % 2}")])[0][0] for n in range(4)]
        assert [wire["durable"] for wire in sent] == [False, True, True, True]
        assert sent[0]["log"] != sent[1]["log"] == journal.log
        stored = journal.since(0)
        assert numbers(stored) == numbers(sent) == list(range(RECORDS + 1, RECORDS + 5))
        assert [wire["prev_seq"] for wire in stored] == [None, None, RECORDS + 1, RECORDS + 2]
    assert [one.what for one in told] == ["journal_damaged"]


def test_a_damaged_file_that_cannot_be_renamed_is_a_disk_that_refuses(tmp_path: Path, sound_journal: bytes) -> None:
    """Records are held until it can."""
    path, told = tmp_path / "place" / "journal", list[Event]()
    path.parent.mkdir()
    path.write_bytes(sound_journal)
    held = mended(path, told)
    with closing(Journal(path, held=held)) as journal:
        journal.reserve()
        journal._file.close()  # nothing is in a cache
        path.write_bytes(bytes(4096))
        sent = [journal.append([event(RECORDS)])[0][0]]
        path.parent.rename(tmp_path / "away")
        path.parent.touch()
        sent += [journal.append([event(RECORDS + number)])[0][0] for number in (1, 2)]
        path.parent.unlink()
        (tmp_path / "away").rename(path.parent)
        sent += [journal.append([event(RECORDS + 3)])[0][0]]
        assert [wire["durable"] for wire in sent] == [False, False, False, True]
        assert numbers(journal.since(0)) == numbers(sent) == list(range(RECORDS + 1, RECORDS + 5))
    assert [one.what for one in told] == ["disk_refused", "journal_damaged", "disk_accepted"]
    assert Path(told[1].data["kept_as"]).read_bytes() == bytes(4096)


def test_a_disk_that_is_full_when_another_log_begins(tmp_path: Path, sound_journal: bytes) -> None:
    """It begins when there is room, and no file is left of the attempts."""
    told: list[Event] = []
    with small_disk(tmp_path / "disk", megabytes=3) as disk:
        path = disk.path / "journal"
        path.write_bytes(sound_journal)
        held = mended(path, told)
        with closing(Journal(path, held=held)) as journal:
            journal.reserve()
            journal._file.close()
            path.write_bytes(bytes(4096))
            disk.fill()
            sent = [journal.append([event(RECORDS + number)])[0][0] for number in range(4)]
            disk.make_room()
            sent += [journal.append([event(RECORDS + 4)])[0][0]]
            assert [wire["durable"] for wire in sent] == [False] * 4 + [True]
            assert numbers(journal.since(0)) == numbers(sent)
        assert len(list(disk.path.glob("*damaged*"))) == 1
    assert [one.what for one in told] == ["disk_refused", "journal_damaged", "disk_accepted"]


@pytest.mark.parametrize("running", [True, False])
def test_a_bridge_says_what_it_cannot_hand_over(tmp_path: Path, running: bool) -> None:
    """Nobody took what the damaged journal had for it."""
    sea = Sea(tmp_path / "journal")
    sea.held = Held(sea.events.append, retry_every_s=0, mends=True)
    sea.append(3)
    choice = Webhook("web", "http://127.0.0.1:9/", filter=Filter(kinds=("detection",)))

    def await_told(what: str) -> Event:
        end_s = time.monotonic() + PATIENCE_S
        while not sea.told(what):
            assert time.monotonic() < end_s, what
            time.sleep(0.01)
        return sea.told(what)[0]

    place_path(sea.path, "web").write_text(json.dumps({"log": sea.held.log, "seq": 1}))
    old = str(sea.held.log)
    if running:
        with closing(sea.open_journal()), sea.bridged(choice):
            await_told("bridge_down")
            sea.path.write_bytes(bytes(8192))
            sea.append(1)
            sea.append(1)
            lost = await_told("bridge_lost")
    else:
        sea.path.write_bytes(bytes(8192))
        sea.held = Held(sea.events.append, retry_every_s=0, mends=True)
        sea.append(1)
        with sea.bridged(choice):
            lost = await_told("bridge_lost")
    assert (lost.data["log"], lost.data["seq"], lost.severity) == (old, 1, "warning")
    assert await_told("journal_damaged").data["log"] == sea.held.log


def test_a_daemon_whose_journal_is_damaged_under_it_listens_on(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """All of the file overwritten with noise between two calls: a subscriber with a place has every later call, in the
    new log from its beginning; the daemon never ends, and after it another goes on with the new log."""
    path = station.directory / "journal"
    endpoint = free_endpoint()
    with station.running("--device", DEVICE, "--hop", "0.1", "--endpoint", endpoint) as daemon:
        station.await_heard()
        with playing(server, tmp_path) as player, Subscriber(endpoint, state=tmp_path / "place") as subscriber:
            player.until(call=2)
            before = {wire["log"] for wire in station.records}
            with path.open("r+b") as file:
                size = path.stat().st_size
                file.write(random.Random(3).randbytes(size))
            path.with_name("journal-wal").write_bytes(random.Random(4).randbytes(8192))
            received: list[Wire] = []
            end_s = time.monotonic() + PATIENCE_S
            for wire in subscriber.records(timeout_s=PATIENCE_S):
                assert time.monotonic() < end_s
                received += [wire] if wire["kind"] != "status" else []
                calls = [wire for wire in received if wire["kind"] == "detection" and wire["log"] not in before]
                if len(calls) >= 2:
                    break
            assert daemon.poll() is None
    stored = station.records
    assert {wire["log"] for wire in stored}.isdisjoint(before)
    (said,) = [wire for wire in stored if wire["kind"] == "event" and wire["what"] == "journal_damaged"]
    assert Path(said["data"]["kept_as"]).exists()
    new = [wire | {"durable": True} for wire in received if wire["log"] not in before]
    assert new == stored[: len(new)]
    with station.running("--device", DEVICE, "--hop", "0.1"):
        station.await_heard()
    assert {wire["log"] for wire in station.records} == {stored[0]["log"]}


def test_a_record_that_alert_rules_cannot_read_at_the_start_is_a_damage_too(station: Station) -> None:
    """It is JSON, and SQLite finds nothing wrong with it; the daemon listens all the same, with another log."""
    with closing(Journal(station.directory / "journal")) as journal:
        journal.append([made(1, "detection", 0.0)])
        log = journal.log
    with station.running("--device", DEVICE):
        station.await_heard()
        station.await_logged("journal_damaged")
    (said,) = station.events("journal_damaged")
    assert said["data"]["before"] == log != said["log"]
    assert "peak_utc" in said["data"]["error"]
    assert station.events("stream_began")


def test_a_replay_refuses_a_damaged_journal(tmp_path: Path) -> None:
    """A person is there to look: one line, exit code 1, the file as it was."""
    toy = toy_model(tmp_path / "toy.onnx")
    soundfile.write(tmp_path / "sea.wav", [0.0] * 8000, 2000)
    (tmp_path / "journal").write_bytes(b"my thesis" * 1000)
    words = [*PAMD, "replay", tmp_path / "sea.wav", "--model", toy, "--journal", tmp_path / "journal"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert (tmp_path / "journal").read_bytes() == b"my thesis" * 1000
