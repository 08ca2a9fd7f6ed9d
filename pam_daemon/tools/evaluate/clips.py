"""Labelled clips: found, read, cut into the model's windows as the daemon cuts them, scored."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pam_daemon.analysis.model import Model
from pam_daemon.analysis.windows import Grid, Window, Windower
from pam_daemon.capture.ring import FloatArray, Heard
from pam_daemon.capture.sources import Audio
from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.errors import SourceError, TableError
from pam_daemon.tools.evaluate.figures import Labels

TABLES = ("train.csv", "clips.csv")  # the challenge's, and what is known beyond it
NAME, LABEL, SPLIT = "clip_name", "label", "split"
AUDIO_FOLDER = "audio"

OnProgress = Callable[[float, float], None]  # done, and of how much


@dataclass(frozen=True)
class Clip:
    """One labelled sound file."""

    path: Path
    called: bool  # it holds what the model's label names


@dataclass(frozen=True)
class Clips:
    """Clips as windows at the model's rate. Equal audio is there once."""

    names: list[str]
    labels: Labels  # (clips,)
    windows: FloatArray  # (windows, window_samples): a clip's are neighbours
    first: npt.NDArray[np.intp]  # (clips,): the first window of each
    notes: list[str]

    def scores(self, model: Model, label: int, batch: int, progress: OnProgress) -> FloatArray:
        """(clips,): of each its best window's, for one of the model's labels."""
        parts = []
        for begin in range(0, len(self.windows), batch):
            parts.append(model.scores(self.windows[begin : begin + batch])[:, label])
            progress(min(begin + batch, len(self.windows)), len(self.windows))
        best: FloatArray = np.maximum.reduceat(np.concatenate(parts), self.first)
        return best


def find_clips(folder: Path, split: str | None, positive: Sequence[str]) -> list[Clip]:
    """The clips of a folder in the challenge's layout (train.csv or clips.csv, audio/), or with a folder a class.

    Args:
        split: of a table, only the rows whose column `split` (of clips.csv) says so; None: all.
        positive: labels or folders that mean a call, beside the challenge's 1.

    Raises:
        TableError: a table that cannot be read, lacks a column or a row; no clip, or only one kind of clip.
        SourceError: a class's folder that cannot be read.
    """
    listed = any((folder / name).is_file() for name in TABLES)
    if split is not None and not listed:
        raise TableError(f"{folder}: --split {split}: there is no {' or '.join(TABLES)} to choose by; leave it away")
    labelled = _listed(folder, split) if listed else _in_folders(folder)
    clips = [Clip(path, text == "1" or text in positive) for path, text in labelled]
    if len({clip.called for clip in clips}) < 2:
        labels = ", ".join(sorted({text for _, text in labelled})) or "none"
        raise TableError(
            f"{folder}: of {len(clips)} clips {sum(clip.called for clip in clips)} are of {' or '.join(positive)}: "
            f"both kinds are needed (labels there: {labels}; --marked says which one means a call)"
        )
    return clips


