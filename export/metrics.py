"""The figures that `prediction.metric` chooses from, on scores of labelled clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

Scores = npt.NDArray[np.floating[Any]]
_Figure = Callable[[Scores, Scores, float], float]  # of one label: labels (clips,), scores (clips,), threshold


@dataclass(frozen=True)
class Metric:
    """A figure of one label, and whether more of it is better."""

    of_label: _Figure
    higher_is_better: bool = True

    def __call__(self, labels: Scores, scores: Scores, threshold: float) -> float:
        """The mean over the labels; labels and scores 0..1 are (clips, labels)."""
        return float(np.mean([self.of_label(*column, threshold) for column in zip(labels.T, scores.T, strict=True)]))


def _ranked(figure: Callable[..., Any]) -> _Figure:
    return lambda labels, scores, threshold: float(figure(labels, scores))


def _decided(figure: Callable[..., Any]) -> _Figure:
    return lambda labels, scores, threshold: float(figure(labels, (scores >= threshold).astype(labels.dtype)))


def _f(beta: float) -> _Figure:
    return _decided(partial(sklearn_metrics.fbeta_score, beta=beta, zero_division=0))


METRICS: dict[str, Metric] = {
    "ROC_AUC": Metric(_ranked(sklearn_metrics.roc_auc_score)),
    "AP": Metric(_ranked(sklearn_metrics.average_precision_score)),
    "LogLoss": Metric(_ranked(partial(sklearn_metrics.log_loss, labels=[0, 1])), higher_is_better=False),
    "Accuracy": Metric(_decided(sklearn_metrics.accuracy_score)),
    "Precision": Metric(_decided(partial(sklearn_metrics.precision_score, zero_division=0))),
    "Recall": Metric(_decided(partial(sklearn_metrics.recall_score, zero_division=0))),
    "F1": Metric(_f(1.0)),
    "F05": Metric(_f(0.5)),
    "F2": Metric(_f(2.0)),
    "MCC": Metric(_decided(sklearn_metrics.matthews_corrcoef)),
}
