"""CSV tables with a header, as people and spreadsheets write them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pam_daemon.errors import TableError

Row = dict[str, str]


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV file that must have these columns, none of them empty.

    Raises:
        TableError: see above; file, row and remedy are named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            present = reader.fieldnames or []
            rows = [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: cannot be read as CSV ({error}); give a table with commas and a header") from error
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
