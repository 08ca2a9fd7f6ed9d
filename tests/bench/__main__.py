"""`make bench`: how fast, how big, how soon, how late, how many; prints what it measured and how. Asserts nothing.

`make bench BENCH_ARGS="--model FILE throughput latency"` measures another model, and only these.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import latency
import processes
import streams
import throughput
import training
import wire
from common import Bench

from pam_daemon.analysis.model import Model, shipped_model
from pam_daemon.errors import ModelError

PARTS: dict[str, Callable[[Bench], None]] = {
    "throughput": throughput.measure,
    "memory": processes.measure_memory,
    "startup": processes.measure_startup,
    "latency": latency.measure,
    "ready": streams.measure_ready,
    "live": streams.measure,
    "wire": wire.measure,
    "training": training.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is given")
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--dir", type=Path, default=Path("bench"), help="where the sound files go")
    parser.add_argument("--rounds", type=int, default=7, help="of the throughput's interleaved measurements")
    parser.add_argument("--hours", type=float, default=10.0, help="of the long replay whose memory is measured")
    chosen = parser.parse_args()
    for part in chosen.parts:
        if part not in PARTS:
            parser.error(f"{part}: one of {', '.join(PARTS)} is expected")
    chosen.dir.mkdir(parents=True, exist_ok=True)
    try:
        model = Model(chosen.model)
    except ModelError as error:
        sys.exit(f"bench: {error}")
    _print_machine(model)
    bench = Bench(model, chosen.dir, chosen.rounds, chosen.hours)
    for part in chosen.parts or PARTS:
        print(f"\n{part}")
        PARTS[part](bench)


def _print_machine(model: Model) -> None:
    runtime = next(d for d in distributions() if d.metadata["Name"] in ("onnxruntime", "onnxruntime-gpu"))
    print(f"{_processor()}, {os.cpu_count()} cores, {platform.platform()}")
    print(f"Python {platform.python_version()}, {runtime.metadata['Name']} {runtime.version} on {model.provider}")
    print(f"model {model.name.name} ({model.card.precision}, sha256 {model.name.sha256[:12]})")
    print(f"load average at the start: {os.getloadavg()[0]:.1f}; figures hold for an idle machine only")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
