"""One channel's way through the house: from the ring's cursor through windows and detectors to records, counted."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pam_daemon.alerts.tally import stream_ns
from pam_daemon.alerts.watch import Progress
from pam_daemon.analysis.detect import Call, Detector, Threshold
from pam_daemon.analysis.flood import FloodGuard
from pam_daemon.analysis.reports import Origin, Reporter
from pam_daemon.analysis.windows import Grid, Item, Place, SegmentEnd, Window, Windower
from pam_daemon.capture.hearing import Hearing
from pam_daemon.capture.ring import FloatArray, Ring, Unheard
from pam_daemon.capture.sources import Source
from pam_daemon.clock import NS_PER_S, Clock, SampleClock
from pam_daemon.config import Flood
from pam_daemon.records import (
    ClockState,
    Event,
    Latency,
    Mode,
    ModelName,
    Position,
    Record,
    RecorderStatus,
    StreamStatus,
)

PLACES_EVERY_S = 10.0  # how often a live stream's place is kept, for the next start


@dataclass(frozen=True, slots=True)
class Analysis:
    """How a station listens: the same for all its streams."""

    station: str
    mode: Mode
    model: ModelName
    labels: tuple[str, ...]
    model_rate_hz: int
    window_samples: int
    hop_samples: int
    threshold: Threshold  # at the start
    min_separation_s: float
    floor_dbfs: float
    flood: Flood
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """When the worker had read a batch, and when it had its scores, on the monotonic clock."""

    read_ns: int
    scored_ns: int


class StreamRecorder(Protocol):
    """What keeps a stream's sound; asked by the worker, and by whoever wants a status."""

    def order_clip(self, identity: str, start: int, end: int) -> str | None:
        """Where the sound of a detection that has this id and the windows [start, end) will be."""
        ...

    def status(self) -> RecorderStatus: ...


# A stream's name, and in order its windows with their scores (labels,) and the ends of its segments.
Tap = Callable[[str, Window | SegmentEnd, FloatArray | None], None]


