"""The finished model on clips that have chosen nothing: scores of all, figures where there are labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from clips import read_rows

from export import onnx as export_onnx
from export.dataset import Clips
from export.held_out import score
from pam_daemon.card import read_card


def clips(model: Path, labels: list[float]) -> Clips:
    """Noise as long as the model's window, each louder than the one before."""
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    window = read_card(metadata, str(model)).window_samples
    level = np.linspace(0.01, 0.05, len(labels))[:, None]
    audio = (level * np.random.default_rng(1).normal(0, 1, (len(labels), window))).astype(np.float32)
    names = [f"{i}.wav" for i in range(len(labels))]
    return Clips(names, audio, np.array(labels, np.float32)[:, None], names)


def placed(toy: Path, folder: Path) -> Path:
    model = folder / "model.onnx"
    model.write_bytes(toy.read_bytes())
    return model


def test_labelled_clips_get_figures_at_the_models_threshold(toy: Path, tmp_path: Path) -> None:
    model = placed(toy, tmp_path)
    test = clips(model, [0, 0, 0, 1, 0, 1, 1, 1])
    figures = score(model, test)
    (label,) = figures
    assert figures[label]["positive"] == figures[label]["negative"] == 4
    assert figures[label]["roc_auc"] == 0.9375  # of 16 pairs one is in the wrong order
    scores = export_onnx.score(model, test.audio)[:, 0]
    written = json.loads((tmp_path / "test.json").read_text())
    assert written["labels"] == figures
    found = scores >= written["threshold"]
    assert figures[label]["true_positives"] == int((found & (test.labels[:, 0] == 1)).sum())
    assert figures[label]["false_positives"] == int((found & (test.labels[:, 0] == 0)).sum())
    rows = read_rows(tmp_path / "test.csv")
    assert [row["clip"] for row in rows] == test.names
    np.testing.assert_allclose([float(row[label]) for row in rows], scores, atol=1e-6)


def test_clips_without_labels_are_scored_alone(toy: Path, tmp_path: Path) -> None:
    model = placed(toy, tmp_path)
    assert score(model, clips(model, [float("nan")] * 3)) == {}
    assert len(read_rows(tmp_path / "test.csv")) == 3
    assert not (tmp_path / "test.json").exists()


def test_one_value_of_a_label_has_no_curve(toy: Path, tmp_path: Path) -> None:
    model = placed(toy, tmp_path)
    (figures,) = score(model, clips(model, [1, 1])).values()
    assert figures["roc_auc"] is None and figures["positive"] == 2
