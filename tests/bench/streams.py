"""What live streams take: processor time a stream, memory, the start to READY, and how many this machine carries.

Real `pamd run` processes listen to a private PulseAudio server's null sink, into which a simulated sea is played.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile
from common import PAMD, Bench, sea, spread
from sound import DEVICE, RATE_HZ, SoundServer, sound_server

from pam_daemon.control import ask

HOP_S = 0.5
STREAMS = (1, 4, 16)
MOST = 128  # at once, to see it: beyond that the sound server takes more than pamd
CHANNELS = 16  # of the device; more streams take the device as often as needed, a child process each time
SETTLE_S = 60.0  # until the windows flow and the rings are full
INTERVAL_S, INTERVALS = 10.0, 7
STARTS = 7
PATIENCE_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CORES = len(os.sched_getaffinity(0))
_MEMORY = ("Rss", "Pss", "Private")


@dataclass
class Load:
    """What a daemon with so many streams took, by interval; processor time in percent of one core."""

    streams: int
    daemon: list[float] = field(default_factory=list)
    children: list[float] = field(default_factory=list)  # that hold the device, all together
    others: list[float] = field(default_factory=list)  # on this machine, the sound server among them
    lag_s: list[float] = field(default_factory=list)  # of the stream that is furthest behind
    missed_samples: int = 0  # in gaps and skipped
    real_time_factor: float = 0.0
    daemon_memory: Mapping[str, float] = field(default_factory=dict)  # bytes
    children_memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return statistics.median(a + b for a, b in zip(self.daemon, self.children, strict=True))


def measure(bench: Bench) -> None:
    print(f"  `pamd run --hop {HOP_S:g}` on a PulseAudio null sink of {CHANNELS} channels at {RATE_HZ} Hz, a stream a")
    print("  channel, the same sea in each but the one that PulseAudio takes for a subwoofer's. Processor time from")
    print(f"  /proc/PID/stat over {INTERVALS} intervals of {INTERVAL_S:g} s, after {SETTLE_S:g} s, in percent of one")
    print(f"  of this machine's {_CORES} cores; memory from smaps_rollup after them")
    with _server(bench) as server:
        loads = [_listen(bench, server, streams) for streams in STREAMS]
        carried = _carried(loads)
        print(f"  put to the proof: {min(carried, MOST)} streams at once, a device process for {CHANNELS} each")
        _listen(bench, server, min(carried, MOST))


def measure_ready(bench: Bench) -> None:
    print("  from the start of `pamd run` to READY=1 on NOTIFY_SOCKET: imports, the model and its golden self-test,")
    print("  the device opened. Cold: what the process maps of its libraries, and the model, put out of the page cache")
    print("  before (posix_fadvise); what another process maps stays in")
    with _server(bench) as server:
        with _running(bench, server, 1) as (daemon, _, _):
            mapped = _libraries(daemon.pid) | {bench.model.path}
        cold, warm = [], []
        for _ in range(STARTS):
            left = _evict(mapped)
            with _running(bench, server, 1) as (_, _, ready_s):
                cold.append(ready_s)
            with _running(bench, server, 1) as (_, _, ready_s):
                warm.append(ready_s)
        print(f"  cold: {spread(cold, 's')}; {left / 1e6:.0f} MB of it stayed in the page cache")
        print(f"  warm: {spread(warm, 's')}")


def _listen(bench: Bench, server: SoundServer, streams: int) -> Load:
    load = Load(streams)
    with _running(bench, server, streams) as (daemon, control, _):
        time.sleep(SETTLE_S)
        children = _children(daemon.pid)
        before = _cpu_s(daemon.pid, children)
        for _ in range(INTERVALS):
            time.sleep(INTERVAL_S)
            now = _cpu_s(daemon.pid, children)
            took_s = now["clock"] - before["clock"]
            ours, theirs, everybody = (100 * (now[who] - before[who]) / took_s for who in ("daemon", "children", "all"))
            load.daemon.append(ours)
            load.children.append(theirs)
            load.others.append(max(0.0, everybody - ours - theirs))
            before = now
            status = ask(control)["status"]["streams"].values()
            load.lag_s.append(max(stream["lag_s"] for stream in status))
        load.missed_samples = max(stream["gap_samples"] + stream["skipped_samples"] for stream in status)
        load.real_time_factor = max(stream["real_time_factor"] or 0.0 for stream in status)
        load.daemon_memory, load.children_memory = _memory([daemon.pid]), _memory(children)
    _print_load(load)
    return load


def _print_load(load: Load) -> None:
    print(f"  {load.streams} live:")
    print(f"    a stream:       {load.total / load.streams:.2f} % of a core, daemon and device process together")
    print(f"    daemon:         {spread(load.daemon, '%', 1)}, {_megabytes(load.daemon_memory)}")
    print(f"    device process: {spread(load.children, '%', 1)}, {_megabytes(load.children_memory)}")
    print(f"    others:         {spread(load.others, '%', 1)}: the sound server, its player, whoever else is here")
    print(f"    lag:            {spread(load.lag_s, 's')}, missed {load.missed_samples} samples; the model works")
    print(f"                    {load.real_time_factor:.3f} s a second")


def _megabytes(memory: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {memory[kind] / 1e6:.0f} MB" for kind in _MEMORY)


def _carried(loads: Sequence[Load]) -> int:
    """Streams until this machine's cores or its memory are full, by the straight lines through what was measured."""
    streams = [load.streams for load in loads]
    cpu, cpu_base = np.polyfit(streams, [load.total for load in loads], 1)
    memory = [load.daemon_memory["Private"] + load.children_memory["Private"] for load in loads]
    byte, byte_base = np.polyfit(streams, memory, 1)
    cores = int((100 * _CORES - cpu_base) / cpu)
    room = int((os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - byte_base) / byte)
    print(f"  straight lines: {cpu_base:.1f} % and {cpu:.2f} % a stream: {_CORES} cores are full at {cores} streams;")
    print(f"  {byte_base / 1e6:.0f} MB and {byte / 1e6:.1f} MB a stream: the memory is full at {room}")
    return min(cores, room)


