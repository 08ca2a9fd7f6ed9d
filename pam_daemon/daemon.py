"""What the process does: listens to devices, or replays recordings, until it is done or asked to end."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import platformdirs
import structlog

from pam_daemon.analysis.reports import Origin
from pam_daemon.analysis.stream import PLACES_EVERY_S, Stream
from pam_daemon.capture.sources import Outage, Source
from pam_daemon.capture.sources.file import Recording
from pam_daemon.capture.sources.hydrophone import Hydrophone
from pam_daemon.chores import Chore, Rota
from pam_daemon.clock import NS_PER_S, Clock, SampleClock, utc_ns_of
from pam_daemon.config import Config
from pam_daemon.config import Device as DeviceChoice
from pam_daemon.control import Control, socket_path
from pam_daemon.errors import ConfigError, JournalError, PamdError
from pam_daemon.fill import file_pieces, fill
from pam_daemon.journal import retention
from pam_daemon.outlets import metrics
from pam_daemon.outlets.bridge import Feed
from pam_daemon.outlets.bridges import Bridges
from pam_daemon.outlets.recorder import Recorder
from pam_daemon.records import Event, Wire
from pam_daemon.stages import Supervisor
from pam_daemon.station import Station

EFFORT_EVERY_S = 900.0
LINE_EVERY_S = 60.0  # one canonical line in the log
_LOAD_EVERY_S = 1.0
# What the device's process has kept while the daemon was held up comes at once: the ring has room for all of it.
_BURST_S = 2.0  # that the device itself had
_PIPE_SAMPLES = 65_536 // 4  # and the pipe
_REPLAY_RING_S = 64.0  # of sound read ahead of the worker, at most
_REPLAY_RING_SAMPLES = 16_000_000  # likewise, of all channels: 64 MB
_ASSUMED_RATE_HZ = 48_000  # of a device that is absent at the start, until it has once been seen
_TICK_S = 0.1  # how often the main thread looks up

log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """How far a replay is; written by the worker's thread, read by the main one."""

    total_s: float
    windows: int = 0
    took_s: float = 0.0
    done_s: float = 0.0  # in recordings that are over
    stream: Stream | None = None  # of the recording that is not

    @property
    def heard_s(self) -> float:
        return self.done_s + (self.stream.decided_s if self.stream else 0.0)


def replay(
    station: Station,
    recordings: Sequence[Recording],
    *,
    speed: float | None,
    on_tick: Callable[[Progress], None],
    on_recording: Callable[[Recording], None],
) -> Progress:
    """Analyse recordings one after the other, as fast as they can be (speed None) or so many times real time.

    `on_recording` is called before each on the worker's thread, `on_tick` ever so often on the calling one.
    """
    station.check_rules(max(recording.channels for recording in recordings))
    progress = Progress(sum(recording.samples / recording.sample_rate_hz for recording in recordings))

    def work() -> None:
        for recording in recordings:
            if station.crew.stop.is_set():
                break
            on_recording(recording)
            _replay_one(station, recording, speed, progress)

    with _signals(station.crew.stop):
        station.wait_for_subscriber()
        began_ns = station.clock.monotonic_ns()
        worker = station.crew.start("worker", work)
        while worker.is_alive():
            worker.join(_TICK_S)
            on_tick(progress)
    progress.took_s = (station.clock.monotonic_ns() - began_ns) / NS_PER_S
    return progress


def _replay_one(station: Station, recording: Recording, speed: float | None, progress: Progress) -> None:
    rate_hz = recording.sample_rate_hz
    start_utc_ns = None if recording.start_utc is None else utc_ns_of(recording.start_utc)
    origin = Origin(SampleClock(rate_hz, start_utc_ns), recording.key)
    names = [f"ch{number + 1}" for number in range(recording.channels)]
    ring_s = min(_REPLAY_RING_S, _REPLAY_RING_SAMPLES / (rate_hz * recording.channels))
    streams = [station.add_stream(name, recording, ring_s, wait=True) for name in names]
    for stream in streams:
        stream.origin = origin
    progress.stream = streams[0]
    pieces = file_pieces(recording, speed, station.crew.stop, station.clock)
    work = partial(fill, pieces, streams, range(len(streams)), station.clock, station.stages.add("capture"))
    filler = station.crew.start("capture", work)
    station.analyse(streams)
    filler.join()
    progress.windows += sum(stream.windows for stream in streams)
    progress.done_s, progress.stream = progress.heard_s, None


