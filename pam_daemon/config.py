"""The configuration, in plain structs: the only list of keys, with their defaults, bounds and descriptions.

How it is read and printed is settings.py's; `pamd config` and configs/pamd.yaml are printed from these structs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pam_daemon.records import NAME_PATTERN, Mode

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5556"

Provider = Literal["auto", "cuda", "cpu"]
Preset = Literal["tally-15min", "three-in-60s", "hold-24h", "slow-zone-15d"]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Text = Annotated[str, Meta(pattern=r"\A[^\0]+\Z")]  # what a path or a word of a command can be
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,253}$")]
Kept = Literal["detection", "alert", "gap", "effort", "event"]  # the kinds that the journal keeps


class Station(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who speaks."""

    name: Annotated[Name, Meta(description="letters, digits, _ and -, at most 32; part of every topic and id")] = "pamd"
    latitude_deg: Annotated[Latitude | None, Meta(description="north is positive; goes into every detection")] = None
    longitude_deg: Annotated[Longitude | None, Meta(description="east is positive")] = None


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One PortAudio device."""

    device: Annotated[Text, Meta(description="as `pamd devices` prints it")]
    name: Annotated[Name | None, Meta(description="begins its streams' names where there are several devices")] = None
    channels: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], Meta(min_length=1)],
        Meta(description="the device's channels to listen to, from 1; a stream each, ch1, ch2..."),
    ] = (1,)
    sample_rate_hz: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, Meta(description="null: the device's native one")
    ] = None


class ModelChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is listened for. The model's card is the authority; a site may override its threshold and hop."""

    path: Annotated[Text | None, Meta(description="an ONNX file with a pamd card; null: the shipped model")] = None
    provider: Annotated[Provider, Meta(description="auto, cuda (refuses to fall back) or cpu")] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=0, le=1024)], Meta(description="of the model on a CPU; 0: one a core")
    ] = 0
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=65_536)], Meta(description="windows in one inference call, at most")
    ] = 64
    threshold: Annotated[Share | None, Meta(description="null: the model's own; else give sha256 too")] = None
    hop_s: Annotated[Seconds | None, Meta(description="null: the model's own; else give sha256 too")] = None
    sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None,
        Meta(description="the model that threshold and hop_s were found for; with another they are refused"),
    ] = None
    canary_s: Annotated[
        Annotated[float, Meta(ge=1, le=3600)],
        Meta(description="between golden windows scored while it runs; a wrong score ends the process"),
    ] = 180.0


class Detect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How scores become calls."""

    min_separation_s: Annotated[Seconds, Meta(description="two calls are at least this far apart")] = 1.5


class Flood(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source that repeats itself: its detections are marked, and it extends alerts less often; none is withheld."""

    count: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)],
        Meta(description="detections of a label on a stream in window_s, from which on they are a flood; 0: never"),
    ] = 60
    window_s: Annotated[Seconds, Meta(description="and so long after the last such one it is over")] = 600.0
    extend_every_s: Annotated[Seconds, Meta(description="it extends an alert with a record so often, at most")] = 900.0


class AlertRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When detections, on all streams together, become an alert. What is null is the preset's, else as said."""

    name: Annotated[Name, Meta(description="goes into its alerts and their ids")]
    preset: Annotated[
        Preset | None, Meta(description="tally-15min, three-in-60s, hold-24h or slow-zone-15d; keys below override it")
    ] = None
    label: Annotated[str | None, Meta(description="of the model; null: its only one")] = None
    count: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="so many detections in window_s are `detected`; needed without a preset"),
    ] = None
    window_s: Annotated[Seconds | None, Meta(description="it slides; needed without a preset")] = None
    possible_count: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)] | None,
        Meta(description="so many, fewer than count, are `possible`; null: 0, no such level"),
    ] = None
    min_score: Annotated[Share | None, Meta(description="detections below do not count; null: 0")] = None
    streams: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None,
        Meta(description="so many different ones are needed for `detected`; null: 1"),
    ] = None
    hold_s: Annotated[
        Annotated[float, Meta(gt=0, le=5_184_000)] | None,
        Meta(description="an alert stands so long after the last detection that meets the rule; null: window_s"),
    ] = None
    cool_down_s: Annotated[
        Annotated[float, Meta(ge=0, le=5_184_000)] | None, Meta(description="from its end to the next one; null: 0")
    ] = None
    coverage: Annotated[
        Share | None, Meta(description="of hold_s listened to, for an alert to be cleared, not lapsed; null: 0.9")
    ] = None
    extend_every_s: Annotated[
        Annotated[float, Meta(ge=0, le=86_400)] | None,
        Meta(description="an extension is told so often, at most; null: 0, each"),
    ] = None
    zone_nm: Annotated[
        Annotated[float, Meta(gt=0, le=500)] | None,
        Meta(description="radius of a zone round the station's position, in nautical miles; null: no zone"),
    ] = None


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the device to the ring."""

    ring_s: Annotated[
        Annotated[float, Meta(ge=5, le=3600)], Meta(description="audio kept for a worker that is late")
    ] = 60.0
    floor_dbfs: Annotated[
        Annotated[float, Meta(ge=-200, le=0)], Meta(description="a device with less sound than this is called quiet")
    ] = -90.0


class Overload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker does that cannot keep up: it says so, listens less often if it may, and then skips."""

    lag_s: Annotated[
        Annotated[float, Meta(ge=5, le=3600)],
        Meta(description="behind by more, it is overloaded"),
    ] = 10.0
    hop_s: Annotated[
        Seconds | None, Meta(description="between windows while it is, at most a window's length; null: no other")
    ] = None


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sound itself, as FLAC files, and a clip around each detection."""

    directory: Annotated[str | None, Meta(description="null: nothing is recorded")] = None
    file_minutes: Annotated[
        Annotated[int, Meta(ge=1, le=1440)], Meta(description="a new file at every multiple of it in UTC")
    ] = 60
    max_gb: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="the oldest files go, never clips, to keep the others within; null: no limit"),
    ] = None
    min_free_gb: Annotated[
        Annotated[float, Meta(ge=0)], Meta(description="likewise, to leave the disk so much; else nothing is recorded")
    ] = 1.0
    clip_margin_s: Annotated[
        Annotated[float, Meta(ge=0, le=60)], Meta(description="of a clip, before and after the detection's windows")
    ] = 2.0


class JournalPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where records are kept."""

    path: Annotated[Text | None, Meta(description="null: STATION.journal in the state directory")] = None
    keep_days: Annotated[
        Annotated[float, Meta(ge=1, le=36_500)] | None,
        Meta(description="effort, gaps, events and alerts go when they are older; null: never"),
    ] = 400.0
    largest_megabytes: Annotated[
        Annotated[float, Meta(ge=20)] | None,
        Meta(description="the oldest records go, detections last, to keep the file and its WAL within; null: no limit"),
    ] = 1000.0


