"""The private socket: a daemon's state for those who ask, and one clear line where nobody answers."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pam_daemon.control import Control, ask
from pam_daemon.errors import EndpointError
from pam_daemon.tools.console import readable, state_lines


@pytest.fixture(name="served")
def served_fixture(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run" / "harbour.sock"
    stop = threading.Event()
    server = threading.Thread(target=Control(path, lambda: {"status": "well"}).run, args=(stop,))
    server.start()
    yield path
    stop.set()
    server.join()
    assert not path.exists()


def test_whoever_asks_gets_the_state_again_and_again(served: Path) -> None:
    assert [ask(served) for _ in range(3)] == [{"status": "well"}] * 3


def test_the_socket_is_its_owners_alone(served: Path) -> None:
    assert served.stat().st_mode & 0o077 == 0


def test_a_second_daemon_of_the_same_station_is_refused(served: Path) -> None:
    with pytest.raises(EndpointError, match="another pamd answers"):
        Control(served, lambda: {})
    assert ask(served) == {"status": "well"}


def test_a_socket_that_a_killed_daemon_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "harbour.sock"
    Control(path, lambda: {})._socket.close()
    assert path.exists()
    stop = threading.Event()
    stop.set()
    Control(path, lambda: {}).run(stop)
    assert not path.exists()


@pytest.mark.parametrize("runtime", [True, False])
def test_where_nobody_answers_status_says_so_in_one_line(tmp_path: Path, runtime: bool) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
    env |= {"HOME": str(tmp_path), **({"XDG_RUNTIME_DIR": str(tmp_path)} if runtime else {})}
    done = subprocess.run(
        [sys.executable, "-m", "pam_daemon", "status"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(tmp_path) in done.stderr and "no pamd answers" in done.stderr


@pytest.mark.parametrize("answer", [b"", b"no JSON", b"\xff", b"[" * 5000])
def test_who_answers_and_is_no_pamd_is_said_in_one_line(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(EndpointError, match="no pamd answers"):
            ask(path)
        thread.join()


@pytest.mark.parametrize(
    "state", [{}, [], 1, {"status": {}, "last_detection": None}, {"status": 3, "last_detection": 3}]
)
def test_a_state_of_another_version_is_said_in_one_line(state: Any) -> None:
    with pytest.raises(EndpointError, match="--json prints it whole"):
        state_lines(state)


@pytest.mark.parametrize("kind", ["detection", "gap", "effort", "event", "song"])
def test_a_record_of_another_version_is_shown_as_it_is(kind: str) -> None:
    wire = {"kind": kind, "station": "pamd", "stream": "ch1"}
    assert json.loads(readable(wire)) == wire
