"""From the journal to a subscriber in another process: records a second, latency, and how fast one catches up."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import Bench, spread
from house import publisher

from pam_daemon.clock import SystemClock
from pam_daemon.journal import Bell, Journal
from pam_daemon.records import Detection, Latency, ModelName, Record, Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.wire.sockets import free_endpoint

BURST, BATCHES = 6_400, (1, 8, 64)  # records, and so many a commit: what a worker's round finds
PACED, PACE_S = 1000, 0.01
BEHIND = 100_000
ROUNDS = 3
NOW = "2026-01-01T00:00:00.000000Z"
MODEL = ModelName("narw", "0" * 64)


def measure(bench: Bench) -> None:
    print("  detections of 0.9 kB, journalled (SQLite, synchronous=FULL) and published in a process of their own")
    for batch in BATCHES:
        rates = [_measured(bench, f"burst {batch}", 0, _burst) for _ in range(ROUNDS)]
        print(f"  {BURST:,} at once, {batch:2d} a commit: {spread(rates, 'records/s', 0)} to the subscriber")
    delays_ms = sorted(_measured(bench, "paced 1", 0, _paced))
    middle, late = statistics.median(delays_ms), delays_ms[len(delays_ms) * 99 // 100]
    print(
        f"  detection to subscriber, one every {1000 * PACE_S:g} ms: "
        f"median {middle:.2f} ms, 99th percentile {late:.2f} ms"
    )
    rates = [_measured(bench, "burst 64", BEHIND, _behind) for _ in range(ROUNDS)]
    print(f"  a subscriber that is {BEHIND:,} behind catches up at {spread(rates, 'records/s', 0)}")


def _burst(subscriber: Subscriber, go: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    go()
    _take(subscriber, BURST)
    return BURST / (time.perf_counter() - began_s)


def _paced(subscriber: Subscriber, go: Callable[[], None]) -> list[float]:
    go()
    # The record says when it was made, on the clock that all processes of the machine share.
    return [(time.monotonic_ns() - wire["start_sample"]) / 1e6 for wire in _detections(subscriber, PACED)]


def _behind(subscriber: Subscriber, go: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    _take(subscriber, BEHIND)
    return BEHIND / (time.perf_counter() - began_s)


def _detections(subscriber: Subscriber, count: int) -> Iterator[Wire]:
    return islice((wire for wire in subscriber.records(60.0) if wire["kind"] == "detection"), count)


def _take(subscriber: Subscriber, count: int) -> None:
    taken = sum(1 for _ in _detections(subscriber, count))
    if taken < count or subscriber.lost_records:
        raise SystemExit(f"{taken} of {count} records came, {subscriber.lost_records} were lost")


def _measured(bench: Bench, mode: str, behind: int, work: Callable[[Subscriber, Callable[[], None]], Any]) -> Any:
    endpoint = free_endpoint()
    with TemporaryDirectory(dir=bench.directory) as directory:
        command = [sys.executable, __file__, endpoint, f"{directory}/journal", str(behind), *mode.split()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdout.readline()
            pipe = server.stdin

            def go() -> None:
                pipe.write(b"go\n")
                pipe.flush()

            with Subscriber(endpoint, from_beginning=True) as subscriber:
                if not behind:
                    next(subscriber.records(60.0))
                result = work(subscriber, go)
            server.kill()
    return result


def detection(number: int) -> Record:
    """Like a real one in size; `start_sample` tells when it was made."""
    body = Detection(
        start_utc=NOW,
        end_utc=NOW,
        peak_utc=NOW,
        start_s=float(number),
        end_s=number + 2.0,
        peak_s=number + 1.0,
        start_sample=time.monotonic_ns(),
        end_sample=number,
        label="upcall",
        score=0.9,
        threshold=0.8,
        threshold_source="model",
        windows=3,
        continuing=False,
        truncated=False,
        model=MODEL,
        level_dbfs=-40.0,
        latency_ms=Latency(1500.0, 10.0, 10.0, 1.0, 1521.0),
    )
    return Record("detection", "pamd", "ch1", "live", f"{number:032x}", NOW, body)


def _append(journal: Journal, first: int, count: int, batch: int) -> None:
    for number in range(first, first + count, batch):
        journal.append([detection(number + n) for n in range(batch)])


def serve(endpoint: str, path: Path, behind: int, mode: str, batch: int) -> None:
    """In a process of its own: so many records at first, then a burst or a paced row of them when told to go."""
    with closing(Bell()) as bell, closing(Journal(path, [bell])) as journal:
        _append(journal, 0, behind, 1000)
        _publish(endpoint, path, journal, bell)
        print("ready", flush=True)
        for _ in sys.stdin:
            if mode == "burst":
                _append(journal, behind, BURST, batch)
            for number in range(PACED if mode == "paced" else 0):
                journal.append([detection(behind + number)])
                time.sleep(PACE_S)


def _publish(endpoint: str, path: Path, journal: Journal, bell: Bell) -> None:
    after = journal.ends()[1] or 0
    server = publisher(endpoint, path, bell, log=journal.log, after=after, every_s=1.0, clock=SystemClock())
    threading.Thread(target=server.run, args=(threading.Event(),), daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    endpoint, path, behind, mode, batch = arguments
    serve(endpoint, Path(path), int(behind), mode, int(batch))


if __name__ == "__main__":
    main(sys.argv[1:])
