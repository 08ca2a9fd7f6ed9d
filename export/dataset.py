"""Labelled clips: read, resampled to the model's rate, cut to the window, and split; no audio is on two sides."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from sklearn.model_selection import GroupKFold

from export.config import TrainConfig
from pam_daemon.errors import ConfigError, SourceError, TableError

TABLE = "train.csv"
SPLIT_TABLE = "clips.csv"
AUDIO_FOLDER = "audio"
_PARTS = ("train", "select", "report")

Audio = npt.NDArray[np.float32]
Row = dict[str, str]


@dataclass(frozen=True)
class Clips:
    """Some clips in the table's order, which is roughly the order of time."""

    names: list[str]
    audio: Audio  # (clips, samples), full scale +-1
    labels: Audio  # (clips, labels), 0 or 1
    hashes: list[str]  # of the samples: equal audio has equal hashes

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: npt.NDArray[np.intp]) -> Clips:
        """The clips at these places, in their order."""
        return Clips(
            [self.names[i] for i in index], self.audio[index], self.labels[index], [self.hashes[i] for i in index]
        )


@dataclass(frozen=True)
class Split:
    """`report` is for figures of a frozen model only; nothing may be chosen by it."""

    train: Clips
    select: Clips
    report: Clips | None
    description: str
    notes: list[str]


def load(folder: Path, config: TrainConfig, seed: int, progress: Callable[[int, int], None]) -> Split:
    """Read every clip of the table and split as `dataset.validation_strategy` says.

    Args:
        folder: holds train.csv, audio/ and, for the strategy `column`, clips.csv.
        progress: called with the number of clips read and their total.

    Raises:
        TableError: a table that cannot be read, or lacks a column or a value.
        SourceError: a clip that is missing or cannot be read.
        ConfigError: a split that leaves a part without clips of both labels.
    """
    rows = _rows(folder, config)
    notes: list[str] = []
    clips = _read_clips(folder, rows, config, notes, progress)
    if config.dataset.validation_strategy == "column":
        parts = _by_column(rows, folder, config)
        description = f"column {config.dataset.split_column} of {SPLIT_TABLE}"
    else:
        parts = _by_fold(rows, config, seed)
        description = (
            f"random {_fold_count(config)}-fold, fold {config.dataset.folds[0]}; neighbours in time on both sides"
        )
    train, select, report = (np.flatnonzero(parts == name) for name in _PARTS)
    train = _without_equal(clips, train, np.concatenate([select, report]), notes)
    select = _without_equal(clips, select, report, notes)
    train, select = _sample(train, select, config, seed)
    split = Split(
        clips.take(train), clips.take(select), clips.take(report) if len(report) else None, description, notes
    )
    _check(split, config, folder)
    return split


def with_validation(split: Split) -> Split:
    """The split whose train part holds the validation clips too, for `training.train_validation_data`."""
    one, other = split.train, split.select
    both = Clips(
        one.names + other.names,
        np.concatenate([one.audio, other.audio]),
        np.concatenate([one.labels, other.labels]),
        one.hashes + other.hashes,
    )
    note = "the validation clips are trained on (train_validation_data): figures on them promise too much"
    return replace(split, train=both, notes=[*split.notes, note])


def _rows(folder: Path, config: TrainConfig) -> list[Row]:
    """The rows of train.csv; for the strategy `column` with the split of clips.csv joined on."""
    dataset = config.dataset
    group = [dataset.group_fold_column] if dataset.group_fold_column else []
    rows = read_table(folder / TABLE, [dataset.audio_column, *dataset.label_columns, *group])
    if dataset.validation_strategy == "column":
        table = folder / SPLIT_TABLE
        splits = {
            row[dataset.audio_column]: row[dataset.split_column]
            for row in read_table(table, [dataset.audio_column, dataset.split_column])
        }
        for row in rows:
            name = row[dataset.audio_column]
            if name not in splits:
                raise TableError(f"{table}: no row for {name}, which {TABLE} has; add it with its split")
            row[dataset.split_column] = splits[name]
    return rows


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file that must have these columns.

    Raises:
        TableError: see above; file, row and remedy are named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            present = reader.fieldnames or []
            rows = [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"{path}: cannot be read as CSV ({error}); --data needs {TABLE} and {AUDIO_FOLDER}/"
        ) from error
    for column in columns:
        if column not in present:
            raise TableError(f"{path}: no column {column} (there are: {', '.join(present)}); rename one or set its key")
    for number, row in enumerate(rows, 2):
        for column in columns:
            if not row[column]:
                raise TableError(f"{path}: line {number}: {column} is empty; give a value or remove the line")
    if not rows:
        raise TableError(f"{path}: no rows; list the clips with their labels")
    return rows


def _read_clips(
    folder: Path, rows: list[Row], config: TrainConfig, notes: list[str], progress: Callable[[int, int], None]
) -> Clips:
    column = config.dataset.audio_column
    audio = np.zeros((len(rows), config.window_samples), np.float32)
    fitted = 0
    for i, row in enumerate(rows):
        samples = read_clip(folder / AUDIO_FOLDER / row[column], config.audio.sample_rate)
        fitted += len(samples) != config.window_samples
        audio[i] = fit(samples, config.window_samples)
        progress(i + 1, len(rows))
    if fitted:
        notes.append(f"{fitted} clips are not {config.audio.training_chunk_seconds:g} s long: padded or cut, centred")
    labels = np.array([_labels(row, config, folder, i) for i, row in enumerate(rows)], np.float32)
    hashes = [hashlib.sha1(window.tobytes(), usedforsecurity=False).hexdigest() for window in audio]
    return Clips([row[column] for row in rows], audio, labels, hashes)


