"""`pamd listen`: a subscriber's records to eyes, pipes or a command, and on stderr what it missed and who is deaf."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import msgspec

from pam_daemon.errors import ListenError
from pam_daemon.records import Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.subscribe.vigil import Vigil
from pam_daemon.tools.console import print_json, readable

_TICK_S = 0.2


@dataclass(frozen=True)
class Choice:
    """Which records are handed on: those that have what is asked for; an empty choice asks for nothing."""

    kinds: Sequence[str] = ()
    stations: Sequence[str] = ()
    labels: Sequence[str] = ()
    modes: Sequence[str] = ()
    min_score: float | None = None  # of a detection; of an alert its best

    def takes(self, wire: Wire) -> bool:
        asked = (("kind", self.kinds), ("station", self.stations), ("label", self.labels), ("mode", self.modes))
        if not all(wire.get(field) in values for field, values in asked if values):
            return False
        score = wire.get("score", wire.get("max_score"))
        return self.min_score is None or (score is not None and score >= self.min_score)


class Command:
    """A program and its arguments, run once a record, the record as one JSON line on its stdin.

    No shell reads the line. One runs at a time, so long as `timeout_s`: then it is killed, with all that it started in
    its process group. A failure is told, and the next record is another matter.

    Raises:
        ListenError: there is no such program.
    """

    def __init__(self, line: str, timeout_s: float) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise ListenError(f"--exec {line}: {error}; quote it as a shell would read it") from error
        if not self._words or shutil.which(self._words[0]) is None:
            raise ListenError(f"--exec {line}: no such program; give its path, or `sh -c '...'` for a shell's line")
        self._timeout_s = timeout_s

    def run(self, wire: Wire) -> None:
        outcome = self._outcome(msgspec.json.encode(wire) + b"\n")
        if outcome is not None:
            _say(f"{self._words[0]}: {outcome}, with {wire['kind']} {wire['id']} of {wire['station']}")

    def _outcome(self, line: bytes) -> str | None:
        """What went wrong."""
        try:
            process = subprocess.Popen(self._words, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            process.communicate(line, self._timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"not done after {self._timeout_s:g} s, killed"
        return f"exit code {process.returncode}" if process.returncode else None


def printed(*, as_json: bool) -> Callable[[Wire], None]:
    """What prints a record and flushes it, or raises a ListenError where nobody reads or the disk is full."""

    def show(wire: Wire) -> None:
        try:
            if as_json:
                print_json(wire)
            elif wire["kind"] != "status":
                print(readable(wire), flush=True)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - what is in the buffer still wants to go somewhere
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            raise ListenError(f"stdout: {error.strerror}: records can be handed on to nobody") from error

    return show


def listen(
    subscriber: Subscriber,
    choice: Choice,
    hand_on: Callable[[Wire], None],
    vigil: Vigil,
    *,
    fail_when_deaf: bool,
) -> bool:
    """Hand records on until SIGTERM or SIGINT, and say on stderr what is missing and who is deaf.

    Returns: whether it ended because somebody is deaf.
    """
    watch = _Watch(subscriber, vigil)
    with _asked_to_end() as stop:
        while not (stop.is_set() or (vigil.deaf and fail_when_deaf)):
            for wire in subscriber.records(_TICK_S, stop):
                vigil.hear(wire)
                if choice.takes(wire):
                    hand_on(wire)
                if wire["kind"] == "status":
                    watch.look()
                    if vigil.deaf and fail_when_deaf:
                        break
            watch.look()
    return vigil.deaf and fail_when_deaf


class _Watch:
    """Says what has changed since the last look."""

    def __init__(self, subscriber: Subscriber, vigil: Vigil) -> None:
        self._subscriber, self._vigil = subscriber, vigil
        self._recovered = self._lost = self._expired = self._unreadable = 0
        self._unsaved: str | None = None

    def look(self) -> None:
        self._vigil.recovery(self._subscriber.waiting)
        for line in [*self._counted(), *self._vigil.changes()]:
            _say(line)

    def _counted(self) -> Iterator[str]:
        now = self._subscriber
        if now.recovered_records > self._recovered:
            yield f"{now.endpoint}: recovered {now.recovered_records - self._recovered} records that had not come"
        if now.lost_records > self._lost:
            yield f"{now.endpoint}: LOST: at least {now.lost_records - self._lost} records, not to be had any more"
        if now.expired_seq != self._expired:
            yield f"{now.endpoint}: LOST: what the station no longer keeps, of the records up to {now.expired_seq}"
        if now.unreadable_messages > self._unreadable:
            new = now.unreadable_messages - self._unreadable
            yield f"{now.endpoint}: {new} messages that are no record, nor an answer, were passed over"
        if now.unsaved and now.unsaved != self._unsaved:
            yield f"the place cannot be stored: {now.unsaved}; records since then would come twice"
        self._recovered, self._lost, self._unsaved = now.recovered_records, now.lost_records, now.unsaved
        self._unreadable = now.unreadable_messages
        self._expired = now.expired_seq


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT, so that a record that is being handed on is; a second one insists."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