Heard = tuple[DeviceChoice, Source]


@contextmanager
def hydrophones(
    choices: Sequence[DeviceChoice], stop: threading.Event, clock: Clock, keep_s: float, *, required: bool
) -> Iterator[list[Heard]]:
    """Devices opened, and let go at the end; what they capture until they are listened to is kept.

    Raises:
        SourceError: a `required` device that is not there or cannot be opened; others are waited for.
    """
    with ExitStack() as opened:
        yield [(choice, opened.enter_context(_open(choice, stop, clock, keep_s, required))) for choice in choices]


def run(station: Station, devices: Sequence[Heard], config: Config, load: Callable[[], Config]) -> None:
    """Listen to devices, or to what plays in their place, until SIGTERM or SIGINT; what was captured is analysed.

    A device that is lost is opened again, as often as it takes. SIGHUP reads the configuration again, with `load`.

    Raises:
        EndpointError: a daemon of this station runs already, or the port for metrics is taken.
        ConfigError: two streams of one name, or one that cannot be recorded; a bridge's secret or certificates.
        RecordError: the directory for recordings cannot be written.
    """
    hangup = threading.Event()
    port = config.metrics.port
    scraped = nullcontext() if port is None else metrics.serve(port, station.status)
    with _signals(station.crew.stop, hangup), scraped:
        control = Control(socket_path(station.address), station.state)
        fillers: list[tuple[str, Callable[[], None]]] = []
        streams: list[Stream] = []
        for choice, source in devices:
            prefix = f"{_device_name(choice)}-" if len(devices) > 1 else ""
            room_s = config.capture.ring_s + _BURST_S + _PIPE_SAMPLES / source.channels / source.sample_rate_hz
            own = [
                station.add_stream(f"{prefix}ch{channel}", source, room_s, wait=False) for channel in choice.channels
            ]
            rows = [channel - 1 for channel in choice.channels]
            stage = f"capture {choice.device}"
            work: Callable[[], None] = partial(
                fill, source.blocks(), own, rows, station.clock, station.stages.add(stage)
            )
            fillers.append((stage, work))
            streams += own
        _refuse_same_names(streams)
        station.check_rules(len(streams))
        if not config.alerts:
            log.info("no alert rules", text="calls are reported one by one; the configuration's `alerts` tallies them")
        recorder = Recorder(config.record, station.name, streams, station.clock) if config.record.directory else None
        with _bridges(station, config) as bridges:
            for name, work in fillers:
                station.crew.start(name, work)
            worker = station.crew.start("worker", partial(_run_worker, station, streams, config.model.canary_s))
            if recorder is not None:
                station.crew.start("recorder", partial(recorder.run, worker.is_alive))
            station.crew.start("control", partial(control.run, station.crew.stop))
            log.info("listening", streams=[stream.name for stream in streams], provider=station.provider)
            _supervise(station, worker, hangup, partial(_reload, station, bridges, load))


@contextmanager
def _bridges(station: Station, config: Config) -> Iterator[Bridges]:
    """The station's bridges; they end when nothing more is journalled."""
    feed = Feed(station.open_journal, station.appended, station.tell, station.clock)
    bridges = Bridges(station.address, feed, station.crew.start)
    bridges.prepare(config.bridges)()
    station.bridges, station.handed_over = bridges.status, bridges.handed_over
    try:
        yield bridges
    finally:
        bridges.stop()


def _refuse_same_names(streams: Sequence[Stream]) -> None:
    """Two streams of one name would share their ids and their topic."""
    names = [stream.name for stream in streams]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"stream {name}: two of this name; give each of the devices a name of its own")


