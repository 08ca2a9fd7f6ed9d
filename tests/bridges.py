"""A station's bridges on a journal, without the rest of it, and what arrives on their other sides."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import BEGAN_UTC_NS
from servers import Broker, Side, Udp, Web, every_side

from pam_daemon.clock import NS_PER_S, SystemClock, rfc3339
from pam_daemon.config import BridgeChoice
from pam_daemon.journal import Gong, Journal
from pam_daemon.journal.held import Held
from pam_daemon.outlets.bridge import Feed
from pam_daemon.outlets.bridges import Bridges
from pam_daemon.records import Detection, Event, Latency, Mode, ModelName, Record, Wire, record_id

KINDS = ("mqtt", "webhook", "pgalm")


def detection(number: int, *, mode: Mode = "live", score: float = 0.9, **fields: Any) -> Record:
    """A made-up one; the same number gives the same id and times."""
    utc = rfc3339(BEGAN_UTC_NS + number * NS_PER_S)
    body = Detection(
        *(utc, utc, utc, 0.0, 1.0, 0.5, 0, 2000, "upcall", score, 0.5, "model", 1, False, False),
        ModelName("toy", "0" * 64),
        -20.0,
        Latency(0.0, None, None, None, None),
    )
    identity = record_id("detection", "pamd", "ch1", "key", number, "0" * 64, "upcall")
    return Record("detection", "pamd", "ch1", mode, identity, utc, msgspec.structs.replace(body, **fields))


@dataclass
class Sea:
    """A journal, and a station's bridges on it."""

    path: Path
    events: list[Event] = field(default_factory=list)
    appended: Gong = field(default_factory=Gong)
    held: Held = field(default_factory=Held)
    threads: list[threading.Thread] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def open_journal(self) -> Journal:
        return Journal(self.path, held=self.held)

    def append(self, count: int) -> None:
        self.journal(*(detection(next(self.numbers)) for _ in range(count)))

    def journal(self, *records: Record) -> None:
        with closing(Journal(self.path, [self.appended], self.held)) as journal:
            journal.append(records)

    def wires(self) -> list[Wire]:
        with closing(self.open_journal()) as journal:
            return journal.since(0, kinds=["detection"], limit=10_000)

    def told(self, what: str) -> list[Event]:
        return [event for event in self.events if event.what == what]

    @contextmanager
    def bridged(self, *choices: BridgeChoice, retry_s: float = 0.05) -> Iterator[Bridges]:
        """While the block lasts; an exception on one of its threads would be pytest's."""
        feed = Feed(self.open_journal, self.appended, self.events.append, SystemClock(), retry_s)
        bridges = Bridges("pamd", feed, self._start)
        bridges.prepare(choices)()
        try:
            yield bridges
        finally:
            bridges.stop()
            for thread in self.threads:
                thread.join()

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        self.threads.append(threading.Thread(target=work, name=name))
        self.threads[-1].start()
        return self.threads[-1]


@pytest.fixture(name="sea")
def sea_fixture(tmp_path: Path) -> Sea:
    return Sea(tmp_path / "journal")


@pytest.fixture(name="sides")
def sides_fixture(tmp_path: Path) -> Iterator[dict[str, Broker | Web | Udp]]:
    with every_side(tmp_path) as sides:
        yield sides


def assert_all_arrived(side: Side, wires: Sequence[Wire]) -> None:
    """Every record, in order, and one that comes again comes before what follows it."""
    keys = [side.key(wire) for wire in wires]
    taken = side.taken()
    assert list(dict.fromkeys(taken)) == keys
    places = [keys.index(key) for key in taken]
    assert all(after in (before, before + 1) for before, after in itertools.pairwise(places))


def bridging(sea: Sea, side: Side) -> list[str]:
    """The command of a process with this bridge and nothing else."""
    program = str(Path(__file__).parent / "bridging.py")
    return [sys.executable, program, str(sea.path), json.dumps([msgspec.to_builtins(side.choice)])]
