"""A clip for each call: its windows and a margin, cut out of the ring by sample number once the margin has come."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from pathlib import Path

from pam_daemon.analysis.stream import Stream
from pam_daemon.errors import RecordError
from pam_daemon.outlets import captured_utc_ns, tell
from pam_daemon.outlets.flac import FlacFile, file_name
from pam_daemon.records import Event

DIRECTORY = "clips"  # in the recorder's
_WAITING = 256  # that are ordered and not written, at most


@dataclass(frozen=True, slots=True)
class _Order:
    identity: str  # the detection's
    name: str
    begin: int
    end: int


class Clips:
    """The clips of one stream. The worker orders, the recorder's thread writes."""

    def __init__(self, stream: Stream, directory: Path, station: str, margin_s: float) -> None:
        self.written = 0
        self.lost = 0  # by the disk or the ring
        self.refused = 0  # no room in the queue
        self._stream = stream
        self._directory = directory / DIRECTORY
        self._station = station
        self._margin = round(margin_s * stream.sample_rate_hz)
        self._orders: queue.Queue[_Order] = queue.Queue(_WAITING)
        self._waiting: list[_Order] = []

    def order(self, identity: str, start: int, end: int) -> str | None:
        """The file, in the recorder's directory, that will hold the call with windows over [start, end) and its margin.

        It begins with the stream or after the gap before the call where the margin reaches beyond. None where
        there will be none: the recorder is too far behind.
        """
        begin = max(start - self._margin, self._stream.ring.heard_since(start) or 0)
        name = file_name(self._station, self._stream.name, captured_utc_ns(self._stream, begin), identity)
        try:
            self._orders.put_nowait(_Order(identity, name, begin, end + self._margin))
        except queue.Full:
            self.refused += 1
            return None
        return f"{DIRECTORY}/{name}"

    def write(self) -> None:
        """Those of which all has come."""
        ring = self._stream.ring
        self._waiting += [self._orders.get_nowait() for _ in range(self._orders.qsize())]
        due = [order for order in self._waiting if ring.closed or ring.elapsed_samples >= order.end]
        self._waiting = [order for order in self._waiting if order not in due]
        for order in due:
            try:
                self._cut(order)
                self.written += 1
            except RecordError as error:
                self.lost += 1
                data = {"detection": order.identity, "clip": f"{DIRECTORY}/{order.name}"}
                tell(self._stream, Event("clip_lost", "warning", f"a call's clip is lost: {error}", data))

    def _cut(self, order: _Order) -> None:
        samples = self._stream.ring.audio(order.begin, order.end)
        if samples is None:
            raise RecordError("the ring holds its sound no longer; give capture.ring_s more")
        file = FlacFile(self._directory / order.name, self._stream.sample_rate_hz)
        try:
            file.write(samples)
        finally:
            kept = file.close()
        if kept < len(samples):
            raise RecordError(f"{file.path}: the disk took {kept} of {len(samples)} samples")
