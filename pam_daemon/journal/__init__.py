"""The journal: every record is committed here first; what is sent, is read from here.

SQLite, to which records are added, and from which only retention takes any. `seq` is never reused, appending is
idempotent by `id`, one connection a thread. Where the disk refuses after the start (full, read-only, failing), records
are numbered and held in memory, and written later: what reads the journal sees both as one. A damaged file is such a
disk too, and its remedy is a new file: another log.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pam_daemon.errors import JournalError
from pam_daemon.journal.database import Damaged, Database, DiskRefuses, keep_aside
from pam_daemon.journal.held import Entry, Held
from pam_daemon.records import Event, Numbers, Record, Wire, topic

# Numbers up to `meta.reserved` may have been given, also to records that never got here: a process that was killed
# while it held some is followed by one that begins after them. So many no disk refuses.
_RESERVED_AHEAD = 10**9
_PIECE = 100  # held records written in one transaction: on a disk with little room, some are better than none
_PAGE = 100
_BY_ID = "select seq, prev_seq, wire from record where id = ?"
_HEAD = ("kind", "station", "stream", "mode", "id", "time_utc")


class Bell:
    """Wakes a poller in another thread: it polls `fileno()`, reads with `clear()`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        with suppress(BlockingIOError):  # it is ringing already
            os.write(self._write, b"!")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._read, 65536)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Gong:
    """Wakes threads, however many, that wait for nothing else."""

    def __init__(self) -> None:
        self._struck = threading.Condition()
        self._strokes = 0

    def ring(self) -> None:
        with self._struck:
            self._strokes += 1
            self._struck.notify_all()

    def wait(self, heard: int, timeout_s: float) -> int:
        """Until it has rung more or less often than was heard, or for so long. Returns: how often it has."""
        with self._struck:
            self._struck.wait_for(lambda: self._strokes != heard, timeout_s)
            return self._strokes


