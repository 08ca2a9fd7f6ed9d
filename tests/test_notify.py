"""What systemd hears of a real daemon on NOTIFY_SOCKET: a station whose device is absent, which needs no sound."""

import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fakes import toy_model
from live import PATIENCE_S, Station

from pam_daemon.card import Golden

WATCHDOG_S = 2.0
ABSENT = "devices: [{device: nowhere, sample_rate_hz: 48000}]\n"


@dataclass(frozen=True, slots=True)
class Notify:
    """systemd's end of the socket."""

    socket: socket.socket

    def told(self, within_s: float) -> str | None:
        """The next message; None where there is none in time."""
        self.socket.settimeout(within_s)
        try:
            return self.socket.recv(1000).decode()
        except TimeoutError:
            return None

    def await_told(self, begin: str) -> None:
        while not (self.told(PATIENCE_S) or pytest.fail(f"no {begin}")).startswith(begin):
            pass


@pytest.fixture(name="notify")
def notify_fixture(tmp_path: Path) -> Iterator[Notify]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        yield Notify(bound)


@pytest.fixture(name="station")
def station_fixture(tmp_path: Path) -> Station:
    toy_model(tmp_path / "toy.onnx")
    (tmp_path / "pamd.yaml").write_text(ABSENT)
    watchdog = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    return Station(tmp_path, {"PATH": "/usr/bin:/bin", "RUNTIME_DIRECTORY": str(tmp_path), **watchdog})


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Nobody else writes to the journal: the worker waits in its commit."""
    with closing(sqlite3.connect(journal, isolation_level=None, timeout=PATIENCE_S)) as other:
        other.execute("begin exclusive")
        yield
        other.execute("rollback")


def test_a_model_that_fails_its_self_test_is_never_ready(station: Station, notify: Notify) -> None:
    """The golden scores do not come out: exit code 1, and systemd is told nothing; with the true ones it is READY."""
    config = ["--config", str(station.directory / "pamd.yaml")]
    with station.running(*config):
        notify.await_told("READY=1")
    notify.await_told("STOPPING=1")
    pcm = np.random.default_rng(0).integers(-1000, 1000, (16, 4000)).astype(np.int16)
    scores = np.linspace(0.05, 0.95, 16, dtype=np.float32)[:, None]
    damaged = toy_model(station.directory / "damaged.onnx", card={"golden": Golden.pack(pcm, scores)})
    with pytest.raises(AssertionError, match="golden"), station.running(*config, "--model", str(damaged)) as daemon:
        assert daemon.wait(PATIENCE_S) == 1
    assert notify.told(0.1) is None


def test_a_stage_that_stalls_stops_the_watchdog_until_it_moves_again(station: Station, notify: Notify) -> None:
    """The worker waits for the journal: the others move, but no WATCHDOG comes before the worker can commit."""
    with station.running("--config", str(station.directory / "pamd.yaml")) as daemon:
        notify.await_told("READY=1")
        notify.await_told("WATCHDOG=1")
        with locked(station.directory / "journal"):
            daemon.send_signal(signal.SIGHUP)  # a reload is journalled
            notify.await_told("RELOADING=1")
            notify.await_told("READY=1")
            late = 0
            while notify.told(2 * WATCHDOG_S) is not None:  # what moved before the stall may be told once more
                late += 1
                assert late <= 2
        assert notify.told(PATIENCE_S) == "WATCHDOG=1"
        assert notify.told(PATIENCE_S) == "WATCHDOG=1"
    assert station.events("reload")
