"""Records for eyes and for pipes: a table and a summary on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from pam_daemon.analysis.model import Model
from pam_daemon.capture.sources.file import Recording
from pam_daemon.errors import EndpointError, PamdError, TableError
from pam_daemon.records import Wire
from pam_daemon.tools.doctor.case import VERDICTS, Result, Verdict
from pam_daemon.tools.tables import Selection, write_raven

# What comes of fields that are missing, or hold something else: another version's, or another program's.
_UNFAMILIAR = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


class Heard(Protocol):
    """How far a replay is, in seconds of sound, and at its end how many windows it scored in how long."""

    total_s: float
    windows: int
    took_s: float

    @property
    def heard_s(self) -> float: ...


class ReplayView:
    """What a replay shows: records as they come where stdout is a pipe, a bar and a table on a terminal.

    Args:
        keep: hold the detections until the end, as for a table; else only a terminal's are, so that memory does not
            grow with the sound.
    """

    def __init__(self, *, keep: bool) -> None:
        self.detections: list[tuple[Recording, Wire]] = []
        self._found = 0
        self._recording: Recording
        self._others: list[Wire] = []  # alerts and gaps
        self._terminal = sys.stdout.isatty()
        self._keep = keep or self._terminal
        self._bar = _bar(shown=self._terminal)
        self._task = self._bar.add_task("listening", total=None)

    def __enter__(self) -> ReplayView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, recording: Recording) -> None:
        self._recording = recording
        self._bar.update(self._task, description=Path(recording.name).name)

    def tick(self, progress: Heard) -> None:
        self._bar.update(self._task, completed=progress.heard_s, total=progress.total_s)

    def show(self, wire: Wire, new: bool) -> None:
        """One record, on the worker's thread."""
        if not self._terminal:
            print_json(wire)
        self._found += wire["kind"] == "detection"
        if wire["kind"] == "detection" and self._keep:
            self.detections.append((self._recording, wire))
        elif wire["kind"] in ("alert", "gap") and self._keep:
            self._others.append(wire)

    def finish(self, done: Heard) -> None:
        """The table, and a summary: on stdout of a terminal; elsewhere the summary alone, on stderr."""
        console = Console(stderr=not self._terminal, highlight=False, markup=False)
        if self._terminal:
            if self.detections:
                console.print(_table(self.detections))
            for wire in self._others:
                console.print(_said(wire), soft_wrap=True)
        console.print(
            f"{done.heard_s:,.1f} s of sound, {done.windows:,} windows, {self._found:,} detections; "
            f"{done.took_s:.1f} s, {done.heard_s / done.took_s:,.0f} times real time"
        )


def _bar(*, shown: bool) -> Progress:
    """On stderr, where that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (shown and sys.stderr.isatty()),
    )


@contextmanager
def progress() -> Iterator[Callable[[str], Callable[[float, float], None]]]:
    """A bar a step: gives, by the step's name, what takes how much is done, and of how much."""

    def begin(step: str) -> Callable[[float, float], None]:
        task = bar.add_task(step, total=None)
        return lambda done, total: bar.update(task, completed=done, total=total)

    with _bar(shown=True) as bar:
        yield begin


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the work with a line of its own.

    Raises:
        PamdError: it was pressed.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise PamdError("interrupted before it was done; what was written is whole") from None


