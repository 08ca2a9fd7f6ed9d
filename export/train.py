"""The training loop, read from top to bottom: clips, network, epochs, checkpoints; then `ship` makes the model file."""

from __future__ import annotations

import csv
import math
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from export import augment, checkpoint, dataset, evaluate, held_out, ship
from export.config import TrainConfig
from export.dataset import Clips, Split
from export.features import empty_bins_warning
from export.job import History, Job, State
from export.network import WhaleNet, find_weights
from export.store import Audio
from pam_daemon.errors import ConfigError

_SEEDS = 2**31
_LINE_EVERY_S = 60.0


def train(job: Job, console: Console) -> Path:
    """Train as asked, and write RUN/model.onnx.

    A run may be stopped at any time and carried on with `resume`: each epoch's random numbers follow from the seed
    and the epoch's number alone, so the result is the same.

    Raises:
        PamdError: anything in the configuration, the data or the run directory that the user can cure.
    """
    config = job.config
    saved = checkpoint.look(job.out, job.text, job.resume)
    seed = _seed(config, saved)
    device = _device(config, console)
    warning = empty_bins_warning(config)
    if warning:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    weights = find_weights(config, job.weights)
    split = _load(job, seed, console)
    checkpoint.begin(job.out, job.text)
    dataset.record(split, job.out / "split.csv")
    torch.manual_seed(seed)
    state = _start(config, weights, len(split.train), device)
    if saved:
        checkpoint.restore(state, saved)
    console.print(f"seed {seed}; {len(split.train)} train, {len(split.select)} validation clips; {device}")
    with _progress(console) as progress:
        steps = _steps(config, len(split.train))
        task = progress.add_task("", total=config.training.epochs * steps, completed=state.epoch * steps)
        step = _Step(progress, task, console)
        while state.epoch < config.training.epochs:
            row = _epoch(state, split, config, seed, device, step)
            state.history.append(row)
            _keep_best(state, config)
            checkpoint.save(job.out, state, seed, job.text)
            _write_history(job.out / "history.csv", state.history)
            console.print(_line(row), highlight=False, soft_wrap=True)
    network = state.evaluated
    if state.best is not None:
        network.load_state_dict(state.best)
    epoch = _best_epoch(state, config) if state.best is not None else state.epoch
    path = ship.finish(ship.Trained(network.cpu().eval(), split, config, seed, epoch), job, console)
    if split.test:
        for label, figures in held_out.score(path, split.test).items():
            console.print(f"test, {label}: {', '.join(f'{k} {v}' for k, v in figures.items())}", highlight=False)
    return path


class _Step:
    """Shows each batch: on a terminal as a bar with loss and remaining time, otherwise as a line a minute."""

    def __init__(self, progress: Progress, task: TaskID, console: Console) -> None:
        self._progress, self._task, self._console = progress, task, console
        self._spoken_s = time.monotonic()

    def __call__(self, text: str) -> None:
        self._progress.update(self._task, advance=1, description=text)
        if self._console.is_terminal or time.monotonic() - self._spoken_s < _LINE_EVERY_S:
            return
        self._spoken_s = time.monotonic()
        task = self._progress.tasks[self._task]
        left = "" if task.time_remaining is None else f", {task.time_remaining / 60:.0f} min left"
        self._console.print(f"{text}, batch {task.completed:.0f}/{task.total:.0f}{left}", highlight=False)


def _epoch(
    state: State, split: Split, config: TrainConfig, seed: int, device: torch.device, step: Callable[[str], None]
) -> dict[str, float]:
    """One pass over the train clips and, when due, the figures on the validation clips."""
    epoch = state.epoch
    random = np.random.default_rng([seed, 2, epoch])
    torch.manual_seed(int(np.random.default_rng([seed, 3, epoch]).integers(_SEEDS)))  # dropout
    started = time.monotonic()
    loss = _train_epoch(state, split.train, config, random, device, step)
    row = {
        "epoch": float(epoch + 1),
        "train_loss": loss,
        "clips_per_s": len(split.train) / (time.monotonic() - started),
    }
    if (epoch + 1) % config.training.evaluation_epochs == 0 or epoch + 1 == config.training.epochs:
        row |= evaluate.figures(state.evaluated, split.select, config, seed, device)
    return row


def _train_epoch(
    state: State,
    clips: Clips,
    config: TrainConfig,
    random: np.random.Generator,
    device: torch.device,
    step: Callable[[str], None],
) -> float:
    """Returns: the mean training loss."""
    training = config.training
    augmenter = augment.Augmenter(clips, config)
    state.network.train()
    losses: list[float] = []
    batches = list(_batches(len(clips), config, random))
    for number, index in enumerate(batches, 1):
        audio, targets = augmenter.draw(index, random)
        loss = _loss(state.network, audio, targets, config, random, device)
        (loss / training.grad_accumulation).backward()  # type: ignore[no-untyped-call]
        if number % training.grad_accumulation == 0 or number == len(batches):
            _update(state, config)
        losses.append(loss.item())
        step(f"epoch {state.epoch + 1}/{training.epochs} loss {np.mean(losses[-50:]):.4f}")
    return float(np.mean(losses))


