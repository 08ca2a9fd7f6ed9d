"""Labelled windows: those that the sources know are read, split and checked; no audio is on two sides."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export import noise, sources, splits, store
from export.checkpoint import replacing
from export.config import TrainConfig
from export.sound import cut, fit, read_clip
from export.sources import Source
from export.store import Audio
from export.table import Row, read_table
from pam_daemon.errors import ConfigError

_SPOKEN = {"select": "validation"}


@dataclass(frozen=True)
class Clips:
    """Some windows in the sources' order, which is roughly the order of time."""

    names: list[str]
    audio: Audio  # (clips, samples), full scale +-1; mapped from a file where there is much
    labels: Audio  # (clips, labels), 0 or 1
    hashes: list[str]  # of the samples: equal audio has equal hashes

    def __len__(self) -> int:
        return len(self.names)

    def take(self, index: npt.NDArray[np.intp]) -> Clips:
        """The clips at these places, in their order."""
        audio = store.take(self.audio, index)
        return Clips([self.names[i] for i in index], audio, self.labels[index], [self.hashes[i] for i in index])


@dataclass(frozen=True)
class Split:
    """`report` and `test` are for figures of a frozen model only; nothing may be chosen by them."""

    train: Clips
    select: Clips
    report: Clips | None
    description: str
    notes: list[str]
    test: Clips | None = None
    data: str = ""  # the sources' names
    summary: list[str] = field(default_factory=list)  # a line a source: what it was taken for, its clips a label a part
    table: list[Row] = field(default_factory=list)  # a row a clip: where it comes from, its part and labels


def load(data: Sequence[Path], config: TrainConfig, seed: int, progress: Callable[[int, int], None]) -> Split:
    """Read all clips of the sources and split them as `dataset.validation_strategy` says.

    Args:
        data: the folders of --data; without any, the configuration names the tables.
        progress: called with the number of clips read and their total.

    Raises:
        TableError: a table that cannot be read, or lacks a column or a value.
        SourceError: a clip or recording that is missing or cannot be read; a folder that is none of the layouts.
        ConfigError: a split that leaves a part without clips of both values of a label.
    """
    found, notes = sources.find(data, config, seed)
    if config.augmentation.noise_probability:
        noise.recordings(config)  # what is wrong with them is said before the training
    plan = splits.assign(found, config, seed)
    clips = _read(found, config, notes, progress)
    _compare(clips, notes)
    parts = _sample(splits.settle(plan, clips.hashes, notes), config, seed)
    by_part = {part: np.flatnonzero(parts == part) for part in splits.PARTS}
    _check(by_part, clips.labels, config)
    taken = {part: clips.take(index) if len(index) else None for part, index in by_part.items()}
    train, select = taken["train"], taken["select"]
    assert train is not None and select is not None  # _check saw both
    split = Split(
        train,
        select,
        taken["report"],
        plan.description,
        notes,
        taken["test"],
        ", ".join(source.name for source in found if not source.part),
        list(_summary(found, parts, config)),
        _table(found, clips, parts, config),
    )
    return with_validation(split) if config.training.train_validation_data else split


def with_validation(split: Split) -> Split:
    """The split whose train part holds the validation clips too, for `training.train_validation_data`."""
    one, other = split.train, split.select
    both = Clips(
        one.names + other.names,
        store.join(one.audio, other.audio),
        np.concatenate([one.labels, other.labels]),
        one.hashes + other.hashes,
    )
    note = "the validation clips are trained on (train_validation_data): figures on them promise too much"
    return replace(split, train=both, notes=[*split.notes, note])


def _read(
    found: Sequence[Source], config: TrainConfig, notes: list[str], progress: Callable[[int, int], None]
) -> Clips:
    """All cuts in their order; a file is read once for those of one source that follow each other."""
    window, rate_hz = config.window_samples, config.audio.sample_rate
    cuts = [c for source in found for c in source.cuts]
    files = [
        (file, list(own)) for source in found for file, own in groupby(source.cuts, key=lambda c: (c.path, c.channel))
    ]
    audio = store.empty(len(cuts), window)
    hashes = []
    fitted = i = 0
    for (path, channel), own in files:
        begins = [c.begin for c in own if c.begin is not None]
        if begins:
            windows = cut(path, channel, begins, rate_hz, window)
        else:
            samples = read_clip(path, rate_hz, channel)
            fitted += (len(samples) != window) * len(own)
            windows = iter([fit(samples, window)] * len(own))
        for samples in windows:
            audio[i] = samples
            hashes.append(hashlib.sha1(audio[i].tobytes(), usedforsecurity=False).hexdigest())
            i += 1
            progress(i, len(cuts))
    if fitted:
        notes.append(f"{fitted} clips are not {config.audio.training_chunk_seconds:g} s long: padded or cut, centred")
    return Clips([c.name for c in cuts], audio, np.array([c.labels for c in cuts], np.float32), hashes)


