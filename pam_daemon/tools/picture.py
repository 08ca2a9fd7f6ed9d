"""One picture of a recording: its spectrogram in stacked rows, the marked calls and what was detected.

Drawn in the command's own process, never on the daemon's threads; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from pam_daemon.capture.sources.filenames import start_of
from pam_daemon.errors import SourceError
from pam_daemon.tools.evaluate import Detected, Matching, match
from pam_daemon.tools.tables import Selection

TOP_HZ = 400.0  # of the picture of an upcall
TAPER = 80.0  # periods of the top frequency: 0.2 s of 400 Hz resolve 10 Hz, and an upcall stays a line
ROW_S = 120.0
MAX_ROWS = 12  # a longer recording gets longer rows, of whole minutes
COLUMNS = 1500  # of a row's picture
SMOOTH = 0.1  # of the top frequency
DECIBELS = (-3.0, 19.0)  # the colours' range, above the row's quiet level
TICKS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
BOX_HZ = (80.0, 210.0)  # for selections without frequencies
LANE = (1.01, 1.17)  # the lane of markers above the spectrogram, in parts of the top frequency
HEAD_IN, ROW_IN, ONLY_ROW_IN = 1.6, 1.85, 4.4  # inches: one row has the picture for itself

# Okabe and Ito's palette, safe for the colour-blind; shapes and line styles tell the same once more.
FOUND, MISSED, FALSE, DUPLICATE = "#00c08b", "#f0a818", "#ff5a36", "#b9a7e8"
INK, PAPER, SEA = "#14212b", "#ffffff", ("#061019", "#0b2738", "#1b5468", "#5fa3a8", "#e9f3ea")


@dataclass(frozen=True)
class _Mark:
    """How one outcome looks: its marker in the lane, the line of its box on the spectrogram (if it has one)."""

    name: str
    color: str
    marker: str
    line: Literal["-", "--", "none"] = "none"


_FOUND = _Mark("found", FOUND, "v", "-")
_MISSED = _Mark("missed", MISSED, "o", "--")
_FALSE = _Mark("false", FALSE, "X")
_DUPLICATE = _Mark("duplicate", DUPLICATE, "d")
_DETECTED = _Mark("detected", FOUND, "v")


@dataclass(frozen=True)
class _Row:
    """A stretch of the recording: `decibels` (frequencies, columns) above its quiet level."""

    begin_s: float
    end_s: float
    decibels: npt.NDArray[np.float32]


def draw(
    recording: Path,
    out: Path,
    selections: Sequence[Selection] | None,
    detections: Sequence[Detected],
    title: str,
    *,
    simulated: bool = False,
    channel: int = 1,
    top_hz: float = TOP_HZ,
    note: str = "",
) -> Matching | None:
    """Draw `recording` as a PNG at `out` (written under a temporary name, then renamed); gives the matching drawn.

    Found calls, missed calls and false detections are marked by `evaluate.match`; without a truth (`selections` None)
    every detection is marked alike and the result is None. `simulated` says in the title that the sea is simulated,
    `note` what else there is to say below it. Frequencies reach to `top_hz`, or as far as the recording has them.
    Memory does not grow with the recording's length.

    Raises: SourceError: a recording that cannot be read or has no such channel, a picture that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    duration_s, row_s, top_hz = _rows_of(recording, channel, top_hz)
    count = math.ceil(duration_s / row_s)
    figure = Figure(figsize=(15.0, HEAD_IN + (ROW_IN * count if count > 1 else ONLY_ROW_IN)), dpi=110, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    inch = 1.0 / figure.get_figheight()
    grid = figure.add_gridspec(
        count, 1, hspace=0.24, left=0.048, right=0.988, bottom=0.52 * inch, top=1.0 - 0.92 * inch
    )
    matching = None if selections is None else match(detections, selections)
    marked = matching is not None or bool(detections)
    for number, row in enumerate(_spectrograms(recording, channel, row_s, top_hz)):
        axes = figure.add_subplot(grid[number])
        _draw_row(axes, row, row_s, top_hz)
        if marked:
            _draw_marks(axes, row, top_hz, matching, detections)
    axes.set_xlabel("time (s)" if row_s < 60 else "time (min:s)", color=INK, fontsize=10)
    _draw_head(figure, f"{title} · simulated sea" if simulated else title, note, matching)
    if marked:
        _draw_legend(figure, matching, detections)
    save(canvas, out)
    return matching


def draw_clip(recording: Path, out: Path | None, top_hz: float, channel: int) -> Path:
    """Draw a clip, or any recording, without marks: beside it as a PNG, unless `out` says where; gives the place.

    Raises: SourceError: see `draw`.
    """
    out = out or recording.with_name(recording.name + ".png")
    named = start_of(recording.name)
    ours = re.match(r"([\w-]+)\.([\w-]+)\.\d{8}T\d{6}", recording.name)
    title = f"{ours[1]} · {ours[2]}" if ours else recording.name
    note = f"from {named.utc:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC" if named else ""
    draw(recording, out, None, (), title, channel=channel, top_hz=top_hz, note=note)
    return out


def save(canvas: Any, out: Path) -> None:
    """Write a canvas as a PNG, under a temporary name, then renamed. Raises: SourceError: it cannot be written."""
    part = out.with_name(f".{out.name}.part")
    try:
        canvas.print_figure(part, format="png", facecolor=PAPER)
        part.replace(out)
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror}): choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def _rows_of(recording: Path, channel: int, top_hz: float) -> tuple[float, float, float]:
    """The recording's length and the length of a row, in seconds, and the highest frequency that it can show."""
    try:
        info = soundfile.info(str(recording))
    except soundfile.LibsndfileError as error:
        raise SourceError(f"{recording}: cannot be read ({error.error_string}): give a sound file") from error
    if not 1 <= channel <= info.channels:
        raise SourceError(f"{recording}: has no channel {channel}: choose 1 to {info.channels}")
    if info.frames == 0:
        raise SourceError(f"{recording}: has no samples: give a recording with sound")
    duration_s, top_hz = info.frames / info.samplerate, min(top_hz, info.samplerate / 2)
    if duration_s <= ROW_S:
        return duration_s, duration_s, top_hz
    return duration_s, max(math.ceil(duration_s / MAX_ROWS / 60) * 60.0, ROW_S), top_hz


