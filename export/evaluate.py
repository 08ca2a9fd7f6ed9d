"""Figures on validation clips, and what is chosen by them: temperature and threshold."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from export import augment, store
from export.config import TrainConfig
from export.dataset import Clips
from export.device import autocast
from export.metrics import METRICS
from export.network import WhaleNet
from export.optimisation import LOSSES
from export.store import Audio
from pam_daemon.card import OperatingPoint
from pam_daemon.errors import ConfigError

_BATCH = 64
_PLACES = 5  # copies of each clip, with the call at places across the window
_RATES = (0.01, 0.02, 0.05, 0.1)  # false positive rates of the operating points in the card


def logits_of(network: WhaleNet, audio: Audio, config: TrainConfig, device: torch.device) -> Audio:
    """Logits (clips, labels) of waveforms (clips, samples), in evaluation mode."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(audio), _BATCH):
            log_mel = network.features(torch.from_numpy(audio[first : first + _BATCH]).to(device))
            with autocast(device, config.environment.mixed_precision_inference):
                logits = network.classify(log_mel.contiguous(memory_format=torch.channels_last))
            parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)


def scores_of(network: WhaleNet, audio: Audio, config: TrainConfig, device: torch.device) -> Audio:
    """Scores (clips, labels) without a temperature."""
    logits = logits_of(network, audio, config, device)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def figures(network: WhaleNet, clips: Clips, config: TrainConfig, seed: int, device: torch.device) -> dict[str, float]:
    """Loss, ROC AUC and the configured metric, as the clips are and, with time shifts, with calls anywhere.

    Raises:
        ConfigError: the training has diverged.
    """
    logits = logits_of(network, clips.audio, config, device)
    if not np.isfinite(logits).all():
        raise ConfigError(
            "training.learning_rate: the network's scores are not numbers any more; lower it, or set gradient_clip"
        )
    loss = LOSSES[config.training.loss_function](torch.from_numpy(logits), torch.from_numpy(clips.labels))
    row = {"select_loss": loss.item(), "select_roc_auc": roc_auc(clips.labels, logits)}
    row[f"select_{config.prediction.metric.lower()}"] = metric(clips.labels, logits, config)
    if config.augmentation.time_shift_seconds:
        moved = shifted(clips, config, seed, copies=1)
        logits = logits_of(network, moved.audio, config, device)
        row["select_shifted_roc_auc"] = roc_auc(moved.labels, logits)
        row[f"select_shifted_{config.prediction.metric.lower()}"] = metric(moved.labels, logits, config)
    return row


def train_figures(network: WhaleNet, clips: Clips, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """The configured metric on the train clips as they are."""
    logits = logits_of(network, clips.audio, config, device)
    return {f"train_{config.prediction.metric.lower()}": metric(clips.labels, logits, config)}


def metric(labels: Audio, logits: Audio, config: TrainConfig) -> float:
    """`prediction.metric` at `prediction.probability_threshold`; both arguments are (clips, labels)."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return METRICS[config.prediction.metric](labels, scores, config.prediction.probability_threshold)


def best_epoch(history: list[dict[str, float]], config: TrainConfig) -> int:
    """The number, from 1, of the epoch with the best validation metric; of equals the first."""
    key = f"select_{'shifted_' if config.augmentation.time_shift_seconds else ''}{config.prediction.metric.lower()}"
    sign = 1 if METRICS[config.prediction.metric].higher_is_better else -1
    return 1 + int(np.argmax([sign * row[key] if key in row else -np.inf for row in history]))


def roc_auc(labels: Audio, scores: Audio) -> float:
    """Area under the ROC curve, the mean over the labels; both (clips, labels). NaN where a score is no number."""
    return float(roc_auc_score(labels, scores)) if np.isfinite(scores).all() else math.nan


def shifted(clips: Clips, config: TrainConfig, seed: int, copies: int = _PLACES) -> Clips:
    """The clips as a sliding window meets them: each at `copies` random places; as they are without time shifts."""
    limit = config.augmentation.time_shift_seconds * config.audio.sample_rate
    if not limit:
        return clips
    random = np.random.default_rng([seed, 4])
    index = np.tile(np.arange(len(clips)), copies)
    shifts = np.rint(random.uniform(-limit, limit, len(index))).astype(np.intp)
    fillings = augment.quiet(clips, index, random)
    audio = store.empty(len(index), clips.audio.shape[1])
    for rows in store.batches(len(index)):
        audio[rows] = augment.shift(
            clips.audio[index[rows]], clips.audio[fillings[rows]], shifts[rows], config.audio.sample_rate
        )
    return Clips([clips.names[i] for i in index], audio, clips.labels[index], [clips.hashes[i] for i in index])


def temperature(labels: Audio, logits: Audio) -> float:
    """The divisor of the logits with the least cross-entropy (Guo et al. 2017, arXiv:1706.04599), 0.2 to 10."""
    candidates = np.geomspace(0.2, 10, 400)
    losses = [np.mean(np.logaddexp(0, logits / t) - labels * logits / t) for t in candidates]
    return round(float(candidates[int(np.argmin(losses))]), 4)


def threshold(labels: Audio, scores: Audio, config: TrainConfig) -> float:
    """The model's default threshold: the configured one, or that of the configured false positive rate."""
    prediction = config.prediction
    if prediction.threshold_selection == "Fixed":
        return prediction.probability_threshold
    return threshold_at(labels, scores, prediction.threshold_false_positive_rate)


def threshold_at(labels: Audio, scores: Audio, rate: float) -> float:
    """The least threshold, in steps of 0.001, that at most this share of the windows without a call reaches."""
    without = np.sort(scores[labels == 0])
    allowed = int(rate * len(without))  # windows that may reach it
    highest = float(without[-1 - allowed]) if allowed < len(without) else 0.0
    steps = int(highest * 1000) + 1
    if np.float32(steps / 1000) <= highest:  # scores are float32: the threshold is, beside them
        steps += 1
    return min(1.0, steps / 1000)


def operating_points(labels: Audio, scores: Audio, chosen: float, data: str, window_s: float) -> list[OperatingPoint]:
    """What the chosen threshold and those of some false positive rates give; false ones in windows without labels."""
    thresholds = sorted({chosen, *(threshold_at(labels, scores, rate) for rate in _RATES)})
    silent = labels.max(1) == 0
    positive, negative = scores[labels == 1], scores[silent]
    hours = round(int(silent.sum()) * window_s / 3600, 4)
    return [
        OperatingPoint(data, t, int((positive >= t).sum()), len(positive), int((negative >= t).sum()), hours)
        for t in thresholds
    ]
