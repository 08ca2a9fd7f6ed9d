"""What a station's journal connections share: the numbers given so far, and the records that the disk did not take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, takewhile

import msgspec

from pam_daemon.clock import NS_PER_S, Clock, SystemClock
from pam_daemon.records import Event

HELD_LIMIT = 10_000
RETRY_EVERY_S = 2.0
_PATIENCE = 9  # a disk that takes long to fail is left alone so many times as long: it has a tenth of the worker's time


class Entry(msgspec.Struct, frozen=True):
    """A new record with its number, as the journal stores it."""

    seq: int
    prev_seq: int | None
    id: str | None
    kind: str
    stream: str
    topic: str
    wire: bytes  # JSON, in which the numbers are null


class Held:
    """Records in memory while the disk refuses; any thread may read, one appends at a time (`writing`).

    Args:
        tell: takes the events: the disk refuses, accepts again, cannot be read.
        limit: the most records that are held; then the oldest fall out, counted in `dropped`.
        retry_every_s: how often writing is tried again, at most.
        mends: a file that is damaged is kept aside, and another log begun in its place.
    """

    def __init__(
        self,
        tell: Callable[[Event], None] = lambda _: None,
        *,
        limit: int = HELD_LIMIT,
        retry_every_s: float = RETRY_EVERY_S,
        clock: Clock | None = None,
        mends: bool = False,
    ) -> None:
        self.writing = threading.RLock()
        self.mends = mends
        self.spoilt: str | None = None  # what is wrong with the file, until another has begun
        self.kept_as: tuple[str, str | None] | None = None  # and where it is meanwhile, and its log
        self.log: str | None = None  # until the journal has been opened once
        self.last_number = 0  # given, or reserved by a process before this one
        self.reserved = False  # numbers to come, in a committed block
        self.last_seq: int | None = None  # of a record
        self.topics: dict[str, int] = {}  # the last seq of each, written or not
        self.refused = False  # by the disk; true as long as anything is held
        self.released = False  # the file is let go of, so that its disk can be unmounted, checked, and mounted again
        self.began_after = 0  # the last number of the log that ended with its file, in this process
        self.unreadable = False
        self.dropped = 0  # since the process began
        self.clock = clock or SystemClock()
        self.tell = tell
        self._told = False  # that the disk refuses
        self._limit = limit
        self._retry_every_ns = int(retry_every_s * NS_PER_S)
        self._retry_ns = 0
        self._written = 0  # since the disk refused
        self._dropped = 0  # likewise
        self._lock = threading.Lock()
        self._entries: dict[str | None, Entry] = {}  # by id, the oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def know(self, topics: Mapping[str, int]) -> None:
        """Numbers that have been given, as the file says or as was just appended."""
        self.topics |= {name: max(seq, self.topics.get(name, 0)) for name, seq in topics.items()}
        self.last_seq = max(self.topics.values(), default=None)
        self.last_number = max(self.last_number, self.last_seq or 0)

    def find(self, identity: str | None) -> Entry | None:
        with self._lock:
            return self._entries.get(identity)

    def oldest(self, limit: int) -> list[Entry]:
        with self._lock:
            return list(islice(self._entries.values(), limit))

    def after(self, seq: int, kinds: Sequence[str] | None, streams: Sequence[str] | None) -> list[Entry]:
        """Those with a higher `seq`, in order."""
        with self._lock:
            newest_first = list(takewhile(lambda entry: entry.seq > seq, reversed(self._entries.values())))
        return [
            entry
            for entry in reversed(newest_first)
            if (kinds is None or entry.kind in kinds) and (streams is None or entry.stream in streams)
        ]

    def hold(self, entries: Iterable[Entry]) -> None:
        with self._lock:
            self._entries |= {entry.id: entry for entry in entries}
            surplus = list(islice(self._entries, max(0, len(self._entries) - self._limit)))
            for identity in surplus:
                del self._entries[identity]
            self.dropped += len(surplus)
            self._dropped += len(surplus)

    def written(self, entries: Iterable[Entry]) -> None:
        """The file has them; with the last of them the disk is accepted again."""
        with self._lock:
            for entry in entries:
                self._written += self._entries.pop(entry.id, None) is not None
            if self._entries:
                return
            written, dropped = self._written, self._dropped
            self._written = self._dropped = 0
        self.refused = self.released = self.unreadable = False
        if self._told:
            self._told = False
            text = f"the journal's disk accepts again: {written} records were held and are written, {dropped} fell out"
            data = {"held": written + dropped, "written": written, "dropped": dropped}
            self.tell(Event("disk_accepted", "warning" if dropped else "info", text, data))

    @property
    def due(self) -> bool:
        """Whether it is time to try the disk again."""
        return self.clock.monotonic_ns() >= self._retry_ns

    def refuse(self, error: str, began_ns: int, *, release: bool) -> None:
        """The disk would not be written to, in an attempt that began then."""
        now_ns = self.clock.monotonic_ns()
        self._retry_ns = now_ns + max(self._retry_every_ns, _PATIENCE * (now_ns - began_ns))
        self.released = self.released or release
        self.refused = True
        if not self._told:
            self._told = True
            text = f"the journal's disk refuses, records are held: {error}"
            self.tell(Event("disk_refused", "error", text, {"error": error}))

    def spoil(self, log: str, reason: str) -> None:
        """The file of this log is damaged: records are held until another has begun. On any thread."""
        with self._lock:
            if log == self.log and self.spoilt is None:
                self._retry_ns = 0
                self.spoilt = reason
                self.refused = self.released = True

    def begin_anew(self) -> None:
        """Numbers go on in another log, where what is held comes first: cursors by `seq` alone need not know of it."""
        with self._lock:
            self.began_after = (next(iter(self._entries.values())).seq - 1) if self._entries else self.last_number
            self.topics = {}
            for identity, entry in self._entries.items():
                self._entries[identity] = msgspec.structs.replace(entry, prev_seq=self.topics.get(entry.topic))
                self.topics[entry.topic] = entry.seq
            self.last_seq = max(self.topics.values(), default=None)

    def not_read(self, error: str) -> None:
        """The disk would not be read, which is said once."""
        if not self.unreadable:
            self.unreadable = True
            text = f"the journal's disk cannot be read, only what is held is answered: {error}"
            self.tell(Event("disk_unreadable", "error", text, {"error": error}))
