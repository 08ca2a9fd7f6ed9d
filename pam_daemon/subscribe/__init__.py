"""The subscriber's side of the wire: every record once, in order, and a word when something is missing."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import msgspec
import zmq

from pam_daemon.clock import NS_PER_S, Clock, SystemClock
from pam_daemon.errors import EndpointError, KeyFileError
from pam_daemon.records import Seq, Wire, read_record
from pam_daemon.subscribe.place import Place, PlaceFile
from pam_daemon.wire.curve import Handshakes, present
from pam_daemon.wire.keys import public_key, read_pair
from pam_daemon.wire.publish import recovery_port, with_port
from pam_daemon.wire.sockets import end, open_context

_HIGH_WATER_MARK = 10_000  # messages that wait for us here; the rest waits in the journal
_ANSWER_S = 5.0
_ASK_AGAIN_S = 5.0  # after a question that nobody answered
_TICK_MS = 200  # how often `stop`, and a place that is to be kept, are looked after
_BATCH = 1000  # records asked for at a time


class _Reply(msgspec.Struct):
    """To `since`."""

    log: str
    records: list[msgspec.Raw]
    expired_seq: Seq | None = None


class Subscriber:
    """Connects to a publisher and yields its records; a context manager.

    Per log they come in the order of `seq`, each once. What did not come by itself is asked for from the recovery
    socket, before anything later is handed on.

    Args:
        endpoint: the publisher's, `tcp://HOST:PORT`.
        kinds: these alone (and the heartbeat); None for all.
        stations: likewise.
        state: a file for the place. A record is behind us when the loop asks for the next one. With it nothing is
            passed over: where recovery does not answer, records wait until it does (`waiting`).
        from_beginning: begin at the beginning of the first log, instead of now, where the file does not know it. By
            default where there is a file. Logs that come later are always read from their beginning.
        save_every_s: how often the place is stored at most; 0 after each record.
        key: the file of this subscriber's key pair, as `pamd keys new` made it, for a station that uses keys.
        server_key: that station's public key, or a file with it.

    Raises:
        EndpointError: an endpoint that cannot be used.
        ListenError: a state file that cannot be used.
        KeyFileError: a key that cannot be used, or one without the other.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        kinds: Sequence[str] | None = None,
        stations: Sequence[str] | None = None,
        state: Path | None = None,
        from_beginning: bool | None = None,
        save_every_s: float = 0.5,
        clock: Clock | None = None,
        key: Path | None = None,
        server_key: str | None = None,
    ) -> None:
        if (key is None) != (server_key is None):
            raise KeyFileError("a key of one's own and the station's go together: give both --key and --server-key")
        # libzmq takes ports that there are not, and protocols that no station speaks, and waits for ever.
        if not re.fullmatch(r"tcp://[^\s/]+:\d{1,5}", endpoint) or not 0 < recovery_port(endpoint) - 1 < 65_536:
            raise EndpointError(f"{endpoint}: no address of a station; give tcp://HOST:PORT")
        self.endpoint = endpoint
        self._key = None if key is None else read_pair(key)
        self._server_key = None if server_key is None else public_key(server_key)
        self.unreadable_messages = 0  # that are no record, nor an answer: passed over
        self.recovered_records = 0  # that did not come by themselves
        self.lost_records = 0  # noticed and not to be had any more: at least so many
        self.expired_seq = 0  # up to here a station had deleted, for their age or its room, records that we had not had
        self.waiting = False  # recovery does not answer, and records wait for it
        self.unsaved: str | None = None  # why the place cannot be stored, while it cannot
        self._file = PlaceFile(state) if state else None
        self._kinds, self._stations = kinds, stations
        self._from_beginning = self._file is not None if from_beginning is None else from_beginning
        self._save_every_ns = int(save_every_s * NS_PER_S)
        self._clock = clock or SystemClock()
        self._saved_ns = self._ask_ns = 0  # monotonic: of the last save; before this nobody is asked
        self._places: dict[str, Place] = {}  # by log
        self._stop = threading.Event()
        self._context = open_context(linger_ms=0)
        self._dealers: dict[int, zmq.Socket[bytes]] = {}  # by the port of recovery
        try:
            self._port = recovery_port(endpoint)  # until a status tells another
            self._records = self._socket(zmq.SUB)
            self._handshakes = Handshakes(self._records, endpoint, self._key)
            self._records.connect(endpoint)
        except zmq.ZMQError as error:
            end(self._context)
            raise EndpointError(f"{endpoint}: cannot connect: {error}; give tcp://HOST:PORT") from error

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the sockets, and store the place."""
        self._handshakes.close()
        end(self._context)
        self._save()

    def records(self, timeout_s: float | None = None, stop: threading.Event | None = None) -> Iterator[Wire]:
        """Records as they come, statuses too; ends when none came for `timeout_s` (None: never), or at `stop`.

        Raises:
            EndpointError: the station turns us away, or is none.
        """
        self._stop = stop or threading.Event()
        timeout_ns = None if timeout_s is None else int(timeout_s * NS_PER_S)
        quiet_ns = self._clock.monotonic_ns()
        while not self._stop.is_set():
            self._settle()
            waited_ns = self._clock.monotonic_ns() - quiet_ns
            left_ms = _TICK_MS if timeout_ns is None else max(timeout_ns - waited_ns, 0) // 1_000_000
            if self._records.poll(min(left_ms, _TICK_MS)):
                yield from self._take(self._records.recv_multipart())
                quiet_ns = self._clock.monotonic_ns()
            elif self._handshakes.monitor.poll(0):
                self._handshakes.judge()
            elif timeout_ns is not None and waited_ns >= timeout_ns:
                return

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        if self._key is not None and self._server_key is not None:
            present(socket, self._key, self._server_key)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        # A subscriber never sends: without it a line that is cut goes unnoticed, and nobody connects again.
        for option, value in ((zmq.TCP_KEEPALIVE, 1), (zmq.TCP_KEEPALIVE_IDLE, 30), (zmq.TCP_KEEPALIVE_INTVL, 10)):
            socket.setsockopt(option, value)
        if kind == zmq.SUB:
            for prefix in _prefixes(self._kinds, self._stations):
                socket.setsockopt_string(zmq.SUBSCRIBE, prefix)
        return socket

    def _take(self, frames: list[bytes]) -> Iterator[Wire]:
        """What a message brings: what is missing before it, and itself."""
        try:
            _, frame = frames
            wire = read_record(frame)
        except ValueError:  # who listens for whales does not end because of one garbled message
            self.unreadable_messages += 1
            return
        log, seq, last_seq = wire.get("log"), wire.get("seq"), wire.get("last_seq") or 0
        if not self._wants(wire):
            return
        if log is None or (wire["kind"] != "status" and seq is None):
            yield wire
        elif seq is None:
            place = self._place(log, last_seq)
            place.port = wire.get("recovery") or place.port
            yield from self._catch_up(place, last_seq)
            yield wire
        else:
            yield from self._take_numbered(wire, self._place(log, seq - 1))

    def _take_numbered(self, wire: Wire, place: Place) -> Iterator[Wire]:
        caught_up = yield from self._catch_up(place, wire["seq"] - 1)
        if place.seq < wire["seq"] and (caught_up or self._file is None) and not self._stop.is_set():
            yield from self._hand_on(place, wire)

    def _catch_up(self, place: Place, until: int) -> Generator[Wire, None, bool]:
        """What lies between our place and `until`, which is in the journal. Returns: whether somebody answered."""
        while place.seq < until:
            asked_from, limit = place.seq, min(until - place.seq, _BATCH)
            reply = self._ask(place, limit)
            self.waiting = reply is None and self._file is not None
            if reply is None:
                return False
            # Of a log that is not there any more nothing is to be had; what is later may come by itself.
            records = [wire for wire in reply if asked_from < wire["seq"] <= until]
            for wire in records:
                if self._stop.is_set():
                    return False
                self.recovered_records += self._wants(wire)
                yield from self._hand_on(place, wire)
            if len(records) < limit:
                place.seq = until
        return True

    def _hand_on(self, place: Place, wire: Wire) -> Iterator[Wire]:
        self.lost_records += place.step(wire) and self._wants(wire)
        if self._wants(wire):
            yield wire
        self._settle()

    def _ask(self, place: Place, limit: int) -> list[Wire] | None:
        """The records of its log after our place; None when nobody answers in time, and for a while after."""
        if self._clock.monotonic_ns() < self._ask_ns:
            return None
        question = {"op": "since", "log": place.log, "seq": place.seq, "kinds": self._kinds, "limit": limit}
        answer = self._answer(place.port, msgspec.json.encode(question))
        try:
            reply = msgspec.json.decode(answer or b"", type=_Reply)
            records = [read_record(record) for record in reply.records] if reply.log == place.log else []
            if reply.log == place.log and (reply.expired_seq or 0) > place.seq:
                self.expired_seq = reply.expired_seq or 0
            return [record for record in records if record.get("seq") is not None]
        except (ValueError, RecursionError):
            self.unreadable_messages += answer is not None
            # A late answer must not be taken for that to another question.
            self._dealers.pop(place.port).close(linger=0)
            self._ask_ns = self._clock.monotonic_ns() + int(_ASK_AGAIN_S * NS_PER_S)
            return None

    def _answer(self, port: int, question: bytes) -> bytes | None:
        if port not in self._dealers:
            self._dealers[port] = self._socket(zmq.DEALER)
            self._dealers[port].connect(with_port(self.endpoint, port))
        dealer = self._dealers[port]
        dealer.send(question)
        for _ in range(int(1000 * _ANSWER_S / _TICK_MS)):
            if dealer.poll(_TICK_MS):
                return dealer.recv()
            if self._stop.is_set():
                break
        return None

    def _place(self, log: str, now: int) -> Place:
        """Ours in a log; one that is new to us begins at its beginning, the first of all perhaps `now`."""
        if log not in self._places:
            known = self._file.places if self._file else {}
            begins_now = not self._from_beginning and not self._places and not known
            seq = known.get(log, now if begins_now else 0)
            self._places[log] = Place(log, self._port, seq, handed_on=seq)
        return self._places[log]

    def _wants(self, wire: Wire) -> bool:
        kinds, stations = self._kinds, self._stations
        return (stations is None or wire["station"] in stations) and (
            kinds is None or wire["kind"] in kinds or wire["kind"] == "status"
        )

    def _settle(self) -> None:
        """All that was yielded has been dealt with: the loop has asked for more."""
        for place in self._places.values():
            place.handed_on = place.seq
        if self._clock.monotonic_ns() - self._saved_ns >= self._save_every_ns:
            self._save()

    def _save(self) -> None:
        if self._file is None:
            return
        places = self._file.places | {place.log: place.handed_on for place in self._places.values()}
        if places == self._file.places:
            return
        self._saved_ns = self._clock.monotonic_ns()
        try:
            self._file.write(places)
            self.unsaved = None
        except OSError as error:
            self.unsaved = f"{self._file.path}: {error.strerror}"


def _prefixes(kinds: Sequence[str] | None, stations: Sequence[str] | None) -> Iterator[str]:
    """Of the topics `<kind>/<station>/<stream>`; the heartbeat is always wanted."""
    if kinds is None:
        yield ""  # a station alone is no prefix: kinds come before it, and there may be kinds that we do not know
        return
    for kind in dict.fromkeys([*kinds, "status"]):
        yield from [f"{kind}/{station}/" for station in stations] if stations is not None else [f"{kind}/"]