class Publish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where records are sent."""

    endpoint: Annotated[
        Annotated[str, Meta(pattern=r"^tcp://[^:]+:(\d+|\*)$")],
        Meta(description="tcp://HOST:PORT; the recovery socket takes PORT + 1"),
    ] = DEFAULT_ENDPOINT
    every_s: Annotated[Seconds, Meta(description="the heartbeat's period")] = 10.0
    keys: Annotated[
        str | None,
        Meta(description="the directory of `pamd keys`: encrypted, for the allowed alone; null: anybody, on loopback"),
    ] = None
    insecure: Annotated[bool, Meta(description="true: anybody who reaches the endpoint, wherever it is")] = False


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Prometheus may ask: http://127.0.0.1:PORT/metrics, for this machine alone."""

    port: Annotated[Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="null: none; 9556 is usual")] = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which records a bridge takes. What a record does not have, as an event no score, is not asked of it."""

    kinds: Annotated[
        Annotated[tuple[Kept, ...], Meta(min_length=1)], Meta(description="detection, alert, gap, effort, event")
    ] = ("alert",)
    labels: Annotated[tuple[str, ...] | None, Meta(description="null: all")] = None
    min_score: Annotated[Share, Meta(description="of a detection, or of an alert's best")] = 0.0
    modes: Annotated[
        Annotated[tuple[Mode, ...], Meta(min_length=1)], Meta(description="live; drill and replay only if asked for")
    ] = ("live",)
    flood: Annotated[bool, Meta(description="detections and extensions of alerts that are marked as a flood, too")] = (
        False
    )


_BRIDGE_NAME = "letters, digits, _ and -, at most 32; its place is kept by it"
_FILTER = "which records; docs/bridges.md says what its keys mean"
_TIMEOUT = "for an answer"


class Mqtt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"):
    """To an MQTT broker."""

    name: Annotated[Name, Meta(description=_BRIDGE_NAME)]
    host: Annotated[Host, Meta(description="the broker's name or address")]
    port: Annotated[Port | None, Meta(description="null: 8883, without tls 1883")] = None
    filter: Annotated[Filter, Meta(description=_FILTER)] = Filter()
    tls: Annotated[bool, Meta(description="false is refused beyond this machine, unless insecure is true")] = True
    ca_file: Annotated[str | None, Meta(description="certificates to trust; null: the system's")] = None
    insecure: Annotated[bool, Meta(description="without tls all the same")] = False
    user: Annotated[str | None, Meta(description="null: none")] = None
    password_file: Annotated[str | None, Meta(description="the user's; a file that not everybody may read")] = None
    prefix: Annotated[
        Annotated[str, Meta(pattern=r"^[^/#+\s\x00$][^#+\s\x00]{0,199}$")],
        Meta(description="topics are PREFIX/<kind>/<station>/<stream>; no #, + or space"),
    ] = "pamd"
    retain: Annotated[bool, Meta(description="the broker keeps the last record of each topic for newcomers")] = False
    version: Annotated[Literal[3, 5], Meta(description="of MQTT; 3 (3.1.1) does not tell what the broker refuses")] = 5
    timeout_s: Annotated[Annotated[float, Meta(ge=1, le=30)], Meta(description=_TIMEOUT)] = 10.0


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """By HTTP POST."""

    name: Annotated[Name, Meta(description=_BRIDGE_NAME)]
    url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s/?#@]+(/[!-~]*)?$")],
        Meta(description="https://HOST/PATH; http is refused beyond this machine, unless insecure is true"),
    ]
    filter: Annotated[Filter, Meta(description=_FILTER)] = Filter()
    ca_file: Annotated[str | None, Meta(description="certificates to trust; null: the system's")] = None
    insecure: Annotated[bool, Meta(description="http all the same")] = False
    token_file: Annotated[
        str | None, Meta(description="of a bearer token; a file that not everybody may read; null: none")
    ] = None
    timeout_s: Annotated[Annotated[float, Meta(ge=1, le=30)], Meta(description=_TIMEOUT)] = 10.0


class Pgalm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="pgalm"):
    """As PAMGuard's alarm sentence, in UDP datagrams, whose loss nobody notices."""

    name: Annotated[Name, Meta(description=_BRIDGE_NAME)]
    host: Annotated[Host, Meta(description="the receiver's name or address, or a network's broadcast address")]
    port: Annotated[Port, Meta(description="PAMGuard's own is 8111")] = 8111
    filter: Annotated[Filter, Meta(description="which alerts and detections; docs/bridges.md")] = Filter()


BridgeChoice = Mqtt | Webhook | Pgalm


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    station: Station = Station()
    devices: tuple[Device, ...] = ()
    model: ModelChoice = ModelChoice()
    detect: Detect = Detect()
    flood: Flood = Flood()
    alerts: tuple[AlertRule, ...] = ()
    capture: Capture = Capture()
    overload: Overload = Overload()
    record: Record = Record()
    journal: JournalPlace = JournalPlace()
    publish: Publish = Publish()
    metrics: Metrics = Metrics()
    bridges: tuple[BridgeChoice, ...] = ()
