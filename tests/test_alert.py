"""Alert rules against a slow, obvious reference that was written from the words of docs/alerts.md alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calls import FLOOD_EVERY_S, RATE_HZ, SEPARATION_S, Call, gap, ns, record, rule, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_daemon.alerts.recall import recall
from pam_daemon.alerts.tally import Decision, Rule
from pam_daemon.alerts.watch import Progress, Watch, missed_by
from pam_daemon.journal import Journal
from pam_daemon.records import STATION_WIDE, Detection, Event, Record, record_id

GAP_PIECE_S = 60
LENGTH_S = 300

# The reference


@dataclass(frozen=True)
class Expected:
    """What an alert record has to say, in the order of the records."""

    order: tuple[Any, ...]
    rule: str
    alert: int  # which of the rule's
    revision: int
    state: str
    level: str
    counted: list[Call]
    first: Call
    last_s: int
    expires_s: float
    max_score: float
    coverage: float


@dataclass
class Truth:
    """What happened, told in whole seconds."""

    streams: list[str]
    calls: list[Call] = field(default_factory=list)
    deaf: dict[str, set[int]] = field(default_factory=dict)  # seconds in which nobody listened
    until_s: int = 0  # every stream is decided up to here

    def share(self, start_s: float, end_s: float) -> float:
        """Second by second, stream by stream; nobody listened before 0."""
        seconds = range(math.floor(start_s), math.ceil(end_s))
        heard = [second >= 0 and second not in self.deaf[stream] for stream in self.streams for second in seconds]
        return sum(heard) / len(heard)


def counted_calls(truth: Truth, rule: Rule) -> list[Call]:
    """Sentence by sentence."""
    # "Rules hear of all streams' detections in the order of their peaks; at one instant, of the streams' names."
    calls = sorted(call for call in truth.calls if call.at_s < truth.until_s)
    # "A rule counts detections of its label that reach min_score."
    calls = [call for call in calls if call.label == rule.label and call.score >= rule.min_score]
    # "Closer to the last one counted on its stream than the minimum separation, it is the same call."
    counted: list[Call] = []
    for call in calls:
        before = [other for other in counted if other.stream == call.stream]
        if not before or call.at_s - before[-1].at_s >= SEPARATION_S:
            counted.append(call)
    return counted


def level_of(window: Sequence[Call], rule: Rule) -> str | None:
    if len(window) >= rule.count and len({call.stream for call in window}) >= rule.streams:
        return "detected"
    return "possible" if rule.possible_count and len(window) >= rule.possible_count else None


def reference(truth: Truth, rule: Rule, number: int) -> list[Expected]:
    """Sentence by sentence."""
    counted = counted_calls(truth, rule)
    records: list[Expected] = []
    now: Expected | None = None  # the alert that stands, as of its last detection
    told_s = 0
    quiet_until_s = -math.inf
    alerts = 0

    def end(before_s: float) -> None:
        """ "It ends hold_s after the last detection that met the rule: cleared where enough was listened to." """
        nonlocal now, quiet_until_s
        if now is None or now.expires_s > before_s:
            return
        share = truth.share(now.last_s, now.expires_s)
        state = "cleared" if share >= rule.coverage else "lapsed"
        order = (now.expires_s, 0, number)
        records.append(replace(now, order=order, state=state, revision=now.revision + 1, coverage=share))
        quiet_until_s = now.expires_s + rule.cool_down_s
        now = None

    for place, call in enumerate(counted):
        end(call.at_s)
        # "The window slides: it holds what is less than window_s older than its last."
        window = [other for other in counted[: place + 1] if call.at_s - other.at_s < rule.window_s]
        level = level_of(window, rule)
        if level is None:
            continue
        state = "extended" if now else "raised"
        if now is None:
            # "In the cool-down after its end no other is raised."
            if call.at_s < quiet_until_s:
                continue
            alerts += 1
        # "An alert's level rises and never falls."
        rises = now is not None and (now.level, level) == ("possible", "detected")
        # "An extension is told at once where the level rises, else extend_every_s after the last one that was told; in
        # a flood flood.extend_every_s; and never more than half the hold."
        every_s = min(max(rule.extend_every_s, FLOOD_EVERY_S if call.flood else 0), rule.hold_s / 2)
        told = now is None or rises or call.at_s - told_s >= every_s
        told_s = call.at_s if told else told_s
        now = Expected(
            order=(call.at_s, 1, call.stream, call.label, number),
            rule=rule.name,
            alert=alerts,
            revision=0 if now is None else now.revision + told,
            state=state,
            level="detected" if now and now.level == "detected" else level,
            counted=window,
            first=now.first if now else window[0],
            last_s=call.at_s,
            expires_s=call.at_s + rule.hold_s,
            max_score=max([now.max_score if now else 0.0, *(other.score for other in window)]),
            coverage=truth.share(call.at_s - rule.window_s, call.at_s),
        )
        if told:
            records.append(now)
    end(truth.until_s)
    return records


def told(expected: Sequence[Expected]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records' ids and bodies."""
    raised: dict[tuple[str, int], str] = {}
    for one in expected:
        first = one.first.record
        assert isinstance(first.body, Detection)
        key, sample = utc(one.first.began_s), first.body.start_sample
        identity = record_id("alert", "pamd", STATION_WIDE, key, sample, one.rule, one.first.label, one.revision)
        if one.state == "raised":
            raised[one.rule, one.alert] = identity
        yield (
            identity,
            {
                "alert": None if one.state == "raised" else raised[one.rule, one.alert],
                "revision": one.revision,
                "state": one.state,
                "level": one.level,
                "rule": one.rule,
                "count": len(one.counted),
                "first_utc": utc(one.first.at_s),
                "last_utc": utc(one.last_s),
                "expires_utc": utc(one.expires_s),
                "max_score": one.max_score,
                "detections": tuple(call.record.id for call in one.counted),
                "streams": tuple(sorted({call.stream for call in one.counted})),
                "coverage": math.floor(one.coverage * 1000) / 1000,
                "flood": one.counted[-1].flood,
                "began_utc": key,
                "start_sample": sample,
            },
        )


