"""The journal: every record is committed here first; what is sent, is read from here.

Append-only SQLite. `seq` is never reused, appending is idempotent by `id`, one connection a thread.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from pam_daemon.errors import JournalError
from pam_daemon.records import Numbers, Record, Wire, topic

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x70616D64  # "pamd", in SQLite's header: tells a journal from any other database
_SCHEMA = """
create table meta (log text not null);
create table record (
  seq integer primary key autoincrement,
  id text not null unique,
  kind text not null,
  stream text not null,
  prev_seq integer,
  wire blob not null
);
create index record_kind on record (kind, seq);
create table topic (name text primary key, last_seq integer not null) without rowid;
create table place (stream text primary key, utc_ns integer not null) without rowid;
"""


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


class Journal:
    """One connection to a journal file, for the thread that opens it.

    Raises:
        JournalError: a path that cannot be written, or a file that is no journal.
    """

    def __init__(self, path: Path, bells: Sequence[Bell] = ()) -> None:
        self.path = path
        self._bells = bells
        with ExitStack() as failed, self._errors():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            failed.callback(self._db.close)
            self._refuse_others()  # before anything is written to what may be somebody's database
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            with self._transaction():
                self._prepare()
            (self.log,) = self._db.execute("select log from meta").fetchone()
            failed.pop_all()

    def append(self, records: Sequence[Record]) -> list[tuple[Wire, bool]]:
        """Commit the records that are not here yet; each as stored, and whether it is new."""
        with self._errors(), self._transaction():
            stored = [self._append(record) for record in records]
        if any(new for _, new in stored):
            for bell in self._bells:
                bell.ring()
        return stored

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
        with self._errors():
            return [self._numbered(*row) for row in self._db.execute(query, [*values, limit]).fetchall()]

    def latest(self, kind: str) -> Iterator[Wire]:
        """The records of a kind, the newest first."""
        query = "select seq, prev_seq, wire from record where kind = ? order by seq desc"
        with self._errors():
            for row in self._db.execute(query, (kind,)):
                yield self._numbered(*row)

    def ends(self) -> tuple[int | None, int | None]:
        """The oldest and the last `seq`; None in an empty journal."""
        with self._errors():
            oldest, last = self._db.execute("select min(seq), max(seq) from record").fetchone()
        return oldest, last

    def keep_places(self, places: Mapping[str, int]) -> None:
        """Store up to which UTC, in nanoseconds, each of these streams has been decided."""
        with self._errors(), self._transaction():
            self._db.executemany("insert or replace into place values (?, ?)", places.items())

    def places(self) -> dict[str, int]:
        """What was stored last, by stream."""
        with self._errors():
            return dict(self._db.execute("select stream, utc_ns from place").fetchall())

    def close(self) -> None:
        self._db.close()

    def _refuse_others(self) -> None:
        if not self._has_tables():
            return
        (application,) = self._db.execute("pragma application_id").fetchone()
        (version,) = self._db.execute("pragma user_version").fetchone()
        if application != _APPLICATION_ID:
            raise JournalError(f"{self.path}: a database, but not a pamd journal; give another path")
        if version != SCHEMA_VERSION:
            raise JournalError(
                f"{self.path}: a journal of version {version}, this pamd writes {SCHEMA_VERSION}; give another path"
            )

    def _prepare(self) -> None:
        if self._has_tables():
            return
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute(f"pragma application_id = {_APPLICATION_ID}")
        self._db.execute(f"pragma user_version = {SCHEMA_VERSION}")
        self._db.execute("insert into meta values (?)", (str(uuid.uuid4()),))

    def _has_tables(self) -> bool:
        (tables,) = self._db.execute("select count(*) from sqlite_schema").fetchone()
        return bool(tables)

    def _append(self, record: Record) -> tuple[Wire, bool]:
        # Looked up first: an insert that meets a conflict would burn a number, and a subscriber reads that as a loss.
        row = self._db.execute("select seq, prev_seq, wire from record where id = ?", (record.id,)).fetchone()
        if row is not None:
            return self._numbered(*row), False
        wire = record.wire()
        name = topic(wire).decode()
        row = self._db.execute("select last_seq from topic where name = ?", (name,)).fetchone()
        prev_seq = row[0] if row else None
        encoded = msgspec.json.encode(wire)
        seq = self._db.execute(
            "insert into record (id, kind, stream, prev_seq, wire) values (?, ?, ?, ?, ?)",
            (record.id, record.kind, record.stream, prev_seq, encoded),
        ).lastrowid
        assert seq is not None
        self._db.execute("insert or replace into topic values (?, ?)", (name, seq))
        return self._numbered(seq, prev_seq, encoded), True

    def _numbered(self, seq: int, prev_seq: int | None, wire: bytes) -> Wire:
        stored = msgspec.json.decode(wire, type=Wire)
        return stored | msgspec.structs.asdict(Numbers(self.log, seq, prev_seq, durable=True))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:  # the last three: rows that are damaged
            raise JournalError(
                f"{self.path}: the journal cannot be used: {error}; check the path, its permissions and the disk's room"
            ) from error
