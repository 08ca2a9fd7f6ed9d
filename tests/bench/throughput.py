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

from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.clock import SystemClock
from pam_daemon.daemon import replay
from pam_daemon.records import Wire
from pam_daemon.settings import load_config
from pam_daemon.setup import Setup, set_up
from pam_daemon.station import Station

BATCHES = (1, 8, 32, 64)
MINUTES = 10.0
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def measure(bench: Bench) -> None:
    card = bench.model.card
    samples, _ = sea(card.sample_rate_hz, MINUTES, 30, card.sample_rate_hz)
    path = write_sound(bench.directory / "throughput.aiff", samples, card.sample_rate_hz)
    windows = _windows(path, card.window_samples, card.hop_samples)
    setup = set_up(load_config(None, [f"model.path={bench.model.path}"]), "replay", SystemClock(), spin=True)
    session = _session(bench)
    _replayed(setup, path, len(windows))  # warm: memory, caches, clocks
    _bare(session, windows, BATCHES[-1])
    replayed: list[float] = []
    bare: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(bench.rounds):
        replayed.append(_replayed(setup, path, len(windows)))
        for batch in BATCHES:
            bare[batch].append(_bare(session, windows, batch))
    print(
        f"  {len(windows)} windows of a simulated sea at a {bench.hop_s:g} s hop, {bench.rounds} rounds, interleaved;"
    )
    print("  replay: from opening the file to the last record, in this process, model loaded;")
    print("  bare: session.run on the same windows, cut beforehand, with as many threads; both let them spin between")
    print("  calls, as `pamd replay` does at its full speed: other work on the machine hurts both")
    _report(replayed, bare, setup.config.model.batch, bench.hop_s)


def _report(replayed: list[float], bare: dict[int, list[float]], batch: int, hop_s: float) -> None:
    best = max(bare, key=lambda size: statistics.median(bare[size]))
    for size, speeds in bare.items():
        print(f"  bare, batch {size:2d}:   {spread(speeds, 'windows/s')}{'  <- best' if size == best else ''}")
    print(f"  replay, batch {batch:2d}: {spread(replayed, 'windows/s')}")
    ratios = [ours / theirs for ours, theirs in zip(replayed, bare[best], strict=True)]
    print(f"  replay / best bare: {spread(ratios, 'of it')}; {statistics.median(replayed) * hop_s:.0f} times real time")


def _windows(path: Path, window_samples: int, hop_samples: int) -> npt.NDArray[np.float32]:
    """All windows (count, window_samples) of a file at the model's rate whose end lies on the grid."""
    samples, _ = soundfile.read(path, dtype="float32")
    views = np.lib.stride_tricks.sliding_window_view(samples, window_samples)[::hop_samples]
    return np.ascontiguousarray(views)


def _session(bench: Bench) -> Any:
    options = onnxruntime.SessionOptions()
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
