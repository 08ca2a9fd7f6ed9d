"""RUN/report.html: what a run learned, on what, and how far to trust it; one file that needs no other.

Everything is of the validation clips: of the report clips only their number is told.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from sklearn.metrics import average_precision_score

from export import attribution, augment, evaluate, onnx, optimisation, plots, predictions, ship
from export.batches import steps
from export.checkpoint import replacing
from export.config import TrainConfig
from export.dataset import Clips, Split
from export.job import History, Job
from export.store import Audio
from export.variants import Trained
from pam_daemon.card import Card

REPORT = "report.html"
PICTURES = "report"  # the folder of the same pictures as files
_LISTENING_HZ = 8000  # browsers refuse to play the rates that models hear
_LEAST, _MOST = 1e-6, 1 - 1e-6  # of a score, so that its loss is finite
_METRICS = {"select": "as they are", "select_shifted": "calls anywhere", "train": "training clips"}


@dataclass(frozen=True)
class _Scored:
    """The validation clips with the scores of the model file, or of the network where there is no file."""

    clips: Clips
    scores: Audio  # (clips, labels)
    names: list[str]  # of the labels
    threshold: float
    temperature: float  # inside the scores

    @property
    def loss(self) -> npt.NDArray[np.float64]:
        """Cross-entropy of each clip, the mean over the labels."""
        score = np.clip(self.scores.astype(np.float64), _LEAST, _MOST)
        labels = self.clips.labels
        each: npt.NDArray[np.float64] = -(labels * np.log(score) + (1 - labels) * np.log(1 - score)).mean(1)
        return each

    @property
    def untempered(self) -> Audio:
        """The scores that temperature 1 gives."""
        score = np.clip(self.scores.astype(np.float64), _LEAST, _MOST)
        return (1 / (1 + (1 / score - 1) ** self.temperature)).astype(np.float32)


@dataclass(frozen=True)
class _Picture:
    """One picture, for light and dark pages, as data URLs."""

    light: str
    dark: str
    text: str  # in its place


class _Album:
    """Draws pictures, keeps the light ones as files, and gives what the page embeds."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def __call__(self, name: str, text: str, plot: plots.Plot) -> _Picture:
        light = plots.png(plot, plots.LIGHT)
        with replacing(self._folder / f"{name}.png") as temporary:
            temporary.write_bytes(light)
        return _Picture(_url("image/png", light), _url("image/png", plots.png(plot, plots.DARK)), text)


def attempt(trained: Trained, history: History, job: Job, console: Console) -> None:
    """Draw the report of a run that has just ended; what goes wrong is told, for the model is there all the same."""
    try:
        path = draw(trained, history, job)
    except Exception as error:  # noqa: BLE001 - whatever a picture fails by, hours of training are done
        reason = " ".join(str(error).split())
        console.print(
            f"warning: no report ({type(error).__name__}: {reason}); try `pamd report {job.out}`",
            soft_wrap=True,
        )
    else:
        console.print(f"{path}: open it in a browser", soft_wrap=True)


def draw(trained: Trained, history: History, job: Job, *, anew: bool = True) -> Path:
    """Write RUN/report.html, its pictures, and RUN/predictions_validation.csv.

    Args:
        anew: score the clips, even where a table of their scores is there.

    Raises:
        PamdError: a model file or a table of predictions that is damaged.
    """
    model = job.out / ship.MODEL
    card = ship.card_of(model) if model.exists() else None
    scored = _score(trained, job.out, card, anew)
    album = _Album(job.out / PICTURES)
    config = trained.config
    page = _template().render(
        name=config.experiment_name,
        run=job.out.resolve().name,
        trained=trained,
        config=config,
        configuration=job.text,
        card=card,
        golden=card.golden.scores if card else [],
        scored=scored,
        tiles=_tiles(scored),
        curves=_curves(album, history, trained),
        decisions=_decisions(album, scored),
        errors=[plots.reliability(scored.clips.labels, s).error for s in (scored.untempered, scored.scores)],
        confusion=[_confusion(scored, i) for i in range(len(scored.names))],
        parts=_parts(trained.split, config),
        samples=_samples(album, trained),
        best=_examples(album, "best", scored, _best(scored, config.logging.number_of_audios), config),
        worst=_examples(album, "worst", scored, _worst(scored, config.logging.number_of_audios), config),
        looked=_looked(album, trained, scored),
    )
    with replacing(job.out / REPORT) as temporary:
        temporary.write_text(page, "utf-8")
    return job.out / REPORT