class Stream:
    """Reads its ring, gives windows to score, takes the scores, gives records.

    The worker alone calls `take`, `settle` and `finish`; `status` may be asked from any thread.
    """

    def __init__(
        self, name: str, source: Source, ring: Ring, analysis: Analysis, *, heard_until_utc_ns: int | None = None
    ) -> None:
        self.name = name
        self.ring = ring
        self.origin: Origin | None = None  # set before the first write to the ring
        self.recorder: StreamRecorder | None = None  # likewise
        self.tap: Tap | None = None  # likewise; called by the worker
        self.sample_rate_hz = source.sample_rate_hz
        self.analysed_samples = 0
        self.windows = 0  # scored
        self.threshold = analysis.threshold  # for the windows to come; any thread may set another
        self.detections = 0
        self.flood_detections = 0  # among them
        self.last_detection_utc: str | None = None
        self.done = False
        self._source = source
        self._hearing = Hearing(source.sample_rate_hz, analysis.floor_dbfs)
        self._analysis = analysis
        self._reports = Reporter(
            analysis.station, name, analysis.mode, self.sample_rate_hz, analysis.model, analysis.position
        )
        self._cursor = ring.cursor()
        self._grid = Grid(self.sample_rate_hz, analysis.model_rate_hz, analysis.window_samples, analysis.hop_samples)
        self._separation = round(analysis.min_separation_s * analysis.model_rate_hz)
        self._windower = Windower(self._grid)
        self._items: deque[Item] = deque()  # from the windower, not yet settled
        self._in_flight_samples = 0  # in windows among them
        self._detectors = self._new_detectors()
        self._decided = 0  # the first sample that may still be the peak of a call
        flood_samples = round(analysis.flood.window_s * self.sample_rate_hz)
        self._floods = [FloodGuard(analysis.flood.count, flood_samples) for _ in analysis.labels]
        self._heard_until_utc_ns = heard_until_utc_ns  # by the process before this one
        self._began_unsure = False  # UTC was not to be trusted when the stream began
        self._announced = analysis.mode == "replay"  # a file began when its name says
        self._last_place: Place | None = None
        self._told: deque[tuple[int, Event]] = deque()  # of what is rare: changes of a state
        self._lock = threading.Lock()  # samples are on the move from one count to the next

    def take(self, limit: int) -> list[FloatArray]:
        """Windows (window_samples,) that are ready, in order, at most `limit`; reads on where they do not suffice."""
        with self._lock:
            ready = sum(isinstance(item, Window) for item in self._items)
            hop = self._analysis.hop_samples * self.sample_rate_hz // self._analysis.model_rate_hz + 1
            while ready < limit and (piece := self._cursor.read((limit - ready) * hop)) is not None:
                ready += self._keep(self._windower.feed(piece))
            if not self.done and self._cursor.exhausted:
                self._keep(self._windower.close())
                self.done = True
            return [item.samples for item in self._items if isinstance(item, Window)][:limit]

    def settle(self, scores: FloatArray, timing: Timing, clock: Clock) -> list[Record]:
        """Scores (windows, labels) of the windows last taken -> what follows from them."""
        records: list[Record] = [] if self._announced or self.origin is None else self._announcement(clock)
        while self._told and self.origin is not None:
            sample, event = self._told.popleft()
            records.append(self._reports.event(self.origin, sample, event, clock))
            if event.what == "clock_step" and self._began_unsure:
                records += self._not_running(self.origin.clock.at(sample), clock)
        rows = iter(scores)
        left = len(scores)
        with self._lock:
            while self._items and (left or not isinstance(self._items[0], Window)):
                item = self._items.popleft()
                if isinstance(item, Window):
                    records += self._score(item, next(rows), timing, clock)
                    left -= 1
                elif isinstance(item, SegmentEnd):
                    records += self._end_segment(item, timing, clock)
                else:
                    self._decided = item.end
                    records.append(self._reports.gap(self._began(), item, clock))
                records += self._ended_floods(clock)
        return records

    def hear(self, samples: FloatArray) -> None:
        """Samples (n,) of a device, before they go into the ring: what they tell of it."""
        if event := self._hearing.feed(samples):
            self.tell(event)

    def thin(self, stride: int) -> None:
        """From now on, of so many windows of the grid one is scored: no more than still cover every sample."""
        analysis = self._analysis
        self._windower.stride = max(1, min(stride, analysis.window_samples // analysis.hop_samples))

    def tell(self, event: Event) -> None:
        """Something that happened to this stream, at the sample captured next; on any thread."""
        self._told.append((self.ring.elapsed_samples, event))

    @property
    def analysed_s(self) -> float:
        return self.analysed_samples / self.sample_rate_hz

    @property
    def decided_s(self) -> float:
        """Stream time that is behind us, heard or not."""
        return (self._cursor.position - self._windower.pending_samples) / self.sample_rate_hz

    @property
    def decided_utc_ns(self) -> int | None:
        """UTC up to which everything is decided and told; None before the first sample."""
        if self.origin is None:
            return None
        gap = self._windower.open_gap  # its record is still to come
        decided = gap.start if gap else self._cursor.position - self._windower.pending_samples
        return self.origin.clock.at(decided).utc_ns(decided)

    def locate(self, sample: int) -> tuple[str, int]:
        """The key of the ids of what begins at a sample, and its number under this key."""
        return self._began().locate(sample)

    def progress(self) -> Progress | None:
        """How far alert rules may go; None before the first sample."""
        if self.origin is None:
            return None
        # A gap that still goes on holds no call; its record comes later.
        gap = None if self._items else self._windower.open_gap
        return Progress(
            stream=self.name,
            began_ns=self._stream_ns(0),
            until_ns=self._stream_ns(gap.end if gap else self._decided),
            unheard_since_ns=self._stream_ns(gap.start) if gap else None,
            utc=self.origin.clock.at(0).start_utc_ns is not None,
        )

    def _stream_ns(self, sample: int) -> int:
        at = self._began().clock.at(sample)
        return stream_ns(at.utc(sample), at.seconds(sample))

    @property
    def waiting(self) -> bool:
        """There is something in the ring, or the news that nothing more will come."""
        return self._cursor.position < self.ring.elapsed_samples or (self.ring.closed and not self.done)

    @property
    def settled(self) -> bool:
        """Everything that was captured has been decided, and no more will come."""
        return self.done and not self._items

    def effort(self, clock: Clock) -> Record:
        """What was listened to since the stream began."""
        origin = self._began()
        with self._lock:
            counts = self._counts()
        return self._reports.effort(origin, counts, clock)

    @property
    def lag_s(self) -> float:
        """Stream time that is captured and not yet decided."""
        return self._pending_samples / self.sample_rate_hz

    def status(self, real_time_factor: float | None) -> StreamStatus:
        with self._lock:
            counts = self._counts()
        delivers = self._source.state == self._source.name
        trouble = self._hearing.state if delivers else self._source.state
        return StreamStatus(
            sample_rate_hz=self.sample_rate_hz,
            **counts,
            lag_s=round(counts["pending_samples"] / self.sample_rate_hz, 3),
            real_time_factor=real_time_factor,
            level_dbfs=self._last_place.level_dbfs if self._last_place else None,
            clipped=self.ring.clipped_samples,
            source=trouble or self._source.state,
            trouble=trouble,
            clock=self.origin.clock_state() if self.origin else ClockState(),
            hop_s=self._analysis.hop_samples * self._windower.stride / self._analysis.model_rate_hz,
            detections=self.detections,
            flood_detections=self.flood_detections,
            last_detection_utc=self.last_detection_utc,
            recorder=self.recorder.status() if self.recorder else None,
        )

    def _counts(self) -> dict[str, int]:
        """Each counted where it arises; that they add up is for others to check."""
        with self.ring.changed:
            return {
                "elapsed_samples": self.ring.elapsed_samples,
                "analysed_samples": self.analysed_samples,
                "gap_samples": self.ring.gap_samples,
                "skipped_samples": self.skipped_samples,
                "pending_samples": self._pending_samples,
            }

    @property
    def skipped_samples(self) -> int:
        return self._cursor.skipped_samples + self._windower.skipped_samples

    @property
    def _pending_samples(self) -> int:
        return self._cursor.pending_samples + self._windower.pending_samples + self._in_flight_samples

    def _keep(self, items: Iterator[Item]) -> int:
        """Queue what the windower gave; how many windows it was."""
        windows = 0
        for item in items:
            self._items.append(item)
            if not isinstance(item, Unheard):
                self._in_flight_samples += item.fresh_samples
            windows += isinstance(item, Window)
        return windows

    def _analysed(self, item: Window | SegmentEnd) -> None:
        self._in_flight_samples -= item.fresh_samples
        self.analysed_samples += item.fresh_samples

    def _score(self, window: Window, scores: FloatArray, timing: Timing, clock: Clock) -> Iterator[Record]:
        self._analysed(window)
        if self.tap is not None:
            self.tap(self.name, window, scores)
        self.windows += 1
        self._last_place = place = window.place
        for number, (detector, score) in enumerate(zip(self._detectors, scores, strict=True)):
            for call in detector.push(place, float(score), self.threshold):
                yield from self._detection(number, call, timing, clock)
        # A call whose peak lies after this place less the separation may still be outdone.
        to_model = self._grid.source_samples
        certain = place.source_centre - to_model(place.centre) + to_model(place.centre - self._separation) + 1
        self._decided = max(self._decided, certain)

    def _end_segment(self, end: SegmentEnd, timing: Timing, clock: Clock) -> Iterator[Record]:
        self._analysed(end)
        if self.tap is not None:
            self.tap(self.name, end, None)
        for number, detector in enumerate(self._detectors):
            for call in detector.end():
                yield from self._detection(number, call, timing, clock)
        self._detectors = self._new_detectors()
        if self._last_place is not None:
            self._decided = max(self._decided, self._last_place.source_end)

    def _new_detectors(self) -> list[Detector]:
        return [Detector(self._separation) for _ in self._analysis.labels]

    def _ended_floods(self, clock: Clock) -> Iterator[Record]:
        for label, guard in zip(self._analysis.labels, self._floods, strict=True):
            if guard.ends(self._decided) and self._analysis.mode != "replay":
                text = f"{label}: {guard.calls} detections were marked"
                data = {"label": label, "detections": guard.calls}
                over = Event("flood_over", "info", text, data)
                yield self._reports.event(self._began(), self._decided, over, clock)

    def _detection(self, number: int, call: Call, timing: Timing, clock: Clock) -> Iterator[Record]:
        analysis, label, guard = self._analysis, self._analysis.labels[number], self._floods[number]
        peak, origin = call.peak.source_centre, self._began()
        flood = guard.heard(peak)
        if guard.calls == 1 and flood and analysis.mode != "replay":  # where its marks say it all, ever the same
            text = f"{label}: {analysis.flood.count} detections in less than {analysis.flood.window_s:g} s"
            yield self._reports.event(origin, peak, Event("flood", "warning", text, {"label": label}), clock)
        self.detections += 1
        self.flood_detections += bool(flood)
        self.last_detection_utc = origin.clock.at(peak).utc(peak)
        latency = self._latency(call.peak, timing, clock)
        order_clip = self.recorder.order_clip if self.recorder else None
        yield self._reports.detection(origin, call, label, latency, flood, order_clip, clock)

    def _latency(self, peak: Place, timing: Timing, clock: Clock) -> Latency:
        deciding = (self._last_place or peak).source_end
        audio_ms = 1000 * (deciding - peak.source_end) / self.sample_rate_hz
        captured_ns = self.ring.captured_ns(deciding, self.sample_rate_hz)
        if captured_ns is None:
            return Latency(audio_ms, None, None, None, None)
        steps_ns = (captured_ns, timing.read_ns, timing.scored_ns, clock.monotonic_ns())
        read_ms, score_ms, decide_ms = ((b - a) / 1e6 for a, b in itertools.pairwise(steps_ns))
        return Latency(audio_ms, read_ms, score_ms, decide_ms, audio_ms + read_ms + score_ms + decide_ms)

    def _announcement(self, clock: Clock) -> list[Record]:
        """That the stream has begun, and since when nobody had listened."""
        self._announced = True
        origin = self._began()
        at = origin.clock.at(0)
        data = {"start_utc": at.utc(0), "sample_rate_hz": self.sample_rate_hz}
        began = Event("stream_began", "info", f"listening to {self._source.name}", data)
        self._began_unsure = clock.sync().quality != "synchronised"
        return [self._reports.event(origin, 0, began, clock), *self._not_running(at, clock)]

    def _not_running(self, at: SampleClock, clock: Clock) -> list[Record]:
        """The time up to sample 0 when nobody listened, as far as it is not told yet; outside the stream's counts.

        After a boot without a clock it is known only once UTC has been set.
        """
        if self._heard_until_utc_ns is None or at.start_utc_ns is None or at.start_utc_ns <= self._heard_until_utc_ns:
            return []
        samples = (at.start_utc_ns - self._heard_until_utc_ns) * self.sample_rate_hz // NS_PER_S
        self._heard_until_utc_ns = at.start_utc_ns
        unheard = Unheard(-samples, samples, "gap", "not_running", True, PLACES_EVERY_S)
        return [self._reports.gap(self._began(), unheard, clock, at)]

    def _began(self) -> Origin:
        assert self.origin is not None, "samples came before the origin was set"
        return self.origin