@contextmanager
def _server(bench: Bench) -> Iterator[SoundServer]:
    """A sound server in whose sink the sea is heard on all channels, without end."""
    rate_hz = bench.model.card.sample_rate_hz
    samples, _ = sea(RATE_HZ, 1.0, 6, rate_hz)
    with tempfile.TemporaryDirectory(prefix="pamd-", dir="/tmp") as place:  # a short path: it holds Unix sockets
        path = Path(place) / "sea.wav"
        soundfile.write(path, np.repeat(samples[:, None], CHANNELS, axis=1), RATE_HZ, subtype="PCM_16")
        with sound_server(Path(place), CHANNELS) as server, _played(server, path):
            yield server


@contextmanager
def _played(server: SoundServer, path: Path) -> Iterator[None]:
    loop = 'while paplay --no-remap --device=hydro "$0" 2>/dev/null; do :; done'
    with subprocess.Popen(["sh", "-c", loop, str(path)], env=server.env, start_new_session=True) as player:
        try:
            yield
        finally:
            os.killpg(player.pid, 15)


@contextmanager
def _running(bench: Bench, server: SoundServer, streams: int) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """A daemon that is READY, its control socket, and how long that took in seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="pamd-", dir="/tmp") as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        (bench.directory / "live.log").open("ab") as log,
    ):
        notify.bind(f"{place}/notify")
        notify.settimeout(PATIENCE_S)
        config = Path(place) / "pamd.yaml"
        config.write_bytes(msgspec.json.encode({"devices": _devices(streams)}))  # JSON is YAML
        options = ["--config", str(config), "--hop", str(HOP_S), "--endpoint", "tcp://127.0.0.1:*"]
        command = [*PAMD, "run", *options, "--journal", f"{place}/journal", "--model", str(bench.model.path)]
        env = {**server.env, "NOTIFY_SOCKET": f"{place}/notify", "RUNTIME_DIRECTORY": place}
        began_s = time.perf_counter()
        with subprocess.Popen(command, env=env, stdout=log, stderr=log) as daemon:
            try:
                while not notify.recv(1000).startswith(b"READY=1"):
                    pass
                yield daemon, Path(place) / "pamd.sock", time.perf_counter() - began_s
            finally:
                daemon.terminate()
    if daemon.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {daemon.returncode}; see {bench.directory / 'live.log'}")


def _devices(streams: int) -> list[dict[str, Any]]:
    return [
        {
            "device": DEVICE,
            "name": f"array{first}",
            "channels": list(range(1, min(CHANNELS, streams - first) + 1)),
            "sample_rate_hz": RATE_HZ,
        }
        for first in range(0, streams, CHANNELS)
    ]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _cpu_s(daemon: int, children: Sequence[int]) -> dict[str, float]:
    """Processor time in seconds, user and system, since each began, and the clock."""
    everybody = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = everybody[3] + everybody[4]
    return {
        "clock": time.monotonic(),
        "daemon": _process_s(daemon),
        "children": sum(map(_process_s, children)),
        "all": (sum(everybody[:8]) - idle) / _TICKS_PER_S,  # the guests' time after these is in the first two already
    }


def _process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _memory(pids: Sequence[int]) -> dict[str, float]:
    """Bytes: resident, shared pages divided among those who share them, and private to the process; of all of them."""
    kib: dict[str, float] = dict.fromkeys(_MEMORY, 0.0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            name = re.sub(r"^Private_(Clean|Dirty):$", "Private:", name)
            if name[:-1] in kib:
                kib[name[:-1]] += int(value)
    return {name: 1024 * value for name, value in kib.items()}


def _libraries(pid: int) -> set[Path]:
    return {Path(name) for name in re.findall(r"/.*\.so.*", Path(f"/proc/{pid}/maps").read_text())}


def _evict(files: set[Path]) -> int:
    """Put files out of the page cache; how many bytes of them stay there."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    listed = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(int(line) for line in listed.stdout.split())
