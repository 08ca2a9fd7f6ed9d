"""At sea: a real daemon on a real PortAudio device, with what goes wrong there done to it for real."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import toy_model
from sound import DEVICE, RATE_HZ, SoundServer, sound_server

from pam_daemon.clock import parse_rfc3339
from pam_daemon.journal import Journal
from pam_daemon.records import Wire

PAMD = [sys.executable, "-m", "pam_daemon"]
PATIENCE_S = 60.0  # for anything that is bound to happen
EITHER_WAY_S = 0.6  # of an outage: what the sound server delivers in one burst


@dataclass
class Station:
    """A daemon's files and environment, in a directory with a short path."""

    directory: Path
    env: dict[str, str]

    @property
    def records(self) -> list[Wire]:
        journal = Journal(self.directory / "journal")
        try:
            return journal.since(0, limit=10_000)
        finally:
            journal.close()

    def of(self, kind: str) -> list[Wire]:
        return [record for record in self.records if record["kind"] == kind]

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """The daemon, until the block ends; what it logs is read to its end there."""
        common = ["--model", str(self.directory / "toy.onnx"), "--journal", str(self.directory / "journal")]
        command = [*PAMD, "run", *common, "--endpoint", "tcp://127.0.0.1:*", *options]
        log = (self.directory / "log").open("a")
        with log, subprocess.Popen(command, env=self.env, stderr=log, text=True) as daemon:
            try:
                yield daemon
            finally:
                daemon.send_signal(signal.SIGCONT)
                daemon.terminate()
                assert daemon.wait(PATIENCE_S) in (0, -signal.SIGKILL), (self.directory / "log").read_text()

    def logged(self, event: str) -> int:
        """How often the daemons so far have logged an event."""
        lines = (self.directory / "log").read_text().splitlines()
        return sum(json.loads(line)["event"] == event for line in lines if line.startswith("{"))

    def await_logged(self, event: str, times: int = 1) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while self.logged(event) < times:
            assert time.monotonic() < end_s, (self.directory / "log").read_text()
            time.sleep(0.1)


@pytest.fixture(name="server")
def server_fixture() -> Iterator[SoundServer]:
    with tempfile.TemporaryDirectory(prefix="snd", dir="/tmp") as directory, sound_server(Path(directory)) as server:
        yield server


@pytest.fixture(name="station")
def station_fixture(server: SoundServer, tmp_path: Path) -> Station:
    toy_model(tmp_path / "toy.onnx")
    return Station(tmp_path, {**server.env, "RUNTIME_DIRECTORY": str(tmp_path)})


def identity_holds(effort: Wire) -> bool:
    parts = ("analysed", "gap", "skipped", "pending")
    return bool(effort["elapsed_samples"] == sum(effort[f"{part}_samples"] for part in parts))


