"""All alert rules of a station: they hear of every stream's detections in the order of their peaks, whatever the order
in which those came. So a replay gives the same alerts, at any speed, as the sea did.

A detection is taken once every stream is decided beyond its peak; of one instant, in the order of the streams' names.
What moves stream time is how far the streams are: with it alerts end, whether or not anything is heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from pam_daemon.alerts.coverage import Coverage
from pam_daemon.alerts.tally import Candidate, Decision, Rule, Standing, Tally, stream_ns, to_ns
from pam_daemon.clock import NS_PER_S, parse_rfc3339
from pam_daemon.records import Alert, Body, Event, Gap, Wire

_KEPT_NS = 86_400 * NS_PER_S  # of coverage: as far back as a window reaches
_UNDECIDED_NS = 60 * NS_PER_S  # before the place that was kept of a stream: rules may have waited for another
EVER_NS = -(2**62)  # before all
DISORDER_NS = 3600 * NS_PER_S  # between streams: as much as the longest ring holds

Missed = tuple[str, int, int]  # a stream, and from when to when nobody listened to it


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is: all that happened before `until_ns` is decided and has been told, but for an open gap."""

    stream: str
    began_ns: int
    until_ns: int
    unheard_since_ns: int | None = None  # a gap that goes on, up to `until_ns`
    utc: bool = True


def missed_by(stream: str, body: Body) -> Missed | None:
    """What a record of a stream says nobody listened to, if it does."""
    if isinstance(body, Gap):
        start_ns = stream_ns(body.start_utc, body.start_sample * body.duration_s / body.samples)
        return stream, start_ns, start_ns + to_ns(body.duration_s)
    if isinstance(body, Event) and body.what == "clock_step" and body.data["step_s"] > 0:
        # UTC that is set forward leaves out a time that never was.
        end_ns = parse_rfc3339(body.data["utc"])
        return stream, end_ns - to_ns(body.data["step_s"]), end_ns
    return None


