"""Continuous recordings: the scores that a replay gave, judged anew at every threshold.

The windows and their scores are those of a replay, which `Scores` listens in on. At each threshold the detector runs
again over them: a run of windows depends on the threshold, so it is not enough to leave out weak detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pam_daemon.analysis.detect import Detector, Threshold
from pam_daemon.analysis.stream import Analysis
from pam_daemon.analysis.windows import Place, SegmentEnd, Window
from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources.file import SUFFIXES, Recording, SoundFile
from pam_daemon.errors import SourceError, TableError
from pam_daemon.tools.evaluate.figures import Interval, poisson_interval, share_interval
from pam_daemon.tools.evaluate.matching import Detected, Matching, match
from pam_daemon.tools.tables import Selection, read_selections

THRESHOLDS = (*(step / 100 for step in range(1, 99)), *(step / 1000 for step in range(981, 1000)))
RATES_PER_HOUR = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # of false detections: the rows of the table of points
_SURE_SUFFIXES = (".selections.txt", ".labels.txt")  # other text beside the recordings need not be a table


@dataclass
class Channel:
    """One channel of a recording, as the replay heard it: a segment is its windows' places and scores (labels,)."""

    recording: Recording
    number: int  # from 1
    segments: list[list[tuple[Place, Sequence[float]]]] = field(default_factory=list)
    heard_samples: int = 0

    @property
    def heard_h(self) -> float:
        return self.heard_samples / self.recording.sample_rate_hz / 3600


class Scores:
    """Listens in on a replay: `begin` before each recording, `take` for all that its streams settle."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self._streams: dict[str, Channel] = {}
        self._ended: set[str] = set()

    def begin(self, recording: Recording) -> None:
        self._streams = {f"ch{number}": Channel(recording, number) for number in range(1, recording.channels + 1)}
        self._ended = set(self._streams)
        self.channels += self._streams.values()

    def take(self, stream: str, item: Window | SegmentEnd, scores: FloatArray | None) -> None:
        """What the stream settles, in order: memory grows by some 200 bytes a window."""
        channel = self._streams[stream]
        channel.heard_samples += item.fresh_samples
        if isinstance(item, SegmentEnd):
            self._ended.add(stream)
        elif isinstance(item, Window) and scores is not None:
            if stream in self._ended:
                self._ended.remove(stream)
                channel.segments.append([])
            channel.segments[-1].append((item.place, scores.tolist()))

    def heard(self) -> list[Channel]:
        """The channels of which a window was scored.

        Raises:
            SourceError: there is none.
        """
        heard = [channel for channel in self.channels if channel.segments]
        if not heard:
            raise SourceError(
                f"{self.channels[0].recording.name}: no recording is as long as a window; give longer ones"
            )
        return heard


def notes(recordings: Sequence[Recording], channels: Sequence[Channel]) -> list[str]:
    """What was not heard of the recordings, a line each."""
    heard = {channel.recording.name for channel in channels}
    short = [f"{each.name}: shorter than a window: not heard" for each in recordings if each.name not in heard]
    cut = [f"{each.name}: truncated: heard as far as it can be read" for each in recordings if each.truncated]
    return [*short, *cut]


@dataclass(frozen=True)
class Point:
    """What a threshold gives, on all channels together."""

    threshold: float
    found: int
    marked: int
    false: int
    duplicates: int
    hours: float

    @property
    def recall(self) -> float | None:
        return self.found / self.marked if self.marked else None

    @property
    def recall_interval(self) -> Interval | None:
        return share_interval(self.found, self.marked) if self.marked else None

    @property
    def false_per_hour(self) -> float:
        return self.false / self.hours

    @property
    def false_per_hour_interval(self) -> Interval:
        count = poisson_interval(self.false)
        return Interval(count.low / self.hours, count.high / self.hours)


@dataclass(frozen=True)
class Sea:
    """Everything that is judged: channels, and for each the calls that are marked in it."""

    channels: Sequence[Channel]
    marks: Sequence[Sequence[Selection]]
    separation_samples: int
    label: int  # its place among the model's

    @staticmethod
    def of(
        channels: Sequence[Channel], marks: Mapping[str, Sequence[Selection]], analysis: Analysis, label: int
    ) -> Sea:
        """Marks by the recording's name; each goes to the channel that it names.

        Raises:
            SourceError: calls are marked where nothing was heard.
        """
        for name in marks.keys() - {channel.recording.name for channel in channels}:
            if marks[name]:
                raise SourceError(f"{name}: shorter than a window, and calls are marked in it; leave it out")
        by_channel = [
            [mark for mark in marks.get(channel.recording.name, ()) if mark.channel == channel.number]
            for channel in channels
        ]
        return Sea(channels, by_channel, round(analysis.min_separation_s * analysis.model_rate_hz), label)

    @property
    def hours(self) -> float:
        return sum(channel.heard_h for channel in self.channels)

    def match(self, threshold: float) -> list[Matching]:
        """A channel's detections at this threshold against its marks, channel by channel."""
        return [
            match(list(detections(channel, self.label, threshold, self.separation_samples)), marks)
            for channel, marks in zip(self.channels, self.marks, strict=True)
        ]

    def point(self, threshold: float) -> Point:
        return point(threshold, self.match(threshold), self.hours)

    def sweep(self, also: float, progress: Callable[[float, float], None]) -> list[Point]:
        """A point a threshold of `THRESHOLDS`, and one for `also`."""
        thresholds = sorted({*THRESHOLDS, also})
        points = []
        for number, threshold in enumerate(thresholds, 1):
            points.append(self.point(threshold))
            progress(number, len(thresholds))
        return points


