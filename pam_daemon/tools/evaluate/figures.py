"""The figures themselves, from arrays and counts: each a few lines of numpy, with its source. Intervals are of 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15  # of the calibration error, as wide as each other
_Z = 1.959963984540054  # the normal distribution's 97.5 %
_MORE = 40.0  # no bound of a count lies this many standard deviations above it

Labels = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Of 95 %."""

    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Clips at a threshold."""

    found: int
    missed: int
    false: int
    rejected: int


def roc_auc(labels: Labels, scores: Scores) -> tuple[float, Interval | None]:
    """The area under the ROC curve of (clips,), and DeLong's interval on the scale of the logit.

    DeLong et al. 1988 (Biometrics 44:837) by midranks, as Sun and Xu 2014 (IEEE SPL 21:1389) do it; the logit keeps the
    interval inside 0..1 (Pepe 2003, section 5.2). It takes the clips for independent, which neighbours in time are not:
    then it is too narrow. None where the scores of the two kinds do not overlap: their variance is then 0, not known.
    """
    called, others = scores[labels], scores[~labels]
    ranks = _midranks(np.concatenate([called, others]))
    above = (ranks[: called.size] - _midranks(called)) / others.size  # of each call: the share of the others below it
    below = 1 - (ranks[called.size :] - _midranks(others)) / called.size
    area = float(above.mean())
    if area in (0.0, 1.0) or min(called.size, others.size) < 2:
        return area, None
    deviation = math.sqrt(above.var(ddof=1) / called.size + below.var(ddof=1) / others.size)
    logit, reach = math.log(area / (1 - area)), _Z * deviation / (area * (1 - area))
    return area, Interval(_logistic(logit - reach), _logistic(logit + reach))


def average_precision(labels: Labels, scores: Scores) -> float:
    """The precision at each distinct score, weighted with the recall that it adds: no interpolation."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)  # of each group of equal scores
    found = np.cumsum(labels[order])[last]
    return float(np.sum(np.diff(found, prepend=0) * found / (last + 1)) / labels.sum())


def calibration_error(labels: Labels, scores: Scores) -> float:
    """ECE (Guo et al. 2017, arXiv:1706.04599): |share of calls - mean score| over `BINS`, weighted by size."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, labels - scores, BINS)).sum() / scores.size)


def brier(labels: Labels, scores: Scores) -> float:
    """The mean squared error of the scores (Brier 1950)."""
    return float(np.square(labels - scores).mean())


def confusion(labels: Labels, scores: Scores, threshold: float) -> Confusion:
    """At or above the threshold is a call."""
    called = scores >= threshold
    pairs = ((called, labels), (~called, labels), (called, ~labels), (~called, ~labels))
    return Confusion(*(int((a & b).sum()) for a, b in pairs))


def share_interval(count: int, of: int) -> Interval:
    """Of a share: Wilson's score interval (1927; Brown, Cai and DasGupta 2001)."""
    share, width = count / of, _Z**2 / of
    centre = (share + width / 2) / (1 + width)
    reach = math.sqrt(width * share * (1 - share) + width**2 / 4) / (1 + width)
    return Interval(max(centre - reach, 0.0), min(centre + reach, 1.0))


def poisson_interval(count: int) -> Interval:
    """Of the expected number where `count` was seen: exact (Garwood 1936, Biometrika 28:437)."""
    low = _expected(lambda mean: 1 - _at_most(count - 1, mean) > 0.025, count) if count else 0.0
    return Interval(low, poisson_upper(count, 0.975))


def poisson_upper(count: int, confidence: float = 0.95) -> float:
    """The least expected number with which so few are seen with a probability of at most 1 - confidence: exact."""
    return _expected(lambda mean: _at_most(count, mean) <= 1 - confidence, count)


def _expected(reached: Callable[[float], bool], count: int) -> float:
    """Where a condition that holds from some expected number on begins to hold."""
    low, high = 0.0, count + _MORE * math.sqrt(count + 1)
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _at_most(count: int, mean: float) -> float:
    """The probability that a Poisson variable of this mean is at most `count`."""
    numbers = np.arange(count + 1)
    log_factorial = np.cumsum(np.log(np.maximum(numbers, 1)))
    return float(np.exp(numbers * math.log(mean) - mean - log_factorial).sum()) if count >= 0 else 0.0


def _midranks(values: Scores) -> Array:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Array = (last - (count - 1) / 2)[place]
    return ranks


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
