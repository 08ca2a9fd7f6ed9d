"""What an evaluation found: as a table, as JSON, and as files, each whole or not there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Column, Table

from pam_daemon.analysis.stream import Analysis
from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources.file import Recording
from pam_daemon.errors import ConfigError
from pam_daemon.records import Wire
from pam_daemon.tools.evaluate import figures
from pam_daemon.tools.evaluate.clips import Clips
from pam_daemon.tools.evaluate.figures import Interval
from pam_daemon.tools.evaluate.matching import Matching
from pam_daemon.tools.evaluate.recordings import Channel, Point, Sea, notes, point, table_of_points
from pam_daemon.tools.files import replace_file

FIGURES, SCORES, PICTURE = "figures.json", "scores.csv", "curve.png"
_WIDTH = 140  # of tables where no terminal says how wide it is: nothing is cut off


@dataclass(frozen=True)
class Subject:
    """What was evaluated: the same for clips and recordings."""

    analysis: Analysis
    label: str
    data: str  # as the command names it

    def wire(self) -> Wire:
        analysis = self.analysis
        return {
            "model": {"name": analysis.model.name, "sha256": analysis.model.sha256},
            "label": self.label,
            "data": os.fsencode(self.data).decode(errors="backslashreplace"),
            "threshold": analysis.threshold.score,
            "threshold_source": analysis.threshold.source,
        }


def chosen_label(labels: Sequence[str], label: str | None) -> int:
    """The place of the label that is asked for, or of the only one.

    Raises:
        ConfigError: the model does not know it, or has several and none is asked for.
    """
    if label is None and len(labels) == 1:
        return 0
    if label not in labels:
        asked = "the model has several labels" if label is None else f"--label {label}: the model does not know it"
        raise ConfigError(f"{asked}; give --label with one of: {', '.join(labels)}")
    return labels.index(label)


def clips_wire(subject: Subject, clips: Clips, scores: FloatArray) -> Wire:
    """The figures of clips; intervals are [low, high] of 95 %."""
    labels, exact = clips.labels, scores.astype(np.float64)
    threshold = subject.analysis.threshold.score
    area, interval = figures.roc_auc(labels, exact)
    confusion = figures.confusion(labels, exact, threshold)
    called = confusion.found + confusion.missed
    return subject.wire() | {
        "clips": len(labels),
        "called": called,
        "roc_auc": area,
        "roc_auc_interval": _pair(interval),
        "average_precision": figures.average_precision(labels, exact),
        "calibration_error": figures.calibration_error(labels, exact),
        "calibration_bins": figures.BINS,
        "brier": figures.brier(labels, exact),
        "confusion": asdict(confusion),
        "recall": confusion.found / called,
        "recall_interval": _pair(figures.share_interval(confusion.found, called)),
        "false_positive_rate": confusion.false / (len(labels) - called),
        "false_positive_rate_interval": _pair(figures.share_interval(confusion.false, len(labels) - called)),
        "notes": clips.notes,
    }


def recordings_wire(subject: Subject, sea: Sea, points: Sequence[Point], recordings: Sequence[Recording]) -> Wire:
    """The figures of recordings: each at the chosen threshold, and the curve of all together."""
    analysis = subject.analysis
    chosen = analysis.threshold.score
    rows = [_row(channel, matching, chosen) for channel, matching in zip(sea.channels, sea.match(chosen), strict=True)]
    return subject.wire() | {
        "hop_s": analysis.hop_samples / analysis.model_rate_hz,
        "hours": sea.hours,
        "recordings": rows,
        "points": [_point_wire(each) for each in points],
        "notes": notes(recordings, sea.channels),
    }


def _row(channel: Channel, matching: Matching, threshold: float) -> Wire:
    name = {"recording": channel.recording.name, "channel": channel.number}
    return name | _point_wire(point(threshold, [matching], channel.heard_h))


def _point_wire(each: Point) -> Wire:
    return asdict(each) | {
        "recall": each.recall,
        "recall_interval": _pair(each.recall_interval),
        "false_per_hour": each.false_per_hour,
        "false_per_hour_interval": _pair(each.false_per_hour_interval),
    }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def show_clips(wire: Wire) -> None:
    """Print the table of clips."""
    console = _console()
    confusion, called = wire["confusion"], wire["called"]
    console.print(f"{wire['data']}: {wire['clips']} clips, {called} of {wire['label']}; {_model(wire)}")
    for note in wire["notes"]:
        console.print(note)
    table = Table(box=None, show_header=False)
    area = wire["roc_auc_interval"]
    table.add_row("ROC AUC", f"{wire['roc_auc']:.4f}", f"{_range(area, '.4f')}, DeLong" if area else "separated wholly")
    table.add_row("average precision", f"{wire['average_precision']:.4f}")
    table.add_row("calibration error", f"{wire['calibration_error']:.4f}", f"{wire['calibration_bins']} equal bins")
    table.add_row("Brier score", f"{wire['brier']:.4f}")
    table.add_row(f"at threshold {wire['threshold']:g}", "", _source(wire))
    for name, of, yes, no in (
        ("recall", called, "found", "missed"),
        ("false_positive_rate", wire["clips"] - called, "false", "rejected"),
    ):
        counts = f"{confusion[yes]} of {of} {yes}, {confusion[no]} {no}"
        table.add_row(
            f"  {name.replace('_', ' ')}", f"{wire[name]:.3f}", f"{_range(wire[f'{name}_interval'], '.3f')}; {counts}"
        )
    console.print(table)


def show_recordings(wire: Wire, points: Sequence[Point]) -> None:
    """Print the recordings at the chosen threshold, and the operating points."""
    console, chosen = _console(), wire["threshold"]
    console.print(
        f"{wire['data']}: {wire['hours']:.2f} h heard, hop {wire['hop_s']:g} s, {wire['label']}; {_model(wire)}\n"
        f"\nat threshold {chosen:g} ({_source(wire)})"
    )
    for note in wire["notes"]:
        console.print(note)
    table = _table("recording", "ch", "hours", "marked", "found", "duplicates", "false", "false/h")
    for row in wire["recordings"]:
        counts = (row["marked"], row["found"], row["duplicates"], row["false"])
        name = Path(row["recording"]).name
        table.add_row(
            name, str(row["channel"]), f"{row['hours']:.3f}", *map(str, counts), f"{row['false_per_hour']:.2f}"
        )
    console.print(table)
    console.print("\noperating points (* the threshold above; intervals of 95 %)")
    table = _table("threshold", "recall", "found", "", "duplicates", "false", "false/h", "")
    for each in table_of_points(points, chosen):
        table.add_row(
            f"{'* ' if each.threshold == chosen else ''}{each.threshold:g}",
            "" if each.recall is None else f"{each.recall:.3f}",
            f"{each.found}/{each.marked}" if each.marked else "none marked",
            _range(_pair(each.recall_interval), ".3f"),
            str(each.duplicates),
            str(each.false),
            f"{each.false_per_hour:.2f}",
            _range(_pair(each.false_per_hour_interval), ".2f"),
        )
    console.print(table)


def title(wire: Wire) -> str:
    """Of the picture."""
    return (
        f"{wire['label']}, model {wire['model']['name']}, hop {wire['hop_s']:g} s, {wire['hours']:.2f} h of recordings"
    )


def _console() -> Console:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, markup=False, soft_wrap=True, width=_WIDTH)


def _table(first: str, *rest: str) -> Table:
    table = Table(Column(first, overflow="fold"), box=None, header_style="bold")
    for name in rest:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _range(interval: list[float] | None, how: str) -> str:
    return "" if interval is None else f"{interval[0]:{how}} to {interval[1]:{how}}"


def _model(wire: Wire) -> str:
    return f"model {wire['model']['name']} ({wire['model']['sha256'][:12]})"


def _source(wire: Wire) -> str:
    return f"the {wire['threshold_source']}'s"


def clip_rows(clips: Clips, scores: FloatArray) -> Iterator[tuple[Any, ...]]:
    """The scores as CSV rows, the header first."""
    yield "clip", "called", "score"
    yield from ((n, int(c), f"{s:.6f}") for n, c, s in zip(clips.names, clips.labels, scores, strict=True))


def window_rows(sea: Sea) -> Iterator[tuple[Any, ...]]:
    """Every window's score as CSV rows, the header first."""
    yield "recording", "channel", "segment", "centre_s", "score"
    for channel in sea.channels:
        rate_hz = channel.recording.sample_rate_hz
        for number, segment in enumerate(channel.segments):
            for place, scores in segment:
                centre_s = f"{place.source_centre / rate_hz:.6f}"
                yield channel.recording.name, channel.number, number, centre_s, f"{scores[sea.label]:.6f}"


def write_files(directory: Path, wire: Wire, rows: Iterator[tuple[Any, ...]]) -> None:
    """The figures as JSON and the scores as CSV.

    Raises:
        RecordError: they cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    replace_file(directory / SCORES, text.getvalue().encode("utf-8", "surrogateescape"))
    replace_file(directory / FIGURES, msgspec.json.format(msgspec.json.encode(wire), indent=2) + b"\n")
