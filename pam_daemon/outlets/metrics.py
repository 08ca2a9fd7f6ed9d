"""The station's status as Prometheus metrics, on a loopback port.

Read at each scrape from the status that the heartbeat says, so that nothing is counted twice; what nobody knows yet, or
what has no number (the level of digital silence), is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pam_daemon.clock import NS_PER_S, parse_rfc3339
from pam_daemon.errors import EndpointError
from pam_daemon.records import Wire

LOOPBACK = "127.0.0.1"

# Of each stream: the metric, its help, and its value in the stream's part of a status.
_COUNTERS: tuple[tuple[str, str, Callable[[Wire], float | None]], ...] = (
    ("elapsed_samples", "Stream time: analysed, gap, skipped and pending.", lambda s: s["elapsed_samples"]),
    ("analysed_samples", "Heard and scored.", lambda s: s["analysed_samples"]),
    ("gap_samples", "Not captured.", lambda s: s["gap_samples"]),
    ("skipped_samples", "Captured, not analysed.", lambda s: s["skipped_samples"]),
    ("clipped_samples", "At full scale.", lambda s: s["clipped"]),
    ("detections", "Since the daemon started.", lambda s: s["detections"]),
    ("flood_detections", "Those that were marked as a flood.", lambda s: s["flood_detections"]),
    ("recorder_lost_samples", "Captured, not recorded.", lambda s: (s["recorder"] or {}).get("lost_samples")),
)
_GAUGES: tuple[tuple[str, str, Callable[[Wire], float | None]], ...] = (
    ("pending_samples", "Captured, not yet decided.", lambda s: s["pending_samples"]),
    ("sample_rate_hertz", "Of the source: samples to seconds.", lambda s: s["sample_rate_hz"]),
    ("lag_seconds", "Stream time captured and not yet decided.", lambda s: s["lag_s"]),
    ("hop_seconds", "Between windows, as it is now.", lambda s: s["hop_s"]),
    ("real_time_factor", "Seconds of work a second of sound, of the whole worker.", lambda s: s["real_time_factor"]),
    ("level_dbfs", "Of the last window; none in digital silence.", lambda s: s["level_dbfs"]),
    ("clock_offset_seconds", "What has moved the clock since the stream began.", lambda s: s["clock"]["offset_s"]),
    ("clock_drift_ppm", "By how much the device is faster than its nominal rate.", lambda s: s["clock"]["drift_ppm"]),
    ("clock_max_error_seconds", "Of the machine's UTC, either way.", lambda s: s["clock"]["max_error_s"]),
    (
        "clock_synchronised",
        "Whether somebody corrects the machine's UTC; none where nobody knows.",
        lambda s: {"synchronised": 1, "unsynchronised": 0}.get(s["clock"]["quality"]),
    ),
)


class StationCollector(Collector):
    """Asks `status`, on the scraper's thread, for one at every scrape."""

    def __init__(self, status: Callable[[], Wire]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield from _of_station(status)
        streams: dict[str, Wire] = status["streams"]
        for name, text, value in _COUNTERS:
            yield _counter(name, text, [({"stream": of}, value(stream)) for of, stream in streams.items()])
        for name, text, value in _GAUGES:
            yield _gauge(name, text, [({"stream": of}, value(stream)) for of, stream in streams.items()])
        states = [({"stream": of, "state": stream["trouble"] or "heard"}, 1) for of, stream in streams.items()]
        bridges: dict[str, Wire] = status["bridges"]
        behind = [({"bridge": of}, bridge["behind"]) for of, bridge in bridges.items()]
        up = [({"bridge": of}, bridge["error"] is None) for of, bridge in bridges.items()]
        yield _gauge("bridge_behind", "Records that wait for the other side, up to a thousand.", behind)
        yield _gauge("bridge_up", "Whether the other side takes what comes.", up)
        yield _gauge("source_state", "1, with what the source does now: heard, absent, silent...", states)


@contextmanager
def serve(port: int, status: Callable[[], Wire]) -> Iterator[None]:
    """Answer Prometheus at http://127.0.0.1:PORT/metrics while the context lasts.

    Raises:
        EndpointError: the port is taken.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(StationCollector(status))
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except OSError as error:
        raise EndpointError(f"metrics.port: {port}: cannot bind: {error.strerror}; give another, or null") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _of_station(status: Wire) -> Iterator[Metric]:
    model = status["model"]
    what = {name: status[name] for name in ("station", "mode", "version", "provider")}
    yield _gauge("build_info", "1.", [(what | {"model": model["name"], "model_sha256": model["sha256"]}, 1)])
    started_s = parse_rfc3339(status["started_utc"]) / NS_PER_S
    yield _gauge("start_time_seconds", "Since 1970, when the daemon started.", [({}, started_s)])
    yield _gauge("journal_durable", "Whether records are on the disk.", [({}, status["durable"])])
    yield _gauge("journal_held_records", "In memory, while the disk refuses.", [({}, status["held_records"])])
    yield _counter("journal_dropped_records", "Held too long, and lost.", [({}, status["dropped_records"])])
    yield _gauge("disk_free_bytes", "Where the journal is; none where it fails.", [({}, status["disk_free_bytes"])])
    journal = status["journal"] or {"bytes": None, "oldest_utc": {}}
    yield _gauge("journal_bytes", "Records, their indexes and the WAL.", [({}, journal["bytes"])])
    oldest_s = [({"kind": kind}, parse_rfc3339(utc) / NS_PER_S) for kind, utc in journal["oldest_utc"].items()]
    yield _gauge("journal_oldest_time_seconds", "Since 1970, when the oldest record was made that is kept.", oldest_s)
    yield _gauge("journal_last_seq", "Of the last record.", [({}, status["last_seq"])])
    alerts = [
        ({"mode": status["mode"]} | {name: alert[name] for name in ("rule", "label", "level")}, 1)
        for alert in status["alerts"]
    ]
    yield _gauge("alert_standing", "1, with the rule and the level, while an alert stands.", alerts)


Values = Iterable[tuple[dict[str, str], float | None]]


def _counter(name: str, text: str, values: Values) -> Metric:
    return _filled(CounterMetricFamily(f"pamd_{name}", text), "_total", values)


def _gauge(name: str, text: str, values: Values) -> Metric:
    return _filled(GaugeMetricFamily(f"pamd_{name}", text), "", values)


def _filled(family: Metric, suffix: str, values: Values) -> Metric:
    for labels, value in values:
        if value is not None:
            family.add_sample(family.name + suffix, labels, float(value))
    return family