class Journal:
    """One connection to a journal file, for one thread at a time.

    Args:
        bells: rung at every append that brought something new.
        held: shared by all connections of one station, the first of which opens the file or refuses to.

    Raises:
        JournalError: a path that cannot be used, or a file that is no journal and that `held` does not mend.
    """

    def __init__(self, path: Path, bells: Sequence[Bell | Gong] = (), held: Held | None = None) -> None:
        self.path = path
        self._bells = bells
        self._held = Held() if held is None else held  # an empty one is false
        self._appends = False
        self.readable = True  # the file, the last time; else only what is held was answered
        self._file = Database(path, self._held)
        if self._held.log is None:
            self._open()

    @property
    def log(self) -> str:
        """The one that was read last: a damaged file is followed by another."""
        log = self._file.log or self._held.log
        assert log is not None, "whoever opened the journal read its name"
        return log

    @property
    def damaged(self) -> bool:
        """What was read of late may not be all that there was; another log is about to begin."""
        return self._held.spoilt is not None

    @property
    def began_after(self) -> int:
        """The last number of the log before this one, where that ended under this process; else 0."""
        return self._held.began_after

    def reserve(self) -> None:
        """Make sure of the numbers to come: from now on the disk may refuse.

        Raises:
            JournalError: it refuses now.
        """
        self._appends = True
        with self._held.writing:
            if not self._held.reserved:
                try:
                    with self._file.transaction() as db:
                        self._reserve(db)
                except DiskRefuses:
                    if self._held.spoilt is None:
                        raise
                    self._begin_anew(self._held.spoilt)
                self._held.reserved = True

    def _reserve(self, db: sqlite3.Connection) -> None:
        self._learn(db)
        db.execute("update meta set reserved = ?", (self._held.last_number + _RESERVED_AHEAD,))

    def append(self, records: Sequence[Record]) -> list[tuple[Wire, bool]]:
        """Commit the records that are not here yet, or hold them; each as it is to be sent, and whether it is new."""
        with self._held.writing:
            self.reserve()
            stored = self._commit(records) if self.write_held() else None
            if stored is None:
                stored = self._hold(records)
        if any(new for _, new in stored):
            for bell in self._bells:
                bell.ring()
        return stored

    def write_held(self, *, now: bool = False) -> bool:
        """Write what is held, in order, if the disk accepts it again; whether it accepts.

        Args:
            now: even if the last attempt is not long ago.
        """
        with self._held.writing, suppress(DiskRefuses):
            while self._held.refused and (now or self._held.due):
                if self._held.spoilt is not None:
                    self._begin_anew(self._held.spoilt)
                entries = self._held.oldest(_PIECE)
                with self._writing() as db:
                    self._insert(db, entries, self._held.topics)
                self._held.written(entries)
        return not self._held.refused

    def since(
        self,
        seq: int,
        *,
        kinds: Sequence[str] | None = None,
        streams: Sequence[str] | None = None,
        limit: int = 1000,
    ) -> list[Wire]:
        """The records after `seq`, in order, at most `limit` of them."""
        where, values = ["seq > ?"], [seq]
        for column, names in (("kind", kinds), ("stream", streams)):
            if names is not None:
                where.append(f"{column} in ({','.join('?' * len(names))})")
                values += names  # type: ignore[arg-type]
        query = f"select seq, prev_seq, wire from record where {' and '.join(where)} order by seq limit ?"
        log = self._held.log
        held = self._held.after(seq, kinds, streams)  # before the file: it has what is written in between
        wires = self._read(query, [*values, limit], self._stored)
        if self.log != log:  # another has begun in between
            return self.since(seq, kinds=kinds, streams=streams, limit=limit)
        last = wires[-1]["seq"] if wires else seq
        return [*wires, *(self._unwritten(entry) for entry in held if entry.seq > last)][:limit]

    def latest(self, kind: str) -> Iterator[Wire]:
        """The records of a kind, the newest first."""
        seq = 2**63 - 1
        for entry in reversed(self._held.after(0, [kind], None)):
            seq = entry.seq
            yield self._unwritten(entry)
        query = "select seq, prev_seq, wire from record where kind = ? and seq < ? order by seq desc limit ?"
        while wires := self._read(query, [kind, seq, _PAGE], self._stored):
            for wire in wires:
                seq = wire["seq"]
                yield wire

    def ends(self) -> tuple[int | None, int | None]:
        """The oldest and the last `seq`; None in an empty journal."""
        held = self._held.oldest(1)
        for oldest, last in self._read("select min(seq), max(seq) from record"):
            if oldest is not None:
                return oldest, max(last, self._held.last_seq or 0)
        return (held[0].seq if held else None), self._held.last_seq

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """What fails meanwhile, fails for what was read: it is not what was written, and another log begins."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            if not self._held.mends:
                raise
            self._held.spoil(self.log, f"a record is not as it was written: {error!r}")

    def expired(self, kinds: Sequence[str] | None = None) -> int:
        """Up to which seq records, of these kinds, have been deleted; 0 where none has been."""
        asked = "" if kinds is None else f" where kind in ({','.join('?' * len(kinds))})"
        return next(iter(self._read(f"select coalesce(max(last_seq), 0) from expired{asked}", kinds or ())), (0,))[0]

    def expire(self, records: Mapping[int, str]) -> bool:
        """Delete records, by seq, with their kinds, in one transaction; whether the disk accepts."""
        last: dict[str, int] = {}
        for seq, kind in records.items():
            last[kind] = max(seq, last.get(kind, 0))
        with self._held.writing, suppress(DiskRefuses), self._writing() as db:
            db.executemany("delete from record where seq = ?", [(seq,) for seq in records])
            db.executemany(
                "insert into expired values (?, ?) "
                "on conflict do update set last_seq = max(last_seq, excluded.last_seq)",
                last.items(),
            )
            return True
        return False

    def size(self) -> tuple[int, int]:
        """Bytes of the file that hold something, all else in it is used again; and bytes of its WAL."""
        query = (
            "select (page_count - freelist_count) * page_size "
            "from pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        used = next(iter(self._read(query)), (0,))[0]
        with suppress(OSError):
            return used, Path(f"{self.path}-wal").stat().st_size
        return used, 0

    def keep_places(self, places: Mapping[str, int]) -> None:
        """Store up to which UTC, in nanoseconds, each of these streams has been decided, if the disk accepts."""
        with self._held.writing, suppress(DiskRefuses):
            if self.write_held():
                with self._writing() as db:
                    db.executemany("insert or replace into place values (?, ?)", places.items())

    def places(self) -> dict[str, int]:
        """What was stored last, by stream."""
        return dict(self._read("select stream, utc_ns from place"))

    def close(self) -> None:
        """Let go of the file. Who appended, writes first what is held, and gives back the numbers that were not used.

        Raises:
            JournalError: the disk still refuses, and records are lost.
        """
        try:
            if self._appends:
                self._finish()
        finally:
            self._file.close()

    def _open(self) -> None:
        try:
            with self._file.connection(begin=True) as db:
                self._learn(db)
        except Damaged as damage:
            if not self._held.mends:
                raise
            with self._held.writing:
                self._begin_anew(damage.reason)

    def _begin_anew(self, reason: str) -> None:
        """Another log, in the place of the damaged file, which is kept.

        Raises:
            DiskRefuses: not yet.
        """
        self._file.close()
        began_ns = self._held.clock.monotonic_ns()
        try:
            if self._held.kept_as is None:
                self._held.kept_as = str(keep_aside(self.path, self._held.clock.utc_ns())), self._held.log
                self._held.begin_anew()
            with self._file.connection(begin=True) as db:
                self._learn(db)
                if self._appends:
                    self._reserve(db)
        except (OSError, JournalError) as error:
            if isinstance(error, Damaged):  # it is back, from wherever its disk was
                self._held.kept_as = None
            self._held.refuse(str(error), began_ns, release=True)
            raise DiskRefuses(f"{self.path}: damaged, and cannot be replaced: {error}", str(error)) from error
        (kept_as, before), self._held.kept_as, self._held.spoilt = self._held.kept_as, None, None
        text = f"the journal was damaged ({reason}); it is kept as {kept_as}, and log {self.log} begins"
        data = {"error": reason, "kept_as": kept_as, "before": before, "log": self.log}
        self._held.tell(Event("journal_damaged", "error", text, data))

    def _finish(self) -> None:
        if not self.write_held(now=True):
            raise JournalError(f"{self.path}: the disk refused to the end, {len(self._held)} records are lost")
        if self._held.reserved:
            self._held.reserved = False
            with suppress(DiskRefuses), self._file.transaction() as db:
                db.execute("update meta set reserved = ?", (self._held.last_number,))

    def _commit(self, records: Sequence[Record]) -> list[tuple[Wire, bool]] | None:
        """None where the disk refuses."""
        with suppress(DiskRefuses):
            with self._writing() as db:
                self._learn(db)
                stored, entries = self._number(records, partial(self._find, db), durable=True)
                topics = {entry.topic: entry.seq for entry in entries}
                self._insert(db, entries, topics)
            self._held.know(topics)
            return stored
        return None

    def _hold(self, records: Sequence[Record]) -> list[tuple[Wire, bool]]:
        stored, entries = self._number(records, self._find_held, durable=False)
        self._held.hold(entries)
        self._held.know({entry.topic: entry.seq for entry in entries})
        return stored

    def _number(
        self, records: Sequence[Record], find: Callable[[Record], Wire | None], *, durable: bool
    ) -> tuple[list[tuple[Wire, bool]], list[Entry]]:
        """Each record as found or with the next number, and whether it is new; and the entries of those that are."""
        seq, topics = self._held.last_number, dict(self._held.topics)
        stored: dict[str | None, Wire] = {}
        answers: list[tuple[Wire, bool]] = []
        entries: list[Entry] = []
        for record in records:
            known = stored.get(record.id) or find(record)
            if known is None:
                seq += 1
                made = record.wire()
                name = topic(made).decode()
                encoded = msgspec.json.encode(made)
                entries.append(Entry(seq, topics.get(name), record.id, record.kind, record.stream, name, encoded))
                stored[record.id] = self._wire(seq, topics.get(name), encoded, durable=durable)
                topics[name] = seq
            answers.append((known or stored[record.id], known is None))
        return answers, entries

    def _find(self, db: sqlite3.Connection, record: Record) -> Wire | None:
        row = db.execute(_BY_ID, (record.id,)).fetchone()
        return row and self._stored(row)

    def _find_held(self, record: Record) -> Wire | None:
        """Among what is held, or in the file where that can be read."""
        if (entry := self._held.find(record.id)) is not None:
            return self._unwritten(entry)
        wires = [] if self._held.unreadable else self._read(_BY_ID, [record.id], self._stored)
        return wires[0] if wires else None

    def _insert(self, db: sqlite3.Connection, entries: Sequence[Entry], topics: Mapping[str, int]) -> None:
        # What the disk took, but reported as refused, is there already when it comes a second time.
        db.executemany(
            "insert into record (seq, prev_seq, id, kind, stream, wire) values (?, ?, ?, ?, ?, ?) "
            "on conflict (id) do nothing",
            [(entry.seq, entry.prev_seq, entry.id, entry.kind, entry.stream, entry.wire) for entry in entries],
        )
        db.executemany("insert or replace into topic values (?, ?)", topics.items())

    def _learn(self, db: sqlite3.Connection) -> None:
        """Another process may have written too."""
        self._held.know(dict(db.execute("select name, last_seq from topic")))

    def _wire(self, seq: int, prev_seq: int | None, wire: bytes, *, durable: bool = True) -> Wire:
        stored = msgspec.json.decode(wire, type=Wire)
        return stored | msgspec.structs.asdict(Numbers(self.log, seq, prev_seq, durable))

    def _stored(self, row: tuple[int, int | None, bytes]) -> Wire:
        """Raises: TypeError, ValueError: it is not what was written."""
        wire = self._wire(*row)
        if not all(isinstance(wire.get(name), str) for name in _HEAD):
            raise ValueError(f"record {row[0]} is none")
        return wire

    def _unwritten(self, entry: Entry) -> Wire:
        return self._wire(entry.seq, entry.prev_seq, entry.wire, durable=False)

    def _read(self, query: str, values: Sequence[Any] = (), make: Callable[[Any], Any] = tuple) -> list[Any]:
        """Rows, each as it is made of; none from a disk that cannot be read, which is noted."""
        try:
            with self._file.connection() as db:
                rows = [make(row) for row in db.execute(query, values)]
            self.readable = True
            return rows
        except DiskRefuses as error:
            self.readable = False
            if not self.damaged:
                self._held.not_read(error.reason)
            return []

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction of a station that goes on without it, where the disk refuses."""
        began_ns = self._held.clock.monotonic_ns()
        try:
            with self._file.transaction() as db:
                yield db
        except DiskRefuses as error:
            if not self.damaged:
                self._held.refuse(error.reason, began_ns, release=not error.full)
            raise
