"""A real daemon on a real PortAudio device, and a recording with known calls that plays into it."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import toy_model
from sound import DEVICE, RATE_HZ, SoundServer, sound_server

from pam_daemon.clock import parse_rfc3339
from pam_daemon.control import ask
from pam_daemon.errors import EndpointError
from pam_daemon.journal import Journal
from pam_daemon.records import Wire

PAMD = [sys.executable, "-m", "pam_daemon"]
FINE = ("--device", DEVICE, "--hop", "0.1")
PATIENCE_S = 60.0  # for anything that is bound to happen
EITHER_WAY_S = 0.6  # of an outage: what the sound server delivers in one burst
PLACE_S = 0.3  # how far a call may be from its place

# The middles of the calls, from the begin of the recording; irregular, so that no stretch of them looks like another.
CALLS_S = tuple(2 + np.cumsum(np.random.default_rng(11).uniform(4.0, 5.0, 25)).round(2))
_CALL_S = 3.0  # it swells and fades, longer than a window: one window's energy is highest, and the score not yet 1
_LOUDEST = 0.1


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

    def events(self, what: str) -> list[Wire]:
        return [record for record in self.of("event") if record["what"] == what]

    @contextmanager
    def running(self, *options: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """The daemon, until the block ends; what it logs is read to its end there."""
        common = ["--model", str(self.directory / "toy.onnx"), "--journal", str(self.directory / "journal")]
        command = [*PAMD, "run", *common, "--endpoint", "tcp://127.0.0.1:*", *options]
        log = (self.directory / "log").open("a")
        with log, subprocess.Popen(command, env=self.env | (env or {}), stderr=log, text=True) as daemon:
            try:
                yield daemon
            finally:
                daemon.send_signal(signal.SIGCONT)
                daemon.terminate()
                assert daemon.wait(PATIENCE_S) in (0, -signal.SIGKILL), (self.directory / "log").read_text()

    def logged(self, event: str) -> int:
        """How often the daemons so far have logged an event."""
        return sum(line["event"] == event for line in self.log_lines())

    def log_lines(self) -> list[dict[str, Any]]:
        lines = (self.directory / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def await_logged(self, event: str, times: int = 1, patience_s: float = PATIENCE_S) -> None:
        end_s = time.monotonic() + patience_s
        while self.logged(event) < times:
            assert time.monotonic() < end_s, (self.directory / "log").read_text()
            time.sleep(0.1)

    def status(self) -> Wire:
        """What `pamd status --json` says."""
        done = subprocess.run([*PAMD, "status", "--json"], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answer: Wire = json.loads(done.stdout)
        return answer

    def await_source(self, *sources: str, stream: str = "ch1") -> None:
        """Until a status says one of these of the stream's source."""
        end_s, seen = time.monotonic() + PATIENCE_S, "no answer"
        while seen not in sources:
            assert time.monotonic() < end_s, f"{seen}, not {sources}: {(self.directory / 'log').read_text()}"
            time.sleep(0.2)
            with suppress(EndpointError):
                seen = ask(self.directory / "pamd.sock")["status"]["streams"].get(stream, {}).get("source")

    def await_heard(self) -> None:
        """Until the device delivers, sound or silence."""
        self.await_source(DEVICE, "silent")


@dataclass
class Playing:
    """The recording of `CALLS_S` as it plays; `began_s` is UTC."""

    process: subprocess.Popen[bytes]
    began_s: float

    def until(self, call: int) -> None:
        """Wait until so many calls are over."""
        time.sleep(max(0.0, self.began_s + CALLS_S[call - 1] + _CALL_S / 2 + 0.5 - time.time()))

    @property
    def over(self) -> int:
        """How many calls have been played by now."""
        return sum(time.time() > self.began_s + call_s + _CALL_S / 2 for call_s in CALLS_S)


@contextmanager
def playing(server: SoundServer, directory: Path, device: str = DEVICE) -> Iterator[Playing]:
    """Play calls into the device: tones in noise that is far below them."""
    path = directory / "calls.wav"
    if not path.exists():
        samples = np.random.default_rng(1).normal(0, 1e-3, round((CALLS_S[-1] + 5) * RATE_HZ)).astype(np.float32)
        at_s = np.arange(round(_CALL_S * RATE_HZ)) / RATE_HZ
        call = _LOUDEST * np.sin(np.pi * at_s / _CALL_S) ** 2 * np.sin(2 * np.pi * 150 * at_s)
        for call_s in CALLS_S:
            samples[round((call_s - _CALL_S / 2) * RATE_HZ) :][: len(call)] += call
        soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    player = Playing(*server.play_now(path, device))
    try:
        yield player
    finally:
        player.process.kill()
        player.process.wait()


def heard(detections: Sequence[Wire], player: Playing) -> dict[int, float]:
    """By number of the call, how much later than played it was heard, in seconds; each call at most once."""
    found: dict[int, float] = {}
    for wire in detections:
        late_s = [unix_s(wire["peak_utc"]) - player.began_s - call_s for call_s in CALLS_S]
        call = min(range(len(late_s)), key=lambda number: abs(late_s[number]))
        assert abs(late_s[call]) < 1.2, f"no call at {wire['peak_utc']}"
        assert call not in found, f"call {call} was heard twice"
        found[call] = late_s[call]
    return found


def all_heard(late_s: dict[int, float], over: int) -> bool:
    """Whether each of the calls that were over was heard, and none but the one that was perhaps under way."""
    return set(range(over)) <= late_s.keys() <= set(range(over + 1))


def in_place(late_s: dict[int, float], reference: Sequence[float] = ()) -> bool:
    """Whether all were heard equally late: what the server and the windows' plateau take is the same for each."""
    every = [*late_s.values(), *reference]
    return max(every) - min(every) <= PLACE_S


def identity_holds(counts: Wire) -> bool:
    parts = ("analysed", "gap", "skipped", "pending")
    return bool(counts["elapsed_samples"] == sum(counts[f"{part}_samples"] for part in parts))


def last_effort_is_whole(station: Station) -> bool:
    effort = station.of("effort")[-1]
    return identity_holds(effort) and effort["pending_samples"] == 0


def unix_s(utc: str) -> float:
    return parse_rfc3339(utc) / 1e9


@pytest.fixture(name="server")
def server_fixture() -> Iterator[SoundServer]:
    assert shutil.which("paplay"), "install pulseaudio-utils: `make test` does"
    with tempfile.TemporaryDirectory(prefix="snd", dir="/tmp") as directory, sound_server(Path(directory)) as server:
        yield server


@pytest.fixture(name="station")
def station_fixture(server: SoundServer, tmp_path: Path) -> Station:
    toy_model(tmp_path / "toy.onnx")
    return Station(tmp_path, {**server.env, "RUNTIME_DIRECTORY": str(tmp_path)})
