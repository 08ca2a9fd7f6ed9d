"""The report's pictures, each for a light and for a dark page. matplotlib without a window, and without its state."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from export.config import TrainConfig
from export.features import mel_edges_hz
from export.store import Audio

DPI = 144
WIDE_IN, NARROW_IN, HIGH_IN = 9.6, 3.6, 2.9
_SEA = LinearSegmentedColormap.from_list("sea", ["#061019", "#0b2738", "#1b5468", "#5fa3a8", "#e9f3ea"])
_TOWARDS = LinearSegmentedColormap.from_list("towards", ["#2f7fc1", "#10202b", "#f0a030"])
_DECIBELS = (-3.0, 19.0)  # above the quiet level of each frequency
_PERIODS = 80.0  # of the highest frequency in a taper: 0.2 s of 400 Hz resolve 10 Hz, and an upcall stays a line
_COLUMNS = 240  # of a spectrogram


@dataclass(frozen=True)
class Theme:
    """Colours on one page. The first lines are told apart by the colour-blind, too."""

    ink: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Theme("#22313b", "#d5dde2", ("#0f7c96", "#cf5b1e", "#6a5bb0", "#5d7a1f"))
DARK = Theme("#d7e2e8", "#33454f", ("#57c4dc", "#f79a5c", "#b3a5f2", "#b4cf6b"))
Plot = Callable[[Theme], Figure]


def png(plot: Plot, theme: Theme) -> bytes:
    """The picture on a transparent ground."""
    figure = plot(theme)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="none")


def _axes(figure: Figure, theme: Theme, x: str, y: str) -> Axes:
    axes = figure.add_subplot()
    _style(axes, theme)
    axes.grid(color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, labelsize=8, length=0, pad=4)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(theme.ink)
        text.set_fontsize(9)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes, theme: Theme, place: Literal["best", "lower left", "lower right"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc=place, handlelength=1.4)


def epochs(rows: Sequence[dict[str, float]], keys: dict[str, str], y: str) -> Plot:
    """Columns of the history over epochs: `keys` are their names here."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, HIGH_IN)
        axes = _axes(figure, theme, "epoch", y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for color, (key, name) in zip(theme.lines, keys.items(), strict=False):
            own = [row for row in rows if row.get(key) is not None]
            axes.plot(
                [row["epoch"] for row in own], [row[key] for row in own], "o-", ms=3.5, lw=1.6, color=color, label=name
            )
        _legend(axes, theme)
        return figure

    return plot


def learning_rate(rates: npt.NDArray[np.float64], epochs_done: npt.NDArray[np.float64]) -> Plot:
    """The rate at each update, (updates, groups of layers)."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, HIGH_IN)
        axes = _axes(figure, theme, "epoch", "learning rate")
        names = ("most layers", "layers with a rate of their own")
        for color, column, name in zip(theme.lines, rates.T, names, strict=False):
            axes.plot(epochs_done, column, lw=1.6, color=color, label=name)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        axes.yaxis.get_offset_text().set(color=theme.ink, fontsize=8)
        if rates.shape[1] > 1:
            _legend(axes, theme)
        return figure

    return plot


def roc(labels: Audio, scores: Audio, names: Sequence[str], threshold: float) -> Plot:
    """labels, scores: (clips, labels)."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, NARROW_IN)
        axes = _axes(figure, theme, "false positive rate", "true positive rate")
        axes.plot([0, 1], [0, 1], color=theme.faint, lw=1.2)
        for i, name in enumerate(names):
            false, true, _ = roc_curve(labels[:, i], scores[:, i], drop_intermediate=False)
            color = theme.lines[i % len(theme.lines)]
            axes.plot(false, true, lw=1.8, color=color, label=name if len(names) > 1 else None)
            _point(axes, theme, color, *_rates(labels[:, i], scores[:, i], threshold), threshold)
        _unit_square(axes)
        _legend(axes, theme, "lower right")
        return figure

    return plot


def precision_recall(labels: Audio, scores: Audio, names: Sequence[str], threshold: float) -> Plot:
    """labels, scores: (clips, labels)."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, NARROW_IN)
        axes = _axes(figure, theme, "recall", "precision")
        for i, name in enumerate(names):
            precision, recall, _ = precision_recall_curve(labels[:, i], scores[:, i])
            color = theme.lines[i % len(theme.lines)]
            prior = float(labels[:, i].mean())
            axes.axhline(prior, color=theme.faint, lw=1.2)
            axes.plot(recall, precision, lw=1.8, color=color, label=name if len(names) > 1 else None)
            found = scores[:, i] >= threshold
            if found.any():
                _, true = _rates(labels[:, i], scores[:, i], threshold)
                _point(axes, theme, color, true, float(labels[found, i].mean()), threshold)
        _unit_square(axes)
        _legend(axes, theme, "lower left")
        return figure

    return plot


def _rates(labels: Audio, scores: Audio, threshold: float) -> tuple[float, float]:
    found = scores >= threshold
    return float(found[labels == 0].mean()), float(found[labels == 1].mean())


def _point(axes: Axes, theme: Theme, color: str, x: float, y: float, threshold: float) -> None:
    axes.plot(
        [x],
        [y],
        "o",
        ms=7,
        mfc=color,
        mec=theme.ink,
        mew=0.8,
        clip_on=False,
        label=f"threshold {threshold:g}",
        zorder=3,
    )


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_aspect("equal")


@dataclass(frozen=True)
class Reliability:
    """Mean score, share of calls and number of clips in each bin of the score that has any."""

    score: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    count: npt.NDArray[np.int_]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of score and share, over the clips."""
        return float(np.sum(self.count * np.abs(self.score - self.share)) / self.count.sum())


def reliability(labels: Audio, scores: Audio, bins: int = 10) -> Reliability:
    """Over all clips and labels, in equal steps of the score (Guo et al. 2017, arXiv:1706.04599)."""
    score, label = scores.ravel().astype(np.float64), labels.ravel()
    place = np.minimum((score * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    means = [np.bincount(place, weights=values, minlength=bins)[kept] / count[kept] for values in (score, label)]
    return Reliability(means[0], means[1], count[kept])


def calibration(before: Reliability, after: Reliability, temperature: float) -> Plot:
    """The reliability diagram of the network's own scores and of those with the temperature."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, NARROW_IN)
        axes = _axes(figure, theme, "score", "share of clips with a call")
        axes.plot([0, 1], [0, 1], color=theme.faint, lw=1.2)
        for color, one, name in zip(
            theme.lines[1::-1], (before, after), ("temperature 1", f"temperature {temperature:g}"), strict=True
        ):
            axes.plot(one.score, one.share, "-", lw=1.2, color=color)
            sizes = 12 + 130 * one.count / one.count.max()
            axes.scatter(one.score, one.share, s=sizes, color=color, alpha=0.75, lw=0, label=name, clip_on=False)
        _unit_square(axes)
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc="upper left", markerscale=0.5)
        return figure

    return plot


def score_histogram(labels: Audio, scores: Audio, threshold: float) -> Plot:
    """How the scores of clips with and without a call lie, over all labels."""

    def plot(theme: Theme) -> Figure:
        figure = _figure(NARROW_IN, NARROW_IN)
        axes = _axes(figure, theme, "score", "clips")
        edges = [i / 25 for i in range(26)]
        parts = [scores[labels == 0], scores[labels == 1]]
        axes.hist(
            parts, edges, stacked=True, color=theme.lines[1::-1], label=["without a call", "with a call"], rwidth=0.88
        )
        axes.axvline(threshold, color=theme.ink, lw=1, ls=(0, (4, 3)))
        axes.set_xlim(0, 1)
        _legend(axes, theme)
        return figure

    return plot


def spectrogram(audio: Audio, config: TrainConfig) -> Plot:
    """A clip (samples,), in decibels above the quiet level of each frequency."""
    rate_hz = config.audio.sample_rate
    top_hz = min(config.audio.maximum_frequency, rate_hz / 2)
    decibels = _decibels(audio, rate_hz, top_hz)

    def plot(theme: Theme) -> Figure:
        figure = _figure(2.7, 1.75)
        axes = figure.add_subplot()
        _style(axes, theme)
        axes.imshow(
            decibels,
            origin="lower",
            aspect="auto",
            extent=(0, len(audio) / rate_hz, 0, top_hz),
            cmap=_SEA,
            vmin=_DECIBELS[0],
            vmax=_DECIBELS[1],
            interpolation="bilinear",
        )
        axes.set_xlabel("s", labelpad=0)
        axes.set_ylabel("Hz", labelpad=1)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4, prune="lower"))
        axes.tick_params(pad=2)
        return figure

    return plot


def _decibels(audio: Audio, rate_hz: int, top_hz: float) -> npt.NDArray[np.float64]:
    """(frequencies up to the top, columns)."""
    taper = np.hanning(min(max(round(_PERIODS / top_hz * rate_hz), 16), len(audio)))
    padded = np.pad(audio.astype(np.float64), len(taper) // 2, mode="reflect")
    places = np.linspace(0, len(padded) - len(taper), min(_COLUMNS, len(audio))).astype(int)
    frames = padded[places[:, None] + np.arange(len(taper))]
    size = 2 * len(taper)
    power = np.abs(np.fft.rfft(frames * taper, size)[:, : int(top_hz * size / rate_hz) + 1]).T ** 2
    decibels = 10 * np.log10(power + 1e-14)
    quiet: npt.NDArray[np.float64] = decibels - np.percentile(decibels, 30, axis=1, keepdims=True)
    return quiet


def grid(pictures: Audio, titles: Sequence[str], config: TrainConfig, below: Audio | None = None) -> Plot:
    """Log-mel spectrograms (clips, mel bins, frames), four a row; `below` each what the network made of it."""
    seconds = config.audio.training_chunk_seconds
    across = 4
    rows = -(-len(pictures) // across) * (1 if below is None else 2)

    def plot(theme: Theme) -> Figure:
        figure = _figure(WIDE_IN, 1.7 * rows)
        for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            row, column = divmod(i, across)
            row *= 1 if below is None else 2
            first = figure.add_subplot(rows, across, row * across + column + 1)
            low, high = np.percentile(picture, (5, 99.5))
            _draw_mel(first, theme, picture, config, seconds, _SEA, (float(low), float(high)))
            first.set_title(title, color=theme.ink, fontsize=9, loc="left", pad=3)
            first.set_ylabel("" if column else "Hz", labelpad=1)
            if below is not None:
                second = figure.add_subplot(rows, across, (row + 1) * across + column + 1)
                largest = float(np.percentile(np.abs(below[i]), 99.5)) or 1.0
                _draw_mel(second, theme, below[i], config, seconds, _TOWARDS, (-largest, largest))
                second.set_ylabel("" if column else "Hz", labelpad=1)
                first.set_xticklabels([])
            (first if below is None else second).set_xlabel("s", labelpad=0)
        return figure

    return plot


def _draw_mel(
    axes: Axes,
    theme: Theme,
    picture: Audio,
    config: TrainConfig,
    seconds: float,
    colors: Any,
    limits: tuple[float, float],
) -> None:
    _style(axes, theme)
    axes.imshow(
        picture,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, len(picture)),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    edges_hz = mel_edges_hz(config)
    ticks_hz = [hz for hz in MaxNLocator(4).tick_values(edges_hz[0], edges_hz[-1]) if edges_hz[0] <= hz <= edges_hz[-1]]
    axes.set_yticks(np.interp(ticks_hz, edges_hz, np.arange(len(edges_hz))), [f"{hz:g}" for hz in ticks_hz])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(pad=2)
