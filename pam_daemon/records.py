"""The wire contract `pamd/1`: what the daemon says, as records with a common head and a body each.

A record is made once, numbered by the journal, and goes out as one JSON object: `Wire` is that object.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec

SCHEMA = "pamd/1"
STATION_WIDE = "_"  # the stream of records that concern no single stream
NAME_PATTERN = r"^[A-Za-z0-9_-]{1,32}$"  # stations and streams

Kind = Literal["detection", "alert", "gap", "effort", "event", "status"]
Mode = Literal["live", "replay", "drill"]
ThresholdSource = Literal["model", "site", "command"]
Term = Literal["gap", "skipped"]  # not captured | captured, not analysed
Severity = Literal["info", "warning", "error"]
Level = Literal["detected", "possible"]
AlertState = Literal["raised", "extended", "cleared", "lapsed"]
Wire = dict[str, Any]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what SQLite can hold


class ModelName(msgspec.Struct, frozen=True):
    name: str
    sha256: str


class Position(msgspec.Struct, frozen=True):
    latitude_deg: float
    longitude_deg: float


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds by step, from the capture of the deciding sample to just before the commit.

    The first three are None from a file; `total_ms` counts from the last sample of the peak's window.
    """

    audio_ms: float  # from the end of the peak's window to the deciding sample, in stream time
    read_ms: float | None  # from its capture to the worker's hands
    score_ms: float | None  # the model
    decide_ms: float | None  # from the scores to the record
    total_ms: float | None


class Detection(msgspec.Struct, frozen=True):
    """One call. Samples at the source's rate, seconds since the stream or the recording began."""

    start_utc: str | None
    end_utc: str | None
    peak_utc: str | None
    start_s: float
    end_s: float
    peak_s: float
    start_sample: int
    end_sample: int
    label: str
    score: float
    threshold: float
    threshold_source: ThresholdSource
    windows: int
    continuing: bool
    truncated: bool
    model: ModelName
    level_dbfs: float | None
    latency_ms: Latency
    position: Position | None = None
    flood: bool | None = None
    clip: str | None = None
    review: Literal["unreviewed"] = "unreviewed"


class Alert(msgspec.Struct, frozen=True):
    """A change of state of a decision over detections; times and numbers are of stream time."""

    alert: str | None  # the id of its `raised` record; None in that one
    revision: int
    label: str
    level: Level
    state: AlertState
    rule: str
    count: int  # detections in the window that ends with the last of them
    window_s: float
    first_utc: str | None  # the alert's first detection
    last_utc: str | None  # the last that met the rule
    expires_utc: str | None
    max_score: float
    detections: tuple[str, ...]  # ids of those counted
    streams: tuple[str, ...]  # where they were heard
    coverage: float  # share of the window listened to; of the hold where the alert has ended
    flood: bool  # the last detection is one of a flood
    zone: dict[str, Any] | None  # GeoJSON
    began_utc: str | None  # live: when the stream of the first detection began
    start_sample: int  # of the first detection


class Gap(msgspec.Struct, frozen=True):
    """A stretch that was not analysed, and why."""

    term: Term
    start_sample: int
    samples: int
    start_utc: str | None
    duration_s: float
    reason: str
    estimated: bool
    uncertainty_s: float


