"""Long recordings: positive windows around what selection tables mark, negative ones from where nothing is marked."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.config import TrainConfig
from export.sound import look, sounds_in
from export.sources.cut import Cut, Labels, Source
from export.sources.names import Meanings, meanings, spoken
from pam_daemon.errors import TableError
from pam_daemon.tools.tables import BEGIN, BEGIN_FILE, BEGIN_PATH, FILE_OFFSET, Selection, read_selections

_ROUNDING_SAMPLES = 2
SURE_SUFFIXES = (".selections.txt", ".labels.txt")  # other text beside recordings need not be a table


@dataclass(frozen=True)
class Mark:
    """What is marked in one channel of a recording, in seconds since it began; `labels` None: it may be anything."""

    begin_s: float
    end_s: float
    labels: Labels | None


@dataclass(frozen=True)
class Span:
    """Where a window lies, and what is in it."""

    begin_s: float
    labels: Labels
    unmarked: bool


def read(folder: Path, config: TrainConfig) -> Source:
    """Windows from all recordings of a folder and the tables beside them; a recording without a table has no calls.

    Raises:
        TableError: a table that cannot be read or is without its recording, a mark beyond its end or of no label.
        SourceError: a recording that cannot be read.
    """
    recordings = sounds_in(folder, below=True)
    tables = find_tables(folder)
    marked: dict[Path, list[tuple[Path, Selection]]] = {}
    for table in tables:
        selections = read_selections(table)
        for selection in selections:
            marked.setdefault(_recording_of(table, selection, recordings), []).append((table, selection))
        if not selections:
            marked.setdefault(_owner(table, recordings), [])
    everything = [selection for own in marked.values() for _, selection in own]
    meant = meanings([selection.label for selection in everything], config, folder, "marks")
    cuts = [
        cut
        for recording in recordings
        for cut in _recording_cuts(folder, recording, marked.get(recording, []), meant, config)
    ]
    kind = f"{len(marked)} recordings with {len(everything)} marks{spoken(meant, config)}, " if tables else ""
    return Source(folder, f"{kind}{len(recordings) - len(marked)} without", cuts)


def find_tables(folder: Path) -> list[Path]:
    """The selection tables and label tracks in a folder and below it; other text is passed over."""
    return [path for path in sorted(folder.rglob("*.txt")) if path.name.endswith(SURE_SUFFIXES) or _like_a_table(path)]


def _like_a_table(path: Path) -> bool:
    """Whether it begins as Raven's header or as Audacity's times."""
    try:
        with path.open("rb") as file:
            line = file.readline(10_000)
    except OSError:
        return path.is_file()  # whoever reads it as a table says why it cannot be read
    first = line.decode("utf-16" if line[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig", "replace")
    if BEGIN.casefold() in first.casefold():
        return True
    try:
        begin, end = first.split("\t")[:2]
        return math.isfinite(float(begin)) and math.isfinite(float(end))
    except ValueError:
        return False


def _recording_of(table: Path, selection: Selection, recordings: Sequence[Path]) -> Path:
    """By the file that the row names, else by the table's own name."""
    named = selection.extra.get(BEGIN_FILE) or selection.extra.get(BEGIN_PATH)
    if not named:
        return _owner(table, recordings)
    name = named.replace("\\", "/").rpartition("/")[2]
    beside = [path for path in recordings if path.name == name]
    if not beside:
        raise TableError(f"{table}: marks {name}, which is not in the folder; restore it or take its rows out")
    nearest = [path for path in beside if path.parent == table.parent] or beside
    if len(nearest) > 1:
        raise TableError(
            f"{table}: {name} is in {nearest[0].parent} and in {nearest[1].parent}; put the table beside its own"
        )
    return nearest[0]


def _owner(table: Path, recordings: Sequence[Path]) -> Path:
    """The recording whose name, without its suffix, the table's begins with; of several the longest."""
    owners = [path for path in recordings if path.parent == table.parent and table.name.startswith(f"{path.stem}.")]
    if not owners:
        raise TableError(
            f"{table}: its recording is not beside it; restore it (night.wav has night.selections.txt or night.txt), "
            f"or name it in a column {BEGIN_FILE!r}"
        )
    longest = max(len(path.stem) for path in owners)
    first, *others = [path for path in owners if len(path.stem) == longest]
    if others:
        raise TableError(f"{table}: belongs to {first.name} and to {others[0].name}; take one of them out")
    return first


def _recording_cuts(
    folder: Path, recording: Path, marked: Sequence[tuple[Path, Selection]], meant: Meanings, config: TrainConfig
) -> list[Cut]:
    """The windows of all channels that are marked, or of the first where none is."""
    info = look(recording)
    length_s = info.frames / info.samplerate
    by_channel: dict[int, list[Mark]] = {}
    for table, selection in marked:
        if selection.channel > info.channels:
            raise TableError(f"{table}: marks channel {selection.channel} of {info.channels}; correct it")
        by_channel.setdefault(selection.channel, []).append(_mark(table, selection, meant, length_s, config))
    cuts: list[Cut] = []
    for channel, marks in sorted((by_channel or {1: []}).items()):
        whole = Cut(recording, recording.relative_to(folder).as_posix(), (), channel=channel)
        cuts += _channel_cuts(whole, marks, length_s, config)
    return _grouped(cuts, config.window_samples)


