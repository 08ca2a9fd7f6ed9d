"""A cursor on the journal that sends: records as they are committed, a heartbeat, and what a subscriber missed."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import msgspec
import zmq

from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.errors import EndpointError
from pam_daemon.journal import Bell, Journal
from pam_daemon.records import Record, Seq, Wire, topic
from pam_daemon.wire.curve import Door
from pam_daemon.wire.keys import StationKeys
from pam_daemon.wire.sockets import end, open_context

_SEND_HIGH_WATER_MARK = 10_000  # messages a subscriber may lag behind before it has to recover
_RECOVERY_HIGH_WATER_MARK = 8  # questions and replies that a subscriber may leave unread, of up to _BATCH records
_MAX_REQUEST_BYTES = 65_536  # of a question, a subscription, a handshake
_HANDSHAKE_MS = 10_000
_REBIND_S = 10.0
_REBIND_PAUSE_S = 0.01
_PORT_TRIES = 20
_LINGER_MS = 1000  # for what is still to be sent at the end
_BATCH = 1000  # records read from the journal at a time


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
        keys: who may come; None admits everybody.
        insecure: everybody from anywhere; else, without keys, only this machine.

    Raises:
        EndpointError: an endpoint that cannot be bound, is open to a network, or does not turn strangers away.
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
        keys: StationKeys | None = None,
        insecure: bool = False,
    ) -> None:
        self.exposed = keys is None and not _is_loopback(endpoint)
        if self.exposed and not insecure:
            raise EndpointError(
                f"{endpoint}: open to the network without keys; make some with `pamd keys` and give --keys, "
                "or say --insecure"
            )
        self.subscribed = threading.Event()  # somebody is there
        self._open_journal = open_journal
        self._sent = after
        self._bell = bell
        self._status = status
        self._every_ns = int(every_s * NS_PER_S)
        self._linger_ns = int(linger_s * NS_PER_S)
        self._clock = clock
        self._moved = moved
        self._keys = keys  # as they should be; the door has those that are
        self._context = open_context(_LINGER_MS)
        self.endpoint = endpoint  # as bound
        self.recovery_port = 0
        try:
            self._door = None if keys is None else Door(self._context, keys)
            self._records, self._recovery = self._bind_both(endpoint)
            self._attend()
        except BaseException:
            end(self._context)
            raise

    def take_on(self, keys: StationKeys) -> None:
        """Other keys than those so far, on any thread; the connections of those that are withdrawn end."""
        assert self._door is not None, "whether there are keys is settled at the start"
        self._keys = keys
        self._bell.ring()

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop`, then send what is left and a last status, and answer recovery for a while."""
        journal = self._open_journal()
        try:
            self._serve(journal, stop, until_ns=None)
            self._send_status(journal)
            self._serve(journal, threading.Event(), until_ns=self._clock.monotonic_ns() + self._linger_ns)
        finally:
            journal.close()
            end(self._context)

    def _attend(self) -> None:
        """To the sockets as they are bound, once strangers are proved to be turned away."""
        self._poller = zmq.Poller()
        for waker in (self._records, self._recovery, self._bell.fileno()):
            self._poller.register(waker, zmq.POLLIN)
        if self._door is not None:
            self._poller.register(self._door.socket, zmq.POLLIN)
            self._door.prove(self.endpoint, zmq.SUB)
            self._door.prove(with_port(self.endpoint, self.recovery_port), zmq.DEALER)

    def _change_keys(self, door: Door, keys: StationKeys) -> None:
        """A connection outlives the key that it came with: where one is withdrawn, all end, and who may comes back."""
        before, door.keys = door.keys, keys
        if before.own != keys.own or not set(before.subscribers.values()) <= set(keys.subscribers.values()):
            self._records.close(linger=0)
            self._recovery.close(linger=0)
            self._records, self._recovery = self._bind_again()
            self._attend()

    def _bind_again(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Where they were: libzmq lets go of a port a moment after its socket is closed."""
        end_s = time.monotonic() + _REBIND_S
        while time.monotonic() < end_s:
            with suppress(EndpointError):
                return self._bind_both(self.endpoint)
            time.sleep(_REBIND_PAUSE_S)
        return self._bind_both(self.endpoint)

    def _bind_both(self, endpoint: str, tries: int = _PORT_TRIES) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Records, and recovery at the next port; where any port will do (`*`), until both are free."""
        # XPUB is PUB to its subscribers, and tells us when one comes.
        records = self._bind(zmq.XPUB, endpoint, _SEND_HIGH_WATER_MARK)
        records.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.endpoint = records.getsockopt_string(zmq.LAST_ENDPOINT)
        self.recovery_port = recovery_port(self.endpoint)
        try:
            recovery = with_port(self.endpoint, self.recovery_port)
            return records, self._bind(zmq.ROUTER, recovery, _RECOVERY_HIGH_WATER_MARK)
        except EndpointError:
            records.close(linger=0)
            if not endpoint.endswith(":*") or tries <= 1:
                raise
        return self._bind_both(endpoint, tries - 1)

    def _bind(self, kind: int, endpoint: str, high_water_mark: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REQUEST_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        if self._door is not None:
            self._door.guard(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise EndpointError(f"{endpoint}: cannot bind: {error.strerror}; give another with --endpoint") from error
        return socket

    def _serve(self, journal: Journal, stop: threading.Event, until_ns: int | None) -> None:
        beat_ns = self._clock.monotonic_ns()
        while not stop.is_set() and (until_ns is None or self._clock.monotonic_ns() < until_ns):
            self._moved()
            now_ns = self._clock.monotonic_ns()
            if now_ns >= beat_ns:
                self._send_status(journal)
                beat_ns = now_ns + self._every_ns
            due_ns = min(beat_ns, until_ns or beat_ns, now_ns + NS_PER_S)
            ready = dict(self._poller.poll(max(due_ns - now_ns, 0) // 1_000_000 + 1))
            self._bell.clear()
            self._send_records(journal)
            if self._door is not None and self._door.socket in ready:
                self._door.answer(self._keys)  # those to come: who is turned away once does not come again
            if self._records in ready:
                self._greet(journal)
            if self._recovery in ready:
                self._answer(journal)
            if self._door is not None and self._keys is not None and self._keys is not self._door.keys:
                self._change_keys(self._door, self._keys)

    def _send_records(self, journal: Journal) -> None:
        while records := journal.since(self._sent, limit=_BATCH):
            for wire in records:
                self._send(wire)
            self._sent = records[-1]["seq"]

    def _send_status(self, journal: Journal) -> None:
        """After all that its `last_seq` covers: a subscriber that has less than that has missed something."""
        self._send_records(journal)
        self._send(self._status(self.recovery_port, self._sent or None).wire())

    def _send(self, wire: Wire) -> None:
        self._records.send_multipart([topic(wire), msgspec.json.encode(wire)])

    def _greet(self, journal: Journal) -> None:
        """Subscriptions came or went; newcomers need not wait for the next heartbeat, and share one status."""
        came = False
        for _ in range(_BATCH):
            if not self._records.poll(0):
                break
            came |= self._records.recv().startswith(b"\x01")
        if came:
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
        expired = journal.expired(request.kinds)  # after reading: what was missing then is told
        return {
            "log": journal.log,
            "oldest_seq": oldest,
            "last_seq": last,
            "expired_seq": expired or None,
            "records": records,
        }


def _is_loopback(endpoint: str) -> bool:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def recovery_port(endpoint: str) -> int:
    """The recovery socket's default port: the publisher's and one."""
    return int(endpoint.rpartition(":")[2]) + 1


def with_port(endpoint: str, port: int) -> str:
    """The same host at another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"