class Effort(msgspec.Struct, frozen=True):
    """What was listened to, cumulative since the stream began: elapsed is the sum of the other four."""

    start_utc: str | None
    end_utc: str | None
    start_sample: int
    end_sample: int
    sample_rate_hz: int
    elapsed_samples: int
    analysed_samples: int
    gap_samples: int
    skipped_samples: int
    pending_samples: int


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the daemon itself."""

    what: str
    severity: Severity
    text: str
    data: dict[str, Any]


class ClockState(msgspec.Struct, frozen=True):
    """A stream's clock: what has moved it since the stream began, and how good the machine's UTC is."""

    offset_s: float | None = None
    drift_ppm: float | None = None
    drift_uncertainty_ppm: float | None = None
    quality: str | None = None
    max_error_s: float | None = None


class RecorderStatus(msgspec.Struct, frozen=True):
    """What the recorder has done since the start; what it lost is lost to the recordings alone."""

    lost_samples: int
    files: int
    bytes: int
    clips: int
    clips_lost: int


class StreamStatus(msgspec.Struct, frozen=True):
    sample_rate_hz: int
    elapsed_samples: int
    analysed_samples: int
    gap_samples: int
    skipped_samples: int
    pending_samples: int
    lag_s: float
    real_time_factor: float | None
    level_dbfs: float | None
    clipped: int
    source: str
    trouble: str | None
    clock: ClockState
    hop_s: float
    detections: int
    flood_detections: int
    last_detection_utc: str | None
    recorder: RecorderStatus | None


class BridgeStatus(msgspec.Struct, frozen=True):
    """How a bridge is: what waits for the other side, and why."""

    behind: int  # records, at most the thousand that it looks ahead
    down_since_utc: str | None  # the other side takes nothing; None while it does
    error: str | None  # what it, or the network, says
    refused: int  # records that it would not take, since the start


class JournalStatus(msgspec.Struct, frozen=True):
    """How much the journal holds; in the heartbeat of a station that keeps it within limits."""

    bytes: int  # of the records and their indexes, and of the WAL; not what is free in the file
    oldest_utc: dict[str, str]  # by kind, when the oldest record was made that is kept


class AlertStatus(msgspec.Struct, frozen=True):
    """An alert that stands: for who comes too late for its records."""

    alert: str  # the id of its `raised` record
    rule: str
    label: str
    level: Level
    first_utc: str | None
    last_utc: str | None
    expires_utc: str | None


class Status(msgspec.Struct, frozen=True):
    """The heartbeat; not journalled."""

    log: str | None
    last_seq: int | None
    every_s: float
    recovery: int | None
    started_utc: str
    version: str
    model: ModelName
    provider: str
    durable: bool | None
    streams: dict[str, StreamStatus]
    held_records: int
    dropped_records: int
    disk_free_bytes: int | None
    bridges: dict[str, BridgeStatus] = {}
    journal: JournalStatus | None = None
    alerts: tuple[AlertStatus, ...] = ()


Body = Detection | Alert | Gap | Effort | Event | Status


class Record(msgspec.Struct, frozen=True):
    """A record before the journal has numbered it."""

    kind: Kind
    station: str
    stream: str
    mode: Mode
    id: str | None  # a status has none
    time_utc: str  # when it was made
    body: Body

    def wire(self, numbers: Numbers | None = None) -> Wire:
        """The JSON object that subscribers get; without a journal the four numbers are null."""
        head = {name: getattr(self, name) for name in ("kind", "station", "stream", "mode", "id", "time_utc")}
        body = msgspec.to_builtins(self.body)
        # A status carries the journal's place itself, as fields of its own.
        numbered = {} if self.kind == "status" else msgspec.structs.asdict(numbers or NO_NUMBERS)
        return {"schema": SCHEMA, **head, **numbered, **body}


class Numbers(msgspec.Struct, frozen=True):
    """A record's place in a journal: `(log, seq)` is a subscriber's position, `prev_seq` tells losses."""

    log: str | None
    seq: int | None
    prev_seq: int | None
    durable: bool | None


NO_NUMBERS = Numbers(None, None, None, None)


class _Head(msgspec.Struct, frozen=True):
    """What a reader needs of every record, of whatever kind; other fields it does not know."""

    kind: str
    station: str
    stream: str
    log: str | None = None
    seq: Seq | None = None
    prev_seq: Seq | None = None
    last_seq: Seq | None = None
    recovery: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    every_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


def read_record(frame: bytes | msgspec.Raw) -> Wire:
    """A record as it came over the wire.

    Raises:
        ValueError: it is none.
    """
    try:
        head = msgspec.json.decode(frame, type=_Head)
        wire: Wire = msgspec.json.decode(frame)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if head.seq is not None and head.seq <= (head.prev_seq or 0):
        raise ValueError(f"record {head.seq} says that {head.prev_seq} was before it")
    return wire


def topic(wire: Wire) -> bytes:
    """The first frame: `<kind>/<station>/<stream>`."""
    return f"{wire['kind']}/{wire['station']}/{wire['stream']}".encode()


def record_id(
    kind: Kind, station: str, stream: str, key: str | None, first_sample: int | None, *rest: str | int | None
) -> str:
    """The same file, settings and names give the same ids again.

    `rest` by kind: detections model sha256, label; alerts rule, label, revision; gaps reason; effort its end
    sample; events what, time_utc.
    """
    parts = (kind, station, stream, key, first_sample, *rest)
    text = "\n".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