def burst(path: Path) -> None:
    """Two seconds of silence, half a second of 150 Hz, two of silence."""
    tone = 0.5 * np.sin(2 * np.pi * 150 * np.arange(RATE_HZ // 2) / RATE_HZ).astype(np.float32)
    silence = np.zeros(2 * RATE_HZ, np.float32)
    soundfile.write(path, np.concatenate([silence, tone, silence]), RATE_HZ, subtype="FLOAT")


def test_a_sound_server_that_dies_leaves_a_gap_and_what_comes_after_it_is_heard(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The device fails, is opened again, and a call after the gap has its place in the stream's time."""
    burst(tmp_path / "burst.wav")
    with station.running("--device", DEVICE):
        station.await_logged("device opened")
        time.sleep(3)
        server.process.kill()
        server.process.wait()
        died_s = time.time()
        station.await_logged("device lost")
        with sound_server(Path(server.env["HOME"])) as again:
            station.await_logged("device opened", 2)
            back_s = time.time()
            time.sleep(2)
            began_s = time.time()
            assert again.play(tmp_path / "burst.wav").wait() == 0
            time.sleep(3)
    (gap,) = station.of("gap")
    assert gap["estimated"]
    assert abs(gap["duration_s"] - (back_s - died_s)) < 2 * EITHER_WAY_S
    (call,) = station.of("detection")
    assert abs(_unix_s(call["peak_utc"]) - (began_s + 2.25)) < 1.0
    effort = station.of("effort")[-1]
    assert identity_holds(effort)
    assert effort["gap_samples"] == gap["samples"]


def test_a_daemon_that_is_stopped_loses_nothing_that_the_child_can_keep(station: Station) -> None:
    """Five seconds of SIGSTOP are bridged: no gap, and the stream's time is the clock's."""
    with station.running("--device", DEVICE) as daemon:
        station.await_logged("device opened")
        began_s = time.monotonic()
        time.sleep(3)
        daemon.send_signal(signal.SIGSTOP)
        time.sleep(5)
        daemon.send_signal(signal.SIGCONT)
        time.sleep(2)
        took_s = time.monotonic() - began_s
    assert station.of("gap") == []
    effort = station.of("effort")[-1]
    assert identity_holds(effort)
    assert abs(effort["elapsed_samples"] / effort["sample_rate_hz"] - took_s) < 2 * EITHER_WAY_S


def test_the_time_when_nobody_listened_is_a_gap_at_the_next_start(station: Station) -> None:
    """kill -9, then a restart: the gap reaches from the last place kept to the new stream's begin."""
    with station.running("--device", DEVICE) as daemon:
        station.await_logged("device opened")
        time.sleep(13)
        daemon.kill()
        daemon.wait()
        died_s = time.time()
    time.sleep(2)
    with station.running("--device", DEVICE):
        station.await_logged("device opened", 2)
        time.sleep(3)
    first, second = (event for event in station.of("event") if event["what"] == "stream_began")
    assert first["id"] != second["id"]
    (gap,) = (gap for gap in station.of("gap") if gap["reason"] == "not_running")
    assert gap["start_sample"] + gap["samples"] == 0
    start_s = _unix_s(gap["start_utc"])
    assert died_s - gap["uncertainty_s"] - 2 * EITHER_WAY_S - 2 < start_s < died_s
    assert abs(start_s + gap["duration_s"] - _unix_s(second["data"]["start_utc"])) < 0.001
    assert identity_holds(station.of("effort")[-1])


def test_an_absent_device_is_waited_for_where_the_configuration_names_it(station: Station, tmp_path: Path) -> None:
    """The daemon stays up, says `absent`, and tells the time without a device as a gap; a --device must be there."""
    (tmp_path / "pamd.yaml").write_text("devices: [{device: somewhere else, sample_rate_hz: 48000}]\n")
    with station.running("--config", str(tmp_path / "pamd.yaml")):
        station.await_logged("device absent")
        time.sleep(3)
        assert status(station)["status"]["streams"]["ch1"]["source"] == "absent"
    (gap,) = station.of("gap")
    assert gap["reason"] == "absent"
    assert station.of("effort")[-1]["gap_samples"] == gap["samples"] > 2 * RATE_HZ
    refused = subprocess.run(
        [*PAMD, "run", "--device", "somewhere else", "--model", str(tmp_path / "toy.onnx")],
        env={**station.env, "STATE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "no device 'somewhere else'" in refused.stderr


def test_systemd_hears_ready_then_a_watchdog_while_all_stages_move_then_stopping(station: Station) -> None:
    """READY, WATCHDOG again and again, STOPPING at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = str(station.directory / "notify")
        notify.bind(address)
        notify.settimeout(PATIENCE_S)
        station.env |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        with station.running("--device", DEVICE):
            assert notify.recv(1000).startswith(b"READY=1")
            assert [notify.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        while (told := notify.recv(1000)) == b"WATCHDOG=1":
            pass
        assert told == b"STOPPING=1"


def status(station: Station, name: str = "pamd") -> Wire:
    done = subprocess.run(
        [*PAMD, "status", "--json", "--station", name], env=station.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: Wire = json.loads(done.stdout)
    return answer


def _unix_s(utc: str) -> float:
    return parse_rfc3339(utc) / 1e9