def _spectrograms(recording: Path, channel: int, row_s: float, top_hz: float) -> Iterator[_Row]:
    """The rows in order, each read and reduced to COLUMNS columns by itself."""
    with soundfile.SoundFile(recording) as file:
        rate_hz = file.samplerate
        taper = np.hanning(max(round(TAPER / top_hz * rate_hz), 16)).astype(np.float32)
        bins = int(top_hz * taper.size / rate_hz) + 1
        for first in range(0, file.frames, round(row_s * rate_hz)):
            end = min(first + round(row_s * rate_hz), file.frames)
            columns = max(round(COLUMNS * (end - first) / (row_s * rate_hz)), 1)
            power = _power(file, channel, np.linspace(first, end, columns + 1).astype(int), taper, bins)
            decibels = 10.0 * np.log10(power + 1e-14)
            yield _Row(first / rate_hz, end / rate_hz, decibels - _quiet(decibels)[:, None])


def _power(
    file: soundfile.SoundFile, channel: int, edges: npt.NDArray[np.int_], taper: npt.NDArray[np.float32], bins: int
) -> npt.NDArray[np.float32]:
    """Power (bins, columns); a column is the loudest of the frames, half a taper apart, that begin inside it.

    The loudest, since in a row of an hour an average would hide a call of a second.
    """
    power = np.zeros((bins, edges.size - 1), np.float32)
    for column, (first, end) in enumerate(pairwise(edges)):
        begin = int(first) - taper.size // 2
        samples = _read(file, channel, max(begin, 0), int(end - first) + taper.size + min(begin, 0))
        samples = np.pad(samples, (max(-begin, 0), taper.size), mode="edge")[: end - first + taper.size]
        frames = np.lib.stride_tricks.sliding_window_view(samples, taper.size)[:: taper.size // 2]
        spectrum = np.fft.rfft(frames[: max(1, 2 * (end - first) // taper.size)] * taper, axis=1)[:, :bins]
        power[:, column] = (np.abs(spectrum) ** 2).max(axis=0)
    return power


def _read(file: soundfile.SoundFile, channel: int, first: int, count: int) -> npt.NDArray[np.float32]:
    """Up to `count` samples (n,) of one channel from sample `first`."""
    try:
        file.seek(first)
        samples: npt.NDArray[np.float32] = file.read(count, dtype="float32", always_2d=True)[:, channel - 1]
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{file.name}: cannot be read at sample {first}: it is damaged, draw a copy cut there"
        ) from error
    return samples


def _quiet(decibels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The row's quiet level (frequencies,): the sea's slope, without which low frequencies would outshine all.

    Smoothed over frequency, so that a ship's lines stay visible.
    """
    level = np.percentile(decibels, 30.0, axis=1)
    reach = min(max(round(SMOOTH * level.size), 1), level.size - 1)
    padded = np.pad(level, reach, mode="reflect")
    smooth = np.convolve(padded, np.full(2 * reach + 1, 1.0 / (2 * reach + 1)), mode="valid")
    smooth[:2] = level[:2]  # a converter's offset is no sound
    return smooth.astype(np.float32)


def _draw_row(axes: Any, row: _Row, row_s: float, top_hz: float) -> None:
    """One row's spectrogram and its axes."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(PAPER)
    axes.imshow(
        row.decibels,
        origin="lower",
        aspect="auto",
        extent=(row.begin_s, row.end_s, 0.0, top_hz),
        cmap=LinearSegmentedColormap.from_list("sea", SEA),
        vmin=DECIBELS[0],
        vmax=DECIBELS[1],
        interpolation="bicubic",
    )
    axes.set_xlim(row.begin_s, row.begin_s + row_s)
    axes.set_ylim(0.0, top_hz)
    axes.set_yticks(
        [tick for tick in MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)).tick_values(0.0, top_hz) if 0 <= tick <= top_hz]
    )
    step_s = next((step for step in TICKS_S if row_s / step <= 14), row_s)
    ticks = row.begin_s + step_s * np.arange(int(row_s / step_s + 1e-9) + 1)
    axes.set_xticks(ticks, [f"{tick:g}" if row_s < 60 else _clock(tick) for tick in ticks])
    axes.tick_params(colors=INK, labelsize=8.5, length=3, width=0.6)
    axes.set_ylabel("Hz", color=INK, fontsize=9, labelpad=2)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_marks(axes: Any, row: _Row, top_hz: float, matching: Matching | None, detections: Sequence[Detected]) -> None:
    """Boxes around the row's calls, and a marker for every detection and missed call in a lane above."""
    axes.set_ylim(0.0, LANE[1] * top_hz)
    lane_hz = sum(LANE) / 2 * top_hz
    if matching is None:
        _draw_peaks(axes, row, lane_hz, _DETECTED, [detection.peak_s for detection in detections])
        return
    for mark, calls in ((_FOUND, [call for _, call in matching.found]), (_MISSED, matching.missed)):
        for call in calls:
            _draw_box(axes, row, mark, call)
    _draw_peaks(axes, row, lane_hz, _FOUND, [detection.peak_s for detection, _ in matching.found])
    _draw_peaks(axes, row, lane_hz, _MISSED, [(call.begin_s + call.end_s) / 2 for call in matching.missed])
    _draw_peaks(axes, row, lane_hz, _DUPLICATE, [detection.peak_s for detection in matching.duplicates])
    _draw_peaks(axes, row, lane_hz, _FALSE, [detection.peak_s for detection in matching.false])


def _draw_box(axes: Any, row: _Row, mark: _Mark, call: Selection) -> None:
    from matplotlib.patches import Rectangle

    if call.end_s < row.begin_s or call.begin_s > row.end_s:
        return
    low_hz = BOX_HZ[0] if call.low_hz is None else call.low_hz
    high_hz = BOX_HZ[1] if call.high_hz is None else call.high_hz
    # A margin, so that the line does not lie upon the call.
    corner, width, height = (
        (call.begin_s - 0.15, low_hz - 18.0),
        call.end_s - call.begin_s + 0.3,
        high_hz - low_hz + 36.0,
    )
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=mark.color, linewidth=1.5, linestyle=mark.line)
    )