def _supervise(station: Station, worker: threading.Thread, hangup: threading.Event, reload: Callable[[], None]) -> None:
    """Until the worker has ended; systemd hears from us while every stage moves."""
    supervisor = Supervisor()
    supervisor.tell("READY=1", f"STATUS=listening on {station.provider}")

    def beat() -> None:
        if station.stages.all_moved():
            supervisor.tell("WATCHDOG=1")

    chores = [Chore(LINE_EVERY_S, lambda: log.info("status", **station.status()))]
    if supervisor.watchdog_s:
        chores.append(Chore(supervisor.watchdog_s / 2, beat))
    rota, stopping = Rota(chores, station.clock), False
    while worker.is_alive():
        worker.join(_TICK_S)
        rota.tick()
        if hangup.is_set():
            hangup.clear()
            supervisor.tell("RELOADING=1", f"MONOTONIC_USEC={station.clock.monotonic_ns() // 1000}")
            reload()
            supervisor.tell("READY=1")
        if station.crew.stop.is_set() and not stopping:
            supervisor.tell("STOPPING=1")
            stopping = True


def _reload(station: Station, bridges: Bridges, load: Callable[[], Config]) -> None:
    """What the configuration says now; one that is wrong changes nothing."""
    try:
        config = load()
        change = bridges.prepare(config.bridges)
        station.reload(config)
        change()
    except PamdError as error:
        log.error("reload refused", error=str(error))
        station.tell(Event("reload_refused", "error", str(error), {}))


def _open(choice: DeviceChoice, stop: threading.Event, clock: Clock, keep_s: float, required: bool) -> Hydrophone:
    hydrophone = Hydrophone(
        choice.device, stop, clock, max(choice.channels), keep_s, sample_rate_hz=choice.sample_rate_hz or 0
    )
    try:
        hydrophone.open()
    except Outage as outage:
        if required:
            raise
        hydrophone.sample_rate_hz = choice.sample_rate_hz or _ASSUMED_RATE_HZ
        log.warning("device absent", device=choice.device, error=str(outage), sample_rate_hz=hydrophone.sample_rate_hz)
    return hydrophone


def _run_worker(station: Station, streams: Sequence[Stream], canary_s: float) -> None:
    chores = [
        Chore(EFFORT_EVERY_S, station.report_effort),
        Chore(PLACES_EVERY_S, station.keep_places),
        Chore(canary_s, station.test_model),
        Chore(_LOAD_EVERY_S, station.judge_load),
        Chore(retention.EVERY_S, station.tidy),
    ]
    station.analyse(streams, chores)
    station.keep_places()


def _device_name(choice: DeviceChoice) -> str:
    return choice.name or re.sub(r"[^A-Za-z0-9_-]+", "_", choice.device)[:27]


def log_record(wire: Wire, new: bool) -> None:
    """What `run` logs of each record; the journal has the rest."""
    fields = {key: wire[key] for key in ("id", "stream", "seq", "mode")}
    match wire["kind"]:
        case "detection":
            log.info("detection", label=wire["label"], score=round(wire["score"], 3), peak=wire["peak_utc"], **fields)
        case "alert":
            shown = {key: wire[key] for key in ("rule", "label", "count", "expires_utc", "coverage", "flood")}
            # `level` is the log's own word, for how bad it is.
            log.warning(f"alert {wire['state']}", alert_level=wire["level"], **shown, **fields)
        case "gap":
            log.warning("gap", term=wire["term"], reason=wire["reason"], duration_s=wire["duration_s"], **fields)
        case "event":
            getattr(log, wire["severity"])(wire["what"], text=wire["text"], **fields)
        case kind:
            log.info(kind, **fields)


def journal_path(config: Config, given: Path | None) -> Path:
    """Where `run` keeps its journal: as given, else configured, else in systemd's or the user's state directory.

    Raises:
        JournalError: the state directory cannot be made.
    """
    if given is not None or config.journal.path is not None:
        return given or Path(str(config.journal.path))
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    directory = Path(state) if state else platformdirs.user_state_path("pamd")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{directory}: cannot be made: {error.strerror}; give --journal") from error
    return directory / f"{config.station.name}.journal"


@contextmanager
def _signals(stop: threading.Event, hangup: threading.Event | None = None) -> Iterator[None]:
    """SIGINT and SIGTERM ask for the end; a second one insists on it. SIGHUP sets `hangup`, where there is one."""
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    if hangup is not None:
        before[int(signal.SIGHUP)] = signal.getsignal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, lambda *_: hangup.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
