"""A station: model, journal, publisher and worker of one process, and the threads they run on."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import structlog

from pam_daemon.alerts.rules import resolve
from pam_daemon.analysis.overload import Overload
from pam_daemon.analysis.stream import Stream, Tap
from pam_daemon.capture.ring import Ring
from pam_daemon.capture.sources import Source
from pam_daemon.chores import Chore
from pam_daemon.clock import rfc3339
from pam_daemon.config import Config
from pam_daemon.control import address, state
from pam_daemon.crew import Crew
from pam_daemon.journal import Bell, Gong, Journal
from pam_daemon.journal.held import RETRY_EVERY_S, Held
from pam_daemon.journal.retention import Retention
from pam_daemon.lookout import Lookout
from pam_daemon.records import STATION_WIDE, BridgeStatus, Event, Record, Status, Wire, record_id
from pam_daemon.settings import changes
from pam_daemon.setup import Setup, settle_threshold
from pam_daemon.stages import Stages
from pam_daemon.wire.keys import StationKeys, station_keys
from pam_daemon.wire.publish import Publisher
from pam_daemon.worker import Worker

RELOADED = {  # keys that SIGHUP takes on
    "model.threshold",
    "model.sha256",
    "alerts",
    "bridges",
    "publish.keys",
    "journal.keep_days",
    "journal.largest_megabytes",
}
_SUBSCRIBER_WAIT_S = 2.0

log = structlog.get_logger()
OnRecord = Callable[[Wire, bool], None]  # a record as subscribers get it, and whether the journal did not have it yet


class Station:
    """Worker, journal and publisher of one process; a context manager that ends them in reverse.

    Args:
        journal_path: None keeps no journal, unless there is an endpoint, which gets a temporary one.
        endpoint: None publishes nothing.
        on_record: called on the worker's thread with each record, after its commit.
        linger_s: how long recovery is answered after the end.
        stop: ends the sources; the station's own where they need none before it.

    Raises:
        JournalError, EndpointError, KeyFileError: a path, an endpoint or keys that cannot be used, before anything is
            heard.
    """

    def __init__(
        self,
        setup: Setup,
        journal_path: Path | None,
        endpoint: str | None,
        on_record: OnRecord,
        linger_s: float,
        stop: threading.Event | None = None,
    ) -> None:
        self.crew = Crew(stop or threading.Event())
        self.clock = setup.clock
        self.provider = setup.model.provider
        self.name = setup.analysis.station
        self.address = address(self.name, setup.analysis.mode)
        self.streams: Sequence[Stream] = ()
        self.appended = Gong()  # rung at every commit
        self.bridges: Callable[[], dict[str, BridgeStatus]] = dict
        self.handed_over: Callable[[], dict[str, int]] = dict  # by kind, up to which seq all bridges are done
        self.tap: Tap | None = None  # of the streams to come
        self._setup = setup
        self._on_record = on_record
        self._started_utc = rfc3339(setup.clock.utc_ns())
        self._version = version("pamd")  # of what runs, whatever is installed later
        self._changed = threading.Condition()
        self._silent = threading.Event()  # the worker is done: the publisher may end
        self.stages = Stages()
        self._worker = Worker(
            setup.model,
            setup.config.model.batch,
            self._changed,
            self._take_told,
            self._hand_on,
            setup.clock,
            self.stages.add("worker"),
        )
        load, analysis = setup.config.overload, setup.analysis
        hop_s = analysis.hop_samples / analysis.model_rate_hz
        self._overload = Overload(load.lag_s, int((load.hop_s or hop_s) / hop_s), hop_s)
        self._lookout = Lookout(analysis, setup.rules, setup.clock)
        self._told: deque[Record] = deque()  # of what is rare: changes of a state
        self._held = Held(self.tell, clock=setup.clock, mends=setup.analysis.mode != "replay")
        self._journal: Journal | None = None  # the worker's connection
        self._retention: Retention | None = None
        self._places: dict[str, int] = {}  # UTC, in ns, up to which each stream was listened to before this start
        self.publisher: Publisher | None = None
        self._keys: StationKeys | None = None
        self._exits = ExitStack()
        with ExitStack() as exits:
            self._bell = exits.enter_context(closing(Bell()))
            if journal_path is None and endpoint is not None:
                journal_path = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="pamd-"))) / "journal"
            self._journal_path = journal_path
            if journal_path is not None:
                self._journal = exits.enter_context(
                    closing(Journal(journal_path, [self._bell, self.appended], self._held))
                )
                self._journal.reserve()
                self._places = self._journal.places()
                self._retention = self._retain(self._journal)
                if endpoint is not None:
                    self._keys = self._read_keys(setup.config)
                    self.publisher = self._bind(endpoint, self._journal.ends()[1] or 0, linger_s)
            self._exits = exits.pop_all()

    def __enter__(self) -> Station:
        if self.publisher is not None:
            log.info("publishing", endpoint=self.publisher.endpoint, recovery_port=self.publisher.recovery_port)
            self.crew.start("publisher", partial(self.publisher.run, self._silent))
            if self.publisher.exposed:
                text = f"{self.publisher.endpoint} answers everybody who reaches it, unencrypted"
                log.warning("insecure", text=text)
                if self._setup.analysis.mode != "replay":
                    self.tell(Event("insecure", "warning", text, {"endpoint": self.publisher.endpoint}))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.crew.stop.set()
        self._silent.set()
        self._bell.ring()  # a publisher that waits looks up
        with self._exits:
            self.crew.join()

    def check_rules(self, streams: int) -> None:
        """Say what the alert rules can promise on so many streams.

        Raises:
            ConfigError: a rule that nothing can meet.
        """
        self._lookout.check(self._setup.rules, streams)

    def wait_for_subscriber(self) -> None:
        """Until somebody listens, or a moment has passed."""
        if self.publisher is not None:
            self.publisher.subscribed.wait(_SUBSCRIBER_WAIT_S)

    def add_stream(self, name: str, source: Source, ring_s: float, *, wait: bool) -> Stream:
        ring = Ring(round(ring_s * source.sample_rate_hz), wait=wait, changed=self._changed)
        stream = Stream(name, source, ring, self._setup.analysis, heard_until_utc_ns=self._places.get(name))
        stream.tap = self.tap
        return stream

    def analyse(self, streams: Sequence[Stream], chores: Sequence[Chore] = ()) -> None:
        """The worker's share, on the thread that calls; whatever ends it releases the capture threads."""
        self.streams = streams
        try:
            self._lookout.begin(streams, self._journal, self._places)
            self._worker.run(streams, [*chores, Chore(RETRY_EVERY_S, self._write_held)])
            if self._setup.analysis.mode == "drill":
                self._hand_on(self._lookout.close())
            self.report_effort()
            self._write_held(now=True)
            self._hand_on(self._take_told())
        finally:
            for stream in streams:
                stream.ring.close()

    def tell(self, event: Event) -> None:
        """Something that happened to the station, on any thread; the worker journals it in its next round."""
        analysis, now = self._setup.analysis, rfc3339(self.clock.utc_ns())
        identity = record_id("event", analysis.station, STATION_WIDE, None, None, event.what, now)
        self._told.append(Record("event", analysis.station, STATION_WIDE, analysis.mode, identity, now, event))

    def _take_told(self) -> list[Record]:
        return [self._told.popleft() for _ in range(len(self._told))]

    def report_effort(self) -> None:
        """What was listened to, of every stream that has begun."""
        self._hand_on([stream.effort(self.clock) for stream in self.streams if stream.origin])

    def judge_load(self) -> None:
        """Whether the worker keeps up; while it does not, it listens less often, if it may."""
        lag_s = max(stream.lag_s for stream in self.streams)
        event = self._overload.judge(lag_s, sum(stream.skipped_samples for stream in self.streams))
        if event is not None:
            self.tell(event)
            for stream in self.streams:
                stream.thin(self._overload.stride)

    def test_model(self) -> None:
        """A canary: a golden window through the model as it is now.

        Raises:
            ModelError: its score does not come out, which ends the process.
        """
        self._setup.model.canary()

    def reload(self, config: Config) -> None:
        """Take on threshold, alert rules and keys, and say what else is taken on and what needs a restart.

        Raises:
            ConfigError: a threshold for another model, or a rule that cannot be.
            KeyFileError: keys that cannot be used.
        """
        setup = self._setup
        threshold = settle_threshold(config.model, setup.model, setup.threshold)
        keys = self._read_keys(config)
        changed = changes(setup.config, config)
        takes = RELOADED if (keys is None) == (self._keys is None) else RELOADED - {"publish.keys"}
        rules = resolve(config.alerts, setup.analysis.labels, setup.analysis.position)
        if rules != setup.rules:
            self._lookout.check(rules, len(self.streams))
            self._lookout.change(rules)
        for stream in self.streams:
            stream.threshold = threshold
        restart = sorted(changed.keys() - takes)
        taken = {key: list(changed[key]) for key in sorted(changed.keys() & takes)}
        if "bridges" in taken:  # by name: a web address may be a secret
            taken["bridges"] = [[bridge["name"] for bridge in side] for side in taken["bridges"]]
        text = f"threshold {threshold.score:g} ({threshold.source}), {len(rules)} alert rules"
        data: Wire = {"changed": taken, "restart_needed": restart, "threshold": threshold.score}
        if keys is not None and self._keys is not None:
            data |= self._take_on(keys)
            text += f"; allowed: {', '.join(data['allowed']) or 'nobody'}"
        if restart:
            text += f"; a restart is needed for {', '.join(restart)}"
        self._setup = replace(setup, config=setup.config if restart else config, rules=rules)
        if self._retention is not None:
            self._retention.choice = config.journal
        self.tell(Event("reload", "warning" if restart else "info", text, data))

    def _take_on(self, keys: StationKeys) -> Wire:
        """Whose keys are allowed from now on, and whose no more."""
        assert self._keys is not None and self.publisher is not None, "a station with keys publishes"
        revoked = set(self._keys.subscribers.items()) - set(keys.subscribers.items())
        self._keys = keys
        self.publisher.take_on(keys)
        return {"allowed": sorted(keys.subscribers), "revoked": sorted(name for name, _ in revoked)}

    def _read_keys(self, config: Config) -> StationKeys | None:
        return None if config.publish.keys is None else station_keys(Path(config.publish.keys), self.name)

    def keep_places(self) -> None:
        """Where every stream is, for the next start to know since when nobody listened."""
        assert self._journal is not None, "only a live station keeps its places, and it has a journal"
        self._journal.keep_places({s.name: utc_ns for s in self.streams if (utc_ns := s.decided_utc_ns) is not None})

    def tidy(self) -> None:
        """A little of what the journal need not keep any more is deleted."""
        assert self._retention is not None, "only a live station deletes, and it has a journal"
        with self._retention.journal.trusted():
            self._retention.tidy()

    def _retain(self, journal: Journal) -> Retention:
        choice, needed_ns = self._setup.config.journal, self._lookout.needed_ns
        return Retention(journal, choice, needed_ns, lambda: self.handed_over(), self.tell, self.clock)

    def _write_held(self, *, now: bool = False) -> None:
        if self._journal is not None:
            self._journal.write_held(now=now)

    def _hand_on(self, records: Sequence[Record]) -> None:
        """Records of one round, and what the alert rules make of them: also of none, when an alert's time is up."""
        records = [*records, *self._lookout.follow(records)]
        if not records:
            return
        stored = self._journal.append(records) if self._journal else [(record.wire(), True) for record in records]
        for wire, new in stored:
            self._on_record(wire, new)
        if any(wire["kind"] == "event" and wire["what"] == "stream_began" for wire, new in stored):
            self.keep_places()  # what ends before the first chore has been told of, too

    def open_journal(self) -> Journal:
        """A connection for another thread than the worker."""
        assert self._journal_path is not None, "only where there is a journal"
        return Journal(self._journal_path, held=self._held)

    def _bind(self, endpoint: str, after: int, linger_s: float) -> Publisher:
        return Publisher(
            endpoint,
            self.open_journal,
            after,
            self._bell,
            status=self._status,
            every_s=self._setup.config.publish.every_s,
            linger_s=linger_s,
            clock=self._setup.clock,
            moved=self.stages.add("publisher"),
            keys=self._keys,
            insecure=self._setup.config.publish.insecure,
        )

    def status(self) -> Wire:
        """What the heartbeat says, as its fields; on any thread."""
        with closing(self.open_journal()) as journal:
            port = self.publisher.recovery_port if self.publisher else None
            return self._status(port, journal.ends()[1]).wire()

    def state(self) -> Wire:
        """What `pamd status` prints, of a live station; on any thread."""
        with closing(self.open_journal()) as journal:
            with journal.trusted():
                return state(self.status(), journal, self.clock.utc_ns())
            return state(self.status(), journal, self.clock.utc_ns())  # of which nothing is read any more

    def _status(self, recovery: int | None, last_seq: int | None) -> Record:
        factor = self._worker.real_time_factor
        body = Status(
            log=self._held.log,
            last_seq=last_seq,
            every_s=self._setup.config.publish.every_s,
            recovery=recovery,
            started_utc=self._started_utc,
            version=self._version,
            model=self._setup.model.name,
            provider=self._setup.model.provider,
            durable=self._journal is not None and not self._held.refused,
            streams={stream.name: stream.status(factor) for stream in self.streams},
            held_records=len(self._held),
            dropped_records=self._held.dropped,
            disk_free_bytes=None if self._journal_path is None else _free_bytes(self._journal_path.parent),
            bridges=self.bridges(),
            journal=self._retention.status if self._retention else None,
            alerts=self._lookout.standing(),
        )
        analysis = self._setup.analysis
        now = rfc3339(self._setup.clock.utc_ns())
        return Record("status", analysis.station, STATION_WIDE, analysis.mode, None, now, body)


def _free_bytes(directory: Path) -> int | None:
    """None on a disk that fails."""
    with suppress(OSError):
        return shutil.disk_usage(directory).free
    return None
