"""The subscriber's side of the wire: every record once, in order, and a word when something is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq

from pam_daemon.curve import Handshakes, present
from pam_daemon.errors import EndpointError, KeyFileError
from pam_daemon.keys import public_key, read_pair
from pam_daemon.publish import recovery_port, with_port
from pam_daemon.records import Wire

HEARTBEATS_MISSED = 3  # so many without one mean that the station is deaf
_RECOVERY_TIMEOUT_MS = 5000


class Subscriber:
    """Connects to a publisher and yields its records; a context manager.

    A hole that `prev_seq` shows is filled from the recovery socket before the record that showed it.

    Args:
        key: the file of this subscriber's key pair, as `pamd keys new` made it, for a station that uses keys.
        server_key: that station's public key, or a file with it.

    Raises:
        EndpointError: an endpoint that cannot be used.
        KeyFileError: a key that cannot be used, or one without the other.
    """

    def __init__(self, endpoint: str, key: Path | None = None, server_key: str | None = None) -> None:
        if (key is None) != (server_key is None):
            raise KeyFileError("a key of one's own and the station's go together: give both --key and --server-key")
        self.endpoint = endpoint
        self._key = None if key is None else read_pair(key)
        self._server_key = None if server_key is None else public_key(server_key)
        self.lost_records = 0  # noticed and not to be had any more
        self._context = zmq.Context()
        self._records = self._socket(zmq.SUB)
        self._records.setsockopt(zmq.RCVHWM, 0)
        self._records.setsockopt_string(zmq.SUBSCRIBE, "")
        self._handshakes = Handshakes(self._records, endpoint, self._key)
        try:
            self._records.connect(endpoint)
            self._recovery_port = recovery_port(endpoint)
        except (zmq.ZMQError, ValueError) as error:
            self.close()
            raise EndpointError(f"{endpoint}: cannot connect: {error}; give tcp://HOST:PORT") from error
        self._log: str | None = None
        self._begin: int | None = None  # 0 in a log that began while we were listening: nothing of it is to be missed
        self._last_seq: dict[tuple[str, str, str], int] = {}  # by topic: the last record yielded

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def records(self, timeout_s: float | None = None) -> Iterator[Wire]:
        """Records as they come, statuses too; ends when none came for `timeout_s` (None: never).

        Raises:
            EndpointError: the station turns us away, or is none.
        """
        while self._await_record(timeout_s):
            _, frame = self._records.recv_multipart()
            wire: Wire = msgspec.json.decode(frame)
            if wire.get("recovery"):
                self._recovery_port = wire["recovery"]
            if wire.get("seq") is None:
                yield wire
            else:
                yield from self._in_order(wire)

    def _await_record(self, timeout_s: float | None) -> bool:
        poller = zmq.Poller()
        for waker in (self._records, self._handshakes.monitor):
            poller.register(waker, zmq.POLLIN)
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while ready := dict(poller.poll(None if end_s is None else max(0, int((end_s - time.monotonic()) * 1000)))):
            if self._records in ready:
                return True
            self._handshakes.judge()
        return False

    def _in_order(self, wire: Wire) -> Iterator[Wire]:
        if wire["log"] != self._log:
            self._begin = None if self._log is None else 0
            self._log, self._last_seq = wire["log"], {}
        topic = (wire["kind"], wire["station"], wire["stream"])
        last = self._last_seq.get(topic, self._begin)
        if last is not None and wire["seq"] <= last:
            return  # recovered already
        if last is not None and last < (wire["prev_seq"] or 0):
            yield from self._recover(topic, last, wire)
        self._last_seq[topic] = wire["seq"]
        yield wire

    def _recover(self, topic: tuple[str, str, str], last: int, wire: Wire) -> Iterator[Wire]:
        """The records of one topic between `last` and the one that has just come."""
        kind, station, stream = topic
        asked = last
        while asked < wire["prev_seq"]:
            reply = self._ask({"op": "since", "log": self._log, "seq": asked, "kinds": [kind], "streams": [stream]})
            records = reply.get("records") if reply.get("log") == self._log else None
            if not records:
                break
            asked = records[-1]["seq"]
            for missed in records:
                if missed["station"] == station and missed["seq"] < wire["seq"]:
                    last = missed["seq"]
                    yield missed
        if last != wire["prev_seq"]:
            self.lost_records += 1

    def _ask(self, request: dict[str, Any]) -> Wire:
        """One question to the recovery socket; empty when nobody answers in time."""
        socket = self._socket(zmq.DEALER)
        try:
            socket.connect(with_port(self.endpoint, self._recovery_port))
            socket.send(msgspec.json.encode(request))
            if not socket.poll(_RECOVERY_TIMEOUT_MS):
                return {}
            reply: Wire = msgspec.json.decode(socket.recv())
            return reply
        finally:
            socket.close(linger=0)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        if self._key is not None and self._server_key is not None:
            present(socket, self._key, self._server_key)
        return socket