def _labels(row: Row, config: TrainConfig, folder: Path, i: int) -> list[float]:
    values = []
    for column in config.dataset.label_columns:
        if row[column] not in ("0", "1"):
            raise TableError(f"{folder / TABLE}: line {i + 2}: {column} is {row[column]}; must be 0 or 1")
        values.append(float(row[column]))
    return values


def read_clip(path: Path, sample_rate_hz: int) -> Audio:
    """One clip, its first channel, (samples,) at the model's rate; soxr HQ, the same call as in serving.

    Raises:
        SourceError: missing, unreadable, empty, or not finite.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, TypeError, ValueError, MemoryError) as error:
        # The last three: a file without a header (.raw), and a header that promises more than there is memory.
        reason = "no such clip" if not path.is_file() else f"cannot be read ({error})"
        raise SourceError(f"{path}: {reason}; restore it or remove its row from the table") from error
    clip: Audio = np.ascontiguousarray(samples[:, 0])
    if not len(clip) or not np.isfinite(clip).all():
        raise SourceError(f"{path}: no samples, or not all finite; restore it or remove its row from the table")
    if rate_hz != sample_rate_hz:
        clip = soxr.resample(clip, rate_hz, sample_rate_hz, quality="HQ").astype(np.float32)
    return clip


def fit(samples: Audio, window_samples: int) -> Audio:
    """The middle of a longer clip; a shorter one between reflections of itself (silence where it is very short)."""
    excess = len(samples) - window_samples
    if excess >= 0:
        return samples[excess // 2 : excess // 2 + window_samples]
    before = -excess // 2
    mode = "reflect" if -excess - before < len(samples) else "constant"
    padded: Audio = np.pad(samples, (before, -excess - before), mode=mode)  # type: ignore[call-overload]
    return padded


def _by_column(rows: list[Row], folder: Path, config: TrainConfig) -> npt.NDArray[np.str_]:
    column = config.dataset.split_column
    for row in rows:
        if row[column] not in _PARTS:
            raise TableError(
                f"{folder / SPLIT_TABLE}: {row[config.dataset.audio_column]}: {column} is {row[column]}; "
                f"must be one of {', '.join(_PARTS)}"
            )
    return np.array([row[column] for row in rows])


def _fold_count(config: TrainConfig) -> int:
    return max(2, round(1 / config.dataset.validation_size))


def _by_fold(rows: list[Row], config: TrainConfig, seed: int) -> npt.NDArray[np.str_]:
    """Random folds over the groups of group_fold_column (by default every clip is its own)."""
    column = config.dataset.group_fold_column or config.dataset.audio_column
    groups = np.array([row[column] for row in rows])
    count, fold = _fold_count(config), config.dataset.folds[0]
    if fold not in {str(i) for i in range(count)}:
        raise ConfigError(f"dataset.folds: there is no fold {fold}; name one of 0 to {count - 1}")
    if len(set(groups)) < count:
        raise ConfigError(f"dataset.group_fold_column: {column} has fewer groups than the {count} folds; use another")
    folds = list(GroupKFold(count, shuffle=True, random_state=seed).split(groups, groups=groups))
    parts = np.full(len(rows), "train", "<U6")
    parts[folds[int(fold)][1]] = "select"
    return parts


def _without_equal(
    clips: Clips, part: npt.NDArray[np.intp], others: npt.NDArray[np.intp], notes: list[str]
) -> npt.NDArray[np.intp]:
    """The part less the clips whose audio is also in the others: the same audio may never be on two sides."""
    elsewhere = {clips.hashes[i] for i in others}
    kept = np.array([i for i in part if clips.hashes[i] not in elsewhere], np.intp)
    if len(kept) < len(part):
        notes.append(f"{len(part) - len(kept)} clips left out: the same audio is on the other side of the split")
    return kept


def _sample(
    train: npt.NDArray[np.intp], select: npt.NDArray[np.intp], config: TrainConfig, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A random share `dataset.data_sample` of the parts named in data_sample_choice."""
    random = np.random.default_rng([seed, 1])
    parts = []
    for name, part in (("Train", train), ("Validation", select)):
        count = len(part)
        if name in config.dataset.data_sample_choice:
            count = max(1, round(count * config.dataset.data_sample))
        parts.append(np.sort(random.choice(part, count, replace=False)) if count < len(part) else part)
    return parts[0], parts[1]


def _check(split: Split, config: TrainConfig, folder: Path) -> None:
    for name, part in (("train", split.train), ("validation", split.select)):
        for label, values in zip(config.dataset.label_columns, part.labels.T, strict=True):
            if len(np.unique(values)) < 2:
                raise ConfigError(
                    f"{folder}: the {name} part has {len(part)} clips and not both values of {label}; "
                    "use another split or more clips"
                )
    if len(split.train) < config.training.batch_size and config.training.drop_last_batch:
        raise ConfigError(
            f"training.batch_size: {config.training.batch_size} exceeds the {len(split.train)} train clips"
        )