def _listed(folder: Path, split: str | None) -> list[tuple[Path, str]]:
    """Path and label of a table's clips."""
    tables = {folder / name: _rows(folder / name) for name in TABLES if (folder / name).is_file()}
    table, rows = next(iter(tables.items()))
    if split is not None:
        by, parts = next(((path, own) for path, own in tables.items() if own and SPLIT in own[0]), (table, []))
        if not parts:
            raise TableError(f"{by}: no column {SPLIT}, which --split {split} asks for; add it or leave --split away")
        chosen = {_cell(by, row, NAME) for row in parts if row.get(SPLIT) == split}
        if not chosen:
            there = ", ".join(sorted({_cell(by, row, SPLIT) for row in parts}))
            raise TableError(f"{by}: no row has {SPLIT} {split}; there are: {there}")
        rows = [row for row in rows if _cell(table, row, NAME) in chosen]
    audio = folder / AUDIO_FOLDER
    return [((audio if audio.is_dir() else folder) / _cell(table, row, NAME), _cell(table, row, LABEL)) for row in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [dict(row) for row in csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as CSV ({error}); give the challenge's layout") from error


def _cell(table: Path, row: dict[str, str], column: str) -> str:
    cell = row.get(column)
    if not cell or "\0" in cell:
        raise TableError(f"{table}: no {column} in the row {', '.join(map(str, row.values()))}; write one")
    return cell


def _in_folders(folder: Path) -> list[tuple[Path, str]]:
    """Path and label of the clips in the folder of each class."""
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise TableError(f"{folder}: cannot be read ({error.strerror}); give a folder of labelled clips") from error
    return [(path, place.name) for place in classes for path in find_files([str(place)])]


def load(clips: Sequence[Clip], model: Model, progress: OnProgress) -> Clips:
    """Read the clips' first channels; those of equal audio once, and not at all where their labels differ.

    A clip is cut as the daemon cuts a recording: resampled by the same call, windows at the model's hop, the last one
    aligned to its end. A shorter one than a window stands between reflections of itself, as in training.

    Raises:
        SourceError: a clip that cannot be read, or is cut short, or of a lower rate than the model's.
    """
    card = model.card
    known: dict[bytes, int] = {}  # place in `kept` of each audio
    kept: list[tuple[Clip, FloatArray]] = []
    doubted: set[int] = set()
    resampled = short = long = 0
    for number, clip in enumerate(clips, 1):
        samples, rate_hz = _read(clip.path, card.sample_rate_hz)
        place = known.setdefault(hashlib.sha1(samples.tobytes(), usedforsecurity=False).digest(), len(kept))
        if place < len(kept):
            doubted |= {place} if kept[place][0].called != clip.called else set()
            continue
        grid = Grid(rate_hz, card.sample_rate_hz, card.window_samples, card.hop_samples)
        least = -(-card.window_samples * rate_hz // card.sample_rate_hz)
        resampled += rate_hz != card.sample_rate_hz
        short += len(samples) < least
        long += len(samples) > least
        kept.append((clip, _windows(_reflected(samples, least), grid)))
        progress(number, len(clips))
    notes = _notes(
        len(clips) - len(kept), len(doubted), resampled, short, long, card.window_samples / card.sample_rate_hz
    )
    kept = [pair for place, pair in enumerate(kept) if place not in doubted]
    if len({clip.called for clip, _ in kept}) < 2:
        raise TableError(f"{clips[0].path.parent}: equal audio left out, there is one kind of clip; give others too")
    counts = [len(windows) for _, windows in kept]
    return Clips(
        names=[clip.path.name for clip, _ in kept],
        labels=np.array([clip.called for clip, _ in kept]),
        windows=np.concatenate([windows for _, windows in kept]),
        first=np.cumsum([0, *counts[:-1]]),
        notes=notes,
    )


def _read(path: Path, model_rate_hz: int) -> tuple[FloatArray, int]:
    """The first channel (samples,) and its rate."""
    (recording,) = recordings([path], min_rate_hz=model_rate_hz)
    pieces = [piece.samples[0] for piece in recording.blocks() if isinstance(piece, Audio)]
    if recording.truncated or not pieces or not np.isfinite(samples := np.concatenate(pieces)).all():
        raise SourceError(f"{path}: cut short, or not all finite; restore it or leave it out")
    return samples, recording.sample_rate_hz


def _windows(samples: FloatArray, grid: Grid) -> FloatArray:
    """(windows, window_samples)"""
    windower = Windower(grid)
    items = chain(windower.feed(Heard(0, samples)), windower.close())
    return np.stack([item.samples for item in items if isinstance(item, Window)])


def _reflected(samples: FloatArray, least: int) -> FloatArray:
    missing = max(least - len(samples), 0)
    before = missing // 2
    mode = "reflect" if missing - before < len(samples) else "constant"
    padded: FloatArray = np.pad(samples, (before, missing - before), mode=mode)  # type: ignore[call-overload]
    return padded


def _notes(equal: int, doubted: int, resampled: int, short: int, long: int, window_s: float) -> list[str]:
    said = (
        (equal, f"{equal} clips are left out: their audio is that of another clip"),
        (doubted, f"{doubted} more are left out: their audio is under both labels"),
        (resampled, f"{resampled} clips are of another rate than the model's: resampled as live sound is"),
        (short, f"{short} clips are shorter than {window_s:g} s: each stands between reflections of itself"),
        (long, f"{long} clips are longer than {window_s:g} s: the score is that of the best window at the model's hop"),
    )
    return [text for count, text in said if count]
