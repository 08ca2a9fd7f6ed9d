"""A journal's file: SQLite, its tables and their versions, one connection a thread, and what its errors mean."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pam_daemon.errors import JournalError
from pam_daemon.held import Held

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x70616D64  # "pamd", in SQLite's header: tells a journal from any other database
_SCHEMA = """
create table meta (log text not null, reserved integer not null);
create table record (
  seq integer primary key,
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
_FROM_VERSION_1 = """
alter table meta add column reserved integer not null default 0;
update meta set reserved = (select coalesce(max(seq), 0) from record);
"""
_CACHE_KB = 256  # of pages, a connection: the system caches the file, and memory is full-grown within the hour
_DISK_REFUSES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


_NOT_AS_WRITTEN = (TypeError, ValueError)  # a value of another type than was stored, or none


def damaged(path: Path, error: Exception) -> JournalError:
    """What a sound database holds is not what was written."""
    return JournalError(f"{path}: the journal is damaged: {error}; repair it with sqlite3's .recover, or move it away")


class DiskRefuses(JournalError):
    """The disk is full, read-only, failing or gone: no fault of the journal's."""

    def __init__(self, message: str, reason: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.full = full


class Database:
    """A connection that is made when it is needed, for one thread at a time.

    Args:
        held: the station's; when it knows no log yet, the file is made, or brought to this version.
    """

    def __init__(self, path: Path, held: Held) -> None:
        self.path = path
        self._held = held
        self._db: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done meanwhile is committed, all or nothing."""
        with self.connection() as db, _committed(db):
            yield db

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The connection; on a disk that fails none is kept, so that it can be unmounted, checked and mounted again.

        Raises:
            DiskRefuses: the disk is to blame.
            JournalError: anything else; a path or a file that cannot be used.
        """
        try:
            self._db = self._db or self._connect()
            yield self._db
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest of it is detail
            message = f"{self.path}: the journal cannot be used: {error}; check the path, its permissions and the disk"
            if code not in _DISK_REFUSES:
                raise JournalError(message) from error
            if code != sqlite3.SQLITE_FULL:
                self.close()
            raise DiskRefuses(message, str(error), full=code == sqlite3.SQLITE_FULL) from error
        except _NOT_AS_WRITTEN as error:
            raise damaged(self.path, error) from error
        finally:
            if self._held.released:
                self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connect(self) -> sqlite3.Connection:
        first = self._held.log is None
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if first else 'rw'}"
        with ExitStack() as failed:
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
            failed.callback(db.close)
            if first:
                self._refuse_others(db)  # before anything is written to what may be somebody's database
                db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            db.execute(f"pragma cache_size = -{_CACHE_KB}")
            if first:
                self._prepare(db)
            elif db.execute("select log from meta").fetchone() != (self._held.log,):
                raise DiskRefuses(f"{self.path}: another journal", "another journal is in its place")
            failed.pop_all()
        return db

    def _refuse_others(self, db: sqlite3.Connection) -> None:
        (tables,) = db.execute("select count(*) from sqlite_schema").fetchone()
        if not tables:
            return
        (application,) = db.execute("pragma application_id").fetchone()
        (version,) = db.execute("pragma user_version").fetchone()
        if application != _APPLICATION_ID:
            raise JournalError(f"{self.path}: a database, but not a pamd journal; give another path")
        if not 1 <= version <= SCHEMA_VERSION:
            raise JournalError(
                f"{self.path}: a journal of version {version}, this pamd writes {SCHEMA_VERSION}; give another path"
            )

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables, or bring them to this version; read which log this is."""
        with _committed(db):
            (version,) = db.execute("pragma user_version").fetchone()
            if version < SCHEMA_VERSION:
                for statement in (_FROM_VERSION_1 if version else _SCHEMA).split(";"):
                    db.execute(statement)
                db.execute(f"pragma application_id = {_APPLICATION_ID}")
                db.execute(f"pragma user_version = {SCHEMA_VERSION}")
            if not version:
                db.execute("insert into meta values (?, 0)", (str(uuid.uuid4()),))
        self._held.log, self._held.last_number = db.execute("select log, reserved from meta").fetchone()


@contextmanager
def _committed(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    finally:
        if db.in_transaction:  # a disk that refuses may have ended it
            db.execute("rollback")
