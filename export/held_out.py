"""The finished model on the clips of `dataset.test_dataframe` or `data_folder_test`, which have chosen nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from export import onnx
from export.checkpoint import replacing
from export.dataset import Clips
from export.ship import card_of

Figures = dict[str, float | int | None]


def score(model: Path, clips: Clips) -> dict[str, Figures]:
    """Write RUN/test.csv, every clip with its scores, and where clips have labels RUN/test.json with the figures.

    Returns:
        For each label the figures, at the model's own threshold; None where one value of a label is missing.
    """
    card = card_of(model)
    scores = onnx.score(model, clips.audio)
    rows = [
        {"clip": name, **{label: f"{value:.6f}" for label, value in zip(card.labels, values, strict=True)}}
        for name, values in zip(clips.names, scores.tolist(), strict=True)
    ]
    with replacing(model.with_name("test.csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if np.isnan(clips.labels).any():
        return {}
    figures = {
        label: _figures(clips.labels[:, i] == 1, scores[:, i].astype(float), card.threshold)
        for i, label in enumerate(card.labels)
    }
    with replacing(model.with_name("test.json")) as part:
        part.write_text(json.dumps({"threshold": card.threshold, "labels": figures}, indent=2) + "\n", "utf-8")
    return figures


def _figures(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], threshold: float) -> Figures:
    both = positive.any() and not positive.all()
    found = scores >= threshold
    return {
        "positive": int(positive.sum()),
        "negative": int((~positive).sum()),
        "roc_auc": round(float(roc_auc_score(positive, scores)), 5) if both else None,
        "average_precision": round(float(average_precision_score(positive, scores)), 5) if both else None,
        "true_positives": int((found & positive).sum()),
        "false_positives": int((found & ~positive).sum()),
    }
