"""One picture of a recording: its spectrogram in stacked rows, the marked calls and what was detected.

Drawn in the command's own process, never on the daemon's threads; matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from pam_daemon.errors import SourceError
from pam_daemon.tools.evaluate import Detected, Matching, match
from pam_daemon.tools.tables import Selection

MAX_HZ = 400.0
TAPER_S = 0.2  # resolves 10 Hz: an upcall stays a line
ROW_S = 120.0
MAX_ROWS = 12  # a longer recording gets longer rows, of whole minutes
COLUMNS = 1500  # of a row's picture
SMOOTH_HZ = 40.0
DECIBELS = (-3.0, 19.0)  # the colours' range, above the row's quiet level
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600)
BOX_HZ = (80.0, 210.0)  # for selections without frequencies
LANE_HZ = (404.0, 468.0)  # the lane of markers above the spectrogram

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
) -> Matching | None:
    """Draw `recording` as a PNG at `out` (written under a temporary name, then renamed); gives the matching drawn.

    Found calls, missed calls and false detections are marked by `evaluate.match`; without a truth (`selections` None)
    every detection is marked alike and the result is None. `simulated` says in the title that the sea is simulated.
    Memory does not grow with the recording's length.

    Raises: SourceError: a recording that cannot be read or has no such channel, a picture that cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    duration_s, row_s = _rows_of(recording, channel)
    count = math.ceil(duration_s / row_s)
    figure = Figure(figsize=(15.0, 1.6 + 1.85 * count), dpi=110, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    inch = 1.0 / figure.get_figheight()
    grid = figure.add_gridspec(
        count, 1, hspace=0.24, left=0.048, right=0.988, bottom=0.52 * inch, top=1.0 - 0.92 * inch
    )
    matching = None if selections is None else match(detections, selections)
    for number, row in enumerate(_spectrograms(recording, channel, row_s)):
        axes = figure.add_subplot(grid[number])
        _draw_row(axes, row, row_s)
        _draw_marks(axes, row, matching, detections)
    axes.set_xlabel("time (min:s)", color=INK, fontsize=10)
    _draw_head(figure, f"{title} · simulated sea" if simulated else title, matching, detections)
    _save(canvas, out)
    return matching


def _save(canvas: Any, out: Path) -> None:
    part = out.with_name(f".{out.name}.part")
    try:
        canvas.print_figure(part, format="png", facecolor=PAPER)
        part.replace(out)
    except OSError as error:
        raise SourceError(f"{out}: cannot be written ({error.strerror}): choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def _rows_of(recording: Path, channel: int) -> tuple[float, float]:
    """The recording's length and the length of a row, in seconds."""
    try:
        info = soundfile.info(str(recording))
    except soundfile.LibsndfileError as error:
        raise SourceError(f"{recording}: cannot be read ({error.error_string}): give a sound file") from error
    if not 1 <= channel <= info.channels:
        raise SourceError(f"{recording}: has no channel {channel}: choose 1 to {info.channels}")
    if info.frames == 0:
        raise SourceError(f"{recording}: has no samples: give a recording with sound")
    duration_s = info.frames / info.samplerate
    if duration_s <= ROW_S:
        return duration_s, float(math.ceil(duration_s))
    return duration_s, max(math.ceil(duration_s / MAX_ROWS / 60) * 60.0, ROW_S)


def _spectrograms(recording: Path, channel: int, row_s: float) -> Iterator[_Row]:
    """The rows in order, each read and reduced to COLUMNS columns by itself."""
    with soundfile.SoundFile(recording) as file:
        rate_hz = file.samplerate
        taper = np.hanning(max(round(TAPER_S * rate_hz), 16)).astype(np.float32)
        bins = int(min(MAX_HZ, rate_hz / 2) * taper.size / rate_hz) + 1
        for first in range(0, file.frames, round(row_s * rate_hz)):
            end = min(first + round(row_s * rate_hz), file.frames)
            columns = max(round(COLUMNS * (end - first) / (row_s * rate_hz)), 1)
            power = _power(file, channel, np.linspace(first, end, columns + 1).astype(int), taper, bins)
            decibels = 10.0 * np.log10(power + 1e-14)
            yield _Row(first / rate_hz, end / rate_hz, decibels - _quiet(decibels, rate_hz / taper.size)[:, None])


def _power(
    file: soundfile.SoundFile, channel: int, edges: npt.NDArray[np.int_], taper: npt.NDArray[np.float32], bins: int
) -> npt.NDArray[np.float32]:
    """Power (bins, columns); a column is the loudest of the frames, half a taper apart, that begin inside it.

    The loudest, since in a row of an hour an average would hide a call of a second.
    """
    power = np.zeros((bins, edges.size - 1), np.float32)
    for column, (first, end) in enumerate(pairwise(edges)):
        samples = _read(file, channel, max(first - taper.size // 2, 0), int(end - first) + taper.size)
        samples = np.pad(samples, (0, max(taper.size - samples.size, 0)))
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


def _quiet(decibels: npt.NDArray[np.float32], bin_hz: float) -> npt.NDArray[np.float32]:
    """The row's quiet level (frequencies,): the sea's slope, without which low frequencies would outshine all.

    Smoothed over frequency, so that a ship's lines stay visible.
    """
    level = np.percentile(decibels, 30.0, axis=1)
    reach = min(max(round(SMOOTH_HZ / bin_hz), 1), level.size - 1)
    padded = np.pad(level, reach, mode="reflect")
    return np.convolve(padded, np.full(2 * reach + 1, 1.0 / (2 * reach + 1)), mode="valid").astype(np.float32)


def _draw_row(axes: Any, row: _Row, row_s: float) -> None:
    """One row's spectrogram, its axes and the lane for the markers above it."""
    from matplotlib.colors import LinearSegmentedColormap

    axes.set_facecolor(PAPER)
    axes.imshow(
        row.decibels,
        origin="lower",
        aspect="auto",
        extent=(row.begin_s, row.end_s, 0.0, MAX_HZ),
        cmap=LinearSegmentedColormap.from_list("sea", SEA),
        vmin=DECIBELS[0],
        vmax=DECIBELS[1],
        interpolation="bilinear",
    )
    axes.set_xlim(row.begin_s, row.begin_s + row_s)
    axes.set_ylim(0.0, LANE_HZ[1])
    axes.set_yticks([0, 100, 200, 300, 400])
    step_s = next((step for step in TICKS_S if row_s / step <= 14), row_s)
    ticks = np.arange(row.begin_s, row.begin_s + row_s + 0.5 * step_s, step_s)
    axes.set_xticks(ticks, [_clock(tick) for tick in ticks])
    axes.tick_params(colors=INK, labelsize=8.5, length=3, width=0.6)
    axes.set_ylabel("Hz", color=INK, fontsize=9, labelpad=2)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_marks(axes: Any, row: _Row, matching: Matching | None, detections: Sequence[Detected]) -> None:
    """Boxes around the row's calls, and a marker for every detection and missed call in the lane above."""
    if matching is None:
        _draw_peaks(axes, row, _DETECTED, [detection.peak_s for detection in detections])
        return
    for mark, calls in ((_FOUND, [call for _, call in matching.found]), (_MISSED, matching.missed)):
        for call in calls:
            _draw_box(axes, row, mark, call)
    _draw_peaks(axes, row, _FOUND, [detection.peak_s for detection, _ in matching.found])
    _draw_peaks(axes, row, _MISSED, [(call.begin_s + call.end_s) / 2 for call in matching.missed])
    _draw_peaks(axes, row, _DUPLICATE, [detection.peak_s for detection in matching.duplicates])
    _draw_peaks(axes, row, _FALSE, [detection.peak_s for detection in matching.false])


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


def _draw_peaks(axes: Any, row: _Row, mark: _Mark, peaks_s: Sequence[float]) -> None:
    here = [peak_s for peak_s in peaks_s if row.begin_s <= peak_s < row.end_s or peak_s == row.end_s]
    lane_hz = sum(LANE_HZ) / 2
    axes.scatter(here, [lane_hz] * len(here), **_style(mark), zorder=3, clip_on=False)


def _style(mark: _Mark) -> dict[str, Any]:
    return {"marker": mark.marker, "s": 62, "facecolor": mark.color, "edgecolor": INK, "linewidth": 0.7}


def _draw_head(figure: Any, title: str, matching: Matching | None, detections: Sequence[Detected]) -> None:
    """The title and the legend, with counts."""
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
    figure.text(0.048, 1.0 - 0.40 * inch, title, color=INK, fontsize=16, fontweight="bold", va="center")
    note = "decibels above the sea's quiet level" + ("" if matching is None else "; boxes are the marked calls")
    figure.text(0.048, 1.0 - 0.70 * inch, note, color=INK, alpha=0.7, fontsize=9.5, va="center")
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
