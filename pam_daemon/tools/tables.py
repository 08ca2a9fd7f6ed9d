"""Selection tables: marked calls as Raven Pro reads and writes them, and Audacity's label tracks; tab separated."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pam_daemon.errors import TableError

SELECTION, VIEW, CHANNEL = "Selection", "View", "Channel"
BEGIN, END, LOW, HIGH = "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"
LABEL, SCORE = "Label", "Score"
# Keys of `Selection.extra` by which Raven finds the sound; written before the label.
BEGIN_PATH, BEGIN_FILE, FILE_OFFSET = "Begin Path", "Begin File", "File Offset (s)"
LABEL_COLUMNS = (LABEL, "Species", "Annotation")  # the first that a table has gives the label
OWN_COLUMNS = (SELECTION, VIEW, CHANNEL, BEGIN, END, LOW, HIGH, LABEL, SCORE)
SPECTROGRAM, WAVEFORM = "Spectrogram 1", "waveform"


@dataclass(frozen=True)
class Selection:
    """One marked sound: seconds since the recording (or Raven's sequence of files) began, channels from 1.

    `extra` has what other columns say, by their header, as text.
    """

    begin_s: float
    end_s: float
    low_hz: float | None = None
    high_hz: float | None = None
    channel: int = 1
    label: str = ""
    score: float | None = None
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)


def read_selections(path: Path) -> list[Selection]:
    """The selections of a Raven table or of an Audacity label track: a table has a header, a track begins with a time.

    Raises: TableError: see `read_raven` and `read_audacity`.
    """
    first = _text(path).lstrip().partition("\t")[0]
    return read_raven(path) if re.match(r"[^\d.+-]", first) else read_audacity(path)


def read_audacity(path: Path) -> list[Selection]:
    """The labels of an Audacity label track, in the file's order: begin, end, label; below one, its two frequencies.

    The format: https://manual.audacityteam.org/man/importing_and_exporting_labels.html. No label means no call, so an
    empty file is a track. Frequencies that Audacity does not know are negative.

    Raises: TableError: a file that cannot be read or a value that is not what it should be, with its line.
    """
    selections: list[Selection] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", _text(path)), 1):
        cells = line.split("\t")
        if not line.strip():
            continue
        if cells[0] == "\\" and selections:
            row = _Row(path, number, dict(zip((LOW, HIGH), cells[1:], strict=False)))
            low_hz, high_hz = (None if hz is None or hz < 0 else hz for hz in (row.number_in(LOW), row.number_in(HIGH)))
            selections[-1] = replace(selections[-1], low_hz=low_hz, high_hz=high_hz)
        else:
            selections.append(_Row(path, number, dict(zip((BEGIN, END, LABEL), cells, strict=False))).selection())
    return selections


def read_raven(path: Path) -> list[Selection]:
    """The selections of a Raven table, in the file's order.

    Columns may come in any order; only the two times are required. Raven writes a selection once a view: a waveform's
    row is left out where the spectrogram's stands beside it.

    Raises: TableError: a file that cannot be read, a column that is missing or a value that is not what it should be,
    with the row (the header is row 1), the column and the remedy.
    """
    lines = [line for line in enumerate(re.split(r"\r\n|\n|\r", _text(path)), 1) if line[1].strip()]
    if not lines:
        raise TableError(f"{path}: the table is empty: save the selection table in Raven again")
    columns = _columns(path, lines[0][1])
    rows = [_Row(path, number, _cells(path, number, line, columns)) for number, line in lines[1:]]
    return [row.selection() for row in _one_view(rows)]


def write_raven(path: Path, selections: Sequence[Selection]) -> None:
    """Write a table that Raven Pro opens: UTF-8, tabs, decimal points; under a temporary name, then renamed.

    Columns are Raven's own, then where the sound is (if `extra` says so), the label, the score (if any has one), and
    the rest of `extra`. Raises: TableError: a file that cannot be written, an extra column with a reserved name.
    """
    extras = list(dict.fromkeys(name for selection in selections for name in selection.extra))
    reserved = {name.casefold() for name in OWN_COLUMNS}
    for name in extras:
        if name.casefold() in reserved:
            raise TableError(f"{path}: column {name!r} is reserved: give the extra column another name")
    place = [name for name in (BEGIN_PATH, BEGIN_FILE, FILE_OFFSET) if name in extras]
    scored = [SCORE] if any(selection.score is not None for selection in selections) else []
    rest = [name for name in extras if name not in place]
    header = [*OWN_COLUMNS[:-2], *place, LABEL, *scored, *rest]
    rows = [_written(number, selection) for number, selection in enumerate(selections, 1)]
    lines = ["\t".join(map(_plain, header))]
    lines += ["\t".join(_plain(row.get(name, "")) for name in header) for row in rows]
    part = path.with_name(f".{path.name}.part")
    try:
        # A file's name need not be text: it is written as it is.
        part.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape", newline="\n")
        part.replace(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror}): choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def _written(number: int, selection: Selection) -> dict[str, str]:
    return {
        **selection.extra,
        SELECTION: str(number),
        VIEW: SPECTROGRAM,
        CHANNEL: str(selection.channel),
        BEGIN: f"{selection.begin_s:.6f}",
        END: f"{selection.end_s:.6f}",
        LOW: "" if selection.low_hz is None else f"{selection.low_hz:.3f}",
        HIGH: "" if selection.high_hz is None else f"{selection.high_hz:.3f}",
        LABEL: selection.label,
        SCORE: "" if selection.score is None else f"{selection.score:.6f}",
    }


def _plain(cell: str) -> str:
    """Raven knows no quoting: what would break a cell becomes a space."""
    return re.sub(r"[\t\r\n]", " ", cell)


def _text(path: Path) -> str:
    """The table's text: UTF-8 or UTF-16 with a byte-order mark, UTF-8 without, else what Windows writes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise TableError(f"{path}: is not text: give a selection table, saved by Raven as text")


def _columns(path: Path, header: str) -> list[str]:
    """The header's names; those that pamd knows in pamd's spelling."""
    known = {name.casefold(): name for name in (*OWN_COLUMNS, *LABEL_COLUMNS, BEGIN_PATH, BEGIN_FILE, FILE_OFFSET)}
    columns = [known.get(name.strip().casefold(), name.strip()) for name in header.split("\t")]
    for name in (BEGIN, END):
        if name not in columns:
            raise TableError(f"{path}, row 1: column {name!r} is missing: save it from Raven as a tab-separated table")
    for name in columns:
        if name and columns.count(name) > 1:
            raise TableError(f"{path}, row 1: column {name!r} stands there twice: remove one")
    return columns


def _cells(path: Path, number: int, line: str, columns: Sequence[str]) -> dict[str, str]:
    """A row's cells by column. Empty cells at the end may be missing, as some editors cut them."""
    cells = [cell.strip() for cell in line.split("\t")]
    if any(cells[len(columns) :]):
        raise TableError(
            f"{path}, row {number}: {len(cells)} cells for {len(columns)} columns: remove the tabs inside its cells"
        )
    cells += [""] * (len(columns) - len(cells))
    return {name: cell for name, cell in zip(columns, cells, strict=False) if name}


@dataclass(frozen=True)
class _Row:
    """One line of a table with the place to name in an error."""

    path: Path
    number: int  # of the line
    cells: Mapping[str, str]

    def selection(self) -> Selection:
        begin_s, end_s = self._required(BEGIN), self._required(END)
        if end_s < begin_s:
            raise self._error(END, "is before the begin: put the two times in order")
        channel = self.cells.get(CHANNEL) or "1"
        if not re.fullmatch(r"[1-9]\d*", channel, re.ASCII):
            raise self._error(CHANNEL, "is not a channel: write 1 or more")
        label = next((name for name in LABEL_COLUMNS if name in self.cells), LABEL)
        taken = {*OWN_COLUMNS, label}
        return Selection(
            begin_s,
            end_s,
            self.number_in(LOW),
            self.number_in(HIGH),
            int(channel),
            self.cells.get(label, ""),
            self.number_in(SCORE),
            {name: cell for name, cell in self.cells.items() if name not in taken},
        )

    def key(self) -> tuple[str | None, ...]:
        """What the rows of one selection, in several views, have in common."""
        return tuple(self.cells.get(name) for name in (SELECTION, CHANNEL, BEGIN, END))

    def is_waveform(self) -> bool:
        return self.cells.get(VIEW, "").casefold().startswith(WAVEFORM)

    def _required(self, column: str) -> float:
        number = self.number_in(column)
        if number is None:
            raise self._error(column, "is empty: write the seconds")
        return number

    def number_in(self, column: str) -> float | None:
        """None in an empty cell."""
        cell = self.cells.get(column, "")
        if not cell:
            return None
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._error(column, "is not a number: write digits with a decimal point, as 12.5")
        return number

    def _error(self, column: str, what: str) -> TableError:
        return TableError(f"{self.path}, row {self.number}, column {column!r}: {self.cells.get(column, '')!r} {what}")


def _one_view(rows: Iterable[_Row]) -> list[_Row]:
    """Without the waveform rows whose selection also has another view's row."""
    rows = list(rows)
    elsewhere = {row.key() for row in rows if not row.is_waveform()}
    return [row for row in rows if not (row.is_waveform() and row.key() in elsewhere)]
