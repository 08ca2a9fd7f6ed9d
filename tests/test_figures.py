"""The figures of an evaluation against the libraries that the field uses, and against what tables print."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score

from pam_daemon.tools.evaluate import figures

# Few values, so that equal scores are frequent.
CLIPS = st.lists(st.tuples(st.booleans(), st.integers(0, 8).map(lambda eighths: eighths / 8)), min_size=4, max_size=40)


def arrays(clips: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.array([called for called, _ in clips]), np.array([score for _, score in clips])
    assume(0 < labels.sum() < len(labels))
    return labels, scores


@given(CLIPS)
def test_the_figures_are_scikit_learn_s(clips: list[tuple[bool, float]]) -> None:
    labels, scores = arrays(clips)
    assert figures.roc_auc(labels, scores)[0] == pytest.approx(roc_auc_score(labels, scores))
    assert figures.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert figures.brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))
    (rejected, false), (missed, found) = confusion_matrix(labels, scores >= 0.5)
    assert figures.confusion(labels, scores, 0.5) == figures.Confusion(found, missed, false, rejected)


@given(CLIPS)
def test_the_interval_of_the_auc_is_delong_s_by_his_own_sums(clips: list[tuple[bool, float]]) -> None:
    labels, scores = arrays(clips)
    area, interval = figures.roc_auc(labels, scores)
    called, others = scores[labels], scores[~labels]
    wins = (called[:, None] > others) + 0.5 * (called[:, None] == others)
    if interval is None:
        assert area in (0, 1) or min(wins.shape) < 2
        return
    variance = wins.mean(1).var(ddof=1) / len(called) + wins.mean(0).var(ddof=1) / len(others)
    logits = [np.log(p / (1 - p)) for p in (interval.low, area, interval.high)]
    assert logits[1] - logits[0] == pytest.approx(logits[2] - logits[1], abs=1e-6)
    assert logits[1] - logits[0] == pytest.approx(1.959964 * np.sqrt(variance) / (area * (1 - area)), abs=1e-5)


def test_the_interval_of_the_auc_holds_the_true_one_19_times_of_20() -> None:
    """Of independent clips from two normal distributions whose area is known: 0.76."""
    random, held = np.random.default_rng(0), 0
    for _ in range(1000):
        scores = np.concatenate([random.normal(1, 1, 60), random.normal(0, 1, 40)])
        _, interval = figures.roc_auc(np.arange(100) < 60, scores)
        held += interval is not None and interval.low <= 0.7602 <= interval.high
    assert 930 <= held <= 970


def test_the_calibration_error_is_the_distance_of_scores_from_the_share_of_calls() -> None:
    labels = np.array([True, True, True, False, True, False, False, False])
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1])  # says 0.9 where 0.75 is so, 0.1 where 0.25 is
    assert figures.calibration_error(labels, scores) == pytest.approx(0.15)
    assert figures.calibration_error(np.array([True, False]), np.array([1.0, 0.0])) == 0


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0, 3.689), (1, 0.0253, 5.572), (3, 0.619, 8.767), (18, 10.668, 28.448), (100, 81.36, 121.63)],
)
def test_poisson_s_interval_is_garwood_s(count: int, low: float, high: float) -> None:
    interval = figures.poisson_interval(count)
    assert interval.low == pytest.approx(low, abs=0.005) and interval.high == pytest.approx(high, abs=0.005)


@given(st.integers(0, 20_000))
def test_poisson_s_bounds_are_those_of_chi_square(count: int) -> None:
    interval = figures.poisson_interval(count)
    assert interval.low == pytest.approx(chi2.ppf(0.025, 2 * count) / 2 if count else 0, rel=1e-6)
    assert interval.high == pytest.approx(chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-6)
    assert figures.poisson_upper(count) == pytest.approx(chi2.ppf(0.95, 2 * count + 2) / 2, rel=1e-6)


@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_the_interval_of_a_share_is_wilson_s(pair: tuple[int, int]) -> None:
    expected = binomtest(*pair).proportion_ci(method="wilson")
    interval = figures.share_interval(*pair)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