def compared(decision: Decision) -> tuple[str, dict[str, Any]]:
    body = decision.body
    names = (
        *("alert", "revision", "state", "level", "rule", "count", "first_utc", "last_utc", "expires_utc", "max_score"),
        *("detections", "streams", "coverage", "flood", "began_utc", "start_sample"),
    )
    return decision.id, {name: getattr(body, name) for name in names}


# A sea to watch


@dataclass(frozen=True)
class Sea:
    """By stream, what there is to be heard, and when its device is absent."""

    calls: dict[str, list[Call]]
    gaps: dict[str, list[tuple[int, int]]]


@st.composite
def seas(draw: st.DrawFn) -> Sea:
    calls: dict[str, list[Call]] = {}
    gaps: dict[str, list[tuple[int, int]]] = {}
    for stream in ("ch1", "ch2", "ch3")[: draw(st.integers(1, 3))]:
        gaps[stream], calls[stream], free_s = [], [], 0
        for start_s in sorted(draw(st.sets(st.integers(0, LENGTH_S), max_size=5))):
            if start_s > free_s:
                free_s = start_s + draw(st.sampled_from([1, 2, 20, 130]))
                gaps[stream].append((start_s, free_s))
        # Calls beside gaps, so that some are closer than the separation.
        edges_s = {edge_s for start_s, end_s in gaps[stream] for edge_s in (start_s - 1, end_s)}
        for at_s in sorted(draw(st.sets(st.integers(1, LENGTH_S), max_size=30)) | edges_s):
            if any(start_s <= at_s < end_s for start_s, end_s in gaps[stream]):
                continue
            for label in draw(st.sampled_from(["a", "a", "a", "b", "ab"])):
                call = Call(at_s, stream, label, draw(st.sampled_from([0.5, 0.7, 0.9])), draw(st.booleans()))
                before = next((other for other in reversed(calls[stream]) if other.label == label), None)
                segment_s = max((end_s for _, end_s in gaps[stream] if end_s <= at_s), default=0)
                # In one segment the detector keeps the separation; across a gap two may be closer.
                if before is None or before.at_s < segment_s or at_s - before.at_s >= SEPARATION_S:
                    calls[stream].append(call)
    return Sea(calls, gaps)


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    made = []
    for name in ("one", "two", "three")[: draw(st.integers(1, 3))]:
        count = draw(st.integers(1, 4))
        window_s = draw(st.sampled_from([4.0, 20.0, 60.0, 150.0]))
        made.append(
            rule(
                name=name,
                label=draw(st.sampled_from(["a", "a", "b"])),
                count=count,
                window_s=window_s,
                possible_count=draw(st.integers(0, count - 1)),
                min_score=draw(st.sampled_from([0.0, 0.0, 0.6])),
                streams=draw(st.sampled_from([1, 1, 2])),
                hold_s=window_s * draw(st.sampled_from([1, 1.5, 5])),
                cool_down_s=draw(st.sampled_from([0.0, 0.0, 45.0])),
                coverage=draw(st.sampled_from([0.5, 0.9, 1.0])),
                extend_every_s=draw(st.sampled_from([0.0, 10.0, 100.0])),
            )
        )
    return made


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ch1", "ch2", "ch3", "all", "all", "restart"]), st.sampled_from([1, 2, 3, 10, 30, 61, 90])
    ),
    max_size=40,
)


