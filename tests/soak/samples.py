"""What is measured while a soak runs: rows of CSV files, written as they come: a report is possible at any time."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypeVar

import msgspec

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessSample:
    """One process at one moment."""

    at_s: float
    """Since the soak began; of a fast replay, hours of stream times 3600."""
    name: str
    pid: int
    threads: int
    descriptors: int
    unique_mb: float
    """Memory that it shares with nobody, in 10^6 bytes."""
    cpu_s: float
    """Processor time since it began."""


@dataclass(frozen=True)
class StreamSample:
    """One stream in one status."""

    at_s: float
    stream: str
    source: str
    elapsed_samples: int
    analysed_samples: int
    gap_samples: int
    skipped_samples: int
    pending_samples: int
    lag_s: float


@dataclass(frozen=True)
class Stall:
    """A moment at which the machine did not let this process, which only sleeps, go on."""

    utc_ns: int
    """When it went on."""
    held_s: float


Row = TypeVar("Row", ProcessSample, StreamSample, Stall)


def append(directory: Path, rows: Sequence[Row]) -> None:
    """Add rows of one kind to the file of this kind."""
    with _path(directory, type(rows[0])).open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(field.name for field in fields(rows[0]))
        writer.writerows(astuple(row) for row in rows)


def read(directory: Path, kind: type[Row]) -> list[Row]:
    """All rows of one kind so far."""
    path = _path(directory, kind)
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [msgspec.convert(row, kind, strict=False) for row in csv.DictReader(file)]


def _path(directory: Path, kind: type[Row]) -> Path:
    return directory / f"{kind.__name__}.csv"


def sample(pid: int, name: str, at_s: float) -> ProcessSample:
    """A process as Linux describes it.

    Raises:
        OSError: it has gone.
    """
    proc = Path("/proc") / str(pid)
    lines = (line.split() for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    unique_kib = sum(int(words[1]) for words in lines if words[0] in ("Private_Clean:", "Private_Dirty:"))
    # The second field, the name, may hold anything but ends with the last bracket.
    stat = (proc / "stat").read_text().rpartition(")")[2].split()
    ticks = int(stat[11]) + int(stat[12])
    return ProcessSample(
        round(at_s, 1),
        name,
        pid,
        int(stat[17]),
        len(list((proc / "fd").iterdir())),
        round(unique_kib * 1024 / 1e6, 3),
        round(ticks / _TICKS_PER_S, 2),
    )


def children(pid: int) -> Iterator[tuple[int, list[str]]]:
    """The processes that any thread of a process has started, with their command lines.

    Raises:
        OSError: one of them, or the process itself, has just gone.
    """
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child), (Path("/proc") / child / "cmdline").read_text().rstrip("\0").split("\0")