def _loss(
    network: WhaleNet,
    audio: Audio,
    targets: Audio,
    config: TrainConfig,
    random: np.random.Generator,
    device: torch.device,
) -> Tensor:
    with torch.no_grad():  # features always in float32: half precision would not resolve the DFT
        log_mel = augment.mask(network.features(torch.from_numpy(audio).to(device)), config, random)
    half = device.type == "cuda" and config.environment.mixed_precision_training
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        logits = network.classify(log_mel.contiguous(memory_format=torch.channels_last))
    smoothing = config.training.label_smoothing
    smooth = torch.from_numpy(targets).to(device) * (1 - smoothing) + smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), smooth)


def _update(state: State, config: TrainConfig) -> None:
    if config.training.gradient_clip:
        nn.utils.clip_grad_norm_(state.network.parameters(), config.training.gradient_clip)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    if state.average:
        state.average.update(state.network, step=state.schedule.last_epoch)  # of its own count it keeps none


def _batches(count: int, config: TrainConfig, random: np.random.Generator) -> Iterator[npt.NDArray[np.intp]]:
    order = random.permutation(count)
    size = config.training.batch_size
    for first in range(0, count, size):
        batch = order[first : first + size]
        # A last batch of one clip has no statistics to normalise by, so it goes even where batches are kept.
        if len(batch) == size or (not config.training.drop_last_batch and len(batch) > 1):
            yield batch


def _start(config: TrainConfig, weights: Path | None, clips: int, device: torch.device) -> State:
    training = config.training
    network = WhaleNet(config, weights).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        _groups(network, config), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    updates = math.ceil(_steps(config, clips) / training.grad_accumulation)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, updates, config))
    decay = training.weight_average_decay
    average = ModelEmaV3(network, decay=decay, use_warmup=True) if decay else None
    return State(network, average, optimizer, schedule, [])


def _groups(network: WhaleNet, config: TrainConfig) -> list[dict[str, Any]]:
    """All parameters; those of the layers with a learning rate of their own in a second group."""
    layers = tuple(config.training.differential_learning_rate_layers)
    own = {name for name, _ in network.backbone.named_parameters() if layers and name.startswith(layers)}
    if layers and not own:
        raise ConfigError(
            f"training.differential_learning_rate_layers: no layer begins with {', '.join(layers)}; "
            f"there are: {', '.join(name for name, _ in network.backbone.named_children())}"
        )
    rest = [p for name, p in network.backbone.named_parameters() if name not in own]
    groups: list[dict[str, Any]] = [{"params": rest}] if rest else []
    if own:
        chosen = [p for name, p in network.backbone.named_parameters() if name in own]
        groups.append({"params": chosen, "lr": config.training.differential_learning_rate})
    return groups


def _steps(config: TrainConfig, clips: int) -> int:
    """Batches in one epoch."""
    size = config.training.batch_size
    full, rest = divmod(clips, size)
    return full + (rest > 1 and not config.training.drop_last_batch)


def _rate(step: int, updates: int, config: TrainConfig) -> float:
    """Share of the learning rate at an update: a linear rise, then half a cosine to 0 (or constant)."""
    warmup = config.training.warmup_epochs * updates
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.training.schedule == "Constant":
        return 1.0
    done = (step - warmup) / max(1.0, config.training.epochs * updates - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _seed(config: TrainConfig, saved: dict[str, Any] | None) -> int:
    if saved:
        return int(saved["seed"])
    return secrets.randbelow(_SEEDS) if config.environment.seed == -1 else config.environment.seed


def _device(config: TrainConfig, console: Console) -> torch.device:
    environment = config.environment
    if environment.gpus and torch.cuda.is_available():
        number = environment.gpus[0]
        if not number.isdigit() or int(number) >= torch.cuda.device_count():
            raise ConfigError(
                f"environment.gpus: there is no GPU {number}; name one of 0 to {torch.cuda.device_count() - 1}"
            )
        return torch.device(f"cuda:{number}")
    unused = ["gpus"] if environment.gpus else []
    unused += [k for k in ("mixed_precision_training", "mixed_precision_inference") if getattr(environment, k)]
    for key in unused:
        console.print(
            f"warning: environment.{key} has no effect: training runs on the CPU", highlight=False, soft_wrap=True
        )
    return torch.device("cpu")


def _load(job: Job, seed: int, console: Console) -> Split:
    with _progress(console) as progress:
        task = progress.add_task("reading clips")
        split = dataset.load(
            job.data, job.config, seed, lambda n, total: progress.update(task, completed=n, total=total)
        )
    for line in split.summary:
        console.print(line, highlight=False, soft_wrap=True)
    for note in split.notes:
        console.print(f"warning: {note}", highlight=False, soft_wrap=True)
    return split


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _best_epoch(state: State, config: TrainConfig) -> int:
    """The number, from 1, of the epoch with the highest validation ROC AUC; of equals the first."""
    key = "select_shifted_roc_auc" if config.augmentation.time_shift_seconds else "select_roc_auc"
    return 1 + int(np.argmax([row.get(key, -math.inf) for row in state.history]))


def _keep_best(state: State, config: TrainConfig) -> None:
    """Remember the weights if this epoch is the best so far, where that is asked for."""
    if config.training.save_best_checkpoint and _best_epoch(state, config) == state.epoch:
        state.best = {name: value.detach().cpu().clone() for name, value in state.evaluated.state_dict().items()}


def _write_history(path: Path, history: History) -> None:
    columns = list(dict.fromkeys(key for row in history for key in row))
    with checkpoint.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" if key == "epoch" else f"{key} {value:.4f}" for key, value in row.items())
