"""The live part: a real `pamd run` on four streams of two sound devices, and a subscriber; all looked at ever so often.

Everything goes to files in one directory as it comes; report.py judges what is there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from samples import ProcessSample, Stall, StreamSample, append, children, sample
from sound import RATE_HZ, SoundServer, sound_server

from pam_daemon.tools.simulate import Sea
from pam_daemon.wire.sockets import free_endpoint

PAMD = (sys.executable, "-m", "pam_daemon")
STATION = "soak"
DEVICES = ("north", "south")
CHANNELS = 2
SEA_MINUTES, SEA_CALLS = 10, 30
HOP_S = 0.5
EVERY_S = 30.0
_TICK_S = 0.1
_STALL_S = 0.25  # the least that is noted
_END_S = 120.0  # for what was captured to be analysed, at most
_LINGER_S = 2.0  # for the last records to reach the subscriber


@dataclass
class House:
    """The processes of a soak."""

    directory: Path
    server: SoundServer
    daemon: subprocess.Popen[bytes]
    seas: Mapping[str, Path]
    players: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def play(self) -> None:
        """Let each sea begin again once it is over."""
        for device, sea in self.seas.items():
            if device not in self.players or self.players[device].poll() is not None:
                self.players[device] = self.server.play(sea, device)

    def hush(self) -> None:
        for player in self.players.values():
            player.kill()
            player.wait()

    def look(self) -> None:
        """A sample of the daemon and its children, and one of each stream."""
        at_s = time.monotonic() - self.began_s
        processes: list[ProcessSample] = []
        try:
            # Before the question, for that takes up descriptors.
            processes += (sample(pid, name, at_s) for name, pid in self._processes())
        except OSError as error:
            _log(f"a process has just gone: {error}")
        streams = self._ask()
        if processes:
            append(self.directory, processes)
        if streams:
            names = [name for name in StreamSample.__annotations__ if name not in ("at_s", "stream")]
            told = {name: [stream[key] for key in names] for name, stream in streams.items()}
            append(self.directory, [StreamSample(round(at_s, 1), name, *values) for name, values in told.items()])

    def _ask(self) -> dict[str, Any]:
        """The streams of `pamd status`; none where it does not answer."""
        command = (*PAMD, "status", "--station", STATION, "--json")
        asked = subprocess.run(command, env=self.server.env, capture_output=True, text=True, check=False)
        if asked.returncode:
            _log(f"pamd status: exit code {asked.returncode}: {asked.stderr.strip()}")
            return {}
        streams: dict[str, Any] = json.loads(asked.stdout)["status"]["streams"]
        return streams

    def _processes(self) -> Iterator[tuple[str, int]]:
        yield "daemon", self.daemon.pid
        for pid, words in children(self.daemon.pid):
            yield from ((f"capture {device}", pid) for device in DEVICES if device in words)


def soak(directory: Path, hours: float, stop: threading.Event) -> None:
    """Run for so many hours, or until `stop`."""
    with ExitStack() as ends:
        room = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = ends.enter_context(sound_server(room, CHANNELS, DEVICES))
        seas = {device: _write_sea(directory / f"{device}.aiff", number) for number, device in enumerate(DEVICES)}
        endpoint = free_endpoint()
        ends.enter_context(_listening(directory, endpoint))
        daemon = ends.enter_context(_running(directory, server, endpoint))
        house = House(directory, server, daemon, seas)
        ends.callback(house.hush)
        _log(f"pamd run is process {daemon.pid}; files in {directory}")
        _watch(house, hours * 3600, stop)


def _watch(house: House, seconds: float, stop: threading.Event) -> None:
    """Until the time is over, or a process that must not end has ended."""
    due_s = EVERY_S
    while (now_s := time.monotonic() - house.began_s) < seconds and not stop.is_set():
        for name, process in (("pamd run", house.daemon), ("PulseAudio", house.server.process)):
            if process.poll() is not None:
                _log(f"{name} has ended, exit code {process.returncode}")
                return
        house.play()
        if now_s >= due_s:
            house.look()
            due_s += EVERY_S
        before_s = time.monotonic()
        stop.wait(_TICK_S)
        held_s = time.monotonic() - before_s - _TICK_S
        if held_s >= _STALL_S:
            append(house.directory, [Stall(time.time_ns(), round(held_s, 3))])


@contextmanager
def _running(directory: Path, server: SoundServer, endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    """`pamd run` with a configuration of its own; its exit code goes into daemon.exit."""
    channels = list(range(1, CHANNELS + 1))
    devices = [{"device": name, "name": name, "channels": channels, "sample_rate_hz": RATE_HZ} for name in DEVICES]
    (directory / "pamd.yaml").write_text(json.dumps({"devices": devices}), encoding="utf-8")  # JSON is YAML
    options = ["--config", str(directory / "pamd.yaml"), "--hop", str(HOP_S), "--station", STATION]
    command = [*PAMD, "run", *options, "--endpoint", endpoint, "--journal", str(directory / "journal")]
    with (directory / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, env=server.env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield daemon
    finally:
        end(daemon, directory / "daemon.exit", _END_S)
        time.sleep(_LINGER_S)


@contextmanager
def _listening(directory: Path, endpoint: str) -> Iterator[None]:
    """A subscriber in a process of its own that writes what it gets.

    It asks for what there is as soon as it can: its first question, whenever it came, is a connection for the daemon.
    """
    command = [*PAMD, "listen", endpoint, "--from", "beginning"]
    with (directory / "received.jsonl").open("wb") as out, (directory / "listen.log").open("wb") as log:
        listener = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        end(listener, directory / "listen.exit", _END_S)


def end(process: subprocess.Popen[bytes], code_path: Path, wait_s: float) -> None:
    """Ask, then insist."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    code_path.write_text(str(process.returncode), encoding="utf-8")


def _write_sea(path: Path, number: int) -> Path:
    """A sea a channel, each with calls of its own, at the device's rate."""
    channels = []
    for channel in range(CHANNELS):
        sea = Sea(minutes=SEA_MINUTES, calls=SEA_CALLS, seed=1 + number * CHANNELS + channel)
        samples = np.concatenate(list(sea.blocks()))
        channels.append(soxr.resample(samples, sea.sample_rate_hz, RATE_HZ))
    soundfile.write(path, np.stack(channels, axis=1), RATE_HZ, "PCM_16", format="AIFF")
    return path


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
