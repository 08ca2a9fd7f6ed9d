"""A hydrophone that is listened to for months: its device is opened again, as often as it takes.

Sample numbers go on while there is no device: what was not captured is measured with the monotonic clock.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import structlog

from pam_daemon.capture.sources import Audio, Missing, Outage
from pam_daemon.capture.sources.child import Block, Failed, Lost, Message, Opened, split
from pam_daemon.clock import NS_PER_S, Clock

RETRY_S = (5.0, 120.0)  # the first wait for a device, and the longest
NO_MESSAGE_S = 10.0  # of a child that has opened its device: then it hangs
_TICK_S = 1.0  # how often the time without a device is told
_READ_BYTES = 1 << 18
UNCERTAINTY_S = 0.1

log = structlog.get_logger()


@dataclass
class Hydrophone:
    """A Source over a device that may be absent, fail, hang and come back."""

    name: str
    stop: threading.Event
    clock: Clock
    channels: int = 1
    keep_s: float = 60.0  # of sound, kept by the child while the daemon is held up
    sample_rate_hz: int = 0  # 0 until the device has been opened: native
    trouble: str | None = "absent"  # one word; None while it is heard
    _child: _Child | None = field(default=None, init=False)
    _reason: str = field(default="absent", init=False)  # of what is missing before the next block
    _end_ns: int | None = field(default=None, init=False)  # when the sample after the last was captured

    @property
    def state(self) -> str:
        """The name while it is heard, else what is wrong."""
        return self.trouble or self.name

    def open(self) -> None:
        """Open the device for the first time.

        Raises:
            Outage: it is not there or cannot be opened.
        """
        self._child = _Child(self)
        self.sample_rate_hz = self._child.sample_rate_hz

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the device go, if nobody listens to it any more."""
        if self._child is not None:
            self._child.end()

    def blocks(self) -> Iterator[Audio | Missing]:
        """What is captured and what is not, until `stop` is set and what the device had until then is given out."""
        retry_s = RETRY_S[0]
        if self._child is None:
            self._end_ns = self.clock.monotonic_ns()
        while not self.stop.is_set():
            try:
                self._child = self._child or _Child(self)
                self.trouble, retry_s = None, RETRY_S[0]
                log.info("device opened", device=self.name, sample_rate_hz=self.sample_rate_hz)
                yield from self.listen()
            except Outage as outage:
                self.trouble = self._reason = outage.reason
                log.warning("device lost", device=self.name, reason=self.trouble, error=str(outage), retry_s=retry_s)
            finally:
                if self._child is not None:
                    self._child.end()
                    self._child = None
            if not self.stop.is_set():
                yield from self._wait(retry_s)
                retry_s = min(2 * retry_s, RETRY_S[1])

    def listen(self) -> Iterator[Audio | Missing]:
        """What the open device gives, until `stop` is set.

        Raises:
            Outage: it is lost, or says nothing for `NO_MESSAGE_S`.
        """
        assert self._child is not None, "open first"
        first = True
        for message in self._child.messages:
            match message:
                case Block():
                    audio = self._audio(message)
                    if first:
                        yield from self._missing(message.monotonic_ns - self._ns(audio.samples.shape[1]))
                    self._end_ns, first = message.monotonic_ns, False
                    yield audio
                case Lost():
                    self._end_ns = None if self._end_ns is None else self._end_ns + self._ns(message.samples)
                    yield Missing(message.samples, message.reason, message.estimated, message.uncertainty_s)
                case Failed():
                    raise Outage(message.reason, message.text)
                case Opened():
                    pass
        if not self.stop.is_set():
            raise Outage("failed", "the device's process has ended")

    def _wait(self, wait_s: float) -> Iterator[Missing]:
        """Until the next try; the time without a device is told as it passes."""
        end_ns = self.clock.monotonic_ns() + int(wait_s * NS_PER_S)
        while not self.stop.wait(_TICK_S) and self.clock.monotonic_ns() < end_ns:
            yield from self._missing(self.clock.monotonic_ns())
        yield from self._missing(self.clock.monotonic_ns())

    def _missing(self, until_ns: int) -> Iterator[Missing]:
        """What was not captured since the last sample."""
        if self._end_ns is None:
            return
        samples = (until_ns - self._end_ns) * self.sample_rate_hz // NS_PER_S
        if samples > 0:
            self._end_ns += self._ns(samples)
            yield Missing(samples, self._reason, estimated=True, uncertainty_s=UNCERTAINTY_S)

    def _audio(self, block: Block) -> Audio:
        samples = np.frombuffer(block.samples, np.float32).reshape(self.channels, -1)
        return Audio(samples, block.monotonic_ns)

    def _ns(self, samples: int) -> int:
        return samples * NS_PER_S // self.sample_rate_hz


class _Child:
    """The process that holds the device.

    Raises:
        Outage: it cannot open the device, or says nothing.
    """

    def __init__(self, of: Hydrophone) -> None:
        words = [of.name, str(of.channels), str(of.sample_rate_hz), str(of.keep_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pam_daemon.capture.sources.child", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on the terminal ends the daemon, which then ends the device in order
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self.messages = self._read(of.stop)
        try:
            first = next(self.messages, Failed("failed", "the device's process has ended"))
            if isinstance(first, Failed):
                raise Outage(first.reason, first.text)
            assert isinstance(first, Opened), first
        except BaseException:
            self.end()
            raise
        self.sample_rate_hz = first.sample_rate_hz

    def end(self) -> None:
        """Whatever it does now."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _read(self, stop: threading.Event) -> Iterator[Message]:
        """Until the process ends, which `stop` asks it to do."""
        buffer, silent, asked = bytearray(), 0, False
        while True:
            if stop.is_set() and not asked:
                self._process.terminate()
                asked = True
            if not select.select([self._pipe], [], [], _TICK_S)[0]:
                silent += 1  # ticks, not the clock: a daemon that was stopped has not waited for data
                if silent * _TICK_S >= NO_MESSAGE_S:
                    raise Outage("hung", f"nothing from the device's process for {NO_MESSAGE_S:g} s")
                continue
            data = os.read(self._pipe.fileno(), _READ_BYTES)
            if not data:
                return
            silent = 0
            buffer += data
            yield from split(buffer)
