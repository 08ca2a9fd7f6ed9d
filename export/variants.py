"""The float32 graph, and from it the other precisions, each judged beside it: `ship` gives them cards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from export import augment, evaluate, onnx
from export.config import TrainConfig
from export.dataset import Clips, Split
from export.network import Scorer, WhaleNet
from export.store import Audio
from pam_daemon.card import GOLDEN_TOLERANCE
from pam_daemon.errors import ModelError

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_CALIBRATION_WINDOWS = 512


@dataclass(frozen=True)
class Trained:
    """A network whose training has ended, on the CPU."""

    network: WhaleNet
    split: Split
    config: TrainConfig
    seed: int
    epoch: int  # that the weights are of


@dataclass(frozen=True)
class Basis:
    """The float32 graph, which onnxruntime runs as torch does, and what the others are judged by."""

    trained: Trained
    graph: Path  # without a card, in a temporary folder
    temperature: float
    moved: Clips  # select clips with the calls anywhere
    roc_auc: float  # of the select clips as they are


@dataclass(frozen=True)
class Variant:
    """One precision: a graph without a card, beside the basis's."""

    precision: Precision
    graph: Path
    roc_auc: float  # of the select clips
    loss: float  # of ROC AUC against float32
    note: str  # for the card; empty for float32
    refused: str  # why it should not be used; empty where it may be


@contextmanager
def basis(trained: Trained, near: Path) -> Iterator[Basis]:
    """Export the network to a temporary folder in `near`, where a rename to its place costs nothing.

    Raises:
        ModelError: onnxruntime does not give torch's scores.
    """
    config, select = trained.config, trained.split.select
    moved = evaluate.shifted(select, config, trained.seed)
    temperature = 1.0
    if config.prediction.temperature_scaling:
        logits = evaluate.logits_of(trained.network, moved.audio, config, torch.device("cpu"))
        temperature = evaluate.temperature(moved.labels, logits)
    with tempfile.TemporaryDirectory(dir=near, prefix=".export-") as folder:
        graph = Path(folder) / "float32.onnx"
        scorer = Scorer(trained.network, temperature)
        try:
            onnx.export_float(scorer, config.window_samples, graph)
        except Exception as error:  # the exporter's, which depend on the network
            raise ModelError(
                f"architecture.backbone: torch cannot export {config.architecture.backbone} ({_first_line(error)}); "
                "use another"
            ) from error
        _prove(scorer, graph, moved)
        roc_auc = evaluate.roc_auc(select.labels, onnx.score(graph, select.audio))
        yield Basis(trained, graph, temperature, moved, roc_auc)


def make(base: Basis, precision: Precision) -> Variant:
    """The graph in this precision, with what it costs."""
    if precision == "float32":
        return Variant(precision, base.graph, base.roc_auc, 0.0, "", "")
    graph = base.graph.with_name(f"{precision}.onnx")
    prediction, select = base.trained.config.prediction, base.trained.split.select
    if precision == "float16":
        onnx.halve(base.graph, graph)
        what, remedy = "in float32: log-mel and the scores from the logits", ""
    else:
        limits = onnx.Limits(
            prediction.quantization_largest_loss, round(prediction.quantization_largest_megabytes * 1e6)
        )
        made = onnx.quantize(
            base.graph,
            graph,
            _calibration(base.trained),
            lambda path: evaluate.roc_auc(select.labels, onnx.score(path, select.audio)),
            limits,
        )
        kept = ", ".join(made.left_in_float) or "none"
        what = f"in float: log-mel, head and these convolutions: {kept}"
        remedy = "" if made.enough else " with every layer in float that the size allows"
    roc_auc = evaluate.roc_auc(select.labels, onnx.score(graph, select.audio))
    loss = base.roc_auc - roc_auc
    note = f"{precision} loses {loss:.4f} select ROC AUC; {what}"
    largest, size_mb = prediction.quantization_largest_loss, graph.stat().st_size / 1e6
    refused = ""
    if not loss < largest:  # nor where it is not a number
        refused = f"{precision} loses {loss:.4f} ROC AUC{remedy}, {largest:g} is allowed"
    elif precision == "int8" and size_mb > prediction.quantization_largest_megabytes:
        refused = f"int8 takes {size_mb:.1f} MB, {prediction.quantization_largest_megabytes:g} are allowed"
    return Variant(precision, graph, roc_auc, loss, note, refused)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _prove(scorer: Scorer, graph: Path, moved: Clips) -> None:
    audio = moved.audio[:64]
    with torch.inference_mode():
        expected = scorer(torch.from_numpy(audio)).numpy()
    error = float(np.abs(onnx.score(graph, audio) - expected).max())
    if not error <= GOLDEN_TOLERANCE["float32"]:
        raise ModelError(f"onnxruntime's scores are {error:.2g} from torch's; use another backbone")


def _calibration(trained: Trained) -> Audio:
    """Train windows as the network met them, (windows, samples): activations take their ranges from these."""
    train = trained.split.train
    random = np.random.default_rng([trained.seed, 5])
    index = random.choice(len(train), min(_CALIBRATION_WINDOWS, len(train)), replace=False)
    audio, _ = augment.Augmenter(train, trained.config).draw(index, random)
    return audio
