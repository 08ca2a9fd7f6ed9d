"""The soak's report: a healthy soak keeps every promise, and each fault that a soak is there for breaks one."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pam_daemon.clock import parse_rfc3339
from pam_daemon.journal import Journal
from pam_daemon.records import Gap, Record, Wire

SOAK = Path(__file__).parent / "soak"
STREAMS = ("north-ch1", "north-ch2", "south-ch1", "south-ch2")
GAP_UTC = "2026-01-01T00:00:10.000000Z"
Row = dict[str, Any]


def write(directory: Path, name: str, rows: Sequence[Row]) -> None:
    with (directory / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def processes() -> list[Row]:
    """An hour of a process that stays as it is, but for some noise in its memory."""
    steady = {"name": "daemon", "pid": 7, "threads": 11, "descriptors": 28}
    return [{"at_s": 30 * n, **steady, "unique_mb": 170 + 0.1 * (n % 3), "cpu_s": 4.0 * n} for n in range(1, 121)]


def streams() -> list[Row]:
    counts = {"elapsed_samples": 100, "analysed_samples": 70, "gap_samples": 10, "skipped_samples": 0}
    rest = {**counts, "pending_samples": 20, "lag_s": 0.5}
    return [{"at_s": 30 * n, "stream": name, "source": name[:5], **rest} for n in range(1, 121) for name in STREAMS]


def journal(directory: Path, gaps: int) -> list[Wire]:
    records = []
    for number in range(gaps):
        body = Gap("gap", 480_000, 48_000, GAP_UTC, 1.0, "overflow", True, 0.1)
        records.append(Record("gap", "soak", STREAMS[number], "live", f"{number:032d}", GAP_UTC, body))
    with closing(Journal(directory / "journal")) as written:
        return [wire for wire, _ in written.append(records)]


def receive(directory: Path, wires: Sequence[Wire]) -> None:
    def status(second: int) -> Wire:
        return {"kind": "status", "time_utc": f"2026-01-01T00:00:{second:02d}.000000Z"}

    lines = [msgspec.json.encode(wire) for wire in (status(0), *wires, status(20))]
    (directory / "received.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture(name="soaked")
def soaked_fixture(tmp_path: Path) -> Path:
    """The files of a soak with one gap, which a stall of the machine explains."""
    directory = tmp_path / "live"
    directory.mkdir()
    write(directory, "ProcessSample", processes())
    write(directory, "StreamSample", streams())
    write(directory, "Stall", [{"utc_ns": parse_rfc3339(GAP_UTC), "held_s": 1.2}])
    receive(directory, journal(directory, gaps=1))
    (directory / "listen.log").touch()
    return directory


def report(directory: Path) -> tuple[int, list[str]]:
    """The exit code, and the promises that are broken."""
    command = [sys.executable, str(SOAK), "live", "--report", "--dir", str(directory.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.split()[0] == "held" for line in lines if line.strip()) >= 6
    return done.returncode, [line.strip() for line in lines if "BROKEN" in line]


def edited(name: str, rows: Callable[[], list[Row]], **last: Any) -> Callable[[Path], None]:
    """The same rows, the last of them with other values."""

    def edit(directory: Path) -> None:
        write(directory, name, [*rows()[:-1], rows()[-1] | last])

    return edit


def leaks(directory: Path) -> None:
    write(directory, "ProcessSample", [row | {"unique_mb": 170 + row["at_s"] / 600} for row in processes()])


def no_stall(directory: Path) -> None:
    (directory / "Stall.csv").unlink()


def lost(directory: Path) -> None:
    receive(directory, [])


def changed(directory: Path) -> None:
    lines = (directory / "received.jsonl").read_text().replace("48000", "48001")
    (directory / "received.jsonl").write_text(lines)


def deaf(directory: Path) -> None:
    (directory / "listen.log").write_text("DEAF")


def test_a_healthy_soak_breaks_no_promise(soaked: Path) -> None:
    assert report(soaked) == (0, [])


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        (edited("ProcessSample", processes, threads=12), "daemon: threads stay the same"),
        (edited("ProcessSample", processes, descriptors=29), "daemon: descriptors stay the same"),
        (edited("ProcessSample", processes, pid=8), "no process was started anew"),
        (leaks, "daemon: unique memory grows"),
        (edited("StreamSample", streams, pending_samples=21), "elapsed = analysed + gap + skipped + pending"),
        (edited("StreamSample", streams, source="absent"), "`pamd status` shows 4 streams"),
        (no_stall, "no gap is unexplained"),
        (lost, "the subscriber gets every record"),
        (changed, "the subscriber gets every record"),
        (deaf, "the subscriber is never deaf"),
    ],
)
def test_a_fault_breaks_its_promise_and_no_other(soaked: Path, fault: Callable[[Path], None], promise: str) -> None:
    fault(soaked)
    code, broken = report(soaked)
    assert code == 1
    assert len(broken) == 1
    assert broken[0].startswith(f"BROKEN     {promise}")
