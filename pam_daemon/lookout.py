"""The alert rules' place in a station: what its streams tell goes in, alert records come out, right behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import structlog

from pam_daemon.alerts.recall import recall
from pam_daemon.alerts.rules import Pace, promise
from pam_daemon.alerts.tally import Candidate, Decision, Rule
from pam_daemon.alerts.watch import Watch, missed_by
from pam_daemon.analysis.stream import Analysis, Stream
from pam_daemon.clock import Clock, rfc3339
from pam_daemon.journal import Journal
from pam_daemon.records import STATION_WIDE, AlertStatus, Detection, Record

_PATIENCE_S = 3600.0  # of a live station, with UTC that is set back

log = structlog.get_logger()


class Lookout:
    """Rules at work on a station's streams. The worker calls all but `change`, which any thread may."""

    def __init__(self, analysis: Analysis, rules: Sequence[Rule], clock: Clock) -> None:
        self._analysis = analysis
        self._clock = clock
        self._rules = rules
        self._changes: deque[Sequence[Rule]] = deque()
        self._streams: dict[str, Stream] = {}
        # A recording that begins before the last one ended is of another time.
        patience_s = 0.0 if analysis.mode == "replay" else _PATIENCE_S
        self._watch = Watch(
            analysis.station, rules, analysis.min_separation_s, analysis.flood.extend_every_s, patience_s
        )

    def check(self, rules: Sequence[Rule], streams: int) -> None:
        """Log what each rule can promise on so many streams.

        Raises:
            ConfigError: one that nothing can meet.
        """
        analysis, rate_hz = self._analysis, self._analysis.model_rate_hz
        pace = Pace(analysis.hop_samples / rate_hz, analysis.window_samples / rate_hz, analysis.min_separation_s)
        for rule in rules:
            fastest_s, slowest_s = promise(rule, pace, streams)
            what = f"{rule.count} {rule.label} in {rule.window_s:g} s are `detected`"
            when = f"{fastest_s:g} to {slowest_s:g} s of sound after the first of them ends"
            text = f"{what} {when}; the alert stands for {timedelta(seconds=rule.hold_s)} after the last"
            log.info("alert rule", rule=rule.name, text=text, fastest_s=fastest_s, slowest_s=slowest_s)

    def begin(self, streams: Sequence[Stream], journal: Journal | None, places: Mapping[str, int]) -> None:
        """Watch these streams; a station goes on where the process before it ended, which its journal tells.

        Args:
            places: by stream, the UTC in nanoseconds up to which that process listened.
        """
        self._streams = {stream.name: stream for stream in streams}
        self._watch.begin(list(self._streams))
        if journal is not None and self._analysis.mode != "replay":
            with journal.trusted():
                told = recall(journal, self._analysis.station, self._analysis.mode, self._rules, places)
            if not journal.damaged:  # else nothing is known of before: coverage begins now
                self._watch.resume(*told, places)

    def follow(self, records: Sequence[Record]) -> list[Record]:
        """What the streams have just told, and how far they are now -> what becomes of alerts."""
        while self._changes:
            self._watch.change(self._changes.popleft())
        progress = [place for stream in self._streams.values() if (place := stream.progress()) is not None]
        missed = (stretch for record in records if (stretch := missed_by(record.stream, record.body)))
        return self._records(self._watch.advance(self._heard(records), missed, progress))

    def close(self) -> list[Record]:
        """Nobody goes on with what stands: it lapses."""
        return self._records(self._watch.close())

    def standing(self) -> tuple[AlertStatus, ...]:
        """The alerts that have not ended, in the order of the rules; on any thread."""
        return tuple(
            AlertStatus(
                alert=standing.id,
                rule=standing.body.rule,
                label=standing.body.label,
                level=standing.body.level,
                first_utc=standing.body.first_utc,
                last_utc=standing.body.last_utc,
                expires_utc=standing.body.expires_utc,
            )
            for standing in self._watch.standing()
        )

    def _records(self, decisions: Sequence[Decision]) -> list[Record]:
        analysis, now = self._analysis, rfc3339(self._clock.utc_ns())
        return [
            Record("alert", analysis.station, STATION_WIDE, analysis.mode, decision.id, now, decision.body)
            for decision in decisions
        ]

    def needed_ns(self) -> int:
        """Since when, in stream time, the journal's records are needed to go on after a restart."""
        return self._watch.needed_ns()

    def change(self, rules: Sequence[Rule]) -> None:
        """Other rules from the next round on."""
        self._changes.append(rules)

    def _heard(self, records: Sequence[Record]) -> Iterator[Candidate]:
        for record in records:
            if isinstance(record.body, Detection) and record.id is not None:
                key, first_sample = self._streams[record.stream].locate(record.body.start_sample)
                began_utc = None if record.mode == "replay" else key
                yield Candidate.of(record.body, record.stream, record.id, key, first_sample, began_utc)