def say_start(recording: Recording) -> None:
    """What a file's name leaves open is said, once a recording."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if recording.start_utc is None:
        console.print(f"{recording.name}: no start time in the name: UTC fields are null (--start sets it)")
    elif recording.assumed_utc:
        console.print(f"{recording.name}: no time zone in the name: UTC assumed (--start sets it)")


def card_lines(model: Model) -> Iterator[str]:
    """A model's card as YAML, and what the golden self-test gave."""
    card = msgspec.to_builtins(model.card)
    golden = card.pop("golden")
    yield yaml.safe_dump({"sha256": model.name.sha256, **card}, sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield (
        f"golden self-test passed on {model.provider}: {len(golden['scores'])} windows, "
        f"largest difference {model.golden_difference:.1e}"
    )


def state_lines(state: Wire) -> list[str]:
    """A running daemon's state, a line a matter.

    Raises:
        EndpointError: it is not as this pamd knows it.
    """
    try:
        return list(_state_lines(state))
    except _UNFAMILIAR as error:
        raise EndpointError(f"the daemon's answer is not this version's ({error!r}); --json prints it whole") from error


def _state_lines(state: Wire) -> Iterator[str]:
    status, last = state["status"], state["last_detection"]
    since = f"pamd {status['version']}, listening since {status['started_utc'][:19]}Z"
    yield f"{_drill(status)}{status['station']}: {since}"
    yield f"model {status['model']['name']} on {status['provider']}"
    for name, stream in status["streams"].items():
        level = "digital silence" if stream["level_dbfs"] is None else f"{stream['level_dbfs']:.1f} dBFS"
        drift = stream["clock"]["drift_ppm"]
        rate = f"{stream['sample_rate_hz']} Hz" + ("" if drift is None else f" {drift:+.0f} ppm")
        found = f"{stream['detections']} detections"
        yield f"{name}: {stream['source']}, {rate}, lag {stream['lag_s']:.1f} s, {level}, {found}"
        if recorder := stream["recorder"]:
            lost_s = recorder["lost_samples"] / stream["sample_rate_hz"]
            kept = f"{recorder['files']:,} files, {recorder['bytes'] / 1e9:.1f} GB, {recorder['clips']:,} clips"
            yield f"{name}: recorded {kept}; lost {lost_s:.1f} s, {recorder['clips_lost']} clips"
    for alert in status["alerts"]:
        what = f"{alert['level']} {alert['label']}, last at {alert['last_utc'][:19]}Z"
        yield f"{_drill(status)}ALERT {alert['rule']}: {what}, stands until {alert['expires_utc'][:19]}Z"
    for name, bridge in status["bridges"].items():
        state_of = f"{bridge['error']}, since {bridge['down_since_utc'][:19]}Z" if bridge["error"] else "well"
        yield f"bridge {name}: {state_of}; {bridge['behind']} records wait, {bridge['refused']} refused"
    quality = {stream["clock"]["quality"] for stream in status["streams"].values()} - {None}
    yield f"clock: {', '.join(sorted(quality)) or 'unknown'}"
    missed = ", ".join(f"{reason} {seconds:g} s" for reason, seconds in state["missed_today_s"].items())
    yield f"coverage today {state['coverage_today']:.2%}; missed: {missed or 'nothing'}"
    yield "last detection: " + (readable(last) if last else "none")
    free_bytes = status["disk_free_bytes"]
    disk = "disk: fails" if free_bytes is None else f"disk: {free_bytes / 1e9:.1f} GB free"
    if journal := status.get("journal"):
        disk += f", journal {journal['bytes'] / 1e6:.0f} MB"
    if not status["durable"]:
        disk += f", refuses the journal: {status['held_records']} records held, {status['dropped_records']} dropped"
    yield disk


def show_results(results: Iterable[Result], console: Console, *, as_json: bool) -> Verdict:
    """An examination's results as they come; a line each, on a terminal with the remedy below. Returns: the worst."""
    seen: Counter[Verdict] = Counter()
    for result in results:
        seen[result.verdict] += 1
        if as_json:
            print_json(dataclasses.asdict(result))
        elif console.is_terminal:
            console.print(_result_row(result))
        else:
            remedy = f"; {result.remedy}" if result.remedy else ""
            print(f"{result.verdict:7}  {result.check:9}  {result.found}{remedy}", flush=True)
    if console.is_terminal and not as_json:
        console.print(f"\n{seen['ok']} ok, {seen['warning']} to look at, {seen['failure']} failed")
    return max(seen, key=VERDICTS.index)


def _result_row(result: Result) -> Table:
    colour = {"ok": "green", "warning": "yellow", "failure": "red"}[result.verdict]
    row = Table.grid(Column(width=7), Column(width=9), Column(), padding=(0, 2))
    text = Text(result.found)
    if result.remedy:
        text.append(f"\n→ {result.remedy}", "italic")
    row.add_row(Text(result.verdict, f"bold {colour}"), Text(result.check, "bold"), text)
    return row


@contextmanager
def busy(as_json: bool) -> Iterator[tuple[Console, Callable[[str], object]]]:
    """A console, and what tells people there what takes a while; programs are not told."""
    console = Console(highlight=False)
    if as_json or not console.is_terminal:
        yield console, lambda text: None
        return
    with console.status("") as status:
        yield console, lambda text: status.update(f"{text}...")


@contextmanager
def silenced() -> Iterator[None]:
    """What libraries of C and other processes print on stderr is kept from the eyes."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def print_json(wire: Wire) -> None:
    """One record a line, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(wire) + b"\n")
    sys.stdout.buffer.flush()