def detections(channel: Channel, label: int, threshold: float, separation_samples: int) -> Iterator[Detected]:
    """As the daemon decides; seconds since the recording began."""
    rate_hz, least = channel.recording.sample_rate_hz, Threshold(threshold, "command")
    for segment in channel.segments:
        detector = Detector(separation_samples)
        calls = [call for place, scores in segment for call in detector.push(place, scores[label], least)]
        for call in (*calls, *detector.end()):
            yield Detected(call.peak.source_centre / rate_hz, call.score)


def point(threshold: float, matchings: Iterable[Matching], hours: float) -> Point:
    """The sum over some channels."""
    every = list(matchings)
    found, missed, false, duplicates = (
        sum(len(getattr(matching, outcome)) for matching in every)
        for outcome in ("found", "missed", "false", "duplicates")
    )
    return Point(threshold, found, found + missed, false, duplicates, hours)


def table_of_points(points: Sequence[Point], chosen: float) -> list[Point]:
    """The chosen threshold's point, and for each of `RATES_PER_HOUR` the one of the least threshold that keeps to it.

    From a threshold on, that is: all above it keep to the rate too. In falling order of the thresholds.
    """
    picked = {chosen}
    for rate in RATES_PER_HOUR:
        above = [p.threshold for p in points if p.false_per_hour > rate]
        picked.update([min((p.threshold for p in points if p.threshold > max(above, default=0.0)), default=chosen)])
    return [p for p in reversed(points) if p.threshold in picked]


def read_marks(recordings: Sequence[Recording], chosen: Sequence[str]) -> dict[str, list[Selection]]:
    """The calls marked in the tables beside the recordings, by the recording's name, in seconds since it began.

    A table belongs to the sound file whose name without its suffix its own begins with: `night.wav` has `night.txt`,
    `night.selections.txt`, `night.Table.1.selections.txt`. Several of one file add up; a file without one has no calls.

    Args:
        chosen: labels of the marks that count; all, where there is none.

    Raises:
        TableError: a table that cannot be read, is without its sound or belongs to two files; a label that no mark has.
    """
    tables = _tables([file for recording in recordings for file in recording.files])
    marks: dict[str, list[Selection]] = {}
    for recording in recordings:
        marks[recording.name], begin_s = [], 0.0
        for file in recording.files:
            for table in tables.get(file.path, ()):
                for mark in read_selections(table):
                    if mark.channel > file.channels:
                        raise TableError(f"{table}: marks channel {mark.channel} of {file.channels}; correct it")
                    mark = replace(mark, begin_s=mark.begin_s + begin_s, end_s=mark.end_s + begin_s)
                    marks[recording.name].append(mark)
            begin_s += file.samples / file.sample_rate_hz
    labels = {mark.label for own in marks.values() for mark in own}
    for label in chosen:
        if label not in labels:
            raise TableError(
                f"--marked {label}: no mark has this label; there are: {', '.join(sorted(labels)) or 'none'}"
            )
    if chosen:
        marks = {name: [mark for mark in own if mark.label in chosen] for name, own in marks.items()}
    return marks


def _tables(files: Sequence[SoundFile]) -> dict[Path, list[Path]]:
    """The tables of each sound file."""
    tables: dict[Path, list[Path]] = {}
    for directory in dict.fromkeys(file.path.parent for file in files):
        chosen = {file.path for file in files if file.path.parent == directory}
        beside = chosen | {path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES}
        for table in sorted(directory.glob("*.txt")):
            stem = max((path.stem for path in beside if table.name.startswith(f"{path.stem}.")), key=len, default=None)
            owners = sorted(path for path in chosen if path.stem == stem)
            if stem is None and table.name.endswith(_SURE_SUFFIXES):
                raise TableError(f"{table}: its sound is not beside it; bring it there, or move the table away")
            if len(owners) > 1:
                raise TableError(f"{table}: belongs to {owners[0].name} and to {owners[1].name}; leave one of them out")
            for owner in owners:
                tables.setdefault(owner, []).append(table)
    return tables