def _channel_cuts(whole: Cut, marks: Sequence[Mark], length_s: float, config: TrainConfig) -> Iterator[Cut]:
    rate_hz, window_s, count = config.audio.sample_rate, config.audio.training_chunk_seconds, len(config.labels)
    last = math.floor(length_s * rate_hz) - config.window_samples
    if last < 0:  # shorter than a window: it is fitted as a clip is
        labels = _union([mark.labels for mark in marks if mark.labels], count)
        if any(labels) or all(mark.labels for mark in marks):
            yield replace(whole, labels=labels, group=whole.file)
        return
    for span in spans(marks, length_s, window_s, config.dataset.mark_guard_seconds, count):
        begin = min(round(span.begin_s * rate_hz), last)
        labelled = replace(whole, labels=span.labels, unmarked=span.unmarked)
        yield replace(labelled, begin=begin, begin_s=begin / rate_hz)


def _grouped(cuts: Sequence[Cut], window_samples: int) -> list[Cut]:
    """The cuts of one recording, those that overlap in time in one group, on whichever channels: they share calls."""
    groups: dict[int, str] = {}
    group, reach = "", 0
    for begin in sorted(cut.begin for cut in cuts if cut.begin is not None):
        if begin >= reach - _ROUNDING_SAMPLES:
            group = f"{cuts[0].file}@{begin}"
        groups[begin], reach = group, begin + window_samples
    return [cut if cut.begin is None else replace(cut, group=groups[cut.begin]) for cut in cuts]


def _mark(table: Path, selection: Selection, meant: Meanings, length_s: float, config: TrainConfig) -> Mark:
    begin_s, end_s = selection.begin_s, selection.end_s
    offset = selection.extra.get(FILE_OFFSET)
    if offset:  # Raven's times run through a sequence of files; this one is the file's own
        try:
            begin_s = float(offset)
        except ValueError as error:
            raise TableError(f"{table}: {FILE_OFFSET} is {offset!r}; write seconds, or take the column out") from error
        end_s += begin_s - selection.begin_s
    if not 0 <= begin_s <= length_s:
        raise TableError(f"{table}: a mark begins at {begin_s:g} s of a recording of {length_s:g} s; correct it")
    late_s = config.dataset.mark_delay_seconds
    return Mark(begin_s - late_s, min(end_s, length_s) - late_s, meant[selection.label])


def spans(marks: Sequence[Mark], length_s: float, window_s: float, guard_s: float, labels: int) -> list[Span]:
    """Where to cut a recording that is at least a window long, in the order of time.

    A mark has a window around its middle; a longer one has several, evenly spread over it. A window has the labels of
    all marks of which it holds half, or which fill half of it. What nobody marked is cut into abutting windows, each at
    least the guard away from any mark and apart from the windows around them.
    """
    marks = sorted(marks, key=_begin)
    longest_s = max((mark.end_s - mark.begin_s for mark in marks), default=0.0)
    around = {begin_s: None for mark in marks for begin_s in _around(mark, length_s, window_s)}
    found: list[Span] = []
    for begin_s in around:
        first = bisect_left(marks, begin_s - longest_s, key=_begin)
        last = bisect_right(marks, begin_s + window_s, key=_begin)
        held = [mark for mark in marks[first:last] if _holds(begin_s, mark, window_s)]
        union = _union([mark.labels for mark in held if mark.labels], labels)
        if any(union) or all(mark.labels for mark in held):
            found.append(Span(begin_s, union, unmarked=False))
    taken = [(mark.begin_s - guard_s, mark.end_s + guard_s) for mark in marks]
    taken += [(begin_s, begin_s + window_s) for begin_s in around]
    free_s = 0.0
    for begin_s, end_s in [*sorted(taken), (length_s, length_s)]:
        count = max(0, math.floor((begin_s - free_s) / window_s + 1e-9))
        found += [Span(free_s + i * window_s, (0.0,) * labels, unmarked=True) for i in range(count)]
        free_s = max(free_s, end_s)
    return sorted(found, key=lambda span: span.begin_s)


def _begin(mark: Mark) -> float:
    return mark.begin_s


def _around(mark: Mark, length_s: float, window_s: float) -> list[float]:
    """Begins of the windows around a mark, within the recording."""
    count = max(1, math.ceil((mark.end_s - mark.begin_s) / window_s))
    middle_s = (mark.begin_s + mark.end_s) / 2
    if count == 1:
        begins_s = [middle_s - window_s / 2]
    else:
        begins_s = [float(begin_s) for begin_s in np.linspace(mark.begin_s, mark.end_s - window_s, count)]
    return [min(max(begin_s, 0.0), length_s - window_s) for begin_s in begins_s]


def _holds(begin_s: float, mark: Mark, window_s: float) -> bool:
    shared_s = min(mark.end_s, begin_s + window_s) - max(mark.begin_s, begin_s)
    return shared_s >= min(mark.end_s - mark.begin_s, window_s) / 2


def _union(several: Sequence[Labels], count: int) -> Labels:
    return tuple(max((labels[i] for labels in several), default=0.0) for i in range(count))


def thin(sources: Sequence[Source], config: TrainConfig, seed: int) -> list[Source]:
    """At most so many unmarked windows as `dataset.negatives_per_positive` allows, drawn at random from all sources.

    Test clips are neither counted nor thinned: they change nothing that is learned.
    """
    share = config.dataset.negatives_per_positive
    learned = [(i, j, cut) for i, source in enumerate(sources) if source.part != "test"
               for j, cut in enumerate(source.cuts)]  # fmt: skip
    unmarked = [(i, j) for i, j, cut in learned if cut.unmarked]
    positive = sum(any(cut.labels) for _, _, cut in learned)
    allowed = round(share * positive)
    if not share or len(unmarked) <= allowed:
        return list(sources)
    random = np.random.default_rng([seed, 6])
    dropped = {unmarked[i] for i in random.permutation(len(unmarked))[allowed:]}
    return [
        replace(source, cuts=[cut for j, cut in enumerate(source.cuts) if (i, j) not in dropped])
        for i, source in enumerate(sources)
    ]