def _draw_peaks(axes: Any, row: _Row, lane_hz: float, mark: _Mark, peaks_s: Sequence[float]) -> None:
    here = [peak_s for peak_s in peaks_s if row.begin_s <= peak_s < row.end_s or peak_s == row.end_s]
    axes.scatter(here, [lane_hz] * len(here), **_style(mark), zorder=3, clip_on=False)


def _style(mark: _Mark) -> dict[str, Any]:
    return {"marker": mark.marker, "s": 62, "facecolor": mark.color, "edgecolor": INK, "linewidth": 0.7}


def _draw_head(figure: Any, title: str, note: str, matching: Matching | None) -> None:
    """The title, and below it what there is to know."""
    inch = 1.0 / figure.get_figheight()
    figure.text(0.048, 1.0 - 0.40 * inch, title, color=INK, fontsize=16, fontweight="bold", va="center")
    boxes = "" if matching is None else "boxes are the marked calls"
    notes = "; ".join(part for part in (note, "decibels above the sea's quiet level", boxes) if part)
    figure.text(0.048, 1.0 - 0.70 * inch, notes, color=INK, alpha=0.7, fontsize=9.5, va="center")


def _draw_legend(figure: Any, matching: Matching | None, detections: Sequence[Detected]) -> None:
    """The marks, with counts."""
    from matplotlib.lines import Line2D

    counts = [(_DETECTED, len(detections))]
    if matching is not None:
        counts = [(_FOUND, len(matching.found)), (_MISSED, len(matching.missed)), (_FALSE, len(matching.false))]
        counts += [(_DUPLICATE, len(matching.duplicates))] if matching.duplicates else []
    handles = [
        Line2D(
            [],
            [],
            linestyle=mark.line,
            color=mark.color,
            linewidth=1.5,
            marker=mark.marker,
            markersize=8,
            markeredgecolor=INK,
            markeredgewidth=0.7,
            label=f"{mark.name}  {count}",
        )
        for mark, count in counts
    ]
    inch = 1.0 / figure.get_figheight()
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.991, 1.0 - 0.18 * inch),
        ncols=len(handles),
        frameon=False,
        fontsize=12,
        labelcolor=INK,
        columnspacing=1.8,
        handletextpad=0.6,
    )


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s), 60)
    return f"{minutes}:{seconds:02d}"
