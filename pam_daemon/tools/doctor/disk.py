"""Room for the records, and what it takes to make them safe."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pam_daemon.clock import rfc3339
from pam_daemon.errors import JournalError
from pam_daemon.journal import Journal
from pam_daemon.records import STATION_WIDE, Event, Record, record_id
from pam_daemon.tools.doctor.case import Case, Result, Verdict, guarded

_FULL_BYTES = 100e6
_TIGHT_BYTES = 1e9  # above full: a record takes 1 kB, but others write to the disk too
_COMMITS, _COMMITS_S = 20, 2.0  # as many, or as long
_SLOW_COMMIT_S = 0.1  # the worker waits for it, and windows come every half second
_WRITE_BYTES = 8_000_000
_SLOW_WRITE_BYTES_PER_S = 1e6  # a recorded channel at 48 kHz is 0.1 MB/s


def check_disk(case: Case) -> Iterator[Result]:
    """Where the journal and the sound are kept: whether they can be, room, and how fast it is."""
    yield from guarded("disk", _journal(case))
    record = case.config.record
    if record.directory is not None:
        yield from guarded("disk", _place(case, Path(record.directory), "--record", 1e9 * record.min_free_gb))


def _journal(case: Case) -> Iterator[Result]:
    path = case.journal_path()
    if not path.parent.is_dir():
        raise JournalError(f"{path.parent}: no such directory; make it, or give another --journal")
    if path.exists():
        Journal(path).close()
    yield from _place(case, path.parent, "--journal", _FULL_BYTES)


def _place(case: Case, directory: Path, option: str, full_bytes: float) -> Iterator[Result]:
    """A directory, or where it is going to be made."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    yield _room(existing, option, full_bytes)
    case.doing(f"writing to {existing}")
    with tempfile.TemporaryDirectory(prefix=".pamd-doctor-", dir=existing) as place:
        yield _writes(existing, Path(place))


def _room(directory: Path, option: str, full_bytes: float) -> Result:
    free_bytes = shutil.disk_usage(directory).free
    found = f"{directory}: {free_bytes / 1e9:.1f} GB free"
    if free_bytes >= full_bytes + _TIGHT_BYTES:
        return Result("disk", "ok", found)
    verdict: Verdict = "failure" if free_bytes < full_bytes else "warning"
    return Result("disk", verdict, found, f"make room (`journalctl --vacuum-size=100M`), or give another {option}")


def _writes(directory: Path, place: Path) -> Result:
    commits_s, bytes_per_s = _commits_s(place / "journal"), _write_bytes_per_s(place / "sound")
    commit_s = statistics.median(commits_s)
    found = (
        f"{directory}: a commit takes {1000 * commit_s:.1f} ms (the longest {1000 * max(commits_s):.1f} ms), "
        f"{bytes_per_s / 1e6:.0f} MB/s"
    )
    if commit_s <= _SLOW_COMMIT_S and bytes_per_s >= _SLOW_WRITE_BYTES_PER_S:
        return Result("writes", "ok", found)
    remedy = "use a faster disk: an SSD, or a card made for endurance; an old card that has become slow is dying"
    return Result("writes", "warning", found, remedy)


def _commits_s(path: Path) -> list[float]:
    """What single records take to be safe on the disk, as the daemon commits them."""
    took_s: list[float] = []
    with closing(Journal(path)) as journal:
        while len(took_s) < _COMMITS and sum(took_s) < _COMMITS_S:
            identity = record_id("event", "doctor", STATION_WIDE, None, len(took_s), "doctor")
            event = Event("doctor", "info", "a record like others", {"padding": " " * 500})
            record = Record("event", "doctor", STATION_WIDE, "live", identity, rfc3339(0), event)
            begin_s = time.perf_counter()
            journal.append([record])
            took_s.append(time.perf_counter() - begin_s)
    return took_s


def _write_bytes_per_s(path: Path) -> float:
    noise = os.urandom(_WRITE_BYTES)  # nothing that a file system could compress
    begin_s = time.perf_counter()
    with path.open("wb") as file:
        file.write(noise)
        os.fsync(file.fileno())
    return _WRITE_BYTES / (time.perf_counter() - begin_s)
