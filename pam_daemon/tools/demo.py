"""The whole chain on a simulated sea: one process replays, another subscribes, and what it heard meets the truth."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from pam_daemon.errors import PamdError
from pam_daemon.records import Wire
from pam_daemon.tools.console import readable
from pam_daemon.tools.evaluate import Detected, Matching
from pam_daemon.tools.picture import draw
from pam_daemon.tools.simulate import SNR_COLUMN, truth_path
from pam_daemon.tools.tables import Selection, read_raven
from pam_daemon.wire.sockets import free_endpoint

_COMMAND = (sys.executable, "-m", "pam_daemon")
_RULE = "{name: three, preset: three-in-60s}"
_TIMEOUT_S = 300.0  # for each command: the demo never hangs
_console = Console(highlight=False, soft_wrap=True)


def demonstrate(directory: Path) -> None:
    """Simulate, replay and subscribe in three processes; print the comparison and draw the picture.

    Raises:
        PamdError: one of the commands failed, or a file cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PamdError(f"{directory}: cannot be made: {error.strerror}; choose another with --dir") from error
    sea, received, picture = (directory / name for name in ("sea.aiff", "received.jsonl", "sea.png"))
    _console.print("The sea of this demonstration is simulated; the model is the one that pamd ships.\n")
    _pamd("simulate", str(sea), "--minutes", "10", "--calls", "30", "--seed", "1")
    endpoint = free_endpoint()
    with _listening(endpoint, received):
        _pamd("replay", str(sea), "--endpoint", endpoint, "--linger", "1", "--set", f"alerts=[{_RULE}]")
    records = _records(received)
    detections = [Detected(wire["peak_s"], wire["score"]) for wire in records if wire["kind"] == "detection"]
    truth = read_raven(truth_path(sea))
    matching = draw(sea, picture, truth, detections, "pamd demonstration", simulated=True)
    assert matching is not None, "there was a truth to match"
    _console.print(_table(matching))
    _console.print("\nThe alerts that a rule made of them:")
    for wire in records:
        if wire["kind"] == "alert":
            _console.print(readable(wire), markup=False)
    _console.print(
        f"\n{len(matching.found)} of {len(truth)} simulated calls found, {len(matching.missed)} missed, "
        f"{len(matching.false)} false, {len(matching.duplicates)} duplicates, as received over ZeroMQ.\n"
        f"The picture: {picture}"
    )


def _pamd(*words: str) -> None:
    _console.print(f"$ pamd {shlex.join(words)}", style="bold")
    done = subprocess.run([*_COMMAND, *words], stdout=subprocess.PIPE, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise PamdError(f"pamd {words[0]} ended with exit code {done.returncode}")


@contextmanager
def _listening(endpoint: str, received: Path) -> Iterator[None]:
    """A subscriber in a process of its own, that writes what it gets."""
    _console.print(f"$ pamd listen {endpoint} > {received} &", style="bold")
    with received.open("wb") as out, subprocess.Popen([*_COMMAND, "listen", endpoint], stdout=out) as listener:
        try:
            yield
        finally:
            listener.terminate()
            listener.wait(timeout=_TIMEOUT_S)


def _records(received: Path) -> Sequence[Wire]:
    return [msgspec.json.decode(line) for line in received.read_bytes().splitlines()]


def _table(matching: Matching) -> Table:
    rows: list[tuple[float, Selection | None, Detected | None, str]] = [
        *((call.begin_s, call, heard, "found") for heard, call in matching.found),
        *((call.begin_s, call, None, "[yellow]missed") for call in matching.missed),
        *((heard.peak_s, None, heard, "[red]false") for heard in matching.false),
        *((heard.peak_s, None, heard, "duplicate") for heard in matching.duplicates),
    ]
    table = Table("simulated call (s)", "SNR (dB)", "detected (s)", "score", "", box=None, header_style="bold")
    for _, call, heard, outcome in sorted(rows, key=lambda row: row[0]):
        table.add_row(
            f"{call.begin_s:.2f} - {call.end_s:.2f}" if call else "",
            call.extra.get(SNR_COLUMN, "") if call else "",
            f"{heard.peak_s:.2f}" if heard else "",
            f"{heard.score:.3f}" if heard else "",
            outcome,
        )
    return table