class Station:
    """Streams that come forward in any order, a journal, and a process that may die."""

    def __init__(self, sea: Sea, rules: Sequence[Rule], journal: Journal) -> None:
        self.sea = sea
        self.rules = rules
        self.journal = journal
        self.decided: list[Decision] = []
        self.truth = Truth(list(sea.calls), deaf={stream: set() for stream in sea.calls})
        self.at_s = dict.fromkeys(sea.calls, 0)
        self.began_s = 0
        self.watch = self._new_watch()
        self.watch.begin(list(sea.calls))
        self._commit(self._announcements({}))

    def move(self, stream: str, seconds: int) -> None:
        """One stream comes forward; what it has to tell is told, and rules hear of it."""
        before_s, after_s = self.at_s[stream], self.at_s[stream] + seconds
        calls = [
            replace(call, began_s=self.began_s) for call in self.sea.calls[stream] if before_s <= call.at_s < after_s
        ]
        self.at_s[stream] = after_s
        gaps = [gap(stream, *piece) for piece in self._pieces(stream) if before_s < piece[1] <= after_s]
        for start_s, end_s in self.sea.gaps[stream]:
            self.truth.deaf[stream] |= set(range(max(start_s, self.began_s), min(end_s, after_s)))
        self.truth.calls += calls
        self._commit([*(call.record for call in calls), *gaps])
        missed = [stretch for one in gaps if (stretch := missed_by(stream, one.body))]
        decisions = self.watch.advance([call.candidate for call in calls], missed, self._progress())
        self._commit([Record("alert", "pamd", "_", "live", one.id, utc(0), one.body) for one in decisions])
        self.decided += decisions
        self.truth.until_s = min(self.at_s.values())

    def restart(self, seconds: int) -> None:
        """The process dies, and another begins so much later: nobody listened in between."""
        open_s = {stream: self._open_gap_s(stream) for stream in self.at_s}
        places = {stream: at_s if (gap_s := open_s[stream]) is None else gap_s for stream, at_s in self.at_s.items()}
        self.began_s = max(self.at_s.values()) + seconds
        for stream, place_s in places.items():
            self.truth.deaf[stream] |= set(range(place_s, self.began_s))
        self.at_s = dict.fromkeys(self.at_s, self.began_s)
        self.watch = self._new_watch()
        self.watch.begin(list(self.sea.calls))
        places_ns = {stream: ns(at_s) for stream, at_s in places.items()}
        self.watch.resume(*recall(self.journal, "pamd", "live", self.rules, places_ns), places_ns)
        announced = self._announcements(places)
        self._commit(announced)
        stretches = [stretch for one in announced if (stretch := missed_by(one.stream, one.body))]
        decisions = self.watch.advance([], stretches, self._progress())
        self._commit([Record("alert", "pamd", "_", "live", one.id, utc(0), one.body) for one in decisions])
        self.decided += decisions
        self.truth.until_s = self.began_s

    def _new_watch(self) -> Watch:
        return Watch("pamd", self.rules, float(SEPARATION_S), FLOOD_EVERY_S, 3600.0)

    def _announcements(self, places: dict[str, int]) -> list[Record]:
        began = {"start_utc": utc(self.began_s), "sample_rate_hz": RATE_HZ}
        records = []
        for stream in self.sea.calls:
            body = Event("stream_began", "info", "", began)
            records.append(record("event", stream, utc(self.began_s), 0, body, "stream_began"))
            if stream in places:
                records.append(gap(stream, places[stream], self.began_s, "not_running"))
        return records

    def _pieces(self, stream: str) -> list[tuple[int, int]]:
        """A gap comes in pieces; what lies before this process began is not its own."""
        pieces = []
        for start_s, end_s in self.sea.gaps[stream]:
            first_s = max(start_s, self.began_s)
            pieces += [(at_s, min(at_s + GAP_PIECE_S, end_s)) for at_s in range(first_s, end_s, GAP_PIECE_S)]
        return pieces

    def _open_gap_s(self, stream: str) -> int | None:
        at_s = self.at_s[stream]
        return next((start_s for start_s, end_s in self._pieces(stream) if start_s < at_s < end_s), None)

    def _progress(self) -> list[Progress]:
        places = []
        for stream, at_s in self.at_s.items():
            since_s = self._open_gap_s(stream)
            places.append(Progress(stream, ns(self.began_s), ns(at_s), None if since_s is None else ns(since_s)))
        return places

    def _commit(self, records: Sequence[Record]) -> None:
        if records:
            self.journal.append(records)


@settings(max_examples=200)
@given(seas(), rules(), MOVES)
def test_alerts_are_the_references_whatever_comes_when(
    sea: Sea, rules: list[Rule], moves: list[tuple[str, int]]
) -> None:
    """Several streams, gaps, absent devices, restarts in the middle of an alert, any batching: the same records, with
    the same ids, each once."""
    with tempfile.TemporaryDirectory() as directory, closing(Journal(Path(directory) / "journal")) as journal:
        station = Station(sea, rules, journal)
        # In the end, beyond all that there is to be heard, and any hold.
        for which, seconds in [*moves, ("all", LENGTH_S + 800)]:
            if which == "restart":
                station.restart(seconds)
            for stream in sea.calls:
                if which in (stream, "all"):
                    station.move(stream, seconds)
        expected = [one for number, rule in enumerate(rules) for one in reference(station.truth, rule, number)]
        assert [compared(one) for one in station.decided] == list(told(sorted(expected, key=lambda one: one.order)))