def _score(trained: Trained, out: Path, card: Card | None, anew: bool) -> _Scored:
    clips, config, path = trained.split.select, trained.config, out / predictions.FILE
    if card and path.exists() and not anew:
        scores = predictions.read(path, clips, config.labels)
    else:
        scores = (
            onnx.score(out / ship.MODEL, clips.audio)
            if card
            else evaluate.scores_of(trained.network, clips.audio, config, torch.device("cpu"))
        )
        predictions.write(path, clips, config.labels, scores)
    threshold = card.threshold if card else evaluate.threshold(clips.labels, scores, config)
    return _Scored(clips, scores, config.labels, threshold, card.temperature if card else 1.0)


def _tiles(scored: _Scored) -> list[tuple[str, str, str]]:
    """The figures at the head: what, how much, of what."""
    labels, scores = scored.clips.labels, scored.scores
    found = scores >= scored.threshold
    error = plots.reliability(labels, scores).error
    return [
        ("ROC AUC", f"{evaluate.roc_auc(labels, scores):.4f}", "1 ranks every call above every other clip"),
        ("average precision", f"{float(average_precision_score(labels, scores)):.4f}", "area under precision-recall"),
        ("calls found", f"{found[labels == 1].mean():.1%}", f"at the threshold {scored.threshold:g}"),
        ("false alarms", f"{found[labels == 0].mean():.1%}", "of the clips without a call, there"),
        ("calibration error", f"{error:.3f}", "mean distance of score and share of calls"),
    ]


def _curves(album: _Album, history: History, trained: Trained) -> list[_Picture]:
    config = trained.config
    losses = {"train_loss": "training", "select_loss": "validation"}
    metric = config.prediction.metric.lower()
    keys = {f"{part}_{metric}": text for part, text in _METRICS.items() if f"{part}_{metric}" in history[-1]}
    return [
        album("loss", "Training and validation loss by epoch", plots.epochs(history, losses, "loss (nats)")),
        album("metric", f"{metric} by epoch", plots.epochs(history, keys, config.prediction.metric.replace("_", " "))),
        album("learning_rate", "Learning rate by epoch", _learning_rate(trained, len(history))),
    ]


def _learning_rate(trained: Trained, epochs: int) -> plots.Plot:
    """As the schedule had it at each update."""
    training = trained.config.training
    batches = steps(trained.config, len(trained.split.train))
    updates = -(-batches // training.grad_accumulation)
    share = np.array([optimisation.rate(update, updates, trained.config) for update in range(updates * epochs)])
    rates = [training.learning_rate]
    if training.differential_learning_rate_layers:
        rates.append(training.differential_learning_rate)
    return plots.learning_rate(share[:, None] * rates, np.arange(len(share)) / updates)


def _decisions(album: _Album, scored: _Scored) -> dict[str, _Picture]:
    labels, scores, names, threshold = scored.clips.labels, scored.scores, scored.names, scored.threshold
    before, after = (plots.reliability(labels, values) for values in (scored.untempered, scores))
    return {
        "roc": album("roc", "ROC curve", plots.roc(labels, scores, names, threshold)),
        "precision_recall": album(
            "precision_recall", "Precision and recall", plots.precision_recall(labels, scores, names, threshold)
        ),
        "calibration": album(
            "calibration", "Reliability diagram", plots.calibration(before, after, scored.temperature)
        ),
        "scores": album("scores", "Histogram of the scores", plots.score_histogram(labels, scores, threshold)),
    }


def _confusion(scored: _Scored, label: int) -> dict[str, Any]:
    truth, found = scored.clips.labels[:, label] == 1, scored.scores[:, label] >= scored.threshold
    return {
        "name": scored.names[label],
        "found": int((truth & found).sum()),
        "missed": int((truth & ~found).sum()),
        "false": int((~truth & found).sum()),
        "quiet": int((~truth & ~found).sum()),
    }


def _parts(split: Split, config: TrainConfig) -> list[dict[str, Any]]:
    """A row a part of the data; NaN marks clips of a test part that have no labels."""
    named = {
        "training": split.train,
        "validation (select)": split.select,
        "report: not scored here": split.report,
        "test": split.test,
    }
    return [
        {
            "name": name,
            "clips": len(clips),
            "hours": len(clips) * config.audio.training_chunk_seconds / 3600,
            "calls": [int(np.nansum(column)) for column in clips.labels.T],
            "shares": [float(np.nan_to_num(column).mean()) for column in clips.labels.T],
        }
        for name, clips in named.items()
        if clips is not None
    ]


def _samples(album: _Album, trained: Trained) -> _Picture | None:
    """Some training clips as the network met them: moved, mixed, masked."""
    config, train = trained.config, trained.split.train
    count = min(config.logging.number_of_audios, len(train))
    if not count:
        return None
    random = np.random.default_rng([trained.seed, 6])
    index = np.sort(random.choice(len(train), count, replace=False))
    audio, targets = augment.Augmenter(train, config).draw(index, random)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.seed)  # of the masks
        log_mel = augment.mask(trained.network.features(torch.from_numpy(audio)), config)
    titles = [
        f"{_short(train.names[i])}  " + ", ".join(f"{value:.2f}" for value in target)
        for i, target in zip(index, targets, strict=True)
    ]
    return album(
        "training_samples", "Log-mel spectrograms of training clips", plots.grid(log_mel[:, 0].numpy(), titles, config)
    )


