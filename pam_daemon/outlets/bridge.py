"""A bridge: a cursor on the journal that hands records to another side, one by one, until each has been taken.

The journal is its only queue: an outage delays, and loses nothing. Its place is kept in a file beside the journal, once
the other side has taken a record: whoever is killed in between hands that one over again, with the same id. It is not
kept in the journal's database, where that would hold up the worker's commits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from pam_daemon.clock import NS_PER_S, Clock, rfc3339
from pam_daemon.config import Filter
from pam_daemon.errors import BridgeError, JournalError
from pam_daemon.journal import Gong, Journal
from pam_daemon.records import BridgeStatus, Event, Wire

TRIES = 3  # so often a record is offered before an outage is told, or one that is refused is put aside
LONGEST_RETRY_S = 300.0
_COUNT_EVERY_S = 5.0  # what waits, during an outage
_IDLE_S = 1.0  # the longest sleep, for who has to keep a connection
_LAST_S = 5.0  # at the end, for what is left
_BATCH = 1000  # records read from the journal at a time

log = structlog.get_logger()


class Undelivered(BridgeError):
    """Nobody is there, or not in order: the record is offered again."""


class Refused(BridgeError):
    """This record will not be taken, whenever it is offered."""


class Outlet(Protocol):
    """The other side, as one thread sees it. Whatever blocks, ends within a time limit."""

    def send(self, wire: Wire) -> None:
        """Return once the record has been taken.

        Raises:
            Undelivered, Refused: it has not.
        """

    def idle(self) -> None:
        """Called every second while there is nothing to send.

        Raises:
            Undelivered: nobody would take it now.
        """

    def reach(self) -> str:
        """What can be found out without a record, for people.

        Raises:
            Undelivered: nobody is there, or not in order.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Feed:
    """What a station gives its bridges."""

    open_journal: Callable[[], Journal]  # a connection for the thread that asks
    appended: Gong  # rung at every commit
    tell: Callable[[Event], None]
    clock: Clock
    retry_s: float = 1.0  # after the first failure; each time twice as long


@dataclass(slots=True)
class Outage:
    """The other side takes nothing."""

    since_utc: str
    since_ns: int  # by the monotonic clock
    error: str
    attempts: int  # that failed


class Place(msgspec.Struct, frozen=True):
    """The last record that is done with; the numbers of another log say nothing."""

    log: str
    seq: int


