"""Windows a second: the whole replay path against the bare `session.run` loop, interleaved in one process."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import soundfile
from common import Bench, sea, spread, write_sound

from pam_daemon.clock import SystemClock
from pam_daemon.config import load_config
from pam_daemon.daemon import replay
from pam_daemon.records import Wire
from pam_daemon.sources.file import find_files, recordings
from pam_daemon.station import Setup, Station, set_up

BATCHES = (1, 8, 32, 64)
MINUTES = 2.5
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def measure(bench: Bench) -> None:
    card = bench.model.card
    samples, _ = sea(card.sample_rate_hz, MINUTES, 8, card.sample_rate_hz)
    path = write_sound(bench.directory / "throughput.aiff", samples, card.sample_rate_hz)
    windows = _windows(path, card.window_samples, card.hop_samples)
    setup = set_up(load_config(None, [f"model.path={bench.model.path}"]), "replay", SystemClock())
    sessions = {spinning: _session(bench, spinning) for spinning in (True, False)}
    ways = [(batch, spinning) for batch in BATCHES for spinning in sessions]
    _replayed(setup, path, len(windows))  # warm: memory, caches, clocks
    for session in sessions.values():
        _bare(session, windows, BATCHES[-1])
    replayed: list[float] = []
    bare: dict[tuple[int, bool], list[float]] = {way: [] for way in ways}
    for _ in range(bench.rounds):
        replayed.append(_replayed(setup, path, len(windows)))
        for batch, spinning in ways:
            bare[batch, spinning].append(_bare(sessions[spinning], windows, batch))
    print(
        f"  {len(windows)} windows of a simulated sea at a {bench.hop_s:g} s hop, {bench.rounds} rounds, interleaved;"
    )
    print("  replay: from opening the file to the last record, in this process, model loaded;")
    print("  bare: session.run on the same windows, cut beforehand, as many threads; with threads that spin between")
    print("  calls, onnxruntime's default, and without, as pamd sets it: other work on the machine hurts the first")
    _report(replayed, bare, setup.config.model.batch, bench.hop_s)


def _report(replayed: list[float], bare: dict[tuple[int, bool], list[float]], batch: int, hop_s: float) -> None:
    best = max(bare, key=lambda way: statistics.median(bare[way]))
    for way, speeds in bare.items():
        name = f"bare, batch {way[0]:2d}, {'spinning:    ' if way[1] else 'not spinning:'}"
        print(f"  {name} {spread(speeds, 'windows/s', 1)}{'  <- best' * (way == best)}")
    print(f"  replay, batch {batch}, not spinning: {spread(replayed, 'windows/s', 1)}")
    ratios = [ours / theirs for ours, theirs in zip(replayed, bare[best], strict=True)]
    print(f"  replay / best bare: {spread(ratios, 'of it')}; {statistics.median(replayed) * hop_s:.0f} times real time")


def _windows(path: Path, window_samples: int, hop_samples: int) -> npt.NDArray[np.float32]:
    """All windows (count, window_samples) of a file at the model's rate whose end lies on the grid."""
    samples, _ = soundfile.read(path, dtype="float32")
    views = np.lib.stride_tricks.sliding_window_view(samples, window_samples)[::hop_samples]
    return np.ascontiguousarray(views)


def _session(bench: Bench, spinning: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.log_severity_level = 4
    provider = PROVIDERS[bench.model.provider]
    return onnxruntime.InferenceSession(bench.model.path.read_bytes(), options, providers=[provider])


def _bare(session: Any, windows: npt.NDArray[np.float32], batch: int) -> float:
    name = session.get_inputs()[0].name
    begin_s = time.perf_counter()
    for first in range(0, len(windows), batch):
        session.run(None, {name: windows[first : first + batch]})
    return len(windows) / (time.perf_counter() - begin_s)


def _replayed(setup: Setup, path: Path, expected: int) -> float:
    records: list[Wire] = []
    begin_s = time.perf_counter()
    found = recordings(find_files([str(path)]), min_rate_hz=setup.model.card.sample_rate_hz)
    with Station(setup, None, None, lambda wire, new: records.append(wire), linger_s=0.0) as station:
        done = replay(station, found, speed=None, on_tick=lambda progress: None, on_recording=lambda recording: None)
    took_s = time.perf_counter() - begin_s
    if done.windows != expected or not records:
        raise SystemExit(f"replay scored {done.windows} windows, the bare loop {expected}: no comparison")
    return done.windows / took_s