def _best(scored: _Scored, count: int) -> list[int]:
    """The clips with the least loss, half of them with a call."""
    order = np.argsort(scored.loss, kind="stable")
    call = scored.clips.labels[order].max(1) == 1
    halves = [*order[call][: count - count // 2], *order[~call][: count // 2]]
    return [int(i) for i in halves]


def _worst(scored: _Scored, count: int) -> list[int]:
    return [int(i) for i in np.argsort(-scored.loss, kind="stable")[:count]]


def _examples(album: _Album, kind: str, scored: _Scored, chosen: Iterable[int], config: TrainConfig) -> list[Any]:
    return [
        {
            "clip": scored.clips.names[i],
            "labels": _said(scored, i),
            "picture": album(
                f"{kind}_{number}",
                f"Spectrogram of {scored.clips.names[i]}",
                plots.spectrogram(scored.clips.audio[i], config),
            ),
            "audio": _url("audio/flac", _flac(scored.clips.audio[i], config.audio.sample_rate)),
        }
        for number, i in enumerate(chosen, 1)
    ]


def _said(scored: _Scored, clip: int) -> list[tuple[str, bool, float]]:
    """Name, truth and score of each label of a clip."""
    labels, scores = scored.clips.labels[clip], scored.scores[clip]
    return [(name, bool(truth), float(s)) for name, truth, s in zip(scored.names, labels, scores, strict=True)]


def _looked(album: _Album, trained: Trained, scored: _Scored) -> _Picture | None:
    """Of the best and the worst clips, half each, and of each clip the label that its score speaks most of."""
    config = trained.config
    count = config.logging.number_of_audios
    if not count or not config.training.run_interpretations:
        return None
    best = [i for i in _best(scored, count) if scored.clips.labels[i].max() == 1]
    chosen = [*best[: count - count // 2], *_worst(scored, count // 2)]
    label = scored.scores[chosen].argmax(1)
    log_mel, towards = attribution.attribute(trained.network, scored.clips.audio[chosen], label)
    titles = [
        f"{'call' if scored.clips.labels[i, k] else 'no call'}, score {scored.scores[i, k]:.2f}"
        for i, k in zip(chosen, label, strict=True)
    ]
    return album(
        "looked_at", "Log-mel spectrograms, and what moved the score", plots.grid(log_mel, titles, config, towards)
    )


def _short(name: str, longest: int = 18) -> str:
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def _flac(audio: Audio, rate_hz: int) -> bytes:
    """A clip to be heard in a browser, brought to half of full scale."""
    listening_hz = max(rate_hz, _LISTENING_HZ)
    sound = soxr.resample(audio, rate_hz, listening_hz, quality="HQ")
    out = io.BytesIO()
    soundfile.write(out, 0.5 * sound / max(float(np.abs(sound).max()), 1e-9), listening_hz, format="FLAC")
    return out.getvalue()


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("export"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")
