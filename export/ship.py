"""From a trained network to model files with their cards: temperature, graph, precision, threshold, golden windows.

Everything is chosen by the select clips. The report clips are scored last, by the finished model, when a ledger is
given that counts how many models ever were.
"""

from __future__ import annotations

import csv
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx as onnx_library
from rich.console import Console

from export import evaluate, onnx, variants
from export.checkpoint import replacing
from export.config import TrainConfig
from export.dataset import Clips, Split
from export.features import empty_bins_warning
from export.job import Job
from export.store import Audio
from export.table import read_table
from export.variants import Trained
from pam_daemon import card as cards
from pam_daemon.errors import ConfigError, ModelError

MODEL = "model.onnx"
FLOAT_MODEL = "model.float32.onnx"
_GOLDEN_RANGE = (0.05, 0.95)
_GOLDEN_POOL = 256  # windows that are enough to choose from
_LEDGER = ["created_utc", "name", "weights_sha256", "seed", "epochs"]


def finish(trained: Trained, job: Job, console: Console) -> Path:
    """Write RUN/model.float32.onnx and RUN/model.onnx, each with its card, each whole or not at all.

    Raises:
        ModelError: onnxruntime does not give torch's scores, or the precision costs more than the configuration allows.
    """
    path, wanted = job.out / MODEL, trained.config.prediction.precision
    with variants.basis(trained, job.out) as base:
        variant = variants.make(base, wanted)
        if variant.note:
            console.print(variant.note, soft_wrap=True)
        if variant.refused:
            raise ModelError(
                f"{path}: {variant.refused}; raise prediction.quantization_largest_loss or _megabytes, "
                "or set precision: float32"
            )
        count = _count(trained, job.ledger)
        complete(variants.make(base, "float32"), job.out / FLOAT_MODEL, base, count, job)
        card = complete(variant, path, base, count, job)
    for name, value in card.training.metrics.items():
        console.print(f"{name} {value:.4f}", soft_wrap=True)
    console.print(f"threshold {card.threshold}")
    return path


def complete(
    variant: variants.Variant, path: Path, base: variants.Basis, scored_on_report: int, job: Job
) -> cards.Card:
    """Score a variant's graph, write it with its card to `path`, and read it back as pamd will.

    Args:
        scored_on_report: how many models were ever scored on the report clips.

    Raises:
        ModelError: too few windows, or the written file does not give its golden scores.
    """
    trained, moved, source = base.trained, base.moved, variant.graph
    config = trained.config
    scores = onnx.score(source, moved.audio)
    threshold = evaluate.threshold(moved.labels, scores, config)
    notes = [*_notes(trained), *([variant.note] if variant.note else [])]
    golden = _golden(source, _pool(trained.split, moved), threshold, variant.precision, notes)
    card = cards.Card(
        schema="pamd-card/1",
        name=config.experiment_name,
        created_utc=_now(),
        sample_rate_hz=config.audio.sample_rate,
        window_samples=config.window_samples,
        hop_samples=round(config.prediction.hop_seconds * config.audio.sample_rate),
        labels=config.labels,
        threshold=threshold,
        precision=variant.precision,
        resampler="soxr HQ float32",
        features=_features(config),
        training=_training(trained, moved, scores, source, threshold, job),
        temperature=base.temperature,
        models_scored_on_report=scored_on_report,
        golden=golden,
        operating_points=evaluate.operating_points(
            moved.labels,
            scores,
            threshold,
            "select clips" if moved is trained.split.select else "select clips, each shifted to several places",
            config.audio.training_chunk_seconds,
        ),
        notes=notes,
    )
    with replacing(path) as temporary:
        onnx.write(onnx_library.load(source), card.to_metadata(), temporary)
        _read_back(temporary, card)
    return card


def check_ledger(ledger: Path, split: Split) -> None:
    """What would stand in the way of scoring the report clips, said before the training.

    Raises:
        ConfigError: there are no report clips, or only of one kind; a ledger that cannot be written.
        TableError: a ledger that cannot be read.
    """
    if split.report is None or any(len(np.unique(values)) < 2 for values in split.report.labels.T):
        raise ConfigError("--report-ledger: the split has no report clips with and without a call; leave it away")
    if ledger.exists():
        read_table(ledger, _LEDGER)
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--report-ledger {ledger}: cannot be written ({error.strerror}); give another") from error


def card_of(path: Path) -> cards.Card:
    """The card in a model file.

    Raises:
        ModelError: it has none, or a damaged one.
    """
    try:
        model = onnx_library.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, or the system's
        raise ModelError(f"{path}: no ONNX model; remove it, and `pamd train --resume` makes it again") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return cards.read_card(metadata, str(path))


def _read_back(path: Path, card: cards.Card) -> None:
    windows, expected = card_of(path).golden.unpack(card.window_samples)
    error = float(np.abs(onnx.score(path, windows) - expected).max())
    if not error <= cards.GOLDEN_TOLERANCE["float32"]:
        raise ModelError(f"{path}: the golden scores do not come out of the written file ({error:.2g}); export again")


