"""Which clip is trained on, which chooses, which only tells: by fold, group, block, column or table.

What shares sound stays together, and equal audio is never on two sides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from export.config import TrainConfig
from export.sources import Source
from export.sources.challenge import TABLE
from export.table import read_table
from pam_daemon.errors import ConfigError, TableError

SPLIT_TABLE = "clips.csv"
GIVEN_PARTS = ("train", "select", "report")  # what a split column may say
PARTS = (*GIVEN_PARTS, "test")
LEFT_OUT = "left out"
_BLOCKS_A_FOLD = 4

Parts = npt.NDArray[np.str_]  # one of PARTS or LEFT_OUT a clip


@dataclass(frozen=True)
class Plan:
    """Who belongs where, before anybody has heard it."""

    parts: Parts
    given: npt.NDArray[np.bool_]  # (clips,) whether the user has said the part, or a split of ours
    description: str


def assign(sources: Sequence[Source], config: TrainConfig, seed: int) -> Plan:
    """The part of every cut, as `dataset.validation_strategy` says.

    Raises:
        ConfigError: a fold that there is not, or too few clips, groups or blocks.
        TableError: a column that is missing, or says no part.
    """
    strategy = _strategy(sources, config)
    cuts = [cut for source in sources for cut in source.cuts]
    parts = np.array([source.part for source in sources for _ in source.cuts], "<U8")
    free = np.flatnonzero(parts == "")
    everything = np.ones(len(parts), bool)
    if strategy == "column":
        parts[free] = _by_column([source for source in sources if not source.part], config)
        return Plan(parts, everything, f"column {config.dataset.split_column} of {SPLIT_TABLE}")
    if strategy == "custom":
        parts[free] = "train"
        return Plan(parts, everything, f"validation_dataframe {config.dataset.validation_dataframe}")
    given = parts != ""
    fold, count = _fold(config)
    groups = [f"{number}/{cut.group}" for number, source in enumerate(sources) for cut in source.cuts]
    if strategy == "grouped_kfold":
        groups = _groups(sources, config)
    numbers = np.unique([groups[i] for i in free], return_inverse=True)[1]
    if strategy == "blocks":
        size = config.dataset.block_size or math.ceil(len(free) / (_BLOCKS_A_FOLD * count))
        chosen = blocks(numbers, size, count, fold)
        description = f"contiguous blocks of {size} clips, {fold} of every {count}"
    else:
        kinds = np.unique([cuts[i].labels for i in free], axis=0, return_inverse=True)[1].ravel()
        chosen = folds(numbers, kinds, count, fold, seed)
        description = f"random {count}-fold, fold {fold}; neighbours in time on both sides"
        if strategy == "grouped_kfold":
            by = config.dataset.group_fold_column or "recording"
            description = f"{count}-fold by {by}, fold {fold}"
    parts[free] = np.where(chosen, "select", "train")
    return Plan(parts, given, description)


def _strategy(sources: Sequence[Source], config: TrainConfig) -> str:
    """`automatic`: what the data offers that flatters least."""
    dataset = config.dataset
    if dataset.validation_strategy != "automatic":
        return dataset.validation_strategy
    if dataset.validation_dataframe:
        return "custom"
    if dataset.group_fold_column:
        return "grouped_kfold"
    return "column" if any((s.folder / SPLIT_TABLE).exists() for s in sources if not s.part) else "blocks"


def _fold(config: TrainConfig) -> tuple[int, int]:
    """The fold that validates, and their count."""
    count, fold = max(2, round(1 / config.dataset.validation_size)), config.dataset.folds[0]
    if fold not in {str(i) for i in range(count)}:
        raise ConfigError(f"dataset.folds: there is no fold {fold}; name one of 0 to {count - 1}")
    return int(fold), count


def folds(
    groups: npt.NDArray[np.intp], kinds: npt.NDArray[np.intp], count: int, fold: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Which clips are in this random fold of whole groups, in which the kinds (of labels) are as frequent as in all.

    Raises:
        ConfigError: fewer groups than folds, or fewer clips of any kind.
    """
    if len(np.unique(groups)) < count:
        raise ConfigError(
            f"dataset.validation_size: {count} folds need as many groups, and there are {len(np.unique(groups))}; "
            "use validation_strategy: blocks, or more data"
        )
    if np.bincount(kinds).max() < count:
        raise ConfigError(f"dataset.validation_size: {count} folds need as many clips of one kind; add clips")
    alone = len(np.unique(groups)) == len(groups)  # then the groups need no minutes of thought
    divider = (StratifiedKFold if alone else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kind is rarer than the folds: what follows is checked
        divided = list(divider.split(kinds, kinds, groups))
    chosen = np.zeros(len(groups), bool)
    chosen[divided[fold][1]] = True
    return chosen


def blocks(groups: npt.NDArray[np.intp], size: int, count: int, fold: int) -> npt.NDArray[np.bool_]:
    """Which clips are in every `count`th block of `size` consecutive ones; a group goes with its first clip.

    Raises:
        ConfigError: fewer blocks than there are folds.
    """
    first, number = np.unique(groups, return_index=True, return_inverse=True)[1:]
    begun, block = np.unique(first[number] // size, return_inverse=True)  # numbered anew: a long group may fill several
    if len(begun) < count:
        raise ConfigError(
            f"dataset.block_size: {size} clips a block make {len(begun)} blocks for {count} folds; "
            f"set at most {len(groups) // count}, or 0"
        )
    chosen: npt.NDArray[np.bool_] = block % count == fold
    return chosen


def _groups(sources: Sequence[Source], config: TrainConfig) -> list[str]:
    """What `group_fold_column` says of each cut; without it, and in sources without tables, the recording or clip."""
    column = config.dataset.group_fold_column
    groups: list[str] = []
    for number, source in enumerate(sources):
        values = _values(source, column, config) if column and _has_table(source) else [c.file for c in source.cuts]
        groups += values if column else [f"{number}/{value}" for value in values]
    return groups


def _has_table(source: Source) -> bool:
    return bool(source.cuts and source.cuts[0].columns) or (source.folder / SPLIT_TABLE).exists()


def _by_column(sources: Sequence[Source], config: TrainConfig) -> list[str]:
    """What the split column says; a source without one is trained on, if another has one."""
    column = config.dataset.split_column
    parts: list[str] = []
    said = [(source.folder / SPLIT_TABLE).exists() or _has(source, column) for source in sources]
    for source, says in zip(sources, said, strict=True):
        table = source.folder / SPLIT_TABLE
        values = _values(source, column, config) if says or not any(said) else ["train"] * len(source.cuts)
        for cut, value in zip(source.cuts, values, strict=True):
            if value not in GIVEN_PARTS:
                raise TableError(f"{table}: {cut.file}: {column} is {value}; must be one of {', '.join(GIVEN_PARTS)}")
        parts += values
    return parts


def _values(source: Source, column: str, config: TrainConfig) -> list[str]:
    """A column of the clips' own table, or of clips.csv in the folder, which names files as the source does."""
    if _has(source, column):
        return [cut.columns[column] for cut in source.cuts]
    table, key = source.folder / SPLIT_TABLE, config.dataset.audio_column
    if not table.exists():
        raise TableError(
            f"{table}: is not there, and no other table has a column {column}; add it, or use another strategy"
        )
    values = {row[key]: row[column] for row in read_table(table, [key, column])}
    for cut in source.cuts:
        if cut.file not in values:
            home = TABLE if cut.columns else "the folder"
            raise TableError(f"{table}: no row for {cut.file}, which {home} has; add it with its {column}")
    return [values[cut.file] for cut in source.cuts]


def _has(source: Source, column: str) -> bool:
    """Whether the clips' own table has the column."""
    return all(column in cut.columns for cut in source.cuts)


def settle(plan: Plan, hashes: Sequence[str], notes: list[str]) -> Parts:
    """The parts such that no audio is in two of them.

    Where the split was ours to make, clips follow the first one with the same audio. Where it was given, a clip stays
    in the part that needs it most: test, then report, select, train; elsewhere it is left out.

    `notes` gets a line for each thing that was done.
    """
    settled = plan.parts.copy()
    first: dict[str, int] = {}
    moved = 0
    for i in np.flatnonzero(~plan.given).tolist():
        leader = first.setdefault(hashes[i], i)
        moved += settled[i] != settled[leader]
        settled[i] = settled[leader]
    if moved:
        notes.append(f"{moved} clips moved: the same audio, in another group, is on the other side of the split")
    elsewhere: set[str] = set()
    left_out = 0
    for part in reversed(PARTS):
        own = np.flatnonzero(settled == part).tolist()
        double = [i for i in own if hashes[i] in elsewhere]
        elsewhere |= {hashes[i] for i in own}
        settled[double] = LEFT_OUT
        left_out += len(double)
    if left_out:
        notes.append(f"{left_out} clips left out: the same audio is on the other side of the split")
    return settled
