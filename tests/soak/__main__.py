"""`make soak`: hours of listening, and a hundred hours of replay: does anything grow, get lost or remain unexplained?

`make soak HOURS=2` runs both parts. Ctrl-C ends them early, with a report of what there is; `--report` prints that of a
soak that still runs, or is over. The exit code is 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for ports.py and sound.py

import fast_part
import live_part
import report

PARTS = ("live", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is given")
    parser.add_argument("--hours", type=float, default=2.0, help="of the live part")
    parser.add_argument("--replay-hours", type=int, default=100, help="of stream, in the fast part")
    parser.add_argument("--dir", type=Path, default=Path("soak"), help="where the files go")
    parser.add_argument("--report", action="store_true", help="say what the files there show, and run nothing")
    chosen = parser.parse_args()
    parts = chosen.parts or PARTS
    for part in parts:
        if part not in PARTS:
            parser.error(f"{part}: one of {', '.join(PARTS)} is expected")
    print(f"{platform.platform()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    whole = True
    for part in parts:
        directory = chosen.dir.resolve() / part
        if not chosen.report and not stop.is_set():
            _run(part, directory, chosen, stop)
        if directory.exists():
            print(f"\n{part}")
            whole &= report.show(_promises(part, directory))
    sys.exit(0 if whole else 1)


def _run(part: str, directory: Path, chosen: argparse.Namespace, stop: threading.Event) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if part == "live":
        live_part.soak(directory, chosen.hours, stop)
    else:
        fast_part.soak(directory, chosen.replay_hours, stop)


def _promises(part: str, directory: Path) -> Iterator[report.Promise]:
    if part == "live":
        return report.live(directory, live_part.SEA_CALLS / live_part.SEA_MINUTES / 60)
    return report.replayed(directory)


if __name__ == "__main__":
    main()