def _compare(clips: Clips, notes: list[str]) -> None:
    """Refuse clips that all sound the same; note equal audio whose labels contradict each other."""
    if len(clips) > 1 and len(set(clips.hashes)) == 1:
        raise ConfigError(f"all {len(clips)} clips hold the same audio ({clips.names[0]}, ...); give other --data")
    said: dict[str, set[bytes]] = {}
    for digest, labels in zip(clips.hashes, clips.labels, strict=True):
        if not np.isnan(labels).any():
            said.setdefault(digest, set()).add(labels.tobytes())
    contradicted = sum(len(said.get(digest, ())) > 1 for digest in clips.hashes)
    if contradicted:
        notes.append(f"{contradicted} clips have the same audio as others with other labels")


def _sample(parts: splits.Parts, config: TrainConfig, seed: int) -> splits.Parts:
    """A random share `dataset.data_sample` of the parts named in data_sample_choice."""
    random = np.random.default_rng([seed, 1])
    sampled = parts.copy()
    for name, part in (("Train", "train"), ("Validation", "select")):
        own = np.flatnonzero(parts == part)
        count = len(own)
        if name in config.dataset.data_sample_choice:
            count = max(1, round(count * config.dataset.data_sample))
        if count < len(own):
            sampled[np.setdiff1d(own, random.choice(own, count, replace=False))] = splits.LEFT_OUT
    return sampled


def _check(parts: dict[str, npt.NDArray[np.intp]], labels: Audio, config: TrainConfig) -> None:
    """Raises: ConfigError: nothing can be learned, or judged, from these parts."""
    for part in ("train", "select"):
        own = labels[parts[part]]
        for label, values in zip(config.dataset.label_columns, own.T, strict=True):
            if len(np.unique(values)) < 2:
                lack = "none" if not values.any() else "all"
                raise ConfigError(
                    f"dataset.validation_strategy: the {_SPOKEN.get(part, part)} part has {len(own)} clips, "
                    f"{lack} with {label}; use another split, fold or block_size, or more clips"
                )
    count, batch = len(parts["train"]), config.training.batch_size
    if count < batch and config.training.drop_last_batch:
        raise ConfigError(f"training.batch_size: {batch} exceeds the {count} train clips; set at most {count}")
    if config.augmentation.time_shift_seconds:
        for part, index in parts.items():
            if len(index) and not (labels[index].max(1) == 0).any() and part != "test":
                raise ConfigError(
                    f"augmentation.time_shift_seconds: the {_SPOKEN.get(part, part)} part has no clip without a label "
                    "to fill up shifted ones with; add negatives, or set 0"
                )


def _summary(found: Sequence[Source], parts: splits.Parts, config: TrainConfig) -> Iterator[str]:
    """A line a source: what it was taken for, and how many of its clips have each label in each part."""
    first = 0
    for source in found:
        own = parts[first : first + len(source.cuts)]
        first += len(source.cuts)
        counts = []
        for part in (*splits.PARTS, splits.LEFT_OUT):
            labels = np.array([cut.labels for cut, p in zip(source.cuts, own, strict=True) if p == part])
            if len(labels):
                each = [f"{int(np.nansum(v))} {name}" for name, v in zip(config.labels, labels.T, strict=True)]
                counts.append(f"{_SPOKEN.get(part, part)} {len(labels)} ({', '.join(each)})")
        yield f"{source.folder}: {source.kind}: {'; '.join(counts)}"


def _table(found: Sequence[Source], clips: Clips, parts: splits.Parts, config: TrainConfig) -> list[Row]:
    pairs = [(source, cut) for source in found for cut in source.cuts]
    return [
        {
            "clip": name,
            "source": source.name,
            "split": str(part),
            **{
                label: "" if np.isnan(value) else f"{value:.0f}"
                for label, value in zip(config.labels, labels, strict=True)
            },
            "file": cut.file,
            "begin_s": "" if cut.begin is None else f"{cut.begin_s:.3f}",
            "group": cut.group,
            "sha1": digest,
        }
        for (source, cut), name, part, labels, digest in zip(
            pairs, clips.names, parts, clips.labels, clips.hashes, strict=True
        )
    ]


def record(split: Split, path: Path) -> None:
    """Write the split as CSV, a row a clip; a run that is carried on or opened again must have the same.

    The sources' folders may have moved and have other names.

    Raises:
        ConfigError: the file is there and says otherwise.
    """
    if path.exists():
        said = [row | {"source": ""} for row in read_table(path, ["clip"])]
        if said != [row | {"source": ""} for row in split.table]:
            raise ConfigError(
                f"{path}: the clips or their split are not those the run began with; give the same --data"
            )
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(split.table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(split.table)
