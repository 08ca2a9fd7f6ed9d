"""`pamd listen` as a process: lines and commands, filters, its place, and what it says of the deaf."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
import zmq
from fakes import event
from house import (
    House,
    bare_context,
    house_fixture,  # noqa: F401 - pytest finds the fixture by its import
)

from pam_daemon.journal import Journal
from pam_daemon.records import Kind, Mode, Record, Wire
from pam_daemon.tools.console import readable
from pam_daemon.wire.sockets import free_endpoint

PAMD = [sys.executable, "-m", "pam_daemon"]
PATIENCE_S = 60.0


class Alert(msgspec.Struct, frozen=True):
    """As much of the wire contract's alert as is shown and filtered by."""

    label: str
    max_score: float
    state: str = "raised"
    level: str = "detected"
    rule: str = "tally-15min"
    count: int = 3
    window_s: float = 900.0


def alert(number: int, label: str = "upcall", score: float = 0.9, mode: Mode = "live", station: str = "pamd") -> Record:
    body: Any = Alert(label, score)
    return Record("alert", station, "ch1", mode, f"alert{number}", "2026-01-01T00:00:00.000000Z", body)


@dataclass
class Listener:
    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    def said(self) -> str:
        return self.log.read_text()

    def records(self) -> list[Wire]:
        wires = [json.loads(line) for line in self.out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [wire for wire in wires if wire["kind"] != "status"]

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def until(happened: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def listen(tmp_path: Path, exits: ExitStack) -> Callable[..., Listener]:
    """Starts `pamd listen`; with a house it has subscribed when this returns."""
    number = iter(range(100))

    def start(endpoint: str, *options: object, house: House | None = None) -> Listener:
        name = next(number)
        out, log = tmp_path / f"out{name}", tmp_path / f"log{name}"
        command = [*PAMD, "listen", endpoint, *map(str, options)]
        if house is not None:
            house.publisher.subscribed.clear()
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = exits.enter_context(subprocess.Popen(command, stdout=stdout, stderr=stderr))
        exits.callback(process.kill)
        if house is not None:
            assert house.publisher.subscribed.wait(PATIENCE_S)
        return Listener(process, out, log)

    return start


def test_records_are_filtered(house: House, listen: Callable[..., Listener]) -> None:
    """By kind, station, label, mode and score; what has no label or score is none of theirs. No loss is reported."""
    house.journal.append(
        [
            event(0),
            alert(1),
            alert(2, label="song"),
            alert(3, score=0.5),
            alert(4, mode="drill"),
            alert(5, station="south"),
            event(6, kind="gap"),
        ]
    )
    state = house.journal.path.with_name("place")
    expected: dict[tuple[str, ...], list[int]] = {
        (): [1, 2, 3, 4, 5, 6, 7],
        ("--kind", "alert"): [2, 3, 4, 5, 6],
        ("--kind", "gap", "--kind", "event"): [1, 7],
        ("--station", "pamd"): [1, 2, 3, 4, 5, 7],
        ("--kind", "alert", "--station", "pamd"): [2, 3, 4, 5],
        ("--label", "upcall", "--mode", "live"): [2, 4, 6],
        ("--min-score", "0.8"): [2, 3, 5, 6],
    }
    endpoint = house.publisher.endpoint
    started = [
        (listen(endpoint, "--from", "beginning", "--state", f"{state}{n}", *options), numbers)
        for n, (options, numbers) in enumerate(expected.items())
    ]
    for listener, numbers in started:
        until(lambda: len(listener.records()) == len(numbers))  # noqa: B023
        assert [wire["seq"] for wire in listener.records()] == numbers
        assert listener.end() == 0
        assert "LOST" not in listener.said()


def test_a_command_takes_each_live_alert(house: House, listen: Callable[..., Listener], tmp_path: Path) -> None:
    """One after the other, the record on its stdin; no shell reads the line, a drill is no alert."""
    script = tmp_path / "take it.py"
    script.write_text("import sys, pathlib\npathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read())\n")
    taken = tmp_path / "taken;$HOME"
    listener = listen(house.publisher.endpoint, "--exec", f"{sys.executable} '{script}' '{taken}'", house=house)
    house.journal.append([alert(1), event(2), alert(3, mode="drill"), alert(4), alert(5, mode="replay")])
    until(lambda: taken.exists() and len(taken.read_text().splitlines()) == 2)
    assert [json.loads(line) for line in taken.read_text().splitlines()] == house.journal.since(0, kinds=["alert"])[::2]
    assert listener.end() == 0
    assert (listener.lines(), listener.said()) == ([], "")


def test_a_drill_is_taken_where_it_is_asked_for(house: House, listen: Callable[..., Listener]) -> None:
    listener = listen(house.publisher.endpoint, "--exec", "cat", "--mode", "drill", house=house)
    house.journal.append([alert(1), alert(2, mode="drill")])
    until(listener.lines)
    assert [wire["id"] for wire in listener.records()] == ["alert2"]


@pytest.mark.parametrize(("options", "expected"), [((), ["new"]), (("--from", "beginning"), ["old", "new"])])
def test_a_command_is_not_run_for_what_was_before_its_first_start(
    options: Sequence[str], expected: Sequence[str], house: House, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    """Unless that is asked for; after a restart, for all that came meanwhile."""
    house.journal.append([renamed("old")])
    options = ("--exec", "cat", "--state", str(tmp_path / "place"), *options)
    first = listen(house.publisher.endpoint, *options, house=house)
    until(lambda: '":1' in (tmp_path / "place").read_text() or first.lines())
    house.journal.append([renamed("new")])
    until(lambda: [wire["id"] for wire in first.records()] == expected)
    assert first.end() == 0
    house.journal.append([renamed("meanwhile")])
    again = listen(house.publisher.endpoint, *options, house=house)
    until(again.lines)
    assert [wire["id"] for wire in again.records()] == ["meanwhile"]


def renamed(identity: str) -> Record:
    return msgspec.structs.replace(alert(0), id=identity)


def test_every_record_of_a_drill_says_so_in_its_line(house: House) -> None:
    """Whatever its kind; those of others do not."""
    kinds: list[Kind] = ["detection", "alert", "gap", "effort", "event"]
    for kind in kinds:
        wire = event(0, kind=kind).wire() | {"mode": "drill", **BODIES.get(kind, {})}
        assert readable(wire).startswith("2026-01-01T00:00:00Z DRILL pamd/ch1 ")
        assert readable(wire | {"mode": "live"}).startswith(f"2026-01-01T00:00:00Z pamd/ch1 {kind} ")


# What the lines of these kinds tell.
BODIES: dict[str, Wire] = {
    "detection": {"label": "upcall", "score": 0.9, "peak_utc": "2026-01-01T00:00:00.000000Z"},
    "alert": {"state": "raised", "level": "detected", "count": 3, "label": "upcall", "window_s": 900.0}
    | {"expires_utc": None, "flood": False, "rule": "tally", "coverage": 1.0},
    "gap": {"term": "gap", "reason": "absent", "duration_s": 3.0, "start_utc": "2026-01-01T00:00:00.000000Z"},
    "effort": {"analysed_samples": 1, "elapsed_samples": 2, "sample_rate_hz": 2000},
}


def test_what_is_no_record_is_told(listen: Callable[..., Listener]) -> None:
    """How many messages were passed over; it goes on with those that are records."""
    with bare_context() as context, context.socket(zmq.XPUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        listener = listen(f"tcp://127.0.0.1:{port}")
        assert publisher.recv() == b"\x01"
        for frame in (b"garbled", b"{}", msgspec.json.encode(event(1).wire())):
            publisher.send_multipart([b"event/pamd/ch1", frame])
        until(lambda: len(listener.records()) == 1)
        until(lambda: "2 messages" in listener.said())
    assert (
        listener.said() == f"tcp://127.0.0.1:{port}: 2 messages that are no record, nor an answer, were passed over\n"
    )


def test_a_command_that_fails_or_hangs_is_told_and_ends_nothing(
    house: House, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    """It is killed with what it started; the records that came meanwhile are next."""
    script = tmp_path / "script.sh"
    script.write_text(
        f"read line; echo run >>{tmp_path}/runs; case $line in *alert1*) exit 7;; *alert2*) sleep 98765 | cat;; esac"
    )
    listener = listen(house.publisher.endpoint, "--exec", f"sh {script}", "--exec-timeout", "3", "--from", "beginning")
    house.journal.append([alert(n) for n in range(1, 5)])
    until(lambda: (tmp_path / "runs").exists() and len((tmp_path / "runs").read_text().splitlines()) == 4)
    assert listener.end() == 0
    assert "sh: exit code 7, with alert alert1 of pamd" in listener.said()
    assert "sh: not done after 3 s, killed, with alert alert2 of pamd" in listener.said()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 98765" not in left.splitlines()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--exec", "/no/such/program now"], "/no/such/program"),
        (["--exec", ""], "--exec"),
        (["--exec", "echo 'never closed"], "never closed"),
        (["--state", "/no/such/directory/place"], "/no/such/directory/place"),
        (["--state", "/"], "--state"),
        (["tcp://127.0.0.1:65536"], "tcp://127.0.0.1:65536: no address of a station; give tcp://HOST:PORT"),
        (["ipc://station:5556"], "ipc://station:5556"),
        (["harbour"], "harbour"),
    ],
)
def test_what_cannot_be_done_is_one_line(options: Sequence[str], names: str) -> None:
    done = subprocess.run([*PAMD, "listen", *options], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert names in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_who_leaves_ends_it(house: House) -> None:
    house.journal.append([event(n) for n in range(10)])
    command = [*PAMD, "listen", house.publisher.endpoint, "--from", "beginning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        house.journal.append([event(n) for n in range(10, 20)])
        error = process.stderr.read().decode()
        assert process.wait(PATIENCE_S) == 1
    assert error.splitlines()[-1].startswith("pamd: stdout: Broken pipe")
    assert "Traceback" not in error


def replay(directory: Path, toy: Path, endpoint: str) -> list[str]:
    """A replay that lasts, with a quick heart."""
    sound = directory / "quiet_20240101_120000.wav"
    if not sound.exists():
        soundfile.write(sound, np.zeros(2000 * 3600, np.float32), 2000)
    options = ["--speed", "realtime", "--endpoint", endpoint, "--set", "publish.every_s=1"]
    return [*PAMD, "replay", str(sound), "--model", str(toy), *options]


def test_the_deaf_are_shouted_about(tmp_path: Path, toy: Path, listen: Callable[..., Listener]) -> None:
    """A daemon that is killed, and started again; with --fail-when-deaf that is the end, with a code of its own."""
    endpoint = free_endpoint()
    going_on, failing = listen(endpoint), listen(endpoint, "--fail-when-deaf")
    for _ in range(2):
        with subprocess.Popen(
            replay(tmp_path, toy, endpoint), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as daemon:
            before = len(going_on.lines())
            until(lambda: len(going_on.lines()) > before + 2)  # noqa: B023 - heartbeats
            daemon.kill()
        until(lambda: "DEAF: no heartbeat, since" in going_on.said().splitlines()[-1:][0] if going_on.said() else False)
    assert failing.process.wait(PATIENCE_S) == 4
    assert "pamd: DEAF: no heartbeat, since" in failing.said()
    said = [line.split(",")[0] for line in going_on.said().splitlines() if "recovered" not in line]
    assert said == ["pamd: DEAF: no heartbeat", "pamd: hears again", "pamd: DEAF: no heartbeat"]
    assert going_on.end() == 0


def test_traffic_while_it_is_stopped(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    """SIGSTOP through 30,000 records: all come, in order, once; the publisher holds no more than its mark allows."""
    endpoint = free_endpoint()
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("traffic.py")), endpoint, str(tmp_path / "journal")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        listener = listen(endpoint, "--state", tmp_path / "place", "--from", "beginning")
        assert server.stdout.readline() == b"subscribed\n"
        listener.process.send_signal(signal.SIGSTOP)
        resident_kib = []
        for _ in range(3):
            server.stdin.write(b"more\n")
            server.stdin.flush()
            assert server.stdout.readline() == b"done\n"
            status = Path(f"/proc/{server.pid}/status").read_text()
            resident_kib.append(int(status.split("VmRSS:")[1].split()[0]))
        listener.process.send_signal(signal.SIGCONT)
        place = tmp_path / "place"
        until(lambda: 30_000 in json.loads(place.read_bytes())["places"].values())
        assert listener.end() == 0
        server.stdin.close()
        assert server.wait(PATIENCE_S) == 0
    journal = Journal(tmp_path / "journal")
    assert listener.records() == journal.since(0, limit=10**6)
    journal.close()
    assert "recovered" in listener.said()
    assert "LOST" not in listener.said()
    # The first ten thousand fill what libzmq may hold; the next twenty thousand, 16 MB as they are sent, find no room.
    assert resident_kib[2] - resident_kib[0] < 8_000
