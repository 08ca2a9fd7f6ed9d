"""The subscriber's side of the wire: every record once, in order, and a word when something is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

from pam_daemon.errors import EndpointError
from pam_daemon.publish import recovery_port, with_port
from pam_daemon.records import Wire, read_record

HEARTBEATS_MISSED = 3  # so many without one mean that the station is deaf
_RECOVERY_TIMEOUT_MS = 5000


class _Reply(msgspec.Struct, frozen=True):
    """To `since`."""

    log: str | None = None
    records: list[msgspec.Raw] = []


class Subscriber:
    """Connects to a publisher and yields its records; a context manager.

    A hole that `prev_seq` shows is filled from the recovery socket before the record that showed it.

    Raises:
        EndpointError: an endpoint that cannot be used.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.lost_records = 0  # noticed and not to be had any more
        self.unreadable_messages = 0  # that are no record, nor an answer: passed over
        self._context = zmq.Context()
        self._records = self._context.socket(zmq.SUB)
        self._records.setsockopt(zmq.RCVHWM, 0)
        self._records.setsockopt_string(zmq.SUBSCRIBE, "")
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
        """Records as they come, statuses too; ends when none came for `timeout_s` (None: never)."""
        while self._records.poll(None if timeout_s is None else int(timeout_s * 1000)):
            try:
                _, frame = self._records.recv_multipart()
                wire = read_record(frame)
            except ValueError:
                self.unreadable_messages += 1
                continue
            if wire.get("recovery"):
                self._recovery_port = wire["recovery"]
            if wire.get("seq") is None:
                yield wire
            else:
                yield from self._in_order(wire)

    def _in_order(self, wire: Wire) -> Iterator[Wire]:
        if wire.get("log") != self._log:
            self._begin = None if self._log is None else 0
            self._log, self._last_seq = wire.get("log"), {}
        topic = (wire["kind"], wire["station"], wire["stream"])
        last = self._last_seq.get(topic, self._begin)
        if last is not None and wire["seq"] <= last:
            return  # recovered already
        if last is not None and last < (wire.get("prev_seq") or 0):
            yield from self._recover(topic, last, wire)
        self._last_seq[topic] = wire["seq"]
        yield wire

    def _recover(self, topic: tuple[str, str, str], last: int, wire: Wire) -> Iterator[Wire]:
        """The records of one topic between `last` and the one that has just come."""
        kind, station, stream = topic
        asked = last
        while asked < wire["prev_seq"]:
            records = self._ask({"op": "since", "log": self._log, "seq": asked, "kinds": [kind], "streams": [stream]})
            before, asked = asked, max((missed["seq"] for missed in records), default=asked)
            for missed in records:
                if missed["station"] == station and last < missed["seq"] < wire["seq"]:
                    last = missed["seq"]
                    yield missed
            if asked <= before:
                break  # no more to be had
        if last != wire["prev_seq"]:
            self.lost_records += 1

    def _ask(self, request: dict[str, Any]) -> list[Wire]:
        """The records of our log that one question to the recovery socket brings; none when nobody answers in time."""
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.connect(with_port(self.endpoint, self._recovery_port))
            socket.send(msgspec.json.encode(request))
            if not socket.poll(_RECOVERY_TIMEOUT_MS):
                return []
            reply = msgspec.json.decode(socket.recv(), type=_Reply)
            records = [read_record(record) for record in reply.records] if reply.log == self._log else []
            return [record for record in records if record.get("seq") is not None]
        except (ValueError, RecursionError):
            self.unreadable_messages += 1
            return []
        finally:
            socket.close(linger=0)