class Watch:
    """Rules at work, on any number of streams.

    Args:
        separation_s: detections of one stream that are closer are one call.
        flood_every_s: in a flood an alert's extension is told so often, at most.
        patience_s: UTC that is set back by more begins another time, in which nothing of before counts.
    """

    def __init__(
        self, station: str, rules: Sequence[Rule], separation_s: float, flood_every_s: float, patience_s: float
    ) -> None:
        self._new_tally = partial(Tally, station=station, separation_s=separation_s, flood_every_s=flood_every_s)
        self._patience_ns = to_ns(patience_s)
        self._rules = rules
        self._streams: Sequence[str] = ()
        self._fresh = True  # the streams have not all begun
        self._now_ns: int | None  # all before it has been taken
        self._utc: bool  # whether it is UTC
        self._heard_until_ns: dict[str, int]
        self._waiting: list[Candidate]
        self._coverage: Coverage
        self._tallies: list[Tally]
        self._begin_time()

    def begin(self, streams: Sequence[str]) -> None:
        """These are listened to from now on: a station's, or the next recording's."""
        self._streams = self._coverage.streams = streams
        self._fresh = True

    def resume(
        self,
        last: Iterable[Wire],
        heard: Sequence[Candidate],
        missed: Iterable[Missed],
        heard_until_ns: Mapping[str, int],
    ) -> None:
        """Go on where a process before this one ended.

        Args:
            last: the last record in the journal of each rule and label.
            heard: the detections that are there, as far back as the rules' windows reach.
            missed: likewise, and back to the last detection of what stands.
            heard_until_ns: by stream, up to when that process listened.
        """
        places_ns = [heard_until_ns[stream] for stream in self._streams if stream in heard_until_ns]
        since_ns = min(places_ns, default=EVER_NS) - _UNDECIDED_NS
        found = {(wire["rule"], wire["label"]): wire for wire in last}
        for tally in self._tallies:
            tally.resume(found.pop((tally.rule.name, tally.rule.label), None), heard, since_ns)
        for wire in found.values():
            if wire["state"] in ("raised", "extended"):
                self._tallies.append(self._retired(wire))
        standing_ns = [tally.standing.last_ns for tally in self._tallies if tally.standing]
        self._now_ns = max((*standing_ns, *(one.time_ns for one in heard)), default=None)
        self._waiting = list(heard)
        self._miss(missed)
        self._heard_until_ns = dict(heard_until_ns)

    def needed_ns(self) -> int:
        """Since when a process after this one needs to know all, to go on: what is in a window, or still stands."""
        begins_ns = [
            (tally.standing.told_ns if tally.standing else self._now_ns) - to_ns(tally.rule.window_s)
            for tally in self._tallies
            if self._now_ns is not None
        ]
        return min(begins_ns, default=-EVER_NS) - DISORDER_NS

    def change(self, rules: Sequence[Rule]) -> None:
        """Other rules from now on. What stands, stands as long as was promised; also where its rule is gone."""
        self._rules = rules
        before = {(tally.rule.name, tally.rule.label): tally for tally in self._tallies}
        self._tallies = []
        for rule in rules:
            tally = before.pop((rule.name, rule.label), None) or self._new_tally(rule, coverage=self._coverage)
            tally.rule, tally.retired = rule, False
            self._tallies.append(tally)
        for tally in before.values():
            tally.retired = True
            if tally.standing:
                self._tallies.append(tally)

    def advance(
        self, heard: Iterable[Candidate], missed: Iterable[Missed], progress: Sequence[Progress]
    ) -> list[Decision]:
        """What has come, and how far the streams that have begun are now -> what becomes of alerts."""
        decisions: list[Decision] = []
        begun = len(progress) == len(self._streams)
        if begun:
            decisions += self._turn_back(progress)
        self._waiting += heard
        self._miss(missed)
        if begun:
            self._note(progress)
            decisions += self._move_to(min(place.until_ns for place in progress))
        return decisions

    def close(self) -> list[Decision]:
        """Nobody goes on: what stands lapses."""
        return list(self._lapse())

    def standing(self) -> list[Standing]:
        """The alerts that have not ended; on any thread."""
        return [standing for tally in self._tallies if (standing := tally.standing) is not None]

    def _begin_time(self) -> None:
        self._now_ns, self._utc = None, True
        self._heard_until_ns, self._waiting = {}, []
        self._coverage = Coverage()
        self._coverage.streams = self._streams
        self._tallies = [self._new_tally(rule, coverage=self._coverage) for rule in self._rules]

    def _turn_back(self, progress: Sequence[Progress]) -> Iterator[Decision]:
        """Where the streams' time is not that of before: what stands lapses, and all begins anew."""
        at_ns = min(place.began_ns if self._fresh else place.until_ns for place in progress)
        utc = progress[0].utc
        if self._now_ns is not None and (at_ns < self._now_ns - self._patience_ns or utc != self._utc):
            yield from self._lapse()
            self._begin_time()
        self._utc = utc

    def _lapse(self) -> Iterator[Decision]:
        """Nobody listens from now on, and what stands has no more time."""
        if self._now_ns is not None:
            for stream in self._streams:
                self._coverage.missed(stream, self._now_ns, -EVER_NS)
        yield from self._end_until(-EVER_NS)

    def _miss(self, missed: Iterable[Missed]) -> None:
        for stretch in missed:
            self._coverage.missed(*stretch)

    def _note(self, progress: Sequence[Progress]) -> None:
        for place in progress:
            if self._fresh:
                self._coverage.missed(place.stream, self._heard_until_ns.get(place.stream, EVER_NS), place.began_ns)
            if place.unheard_since_ns is not None:
                self._coverage.missed(place.stream, place.unheard_since_ns, place.until_ns)
            self._heard_until_ns[place.stream] = place.until_ns
        self._fresh = False

    def _move_to(self, until_ns: int) -> Iterator[Decision]:
        now_ns = self._now_ns = max(until_ns, until_ns if self._now_ns is None else self._now_ns)
        due = sorted(one for one in self._waiting if one.time_ns < now_ns)
        self._waiting = [one for one in self._waiting if one.time_ns >= now_ns]
        for one in due:
            yield from self._end_until(one.time_ns)
            for tally in self._tallies:
                if decision := tally.take(one):
                    yield decision
        yield from self._end_until(now_ns)
        kept_ns = [tally.standing.last_ns for tally in self._tallies if tally.standing]
        self._coverage.forget(min([now_ns - _KEPT_NS, *kept_ns]))

    def _end_until(self, until_ns: int) -> Iterator[Decision]:
        """Alerts that stand until then, and no longer."""
        standing = [(tally.standing.expires_ns, tally) for tally in self._tallies if tally.standing]
        for expires_ns, tally in sorted(standing, key=lambda pair: pair[0]):
            if expires_ns <= until_ns:
                yield tally.end()
        self._tallies = [tally for tally in self._tallies if tally.standing or not tally.retired]

    def _retired(self, last: Wire) -> Tally:
        """For an alert whose rule is no longer there: it runs out."""
        body = msgspec.convert(last, Alert)
        rule = Rule(body.rule, body.label, 1, body.window_s, 0, 0.0, 1, body.window_s, 0.0, 0.9, 0.0, body.zone)
        tally = self._new_tally(rule, coverage=self._coverage)
        tally.retired = True
        tally.resume(last, (), EVER_NS)
        return tally
