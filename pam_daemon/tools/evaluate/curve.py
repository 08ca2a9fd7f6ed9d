"""The picture of an evaluation at sea: recall against false detections an hour, a mark for the chosen threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pam_daemon.tools.evaluate.recordings import Point
from pam_daemon.tools.picture import FALSE, FOUND, INK, PAPER, save

LINEAR_PER_HOUR = 1.0  # up to here the axis is linear, so that it has a 0, and from here on logarithmic
_NAMED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)  # thresholds written at the curve


def draw_curve(points: Sequence[Point], chosen: float, out: Path, title: str) -> None:
    """Draw the points as a PNG at `out`; without marked calls false detections against the threshold.

    Raises: SourceError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), dpi=110, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    if points[0].marked:
        _draw_recall(axes, points, chosen)
    else:
        _draw_rate(axes, points, chosen)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="best")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save(canvas, out)


def _draw_recall(axes: Any, points: Sequence[Point], chosen: float) -> None:
    rates = [p.false_per_hour for p in points]
    recalls = [p.found / p.marked for p in points]
    intervals = [p.recall_interval for p in points]
    axes.fill_between(
        rates, [i.low for i in intervals if i], [i.high for i in intervals if i], color=FOUND, alpha=0.15, linewidth=0
    )
    axes.plot(
        rates,
        recalls,
        color=FOUND,
        marker=".",
        clip_on=False,
        zorder=3,
        label="each threshold; band: 95 % of the recall",
    )
    for p in points:
        if p.threshold in _NAMED:
            axes.annotate(
                f"{p.threshold:g}", (p.false_per_hour, p.found / p.marked), (4, -11), textcoords="offset points"
            )
    at = next(p for p in points if p.threshold == chosen)
    across = at.false_per_hour_interval
    recall, said = at.found / at.marked, "95 % of the rate (Garwood)"
    axes.plot([across.low, across.high], [recall] * 2, "--", color=FALSE, clip_on=False, zorder=4, label=said)
    axes.plot(at.false_per_hour, recall, "D", color=FALSE, clip_on=False, zorder=5, label=_said(at))
    axes.set_xscale("symlog", linthresh=LINEAR_PER_HOUR)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        xlim=(0, None), ylim=(0, 1.02), xlabel="false detections an hour", ylabel="recall: share of the calls found"
    )


def _draw_rate(axes: Any, points: Sequence[Point], chosen: float) -> None:
    thresholds = [p.threshold for p in points]
    intervals = [p.false_per_hour_interval for p in points]
    axes.fill_between(thresholds, [i.low for i in intervals], [i.high for i in intervals], color=FALSE, alpha=0.15)
    axes.plot(thresholds, [p.false_per_hour for p in points], color=FALSE, label="all detections; band: 95 % (Garwood)")
    at = next(p for p in points if p.threshold == chosen)
    axes.plot(at.threshold, at.false_per_hour, "D", color=INK, label=_said(at))
    axes.set_yscale("symlog", linthresh=LINEAR_PER_HOUR)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="threshold", ylabel="false detections an hour")


def _said(point: Point) -> str:
    found = f"{point.found} of {point.marked} found, " if point.marked else ""
    return f"threshold {point.threshold:g}: {found}{point.false} false in {point.hours:.2f} h"