def _pool(split: Split, moved: Clips) -> Audio:
    """Windows to choose the golden ones from: the shifted select clips, and train clips where those are few."""
    few = len(moved) < _GOLDEN_POOL
    return np.concatenate([moved.audio, split.train.audio[:_GOLDEN_POOL]]) if few else moved.audio


def _golden(path: Path, pool: Audio, threshold: float, precision: variants.Precision, notes: list[str]) -> cards.Golden:
    """Windows whose scores spread over `_GOLDEN_RANGE`, none that another processor takes across the threshold.

    Raises:
        ModelError: there are too few windows.
    """
    if len(pool) < cards.GOLDEN_COUNT:
        raise ModelError(f"{path}: {len(pool)} clips are too few for {cards.GOLDEN_COUNT} golden windows; add clips")
    scores = onnx.score(path, pool)
    margin = 1.5 * cards.GOLDEN_TOLERANCE[precision]
    candidates = np.flatnonzero((np.abs(scores - threshold) > margin).all(1))
    if len(candidates) < cards.GOLDEN_COUNT:  # an untrained network: all its scores lie together
        candidates = np.argsort(-np.abs(scores - threshold).min(1))[: cards.GOLDEN_COUNT]
    chosen: list[int] = []
    for wanted in np.linspace(*_GOLDEN_RANGE, cards.GOLDEN_COUNT):
        order = candidates[np.argsort(np.abs(scores[candidates, 0] - wanted), kind="stable")]
        chosen.append(next(int(i) for i in order if int(i) not in chosen))
    pcm = np.clip(np.rint(pool[chosen] * 32768), -32768, 32767).astype(np.int16)
    golden_scores = onnx.score(path, pcm.astype(np.float32) / np.float32(32768))
    if np.ptp(golden_scores[:, 0]) < 0.6 * (_GOLDEN_RANGE[1] - _GOLDEN_RANGE[0]):
        notes.append("the scores of the golden windows lie close together: the network separates little")
    return cards.Golden.pack(pcm, golden_scores)


def _features(config: TrainConfig) -> cards.Features:
    audio = config.audio
    return cards.Features(
        taper_samples=audio.stft_window_size,
        frame_hop_samples=audio.hop_size,
        fft_samples=config.fft_samples,
        mel_bins=audio.mel_frequency_bins,
        min_hz=audio.minimum_frequency,
        max_hz=audio.maximum_frequency,
        normalization=audio.spectrogram_normalization,
    )


def _training(
    trained: Trained, moved: Clips, scores: Audio, source: Path, threshold: float, job: Job
) -> cards.Training:
    split, config = trained.split, trained.config
    figures = _figures("select", split.select.labels, onnx.score(source, split.select.audio), threshold)
    figures |= _figures("select_shifted", moved.labels, scores, threshold)
    if job.ledger and split.report:
        shifted = evaluate.shifted(split.report, config, trained.seed)
        figures |= _figures("report", split.report.labels, onnx.score(source, split.report.audio), threshold)
        figures |= _figures("report_shifted", shifted.labels, onnx.score(source, shifted.audio), threshold)
    return cards.Training(
        command=job.command,
        configuration=job.text,
        seed=trained.seed,
        epochs=trained.epoch,
        data=f"{split.data}: {len(split.train)} train and {len(split.select)} select clips",
        split=split.description,
        notice=config.dataset.notice,
        prior=round(float(split.train.labels.max(1).mean()), 4),
        metrics=figures,
    )


def _figures(part: str, labels: Audio, scores: Audio, threshold: float) -> dict[str, float]:
    return {
        f"{part}/roc_auc": round(evaluate.roc_auc(labels, scores), 5),
        f"{part}/true_positive_rate": round(float((scores[labels == 1] >= threshold).mean()), 5),
        f"{part}/false_positive_rate": round(float((scores[labels == 0] >= threshold).mean()), 5),
    }


def _notes(trained: Trained) -> list[str]:
    config = trained.config
    overlap = "the select clips were trained on: figures on them promise too much"
    notes = (empty_bins_warning(config), config.dataset.note, config.training.train_validation_data and overlap)
    return [note for note in notes if note]


def _count(trained: Trained, ledger: Path | None) -> int:
    """Enter the model in the ledger, once. Returns: how many models it holds; 0 without one."""
    if ledger is None:
        return 0
    rows = read_table(ledger, _LEDGER) if ledger.exists() else []
    digest = hashlib.sha256()
    for value in trained.network.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    weights = digest.hexdigest()
    if all(row["weights_sha256"] != weights for row in rows):
        entry = (_now(), trained.config.experiment_name, weights, str(trained.seed), str(trained.epoch))
        rows.append(dict(zip(_LEDGER, entry, strict=True)))
        with replacing(ledger) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _LEDGER, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return len(rows)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
