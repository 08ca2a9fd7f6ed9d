"""From the last sample of a call to the subscriber in another process: a replay at the speed of the sea."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from common import PAMD, Bench, sea, spread, write_sound

from pam_daemon.records import Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.tools.tables import Selection
from pam_daemon.wire.sockets import free_endpoint

HOP_S = 0.5
MINUTES, CALLS = 1.5, 10
NEAR_S = 1.0  # a detection this near a call is its own
DEVICE_RATE_HZ = 48_000


@dataclass(frozen=True)
class Arrival:
    """One detection: when it came, and the stream time at which its deciding sample was captured; in seconds."""

    wire: Wire
    at_s: float
    decided_s: float


def measure(bench: Bench) -> None:
    card = bench.model.card
    print(f"  `pamd replay --speed realtime --hop {HOP_S:g}` of a simulated sea, this process subscribes over ZeroMQ;")
    print("  a block of 0.1 s is handed on when its last sample would have been captured. Stream time is read from")
    print("  the statuses asked meanwhile; by definition: up to the last sample of the window that decides")
    for rate_hz in (card.sample_rate_hz, DEVICE_RATE_HZ):
        samples, truth = sea(rate_hz, MINUTES, CALLS, card.sample_rate_hz)
        path = write_sound(bench.directory / f"latency-{rate_hz}.aiff", samples, rate_hz)
        began_s, wires = _replay(path, bench)
        arrivals = [_arrival(wire, at_s - began_s, card.window_samples / card.sample_rate_hz) for wire, at_s in wires]
        _report(rate_hz, arrivals, truth)


def _report(rate_hz: int, arrivals: Sequence[Arrival], truth: Sequence[Selection]) -> None:
    print(f"  {rate_hz} Hz: {len(arrivals)} detections")
    if not arrivals:
        return
    pairs = [(a, call) for a in arrivals for call in truth if _near(a.wire["peak_s"], call)]
    if pairs:
        print(f"    call's end to subscriber:     {spread([a.at_s - call.end_s for a, call in pairs], 's')}")
        print(f"    of which by definition:       {spread([a.decided_s - call.end_s for a, call in pairs], 's')}")
    print(f"    deciding sample to subscriber: {spread([1000 * (a.at_s - a.decided_s) for a in arrivals], 'ms', 0)}")


def _near(peak_s: float, call: Selection) -> bool:
    return call.begin_s - NEAR_S <= peak_s <= call.end_s + NEAR_S


def _arrival(wire: Wire, at_s: float, window_s: float) -> Arrival:
    # The record says how much audio after the peak's window was waited for.
    return Arrival(wire, at_s, wire["peak_s"] + window_s / 2 + wire["latency_ms"]["audio_ms"] / 1000)


def _replay(path: Path, bench: Bench) -> tuple[float, list[tuple[Wire, float]]]:
    """When stream time 0 was on this process's clock, and the detections with the time of their coming."""
    endpoint = free_endpoint()
    options = ("--speed", "realtime", "--hop", str(HOP_S), "--endpoint", endpoint, "--linger", "0")
    command = (*PAMD, "replay", str(path), "--model", str(bench.model.path), *options)
    wires: list[tuple[Wire, float]] = []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process, Subscriber(endpoint) as subscriber:
        began_s = _stream_zero_s(int(endpoint.rpartition(":")[2]) + 1)
        for _ in subscriber.records(timeout_s=0.0):
            pass  # it has been waiting for us: when it came is not known
        while process.poll() is None:
            wires += ((wire, time.perf_counter()) for wire in subscriber.records(timeout_s=0.5))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    # What is decided by the end of the file did not wait for its audio.
    return began_s, [(wire, at_s) for wire, at_s in wires if wire["kind"] == "detection" and not wire["truncated"]]


def _stream_zero_s(recovery_port: int, probe_s: float = 4.0) -> float:
    """Elapsed samples grow when a block's last sample is due: the earliest sight of each tells when zero was."""
    context = zmq.Context()
    earliest_s = float("inf")
    end_s: float | None = None
    deadline_s = time.perf_counter() + 60
    try:
        ask = context.socket(zmq.DEALER)
        ask.setsockopt(zmq.LINGER, 0)
        ask.connect(f"tcp://127.0.0.1:{recovery_port}")
        while (now_s := time.perf_counter()) < (end_s or deadline_s):
            ask.send(b'{"op": "status"}')
            if not ask.poll(20_000):
                break
            status = json.loads(ask.recv())
            for stream in status.get("streams", {}).values():
                if stream["elapsed_samples"]:
                    end_s = end_s or now_s + probe_s
                    stream_s = stream["elapsed_samples"] / stream["sample_rate_hz"]
                    earliest_s = min(earliest_s, time.perf_counter() - stream_s)
            time.sleep(0.002)
    finally:
        context.destroy(linger=0)
    if earliest_s == float("inf"):
        raise SystemExit("the replay told no status within a minute")
    return earliest_s
