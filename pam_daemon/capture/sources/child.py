"""A device in a process of its own: what it captures goes to the daemon as messages on stdout.

A process can be killed when PortAudio hangs, sees a fresh device list each time it starts, and goes on capturing while
the daemon is held up: what the daemon does not take is kept for a while, then dropped and counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO

import msgspec

from pam_daemon.capture.sources import Audio, Missing, Outage
from pam_daemon.capture.sources.device import Device, find_device
from pam_daemon.errors import PamdError


class Opened(msgspec.Struct, frozen=True, tag="opened", array_like=True):
    """The device delivers from now on."""

    name: str
    sample_rate_hz: int


class Block(msgspec.Struct, frozen=True, tag="block", array_like=True):
    """`Audio`: float32 of shape (channels, samples) in the machine's byte order."""

    samples: bytes
    monotonic_ns: int


class Lost(msgspec.Struct, frozen=True, tag="lost", array_like=True):
    """`Missing`."""

    samples: int
    reason: str
    estimated: bool
    uncertainty_s: float


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """The device cannot be opened, or no longer read: an `Outage`; the child ends after it."""

    reason: str
    text: str


Message = Opened | Block | Lost | Failed
_LENGTH_BYTES = 4
_LONGEST_BYTES = 1 << 26
_ROOM_AGAIN = 0.8  # of the capacity: a loss ends when there is room for more than a block


def write(stream: BinaryIO, message: Message) -> None:
    """A message with its length before it."""
    payload = msgspec.msgpack.encode(message)
    stream.write(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)
    stream.flush()


def split(buffer: bytearray) -> list[Message]:
    """Take the whole messages off the front of what has been read.

    Raises:
        Outage: something that is no message.
    """
    messages: list[Message] = []
    start = 0
    while len(buffer) - start >= _LENGTH_BYTES:
        length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "little")
        end = start + _LENGTH_BYTES + length
        if len(buffer) < end and length <= _LONGEST_BYTES:
            break
        try:
            messages.append(msgspec.msgpack.decode(bytes(buffer[start + _LENGTH_BYTES : end]), type=Message))
        except (ValueError, RecursionError) as error:
            raise Outage("failed", f"no message from the device's process: {error}") from error
        start = end
    del buffer[:start]
    return messages


@dataclass(slots=True)
class Outbox:
    """What waits for the daemon, bounded: beyond `capacity` samples the newest are dropped, exactly counted."""

    capacity: int
    _messages: deque[Message] = field(default_factory=deque)
    _samples: int = 0
    _dropped: int = 0
    _ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, piece: Audio | Missing) -> None:
        with self._changed:
            if isinstance(piece, Missing):
                self._flush_dropped()
                self._messages.append(Lost(piece.samples, piece.reason, piece.estimated, piece.uncertainty_s))
            elif self._samples + piece.samples.shape[1] > self.capacity * (_ROOM_AGAIN if self._dropped else 1):
                self._dropped += piece.samples.shape[1]
            else:
                self._flush_dropped()
                self._samples += piece.samples.shape[1]
                self._messages.append(Block(piece.samples.tobytes(), piece.monotonic_ns or 0))
            self._changed.notify()

    def say(self, message: Message) -> None:
        with self._changed:
            self._flush_dropped()
            self._messages.append(message)
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._flush_dropped()
            self._ended = True
            self._changed.notify()

    def take(self, channels: int) -> Message | None:
        """The next message, waited for; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._ended)
            if not self._messages:
                return None
            message = self._messages.popleft()
            if isinstance(message, Block):
                self._samples -= len(message.samples) // (4 * channels)
            return message

    def _flush_dropped(self) -> None:
        if self._dropped:
            self._messages.append(Lost(self._dropped, "overrun", False, 0.0))
            self._dropped = 0


def main(name: str, channels: int, sample_rate_hz: int | None, keep_s: float) -> None:
    """Capture until SIGTERM; the daemon's own end is noticed at the next write."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not mix with the messages
    try:
        info = find_device(name)
        with Device(info, stop, channels=channels, sample_rate_hz=sample_rate_hz) as device:
            write(out, Opened(info.name, device.sample_rate_hz))
            outbox = Outbox(round(keep_s * device.sample_rate_hz))
            sender = threading.Thread(target=_send, args=(outbox, out, channels, stop), name="sender")
            sender.start()
            try:
                for piece in device.blocks():
                    outbox.put(piece)
            except PamdError as error:
                outbox.say(_failed(error))
            finally:
                outbox.end()
                sender.join()
    except PamdError as error:
        write(out, _failed(error))


def _failed(error: PamdError) -> Failed:
    return Failed(error.reason if isinstance(error, Outage) else "failed", str(error))


def _send(outbox: Outbox, out: BinaryIO, channels: int, stop: threading.Event) -> None:
    try:
        while (message := outbox.take(channels)) is not None:
            write(out, message)
    except BrokenPipeError:
        stop.set()  # the daemon has gone


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None, float(sys.argv[4]))
