"""Outlets: cursors that only take. What they lose is their own, counted apart, and costs the analysis nothing."""

from __future__ import annotations

import structlog

from pam_daemon.analysis.stream import Stream
from pam_daemon.records import Event

log = structlog.get_logger()


def tell(stream: Stream, event: Event) -> None:
    """What happened to an outlet of a stream: journalled in the worker's next round, logged where none will come."""
    stream.tell(event)
    if stream.done:
        getattr(log, event.severity)(event.what, stream=stream.name, text=event.text, **event.data)


def captured_utc_ns(stream: Stream, sample: int) -> int:
    """The UTC of a sample that a live stream has captured."""
    utc_ns = stream.origin.clock.at(sample).utc_ns(sample) if stream.origin else None
    assert utc_ns is not None, "a live stream knows its time before its first sample"
    return utc_ns
