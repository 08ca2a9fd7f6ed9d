"""What the model says of each validation clip, as a table: RUN/predictions_validation.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from export.checkpoint import replacing
from export.dataset import Clips
from export.store import Audio
from export.table import read_table
from pam_daemon.errors import TableError

FILE = "predictions_validation.csv"
COLUMNS = ["clip", "name", "label", "score", "split"]


def write(path: Path, clips: Clips, names: list[str], scores: Audio) -> None:
    """A row a clip and label name: the label, 0 or 1, and the score (clips, labels) beside it."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip, labels, values in zip(clips.names, clips.labels, scores.tolist(), strict=True):
            for name, label, value in zip(names, labels, values, strict=True):
                writer.writerow([clip, name, int(label), f"{value:.7f}", "validation"])


def read(path: Path, clips: Clips, names: list[str]) -> Audio:
    """The scores (clips, labels) of these clips, in their order.

    Raises:
        TableError: it cannot be read, or is of other clips.
    """
    rows = read_table(path, COLUMNS)
    expected = [(clip, name) for clip in clips.names for name in names]
    try:
        scores = np.array([float(row["score"]) for row in rows], np.float32)
    except ValueError as error:
        raise TableError(f"{path}: a score is no number ({error}); remove the file, it is made again") from error
    if [(row["clip"], row["name"]) for row in rows] != expected:
        raise TableError(f"{path}: is not of these validation clips; give the run's own --data, or remove the file")
    return scores.reshape(len(clips), len(names))
