"""What the journal no longer keeps: by age and by size, a little at a time, and nothing that somebody still needs.

Effort, gaps and events go first, then alerts, detections last. The worker's thread does it between its rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice

from pam_daemon.clock import NS_PER_S, Clock, parse_rfc3339
from pam_daemon.config import JournalPlace, Kept
from pam_daemon.journal import Journal
from pam_daemon.records import Event, JournalStatus, Severity, Wire

EVERY_S = 2.0
_BATCH = 50  # records deleted in one transaction: the commit of a detection waits for no more
_PAGE = 20
_ORDER: Sequence[Sequence[Kept]] = (("effort", "gap", "event"), ("alert",), ("detection",))
_AGEING: Sequence[Kept] = ("effort", "gap", "event", "alert")
_DAY_NS = 86_400 * NS_PER_S
_LEAST_NS = _DAY_NS + 2 * 3600 * NS_PER_S  # the longest window of a rule, streams out of step, and today's coverage
_STUCK_WAL_BYTES = 64 << 20  # a WAL so long is held up by a reader: deleting would make it longer still


class Retention:
    """Keeps a journal within its limits; all but `choice` and `status` belong to the thread that calls `tidy`.

    Args:
        needed_ns: since when, in UTC, the alert rules need records to go on after a restart.
        handed_over: by kind, up to which seq every bridge that takes it is done.
        tell: takes the events: what was deleted, and that a limit cannot be kept to.
    """

    def __init__(
        self,
        journal: Journal,
        choice: JournalPlace,
        needed_ns: Callable[[], int],
        handed_over: Callable[[], Mapping[str, int]],
        tell: Callable[[Event], None],
        clock: Clock,
    ) -> None:
        self.choice = choice
        self.status: JournalStatus | None = None  # as of the last step
        self.journal = journal
        self._needed_ns = needed_ns
        self._handed_over = handed_over
        self._tell = tell
        self._clock = clock
        self._log = journal.log
        self._seen: dict[str, int] = {}  # by kind: up to here all is deleted or spared
        self._spared: dict[tuple[str, ...], tuple[int, str]] = {}  # the last of what the next start asks for
        self._deleted: dict[str, int] = {}  # by kind, since it was told
        self._tell_ns = 0  # monotonic: not before
        self._over = False  # it was told

    def tidy(self) -> None:
        """One step."""
        if not self.journal.write_held():
            return
        if self.journal.log != self._log:
            self._log = self.journal.log
            self._forget()
        self._tell_deleted(more=sum(self._delete_next().values()) > _BATCH // 2)
        self.status = self._look()

    def _delete_next(self) -> Mapping[str, int]:
        """What is too old, else what is too much."""
        now_ns = self._clock.utc_ns()
        needed_ns = min(self._needed_ns(), now_ns - _LEAST_NS)
        keep_days = self.choice.keep_days
        if keep_days is not None and (aged := self._delete(_AGEING, min(needed_ns, now_ns - int(keep_days * _DAY_NS)))):
            return aged
        if not self._too_large():
            self._over = False
            return {}
        for kinds in _ORDER:
            if deleted := self._delete(kinds, needed_ns):
                return deleted
        self._tell_over()
        return {}

    def _too_large(self) -> bool:
        largest, (used, wal) = self.choice.largest_megabytes, self.journal.size()
        return largest is not None and wal < _STUCK_WAL_BYTES and used + wal > largest * 1_000_000

    def _delete(self, kinds: Sequence[str], before_ns: int) -> Mapping[str, int]:
        """The oldest of these kinds. Returns: how many of each."""
        handed_over, going = self._handed_over(), dict[int, str]()
        ripe = (self._ripe(kind, before_ns, handed_over.get(kind, 2**63)) for kind in kinds)
        for wire in islice(merge(*ripe, key=lambda wire: wire["seq"]), _BATCH):
            gone = (wire["seq"], wire["kind"])
            self._seen[gone[1]] = gone[0]
            if (key := _asked_for(wire)) is not None:  # it stays, and the one before it goes
                gone, self._spared[key] = self._spared.get(key, (0, "")), gone
            if gone[0]:
                going[gone[0]] = gone[1]
        if not going:
            return {}
        if not self.journal.expire(going):
            self._forget()
            return {}
        counts = {kind: list(going.values()).count(kind) for kind in going.values()}
        self._deleted = {kind: counts.get(kind, 0) + self._deleted.get(kind, 0) for kind in {**self._deleted, **counts}}
        return counts

    def _ripe(self, kind: str, before_ns: int, until: int) -> Iterator[Wire]:
        """Those made before then, in order, up to the first that was not."""
        seq = self._seen.get(kind, 0)
        while page := self.journal.since(seq, kinds=[kind], limit=_PAGE):
            for wire in page:
                seq = wire["seq"]
                if seq > until or parse_rfc3339(wire["time_utc"]) >= before_ns:
                    return
                yield wire

    def _forget(self) -> None:
        self._seen, self._spared = {}, {}

    def _look(self) -> JournalStatus:
        oldest: dict[str, str] = {}
        for kinds in _ORDER:
            for kind in kinds:
                for wire in self.journal.since(self.journal.expired([kind]), kinds=[kind], limit=1):
                    oldest[kind] = wire["time_utc"]
        return JournalStatus(sum(self.journal.size()), oldest)

    def _tell_deleted(self, *, more: bool) -> None:
        """Once what there was to do is done, and once a day at most."""
        if not self._deleted or more or self._clock.monotonic_ns() < self._tell_ns:
            return
        counts = {kind: self._deleted[kind] for kinds in _ORDER for kind in kinds if kind in self._deleted}
        severity: Severity = "warning" if "detection" in counts else "info"
        text = f"deleted from the journal: {', '.join(f'{count} {kind}' for kind, count in counts.items())}"
        self._tell(Event("journal_trimmed", severity, text, {"deleted": counts}))
        self._deleted, self._tell_ns = {}, self._clock.monotonic_ns() + _DAY_NS

    def _tell_over(self) -> None:
        if not self._over:
            self._over = True
            size = sum(self.journal.size())
            text = (
                f"the journal takes {size / 1e6:.0f} MB, more than journal.largest_megabytes; "
                "what is left of it is needed by alert rules or has not been handed over by a bridge"
            )
            self._tell(Event("journal_too_large", "warning", text, {"bytes": size}))


def _asked_for(wire: Wire) -> tuple[str, ...] | None:
    """What the rules ask for at a start however old it is, the last of each: see alerts/recall.py."""
    if wire["kind"] == "alert":
        return "alert", wire["station"], wire["mode"], wire["rule"], wire["label"]
    if wire["kind"] == "event" and wire["what"] == "stream_began":
        return "began", wire["station"], wire["mode"], wire["stream"]
    return None
