"""The fast part: one `pamd replay` of a hundred hours, with journal and subscriber; its memory against stream time.

Each hour is the same simulated hour, turned a little further, so every file has a digest, and every call an id, of its
own; by their names the files meet and form one recording. Above the model's rate the resampler takes part.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import soundfile
import soxr
from live_part import PAMD, end
from samples import append, sample

from pam_daemon.subscribe import Subscriber
from pam_daemon.tools.simulate import Sea
from pam_daemon.wire.sockets import free_endpoint

RATE_HZ = 8000  # sample numbers pass 2^31 in hour 75
CALLS_PER_H = 180
TURN_S = 35
EVERY_S = 1.0  # between statuses: some minutes of stream
_SILENCE_S = 60.0  # without a status: it has ended, or it hangs
_END_S = 120.0


def soak(directory: Path, hours: int, stop: threading.Event) -> None:
    """Replay so many hours, or until `stop`."""
    sea = directory / "sea"
    sea.mkdir()
    try:
        _write(sea, hours)
        endpoint = free_endpoint()
        with Subscriber(endpoint) as subscriber, _replaying(directory, sea, endpoint) as process:
            _watch(directory, process, subscriber, stop)
    finally:
        for path in sea.iterdir():
            path.unlink()


def _watch(directory: Path, process: subprocess.Popen[bytes], subscriber: Subscriber, stop: threading.Event) -> None:
    with (directory / "received.jsonl").open("wb") as received:
        for wire in subscriber.records(_SILENCE_S):
            received.write(msgspec.json.encode(wire) + b"\n")
            if stop.is_set():
                return
            if wire["kind"] == "effort":  # the last record
                process.wait(_END_S)
                return
            for stream in wire.get("streams", {}).values():
                at_s = stream["elapsed_samples"] / stream["sample_rate_hz"]
                append(directory, [sample(process.pid, "replay", at_s)])


@contextmanager
def _replaying(directory: Path, sea: Path, endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = ["--set", f"publish.every_s={EVERY_S:g}", "--linger", "0"]
    command = [*PAMD, "replay", str(sea), "--journal", str(directory / "journal"), "--endpoint", endpoint, *settings]
    with (directory / "records.jsonl").open("wb") as out, (directory / "replay.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
    print(f"{time.strftime('%H:%M:%S')} pamd replay is process {process.pid}; files in {directory}", flush=True)
    try:
        yield process
    finally:
        end(process, directory / "replay.exit", _END_S)


def _write(sea: Path, hours: int) -> None:
    """An AIFF an hour; 58 MB each."""
    made = Sea(minutes=60, calls=CALLS_PER_H, seed=1)
    hour = soxr.resample(np.concatenate(list(made.blocks())), made.sample_rate_hz, RATE_HZ)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(hours):
        path = sea / f"sea_{begin + timedelta(hours=number):%Y%m%dT%H%M%SZ}.aiff"
        soundfile.write(path, np.roll(hour, number * TURN_S * RATE_HZ), RATE_HZ, "PCM_16", format="AIFF")