class Bridge:
    """Hands over what a filter lets through, from its place on; without a place, from what comes next.

    Raises:
        JournalError: the place cannot be kept.
    """

    def __init__(self, name: str, outlet: Outlet, wanted: Filter, feed: Feed) -> None:
        self.name = name
        self._outlet = outlet
        self._wanted = wanted
        self._feed = feed
        self._stop = threading.Event()
        self._stopped_s = float("inf")
        with closing(feed.open_journal()) as journal:
            self._path = place_path(journal.path, name)
            self._place, end = Place(journal.log, 0), Place(journal.log, journal.ends()[1] or 0)
        if not self._path.exists():
            try:
                _save(self._path, end)
            except OSError as error:
                raise JournalError(f"{self._path}: the bridge cannot keep its place: {error.strerror}") from error
        self._read_seq = 2**63  # up to which the journal has been looked at; at first nobody knows what is there
        self._unkept = False  # what was said of the place, once
        self._behind = 0
        self._outage: Outage | None = None
        self._refusals = 0  # of one record
        self._refused = 0  # records put aside

    @property
    def done(self) -> int:
        """Up to which seq the journal's records have been dealt with."""
        return self._place.seq

    def status(self) -> BridgeStatus:
        outage = self._outage
        since_utc, error = (outage.since_utc, outage.error) if outage else (None, None)
        return BridgeStatus(self._behind, since_utc, error, self._refused)

    def stop(self) -> None:
        """Ask for the end, on any thread; what is left is offered once more, if the other side takes anything."""
        self._stopped_s = time.monotonic()
        self._stop.set()
        self._feed.appended.ring()

    def run(self) -> None:
        """Until `stop`."""
        heard = -1
        with closing(self._feed.open_journal()) as journal, closing(self._outlet):
            self._find_place(journal)
            while not self._stop.is_set():
                if self._outage:
                    self._pause(journal, self._outage.attempts)
                else:
                    heard = self._feed.appended.wait(heard, _IDLE_S)
                self._go_on(journal)
            if self._outage is None:  # else the end would wait for who does not answer
                self._go_on(journal)
            self._keep(self._place.seq)

    def _pause(self, journal: Journal, attempts: int) -> None:
        """Before the next attempt; what waits is counted meanwhile."""
        end_s = time.monotonic() + min(LONGEST_RETRY_S, self._feed.retry_s * 2.0 ** (attempts - 1))
        while (left_s := end_s - time.monotonic()) > 0 and not self._stop.wait(min(left_s, _COUNT_EVERY_S)):
            with suppress(Undelivered):
                self._read(journal)

    def _find_place(self, journal: Journal) -> None:
        """Where it was; in a log that it does not know, or without knowing where, the beginning: nothing is lost."""
        try:
            place = msgspec.json.decode(self._path.read_bytes(), type=Place)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("bridge has lost its place", bridge=self.name, path=str(self._path), error=str(error))
            place = Place("", 0)
        self._place = place if place.log == journal.log else Place(journal.log, 0)
        if place.log and place.log != journal.log:
            self._tell_lost(place, f"what came after {place.seq} in log {place.log}, which is not there any more")
        elif (expired := journal.expired(self._wanted.kinds)) > self._place.seq:
            self._tell_lost(place, f"what the journal no longer keeps, of the records after {place.seq} to {expired}")

    def _follow(self, journal: Journal) -> None:
        """Where the journal is another now; its numbers go on."""
        if journal.log == self._place.log:
            return
        place, self._place = self._place, Place(journal.log, self._place.seq)
        if place.seq < journal.began_after:
            self._tell_lost(place, f"what came after {place.seq} in log {place.log}, to {journal.began_after}")

    def _tell_lost(self, place: Place, what: str) -> None:
        data = {"bridge": self.name, "log": place.log, "seq": place.seq}
        self._feed.tell(Event("bridge_lost", "warning", f"bridge {self.name}: cannot hand over {what}", data))

    def _go_on(self, journal: Journal) -> None:
        """Hand over what there is, as far as it is taken."""
        try:
            while self._hand_over_batch(journal):
                pass
            self._outlet.idle()
            self._recover()
        except BridgeError as error:
            self._fail(str(error))

    def _hand_over_batch(self, journal: Journal) -> bool:
        """Whether there may be more."""
        waiting, end = self._read(journal)
        for wire in waiting:
            if time.monotonic() > self._stopped_s + _LAST_S:
                return False
            self._hand_over(wire)
        more, self._place = end.seq > self._place.seq, end
        return more

    def _read(self, journal: Journal) -> tuple[list[Wire], Place]:
        """What waits, and the place after it and what is passed over.

        Raises:
            Undelivered: some of what waits is on a disk that cannot be read; what is held must not overtake it.
        """
        last_seq = journal.ends()[1] or 0  # before reading: what comes in between may be read or not
        records = journal.since(self._place.seq, kinds=self._wanted.kinds, limit=_BATCH)
        waiting = [wire for wire in records if passes(self._wanted, wire)]
        self._behind = len(waiting)
        end = records[-1]["seq"] if records else self._place.seq
        if len(records) < _BATCH:
            end = max(end, last_seq)
        if journal.readable:
            self._read_seq = end
            self._follow(journal)
        elif self._place.seq < self._read_seq:
            raise Undelivered("the journal's disk cannot be read")
        return waiting, Place(self._place.log, end)

    def _hand_over(self, wire: Wire) -> None:
        try:
            self._outlet.send(wire)
        except Refused as refusal:
            self._refusals += 1
            if self._refusals < TRIES:
                raise
            self._put_aside(wire, str(refusal))
        self._refusals = 0
        self._behind -= 1
        self._keep(wire["seq"])
        self._recover()

    def _put_aside(self, wire: Wire, why: str) -> None:
        """One record must not hold up all that come after; it stays in the journal, and an event names it."""
        self._refused += 1
        data = {"bridge": self.name, "id": wire["id"], "kind": wire["kind"], "seq": wire["seq"], "error": why}
        if wire.get("what") == "bridge_refused":  # telling of it would be refused in its turn
            log.error("bridge_refused", **data)
        else:
            text = f"bridge {self.name}: {wire['kind']} {wire['id']} is put aside, refused {TRIES} times: {why}"
            self._feed.tell(Event("bridge_refused", "error", text, data))

    def _keep(self, seq: int) -> None:
        """A disk that refuses costs no record: after a restart some are handed over again."""
        self._place = Place(self._place.log, seq)
        try:
            _save(self._path, self._place)
            self._unkept = False
        except OSError as error:
            if not self._unkept:
                log.warning("bridge cannot keep its place", bridge=self.name, path=str(self._path), error=str(error))
            self._unkept = True

    def _fail(self, error: str) -> None:
        clock = self._feed.clock
        outage = self._outage = self._outage or Outage(rfc3339(clock.utc_ns()), clock.monotonic_ns(), error, 0)
        outage.error = error
        outage.attempts += 1
        if outage.attempts == TRIES:
            data = {"bridge": self.name, "error": error, "behind": self._behind}
            text = f"bridge {self.name}: nothing is taken, {self._behind} records wait: {error}"
            self._feed.tell(Event("bridge_down", "warning", text, data))

    def _recover(self) -> None:
        outage, self._outage = self._outage, None
        if outage is None or outage.attempts < TRIES:
            return
        down_s = (self._feed.clock.monotonic_ns() - outage.since_ns) / NS_PER_S
        data = {"bridge": self.name, "down_s": round(down_s, 1), "behind": self._behind}
        text = f"bridge {self.name}: taken again after {down_s:.0f} s, {self._behind} records wait"
        self._feed.tell(Event("bridge_up", "info", text, data))


def passes(wanted: Filter, wire: Wire) -> bool:
    """Whether a bridge takes a record. A flood's alert that is raised or ends is taken like any other."""
    score = wire.get("score", wire.get("max_score"))
    repeats = bool(wire.get("flood")) and wire.get("state") in (None, "extended")
    return (
        wire["kind"] in wanted.kinds
        and wire["mode"] in wanted.modes
        and (wanted.labels is None or wire.get("label") in (None, *wanted.labels))
        and (score is None or score >= wanted.min_score)
        and (wanted.flood or not repeats)
    )


def place_path(journal: Path, name: str) -> Path:
    """Where a bridge keeps its place."""
    return journal.with_name(f"{journal.name}.{name}.place")


def _save(path: Path, place: Place) -> None:
    """All or nothing, and on the disk."""
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(msgspec.json.encode(place))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
