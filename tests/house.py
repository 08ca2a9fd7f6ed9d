"""A journal and its publisher over real sockets, and what subscribers take from it."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import zmq
from fakes import FakeClock

from pam_daemon.clock import Clock
from pam_daemon.journal import Bell, Journal
from pam_daemon.records import STATION_WIDE, ModelName, Record, Status, Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.wire import sockets
from pam_daemon.wire.keys import StationKeys
from pam_daemon.wire.publish import Publisher

PATIENCE_MS = 60_000
ANY_PORT = "tcp://127.0.0.1:*"


def heartbeat(log: str, recovery: int, last_seq: int | None) -> Record:
    body = Status(
        log=log,
        last_seq=last_seq,
        every_s=10.0,
        recovery=recovery,
        started_utc="2026-01-01T00:00:00.000000Z",
        version="0",
        model=ModelName("toy", "0" * 64),
        provider="cpu",
        durable=True,
        streams={},
        held_records=0,
        dropped_records=0,
        disk_free_bytes=None,
    )
    return Record("status", "pamd", STATION_WIDE, "replay", None, "2026-01-01T00:00:00.000000Z", body)


class House:
    """A journal and a publisher on its own thread; its clock stands still unless moved."""

    def __init__(
        self,
        path: Path,
        exits: ExitStack,
        *,
        after: int = 0,
        linger_s: float = 0.0,
        endpoint: str = ANY_PORT,
        keys: StationKeys | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.bell = exits.enter_context(closing(Bell()))
        self.journal = exits.enter_context(closing(Journal(path, [self.bell])))
        self.publisher = publisher(
            endpoint,
            path,
            self.bell,
            keys,
            log=self.journal.log,
            after=after,
            every_s=0.02,
            linger_s=linger_s,
            clock=self.clock,
        )
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        exits.callback(self.end)

    def stop(self) -> None:
        self._stop.set()
        self.bell.ring()

    def end(self) -> None:
        self.stop()
        self.clock.now_ns += 10**12
        self._thread.join(timeout=60)
        where = sys._current_frames().get(self._thread.ident or 0)
        assert where is None, f"the publisher does not end: {''.join(traceback.format_stack(where))}"
        assert self.failures == []

    def _run(self) -> None:
        try:
            self.publisher.run(self._stop)
        except BaseException as failure:
            self.failures.append(failure)
            raise


@contextmanager
def bare_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """For sockets that are not pamd's; it ends as pamd's do, in bounded time."""
    context = sockets.open_context(linger_ms=0)
    try:
        yield context
    finally:
        sockets.end(context)


@pytest.fixture(name="context")
def context_fixture() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with bare_context() as made:
        yield made


@pytest.fixture(name="house")
def house_fixture(tmp_path: Path, exits: ExitStack) -> House:
    return House(tmp_path / "journal", exits)


def publisher(
    endpoint: str,
    path: Path,
    bell: Bell,
    keys: StationKeys | None = None,
    *,
    log: str = "log",
    after: int = 0,
    every_s: float = 10.0,
    linger_s: float = 0.0,
    clock: Clock | None = None,
    insecure: bool = True,
) -> Publisher:
    """One of the journal at `path`."""
    return Publisher(
        endpoint,
        partial(Journal, path),
        after,
        bell,
        status=partial(heartbeat, log),
        every_s=every_s,
        linger_s=linger_s,
        clock=clock or FakeClock(),
        moved=lambda: None,
        keys=keys,
        insecure=insecure,
    )


def listen(endpoint: str, exits: ExitStack) -> Subscriber:
    """Subscribed, as the status shows that a newcomer gets at once."""
    subscriber = exits.enter_context(Subscriber(endpoint))
    assert next(subscriber.records(timeout_s=60))["kind"] == "status"
    return subscriber


def take(subscriber: Subscriber, count: int) -> list[Wire]:
    """The next records that are no heartbeats."""
    records = (wire for wire in subscriber.records(timeout_s=60) if wire["kind"] != "status")
    taken = list(islice(records, count))
    assert len(taken) == count
    return taken


def numbers(wires: Sequence[Wire]) -> list[int]:
    return [wire["seq"] for wire in wires]