def readable(wire: Wire) -> str:
    """A record in one line; as JSON where it is not as this pamd knows it."""
    try:
        head = f"{wire['time_utc'][:19]}Z {_drill(wire)}{wire['station']}/{wire['stream']} {wire['kind']}"
        return f"{head} {_said(wire)}".rstrip()
    except _UNFAMILIAR:
        return msgspec.json.encode(wire).decode()


def _drill(wire: Wire) -> str:
    return "DRILL " if wire.get("mode") == "drill" else ""


def _said(wire: Wire) -> str:
    match wire["kind"]:
        case "detection":
            return f"{wire['label']} {wire['score']:.2f} at {_at(wire, 'peak')}"
        case "alert":
            return _alert(wire)
        case "gap":
            return f"{wire['term']} {wire['reason']} {wire['duration_s']:g} s from {_at(wire, 'start')}"
        case "effort":
            heard_s, elapsed_s = (wire[f"{key}_samples"] / wire["sample_rate_hz"] for key in ("analysed", "elapsed"))
            return f"heard {heard_s:g} s of {elapsed_s:g} s"
        case "event":
            return f"{wire['what']}: {wire['text']}"
        case _:
            return ""


def write_selections(path: Path, view: ReplayView, recordings: Sequence[Recording]) -> None:
    """The detections of a replay as Raven shows them when the files are opened as one sequence.

    Raises:
        TableError: a path that cannot be written.
    """
    write_raven(path, list(_selections(view.detections, recordings)))


def check_writable(path: Path) -> None:
    """Better before the work than after it.

    Raises:
        TableError: nothing can be written there.
    """
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise TableError(f"{path}: cannot be written: choose another place")


def _selections(detections: Iterable[tuple[Recording, Wire]], recordings: Sequence[Recording]) -> Iterator[Selection]:
    begins_s: dict[str, float] = {}
    total_s = 0.0
    for recording in recordings:
        begins_s[recording.name] = total_s
        total_s += recording.samples / recording.sample_rate_hz
    for recording, wire in detections:
        file, offset = recording.locate(wire["start_sample"])
        yield Selection(
            begin_s=begins_s[recording.name] + wire["start_s"],
            end_s=begins_s[recording.name] + wire["end_s"],
            channel=int(wire["stream"].removeprefix("ch")),
            label=wire["label"],
            score=wire["score"],
            extra={
                "Begin Path": str(file.path.resolve()),
                "File Offset (s)": f"{offset / file.sample_rate_hz:.6f}",
                "Peak Time (s)": f"{begins_s[recording.name] + wire['peak_s']:.6f}",
            },
        )


def _alert(wire: Wire) -> str:
    """RAISED detected: 3 upcall in 900 s ..., or LAPSED ...: the word that matters first."""
    what = f"{wire['state'].upper()} {wire['level']}: {wire['count']} {wire['label']} in {wire['window_s']:g} s"
    when = f", last at {wire['last_utc']}, until {wire['expires_utc']}" if wire["expires_utc"] else ""
    flood = ", a flood" if wire["flood"] else ""
    return f"{what}{when} ({wire['rule']}, {wire['coverage']:.0%} listened to{flood})"


def _at(wire: Wire, which: str) -> str:
    """UTC where it is known, else seconds."""
    if (utc := wire[f"{which}_utc"]) is not None:
        return str(utc)
    return f"{wire[f'{which}_s']:.1f} s" if f"{which}_s" in wire else f"sample {wire[f'{which}_sample']}"


def _table(detections: Sequence[tuple[Recording, Wire]]) -> Table:
    several = len({recording.name for recording, _ in detections}) > 1
    table = Table(*(["file"] if several else []), box=None, header_style="bold")
    for name in ("stream", "peak (UTC)", "peak (s)", "label", "score", "dBFS"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("peak (s)", "score", "dBFS") else "left")
    for recording, wire in detections:
        file, _ = recording.locate(wire["start_sample"])
        level = "" if wire["level_dbfs"] is None else f"{wire['level_dbfs']:.1f}"
        table.add_row(
            *([file.path.name] if several else []),
            wire["stream"],
            (wire["peak_utc"] or "")[:21].replace("T", " "),
            f"{wire['peak_s']:.2f}",
            wire["label"],
            f"{wire['score']:.3f}",
            level,
        )
    return table
