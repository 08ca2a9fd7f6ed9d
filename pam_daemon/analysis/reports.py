"""What a stream has to tell, as records, each with the identity that its place in the stream gives it. No state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from pam_daemon.analysis.detect import Call
from pam_daemon.capture.live_clock import LiveClock
from pam_daemon.capture.ring import Unheard
from pam_daemon.clock import Clock, SampleClock, StreamClock, rfc3339
from pam_daemon.records import (
    Body,
    ClockState,
    Detection,
    Effort,
    Event,
    Gap,
    Kind,
    Latency,
    Mode,
    ModelName,
    Position,
    Record,
    record_id,
)

# The id and the windows [start, end) of a detection to where its sound will be; None where it is not kept.
OrderClip = Callable[[str, int, int], str | None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stream's sample 0 lies: known before the first sample is read."""

    clock: StreamClock
    # A sample number to the key of ids and the number counted from there: for a file its SHA-256 and the sample
    # within it, for a device the UTC at which the stream began.
    locate: Callable[[int], tuple[str, int]]
    clock_state: Callable[[], ClockState] = ClockState

    @staticmethod
    def live(clock: LiveClock) -> Origin:
        return Origin(clock, lambda sample: (clock.began_utc, sample), clock.state)


@dataclass(frozen=True, slots=True)
class Reporter:
    """Makes one stream's records. Samples are at the source's rate."""

    station: str
    stream: str
    mode: Mode
    sample_rate_hz: int
    model: ModelName
    position: Position | None

    def detection(
        self,
        origin: Origin,
        call: Call,
        label: str,
        latency: Latency,
        flood: bool | None,
        order_clip: OrderClip | None,
        clock: Clock,
    ) -> Record:
        start, peak, end = call.first.source_start, call.peak.source_centre, call.last.source_end
        at = origin.clock.at(peak)
        body = Detection(
            start_utc=at.utc(start),
            end_utc=at.utc(end),
            peak_utc=at.utc(peak),
            start_s=at.seconds(start),
            end_s=at.seconds(end),
            peak_s=at.seconds(peak),
            start_sample=start,
            end_sample=end,
            label=label,
            score=call.score,
            threshold=call.threshold.score,
            threshold_source=call.threshold.source,
            windows=call.windows,
            continuing=call.continuing,
            truncated=call.truncated,
            model=self.model,
            level_dbfs=call.peak.level_dbfs,
            latency_ms=latency,
            position=self.position,
            flood=flood,
        )
        record = self._record(origin, "detection", start, body, clock, self.model.sha256, label)
        if order_clip is None or record.id is None:
            return record
        return replace(record, body=replace(body, clip=order_clip(record.id, start, end)))

    def gap(self, origin: Origin, unheard: Unheard, clock: Clock, at: SampleClock | None = None) -> Record:
        """at: another clock than that of the gap's first sample."""
        at = at or origin.clock.at(unheard.start)
        body = Gap(
            term=unheard.term,
            start_sample=unheard.start,
            samples=unheard.samples,
            start_utc=at.utc(unheard.start),
            duration_s=at.seconds(unheard.samples),
            reason=unheard.reason,
            estimated=unheard.estimated,
            uncertainty_s=unheard.uncertainty_s,
        )
        return self._record(origin, "gap", unheard.start, body, clock, unheard.reason)

    def effort(self, origin: Origin, counts: dict[str, int], clock: Clock) -> Record:
        """counts: the terms of the identity, since the stream began."""
        end = counts["elapsed_samples"]
        body = Effort(
            start_utc=origin.clock.at(0).utc(0),
            end_utc=origin.clock.at(end).utc(end),
            start_sample=0,
            end_sample=end,
            sample_rate_hz=self.sample_rate_hz,
            **counts,
        )
        return self._record(origin, "effort", 0, body, clock, end)

    def event(self, origin: Origin, sample: int, event: Event, clock: Clock) -> Record:
        return self._record(origin, "event", sample, event, clock, event.what)

    def _record(
        self, origin: Origin, kind: Kind, first_sample: int, body: Body, clock: Clock, *rest: str | int | None
    ) -> Record:
        time_utc = rfc3339(clock.utc_ns())
        key, sample = origin.locate(first_sample)
        if kind == "event":
            rest = (*rest, time_utc)
        identity = record_id(kind, self.station, self.stream, key, sample, *rest)
        return Record(kind, self.station, self.stream, self.mode, identity, time_utc, body)
