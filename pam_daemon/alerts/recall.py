"""What the journal tells alert rules at a start: no more than the longest of them needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from pam_daemon.alerts.tally import Candidate, Rule, stream_ns, to_ns
from pam_daemon.alerts.watch import DISORDER_NS, EVER_NS, Missed, missed_by
from pam_daemon.clock import NS_PER_S, parse_rfc3339
from pam_daemon.journal import Journal
from pam_daemon.records import Detection, Event, Gap, Mode, Wire


def recall(
    journal: Journal, station: str, mode: Mode, rules: Sequence[Rule], places: Mapping[str, int]
) -> tuple[list[Wire], list[Candidate], list[Missed]]:
    """Each rule's last record; the detections that may still count; and when nobody listened, as far back as is asked.

    Only records of this station and in its mode: a replay into a live station's journal raises no live alert.

    Args:
        places: by stream, the UTC in nanoseconds up to which the process before this one listened.
    """

    def latest(kind: str) -> Iterator[Wire]:
        return (wire for wire in journal.latest(kind) if (wire["station"], wire["mode"]) == (station, mode))

    alerts: dict[tuple[str, str], Wire] = {}
    for wire in latest("alert"):
        alerts.setdefault((wire["rule"], wire["label"]), wire)
    peaks_ns = (stream_ns(wire["peak_utc"]) for wire in islice(latest("detection"), 1))
    newest_ns = max((*places.values(), *peaks_ns), default=0)
    since_ns = _since_ns(alerts.values(), rules, newest_ns)
    detections = list(_detections(latest("detection"), since_ns))
    events = list(_events(latest("event"), since_ns, detections))
    heard = [_candidate(wire, events) for wire in reversed(detections)]
    return list(alerts.values()), heard, list(_missed(latest("gap"), events, since_ns, places))


def _since_ns(alerts: Iterable[Wire], rules: Sequence[Rule], newest_ns: int) -> int:
    """The stream time from which on the journal matters: a window before the last detection of what stands, and before
    the end."""
    windows_ns = {(rule.name, rule.label): to_ns(rule.window_s) for rule in rules}
    begins_ns = [newest_ns - window_ns for window_ns in windows_ns.values()]
    begins_ns += [
        stream_ns(wire["last_utc"]) - windows_ns.get((wire["rule"], wire["label"]), 0)
        for wire in alerts
        if wire["state"] in ("raised", "extended")
    ]
    return min(begins_ns, default=newest_ns) - DISORDER_NS


def _detections(latest: Iterator[Wire], since_ns: int) -> Iterator[Wire]:
    """The newest first."""
    later_ns: int | None = None
    for wire in latest:
        at_ns = stream_ns(wire["peak_utc"])
        if at_ns < since_ns or (later_ns is not None and at_ns > later_ns + DISORDER_NS):
            return  # early enough; or UTC was set back, and this is of another time
        later_ns = at_ns
        yield wire


def _events(latest: Iterator[Wire], since_ns: int, detections: Sequence[Wire]) -> Iterator[Wire]:
    """The newest first; they begin early enough to tell when the streams of the detections began."""
    oldest_seq = min((wire["seq"] for wire in detections), default=math.inf)
    wanted = {wire["stream"] for wire in detections}
    for wire in latest:
        if wire["seq"] < oldest_seq and not wanted and parse_rfc3339(wire["time_utc"]) < since_ns:
            return
        if wire["what"] == "stream_began" and wire["seq"] < oldest_seq:
            wanted.discard(wire["stream"])
        if wire["what"] in ("stream_began", "clock_step", "journal_damaged"):
            yield wire


def _candidate(wire: Wire, events: Sequence[Wire]) -> Candidate:
    began = (event for event in events if event["what"] == "stream_began" and event["stream"] == wire["stream"])
    key = next((event["data"]["start_utc"] for event in began if event["seq"] < wire["seq"]), "")
    return Candidate.of(msgspec.convert(wire, Detection), wire["stream"], wire["id"], key, wire["start_sample"], key)


def _missed(latest: Iterator[Wire], events: Sequence[Wire], since_ns: int, streams: Iterable[str]) -> Iterator[Missed]:
    continued: list[tuple[str, int]] = []
    for wire in latest:
        stretch = missed_by(wire["stream"], msgspec.convert(wire, Gap))
        assert stretch is not None, "a gap is missed"
        if stretch[2] < since_ns:
            break
        yield stretch
        if wire["reason"] == "not_running":
            continued.append((wire["stream"], stretch[2]))
    for wire in events:
        if wire["what"] == "clock_step" and (stretch := missed_by(wire["stream"], msgspec.convert(wire, Event))):
            yield stretch
        elif wire["what"] == "journal_damaged":
            yield from ((stream, EVER_NS, parse_rfc3339(wire["time_utc"])) for stream in streams)
        elif wire["what"] == "stream_began":
            began_ns = parse_rfc3339(wire["data"]["start_utc"])
            if not any(name == wire["stream"] and abs(at_ns - began_ns) < NS_PER_S for name, at_ns in continued):
                yield wire["stream"], EVER_NS, began_ns  # nothing tells of a process before it
