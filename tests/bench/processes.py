"""What fresh `pamd replay` processes take: memory by the length of the sound, and time to the first window."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from common import PAMD, Bench, sea, spread, write_sound

SHORT_MINUTES = 10
STARTS = 7
# A child inherits the peak of the process that forked it, so a small one stands between; Linux counts in KiB.
_PEAK = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit]))
"""


def measure_memory(bench: Bench) -> None:
    card = bench.model.card
    samples, _ = sea(card.sample_rate_hz, SHORT_MINUTES, 30, card.sample_rate_hz)
    short = write_sound(bench.directory / "short.aiff", samples, card.sample_rate_hz)
    repeat = max(1, round(bench.hours * 60 / SHORT_MINUTES))
    long = write_sound(bench.directory / "long.aiff", samples, card.sample_rate_hz, repeat)
    print(f"  peak resident memory of `pamd replay FILE`, a fresh process each, at a {bench.hop_s:g} s hop;")
    print(f"  the long sea is the short one {repeat} times over")
    peaks: list[float] = []
    for name, path in ((f"{SHORT_MINUTES} min", short), (f"{repeat * SHORT_MINUTES / 60:g} h", long)):
        begin_s = time.perf_counter()
        command = (*PAMD, "replay", str(path), "--model", str(bench.model.path))
        peaks.append(_peak_bytes(command) / 1e6)
        print(f"  {name}: {peaks[-1]:.0f} MB, in {time.perf_counter() - begin_s:.0f} s")
    print(f"  long / short: {peaks[1] / peaks[0]:.3f}")
    long.unlink()


def measure_startup(bench: Bench) -> None:
    card = bench.model.card
    window = np.random.default_rng(1).normal(0, 0.01, card.window_samples).astype(np.float32)
    path = write_sound(bench.directory / "window.aiff", window, card.sample_rate_hz)
    model = ("--model", str(bench.model.path))
    print("  from the start of the process; the first window analysed: replay of a file that holds just one, to the")
    print("  first record on stdout. It contains the imports, loading the model and its golden self-test")
    imports = [_first_output_s((*PAMD, "--version")) for _ in range(STARTS)]
    first = [_first_output_s((*PAMD, "replay", str(path), *model)) for _ in range(STARTS)]
    print(f"  `pamd --version`:          {spread(imports, 's')}")
    print(f"  the first window analysed: {spread(first, 's')}")


def _peak_bytes(command: Sequence[str]) -> int:
    done = subprocess.run([sys.executable, "-c", _PEAK, *command], capture_output=True, text=True, check=True)
    code, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    return int(peak)


def _first_output_s(command: Sequence[str]) -> float:
    begin_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        took_s = time.perf_counter() - begin_s
        process.stdout.read()
    if process.returncode or not first:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return took_s
