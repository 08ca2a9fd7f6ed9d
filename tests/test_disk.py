"""Disks that fill and break under a real process: it goes on, says so, and loses nothing that it could hold."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from disk import fragile_disk, small_disk
from live import (
    PAMD,
    PATIENCE_S,
    Station,
    all_heard,
    heard,
    identity_holds,
    in_place,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from sound import DEVICE, SoundServer

from pam_daemon.journal import Journal
from pam_daemon.records import Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.tools.simulate import simulate
from pam_daemon.wire.sockets import free_endpoint


def wires(path: Path, kind: str) -> list[Wire]:
    with closing(Journal(path)) as journal:
        return journal.since(0, kinds=[kind], limit=100_000)


@contextmanager
def replaying(sea: Path, toy: Path, journal: Path, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """At a hop that makes much to be written, and slow enough to be disturbed."""
    options = ["--model", str(toy), "--hop", "0.1", "--threshold", "0.1", "--speed", "60", "--linger", "20"]
    command = [*PAMD, "replay", str(sea), *options, "--endpoint", endpoint, "--journal", str(journal)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_disk_that_fills_during_a_replay_loses_no_detection(tmp_path: Path, toy: Path) -> None:
    """Filled to the brim, freed later: the subscriber has every record once and in order, some `durable: false`; the
    journal has them all in the end, and the same detections as on a disk that never refused."""
    simulate(tmp_path / "sea.aiff", minutes=20, calls=60, seed=2)
    with small_disk(tmp_path / "disk", megabytes=20) as disk:
        journal = disk.path / "journal"
        endpoint = free_endpoint()
        with replaying(tmp_path / "sea.aiff", toy, journal, endpoint) as process, Subscriber(endpoint) as subscriber:
            received: list[Wire] = []
            filled = freed = False
            for wire in subscriber.records(timeout_s=PATIENCE_S):
                received += [wire] if wire["kind"] != "status" else []
                if not filled and len(received) >= 20:
                    disk.fill()
                    filled = True
                if not freed and sum(wire["durable"] is False for wire in received) >= 20:
                    disk.make_room()
                    freed = True
                if wire["kind"] == "effort":
                    break
            assert process.poll() is None
            assert subscriber.lost_records == 0
        stored = wires(journal, "detection")
        events = [event["what"] for event in wires(journal, "event")]
    sent = [wire for wire in received if wire["kind"] == "detection"]
    assert filled and freed
    assert [wire | {"durable": True} for wire in sent] == stored
    assert {wire["durable"] for wire in sent} == {True, False}
    assert events == ["disk_refused", "disk_accepted"]
    plain = subprocess.run(
        [*PAMD, "replay", str(tmp_path / "sea.aiff"), "--model", str(toy), "--hop", "0.1", "--threshold", "0.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    undisturbed = [wire["id"] for wire in map(json.loads, plain.stdout.splitlines()) if wire["kind"] == "detection"]
    assert undisturbed == [wire["id"] for wire in stored]


def test_a_disk_that_breaks_under_a_daemon_is_told_and_detection_goes_on(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The file system turns read-only on an error, is unmounted, repaired and mounted again: all calls are in the
    journal in the end; in between the status says that nothing is durable."""
    with fragile_disk(tmp_path / "disk") as disk:
        journal = disk.path / "journal"
        with station.running("--device", DEVICE, "--hop", "0.1", "--journal", str(journal)):
            station.await_heard()
            with playing(server, tmp_path) as player:
                player.until(call=2)
                disk.break_()
                player.until(call=4)
                status = station.status()["status"]
                assert status["durable"] is False and status["held_records"] >= 1
                disk.unmount()
                disk.repair()
                player.until(call=6)
                end_s = time.monotonic() + PATIENCE_S
                while not station.status()["status"]["durable"]:
                    assert time.monotonic() < end_s
                    time.sleep(0.2)
                player.until(call=player.over + 1)
                over = player.over
        assert identity_holds(wires(journal, "effort")[-1])
        late_s = heard(wires(journal, "detection"), player)
        assert all_heard(late_s, over) and in_place(late_s)
        events = [event["what"] for event in wires(journal, "event")]
        assert {"disk_refused", "disk_accepted"} <= set(events)


def test_a_place_where_no_journal_can_be_is_refused_at_the_start(tmp_path: Path, toy: Path) -> None:
    """A full disk, a directory that is not there: one line, exit code 1, nothing left behind."""
    simulate(tmp_path / "sea.aiff", minutes=0.2, calls=1, seed=2)
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        for place in (disk.path / "journal", tmp_path / "nowhere" / "journal"):
            done = subprocess.run(
                [*PAMD, "replay", str(tmp_path / "sea.aiff"), "--model", str(toy), "--journal", str(place)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
            assert str(place) in done.stderr


def test_numbers_held_by_a_daemon_that_was_killed_are_not_given_again(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """kill -9 on a full disk: what was only held is gone from the journal, and no other record takes its number."""
    with small_disk(tmp_path / "disk") as disk:
        journal = disk.path / "journal"
        options, endpoint = ("--device", DEVICE, "--hop", "0.1", "--journal", str(journal)), free_endpoint()
        with station.running(*options, "--endpoint", endpoint) as daemon:
            station.await_heard()
            with playing(server, tmp_path), Subscriber(endpoint) as subscriber:
                next(subscriber.records(timeout_s=PATIENCE_S))
                disk.fill()
                held: list[Wire] = []
                for wire in subscriber.records(timeout_s=PATIENCE_S):
                    held += [wire] if wire["kind"] != "status" and not wire["durable"] else []
                    if any(wire["kind"] == "detection" for wire in held):
                        break
            daemon.kill()
            daemon.wait()
        disk.make_room()
        with station.running(*options):
            station.await_logged("stream_began", 2)
        with closing(Journal(journal)) as after:
            later = [wire["seq"] for wire in after.since(0, limit=100_000)]
    assert {wire["seq"] for wire in held}.isdisjoint(later)
    assert max(later) > max(wire["seq"] for wire in held)
