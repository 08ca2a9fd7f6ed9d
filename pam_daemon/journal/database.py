"""A journal's file: SQLite, its tables and their versions, one connection a thread, and what its errors mean."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from pam_daemon.clock import rfc3339
from pam_daemon.errors import JournalError
from pam_daemon.journal.held import Held

SCHEMA_VERSION = 3
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
create table expired (kind text primary key, last_seq integer not null) without rowid;
"""
_TABLES = {"meta", "record", "topic", "place"}
_TO_VERSION: Mapping[int, str] = {  # from the one before
    2: """
alter table meta add column reserved integer not null default 0;
update meta set reserved = (select coalesce(max(seq), 0) from record);
""",
    3: "create table expired (kind text primary key, last_seq integer not null) without rowid",
}
_CACHE_KB = 256  # of pages, a connection: the system caches the file, and memory is full-grown within the hour
_DISK_REFUSES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
# The statements are right: an error in one of them is the file's, and so are numbers that are there twice.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT}
_NOT_AS_WRITTEN = (TypeError, ValueError, OverflowError, RecursionError)  # what was read is not what was stored
_FILES = ("", "-wal", "-shm", "-journal")  # the file first: what is left of it without it is known for damage
_MAGIC = b"SQLite format 3\0"
_WAL_BYTES = 4 << 20  # of a WAL that has grown, so much is kept; it is about what it takes


