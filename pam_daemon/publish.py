"""A cursor on the journal that sends: records as they are committed, a heartbeat, and what a subscriber missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import zmq

from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.errors import EndpointError
from pam_daemon.journal import Bell, Journal
from pam_daemon.records import Record, Wire, topic

_SEND_HIGH_WATER_MARK = 10_000  # messages a subscriber may lag behind before it has to recover
_MAX_REQUEST_BYTES = 65_536
_PORT_TRIES = 20
_BATCH = 1000  # records read from the journal at a time


Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what SQLite can hold


class Request(msgspec.Struct, frozen=True):
    """What a subscriber asks on the recovery socket."""

    op: Literal["since", "status"]
    log: str | None = None
    seq: Seq = 0
    kinds: list[str] | None = None
    streams: list[str] | None = None
    limit: int = _BATCH


class Publisher:
    """The sockets, bound; `run` serves them on the thread that calls it.

    Args:
        endpoint: where to bind, `tcp://127.0.0.1:5556`; the recovery socket takes the next port.
        open_journal: makes a connection of the publisher's own, on its thread.
        after: the journal's `seq` from which on records are sent.
        bell: rung by the journal's writer at every commit.
        status: makes the heartbeat, from the recovery port and the journal's last `seq`.
        every_s: the heartbeat's period.
        linger_s: how long recovery is answered after the end.
        moved: called at every turn, at least once a second.

    Raises:
        EndpointError: an endpoint that cannot be bound.
    """

    def __init__(
        self,
        endpoint: str,
        open_journal: Callable[[], Journal],
        after: int,
        bell: Bell,
        *,
        status: Callable[[int, int | None], Record],
        every_s: float,
        linger_s: float,
        clock: Clock,
        moved: Callable[[], None],
    ) -> None:
        self.subscribed = threading.Event()  # somebody is there
        self._open_journal = open_journal
        self._sent = after
        self._bell = bell
        self._status = status
        self._every_ns = int(every_s * NS_PER_S)
        self._linger_ns = int(linger_s * NS_PER_S)
        self._clock = clock
        self._moved = moved
        self._context = zmq.Context()
        self.endpoint = endpoint  # as bound
        self.recovery_port = 0
        try:
            self._records, self._recovery = self._bind_both(endpoint)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop`, then send what is left and a last status, and answer recovery for a while."""
        journal = self._open_journal()
        try:
            self._serve(journal, stop, until_ns=None)
            self._send_records(journal)
            self._send_status(journal)
            self._serve(journal, threading.Event(), until_ns=self._clock.monotonic_ns() + self._linger_ns)
        finally:
            journal.close()
            self._context.destroy(linger=1000)

    def _bind_both(self, endpoint: str, tries: int = _PORT_TRIES) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Records, and recovery at the next port; where any port will do (`*`), until both are free."""
        # XPUB is PUB to its subscribers, and tells us when one comes.
        records = self._bind(zmq.XPUB, endpoint)
        records.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.endpoint = records.getsockopt_string(zmq.LAST_ENDPOINT)
        self.recovery_port = recovery_port(self.endpoint)
        try:
            return records, self._bind(zmq.ROUTER, with_port(self.endpoint, self.recovery_port))
        except EndpointError:
            records.close(linger=0)
            if not endpoint.endswith(":*") or tries <= 1:
                raise
        return self._bind_both(endpoint, tries - 1)

    def _bind(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise EndpointError(f"{endpoint}: cannot bind: {error.strerror}; give another with --endpoint") from error
        return socket

    def _serve(self, journal: Journal, stop: threading.Event, until_ns: int | None) -> None:
        poller = zmq.Poller()
        for waker in (self._records, self._recovery, self._bell.fileno()):
            poller.register(waker, zmq.POLLIN)
        beat_ns = self._clock.monotonic_ns()
        while not stop.is_set() and (until_ns is None or self._clock.monotonic_ns() < until_ns):
            self._moved()
            now_ns = self._clock.monotonic_ns()
            if now_ns >= beat_ns:
                self._send_status(journal)
                beat_ns = now_ns + self._every_ns
            due_ns = min(beat_ns, until_ns or beat_ns, now_ns + NS_PER_S)
            ready = dict(poller.poll(max(due_ns - now_ns, 0) // 1_000_000 + 1))
            self._bell.clear()
            self._send_records(journal)
            if self._records in ready:
                self._greet(journal)
            if self._recovery in ready:
                self._answer(journal)

    def _send_records(self, journal: Journal) -> None:
        while records := journal.since(self._sent, limit=_BATCH):
            for wire in records:
                self._send(wire)
            self._sent = records[-1]["seq"]

    def _send_status(self, journal: Journal) -> None:
        self._send(self._status(self.recovery_port, journal.ends()[1]).wire())

    def _send(self, wire: Wire) -> None:
        self._records.send_multipart([topic(wire), msgspec.json.encode(wire)])

    def _greet(self, journal: Journal) -> None:
        """A subscription came or went; a newcomer need not wait for the next heartbeat."""
        if self._records.recv().startswith(b"\x01"):
            self._send_status(journal)
            self.subscribed.set()

    def _answer(self, journal: Journal) -> None:
        *route, frame = self._recovery.recv_multipart()
        try:
            reply = self._reply(journal, msgspec.json.decode(frame, type=Request))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reply = {"error": str(error)}
        self._recovery.send_multipart([*route, msgspec.json.encode(reply)])

    def _reply(self, journal: Journal, request: Request) -> Wire:
        if request.op == "status":
            return self._status(self.recovery_port, journal.ends()[1]).wire()
        # Another log than ours has other numbers: its reader begins at our beginning.
        after = request.seq if request.log == journal.log else 0
        limit = max(1, min(request.limit, _BATCH))
        records = journal.since(after, kinds=request.kinds, streams=request.streams, limit=limit)
        oldest, last = journal.ends()
        return {"log": journal.log, "oldest_seq": oldest, "last_seq": last, "records": records}


def recovery_port(endpoint: str) -> int:
    """The recovery socket's default port: the publisher's and one."""
    return int(endpoint.rpartition(":")[2]) + 1


def with_port(endpoint: str, port: int) -> str:
    """The same host at another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"
