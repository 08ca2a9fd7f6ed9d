"""Detections against marked calls: the matching behind every figure.

One to one, best score first. The distance of a peak from a selection is the time from the peak to the selection's
interval, 0 inside it. A detection finds the nearest free selection at most `TOLERANCE_S` away; of several at the same
distance (two that overlap), the one whose middle is nearer, then the earlier. Of equal scores the earlier peak goes
first. Another peak at most `DUPLICATE_S` from any selection, free or found, is a duplicate; one further from all is
false. Selections of other channels or labels are for the caller to leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pam_daemon.tools.tables import Selection

TOLERANCE_S = 1.0
DUPLICATE_S = 1.5


@dataclass(frozen=True)
class Detected:
    """A detection as the matching sees it: seconds since the recording began, score 0..1."""

    peak_s: float
    score: float


@dataclass(frozen=True)
class Matching:
    """Every detection and every selection, once each, in the order of time."""

    found: tuple[tuple[Detected, Selection], ...]
    missed: tuple[Selection, ...]
    duplicates: tuple[Detected, ...]
    false: tuple[Detected, ...]


def match(detections: Sequence[Detected], selections: Sequence[Selection]) -> Matching:
    """Pair detections with selections; the module's docstring has the rule. The order of both makes no difference."""
    ordered = sorted(selections, key=lambda s: (s.begin_s, s.end_s, s.channel, s.label))
    begin_s = np.array([selection.begin_s for selection in ordered])
    end_s = np.array([selection.end_s for selection in ordered])
    partner: dict[int, Detected] = {}
    free = np.ones(len(ordered), bool)
    duplicates: list[Detected] = []
    false: list[Detected] = []
    for detection in sorted(detections, key=lambda d: (-d.score, d.peak_s)):
        distance_s = np.maximum(np.maximum(begin_s - detection.peak_s, detection.peak_s - end_s), 0.0)
        within = free & (distance_s <= TOLERANCE_S)
        if within.any():
            nearest = within & (distance_s == distance_s[within].min())
            off_middle_s = np.where(nearest, np.abs(detection.peak_s - (begin_s + end_s) / 2), np.inf)
            index = int(off_middle_s.argmin())
            free[index] = False
            partner[index] = detection
        elif (distance_s <= DUPLICATE_S).any():
            duplicates.append(detection)
        else:
            false.append(detection)
    return Matching(
        found=tuple((partner[index], ordered[index]) for index in sorted(partner)),
        missed=tuple(selection for index, selection in enumerate(ordered) if free[index]),
        duplicates=tuple(sorted(duplicates, key=lambda d: d.peak_s)),
        false=tuple(sorted(false, key=lambda d: d.peak_s)),
    )