class Damaged(JournalError):
    """The file is no journal any more, or not the whole of one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: the journal is damaged: {reason}; repair it with sqlite3's .recover, or move it away"
        )
        self.reason = reason


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
        self.log: str | None = None  # the one that was asked for last
        self._held = held
        self._db: sqlite3.Connection | None = None
        self._db_log: str | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done meanwhile is committed, all or nothing."""
        with self.connection() as db, _committed(db):
            yield db

    @contextmanager
    def connection(self, *, begin: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection; on a disk that fails none is kept, so that it can be unmounted, checked and mounted again.

        Args:
            begin: the file is made, or brought to this version.

        Raises:
            DiskRefuses: the disk is to blame, or a damage that the station is going to mend.
            Damaged: the file is, and nobody mends it.
            JournalError: anything else; a path or a file that cannot be used.
        """
        self.log = self._held.log
        try:
            if self._held.spoilt is not None and not begin:
                raise DiskRefuses(f"{self.path}: damaged: {self._held.spoilt}", self._held.spoilt)
            if self._db_log != self.log:
                self.close()
            self._db = self._db or self._connect(begin)
            self.log = self._db_log = self._held.log if begin else self.log
            yield self._db
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest of it is detail
            if code in _DAMAGED:
                raise self._damaged(error, begin) from error
            message = f"{self.path}: the journal cannot be used: {error}; check the path, its permissions and the disk"
            if code not in _DISK_REFUSES:
                raise JournalError(message) from error
            if code != sqlite3.SQLITE_FULL:
                self.close()
            raise DiskRefuses(message, str(error), full=code == sqlite3.SQLITE_FULL) from error
        except _NOT_AS_WRITTEN as error:
            raise self._damaged(error, begin) from error
        finally:
            if self._held.released:
                self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _damaged(self, error: Exception, begin: bool) -> JournalError:
        """Nothing more is asked of the file."""
        self.close()
        damage = Damaged(self.path, str(error))
        if begin or self.log is None or not self._held.mends:
            return damage
        self._held.spoil(self.log, damage.reason)
        return DiskRefuses(str(damage), damage.reason)

    def _connect(self, begin: bool) -> sqlite3.Connection:
        if begin:
            self._look()
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if begin else 'rw'}"
        with ExitStack() as failed:
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
            failed.callback(db.close)
            if begin:
                self._refuse_others(db)  # before anything is written to what may be somebody's database
                db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
            db.execute(f"pragma journal_size_limit = {_WAL_BYTES}")
            db.execute(f"pragma cache_size = -{_CACHE_KB}")
            if begin:
                self._prepare(db)
            elif _log_of(db) != self.log:
                raise DiskRefuses(f"{self.path}: another journal", "another journal is in its place")
            failed.pop_all()
        return db

    def _look(self) -> None:
        """What SQLite would pass over in silence, or take for a disk's fault."""
        path, head = self.path, b""
        with suppress(OSError):  # of which SQLite speaks
            if path.is_file():
                with path.open("rb") as file:
                    head = file.read(20)
                made = self._held.mends and self._held.kept_as is None  # an empty file was not left by our last attempt
                if (head or made) and (head[:16] != _MAGIC or {*head[18:]} - {1, 2}):
                    raise sqlite3.DatabaseError("file is not a database" if head else "file is empty")
            if not head and path.with_name(f"{path.name}-wal").stat().st_size:  # which SQLite would delete
                raise sqlite3.DatabaseError("a WAL without its database")

    def _refuse_others(self, db: sqlite3.Connection) -> None:
        tables = {name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")}
        if not tables:
            return
        (application,) = db.execute("pragma application_id").fetchone()
        (version,) = db.execute("pragma user_version").fetchone()
        if application != _APPLICATION_ID and not tables >= _TABLES:
            raise JournalError(f"{self.path}: a database, but not a pamd journal; give another path")
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path}: a journal of version {version}, of a newer pamd, this one writes {SCHEMA_VERSION}; "
                "install that one, or give another path"
            )
        if application != _APPLICATION_ID or version < 1 or not tables >= _TABLES:
            raise sqlite3.DatabaseError(f"version {version} of application {application:#x}, tables {sorted(tables)}")

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables, or bring them to this version; read which log this is."""
        with _committed(db):
            (version,) = db.execute("pragma user_version").fetchone()
            if version < SCHEMA_VERSION:
                steps = [text for to, text in _TO_VERSION.items() if to > version] if version else [_SCHEMA]
                for statement in ";".join(steps).split(";"):
                    db.execute(statement)
                db.execute(f"pragma application_id = {_APPLICATION_ID}")
                db.execute(f"pragma user_version = {SCHEMA_VERSION}")
            if not version:
                db.execute("insert into meta values (?, 0)", (str(uuid.uuid4()),))
        _examine(db)
        log, reserved = db.execute("select log, reserved from meta").fetchone()
        self._held.last_number = max(self._held.last_number, reserved)
        self._held.log = log


def keep_aside(path: Path, utc_ns: int) -> Path:
    """Rename a journal's files, so that another can begin in its place. Returns: the file's new path.

    Whoever has it open, reads on; SQLite sees that it has moved, and deletes nothing when it is closed.

    Raises:
        OSError: the disk refuses.
    """
    path = path.resolve()
    stamp = rfc3339(utc_ns).partition(".")[0].replace("-", "").replace(":", "")
    names = (f"{path.name}.damaged-{stamp}Z{number or ''}" for number in count())
    aside = next(aside for name in names if not (aside := path.with_name(name)).exists())
    for suffix in _FILES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _log_of(db: sqlite3.Connection) -> str | None:
    """None of a file that is only being made."""
    if not db.execute("select count(*) from sqlite_schema where name = 'meta'").fetchone()[0]:
        return None
    log: str = db.execute("select log from meta").fetchone()[0]
    return log


def _examine(db: sqlite3.Connection) -> None:
    """Both ends of the table and of its indexes, and whether they agree. What lies between is found when it is read:
    to look through all of it would keep a station deaf for as long as its card takes to read the file."""
    last: int | None = None
    for end in ("asc", "desc"):
        row = db.execute(f"select seq, id, kind from record order by seq {end} limit 1").fetchone()
        if row is None:
            return
        last, identity, kind = row
        by_id = db.execute("select seq from record where id = ?", (identity,)).fetchone()
        by_kind = db.execute(f"select seq from record where kind = ? order by seq {end} limit 1", (kind,)).fetchone()
        if not by_id == by_kind == (last,):
            raise ValueError(f"record {last} is not where its indexes say")
    (given,) = db.execute("select max(last_seq) from topic").fetchone()
    if last is not None and last > (given or 0):
        raise ValueError(f"there is a record {last}, and {given} is the last that was given")


@contextmanager
def _committed(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    finally:
        if db.in_transaction:  # a disk that refuses may have ended it
            db.execute("rollback")
