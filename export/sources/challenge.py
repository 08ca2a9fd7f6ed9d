"""A table of clips with their labels: the layout of the challenge, and Hydrogen Torch's data frames."""

from __future__ import annotations

import math
from pathlib import Path

from export.config import TrainConfig
from export.sources import lengths
from export.sources.cut import Cut, Labels, Source
from export.table import Row, read_table
from pam_daemon.errors import TableError

TABLE = "train.csv"
AUDIO_FOLDER = "audio"


def read(table: Path, audio: Path | None, config: TrainConfig, part: str = "") -> Source:
    """A cut a row, or several of a longer clip where that is wanted.

    Args:
        audio: the clips' folder; None: `audio/` beside the table, or the table's own folder.
        part: `test` needs no labels.

    Raises:
        TableError: a table that cannot be read, or lacks a column or a value.
        SourceError: a clip that is missing or cannot be read, where lengths matter.
    """
    dataset = config.dataset
    rows = read_table(table, [dataset.audio_column])
    unlabelled = part == "test" and not any(column in rows[0] for column in dataset.label_columns)
    if not unlabelled:
        rows = read_table(table, [dataset.audio_column, *dataset.label_columns])
    if audio is None:
        audio = table.parent / AUDIO_FOLDER if (table.parent / AUDIO_FOLDER).is_dir() else table.parent
    cuts: list[Cut] = []
    lines: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        labels = (math.nan,) * len(config.labels) if unlabelled else _labels(row, config, table, number)
        file = row[dataset.audio_column]
        if lines.setdefault(file, number) != number:
            raise TableError(f"{table}: line {number}: {file} stands in line {lines[file]} too; remove one")
        cuts += lengths.cuts(Cut(audio / file, file, labels, group=file, columns=row), config)
    return Source(table.parent, f"{len(rows)} clips of {table.name}", cuts, part)


def _labels(row: Row, config: TrainConfig, table: Path, number: int) -> Labels:
    for column in config.dataset.label_columns:
        if row[column] not in ("0", "1"):
            raise TableError(f"{table}: line {number}: {column} is {row[column]}; must be 0 or 1")
    return tuple(float(row[column]) for column in config.dataset.label_columns)
