"""The training loop, read from top to bottom: clips, network, epochs, checkpoints; then `ship` makes the model file."""

from __future__ import annotations

import csv
import math
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from export import augment, checkpoint, dataset, device, evaluate, held_out, optimisation, report, ship
from export.batches import Batch, batches, steps
from export.config import TrainConfig
from export.curves import curves
from export.dataset import Clips, Split
from export.features import empty_bins_warning
from export.job import History, Job, State
from export.network import WhaleNet
from export.variants import Trained
from export.weights import find_weights

_SEEDS = 2**31
_LINE_EVERY_S = 60.0


def train(job: Job, console: Console) -> Path | None:
    """Train as asked, and write RUN/model.onnx.

    A run may be stopped at any time and carried on with `resume`: each epoch's random numbers follow from the seed
    and the epoch's number alone, so the result is the same.

    Returns:
        The model file; None where `training.build_scoring_pipelines` is false.

    Raises:
        PamdError: anything in the configuration, the data or the run directory that the user can cure.
    """
    config = job.config
    saved = checkpoint.look(job.out, job.text, job.resume)
    seed = _seed(config, saved)
    place = device.choose(config, console)
    warning = empty_bins_warning(config)
    if warning:
        console.print(f"warning: {warning}", soft_wrap=True)
    weights = None if saved else find_weights(config, job.weights, console)
    split = _load(job, seed, console)
    if job.ledger:
        ship.check_ledger(job.ledger, split)
    torch.manual_seed(seed)
    state = start(config, weights, len(split.train), place)
    if saved:
        checkpoint.restore(state, saved)
    checkpoint.begin(job.out, job.text)
    if not saved:
        checkpoint.save(job, state, seed)  # whatever stops it now, the seed is kept
    dataset.record(split, job.out / checkpoint.SPLIT)
    console.print(f"seed {seed}; {len(split.train)} train, {len(split.select)} validation clips; {place}")
    with _progress(console) as progress, curves(config, job.out, state.history) as draw:
        total = steps(config, len(split.train))
        task = progress.add_task("", total=config.training.epochs * total, completed=state.epoch * total)
        step = _Step(progress, task, console)
        while state.epoch < config.training.epochs:
            row = _epoch(state, split, config, seed, place, step)
            state.history.append(row)
            _keep_best(state, config)
            _write_history(job.out / "history.csv", state.history)
            checkpoint.save(job, state, seed)
            draw(row)
            console.print(_line(row), soft_wrap=True)
    network = state.evaluated
    if state.best is not None:
        network.load_state_dict(state.best)
    epoch = evaluate.best_epoch(state.history, config) if state.best is not None else state.epoch
    trained = Trained(network.cpu().eval(), split, config, seed, epoch)
    path = ship.finish(trained, job, console) if config.training.build_scoring_pipelines else None
    if path and split.test:
        for label, figures in held_out.score(path, split.test).items():
            console.print(f"test, {label}: {', '.join(f'{k} {v}' for k, v in figures.items())}")
    report.attempt(trained, state.history, job, console)
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
        self._console.print(f"{text}, batch {task.completed:.0f}/{task.total:.0f}{left}")


def _epoch(
    state: State, split: Split, config: TrainConfig, seed: int, place: torch.device, step: Callable[[str], None]
) -> dict[str, float]:
    """One pass over the train clips and, when due, the figures on the validation clips."""
    epoch, training = state.epoch, config.training
    torch.manual_seed(int(np.random.default_rng([seed, 3, epoch]).integers(_SEEDS)))  # dropout
    rate = state.schedule.get_last_lr()[0]
    started = time.monotonic()
    loss = train_epoch(state, split.train, config, seed, place, step)
    row = {
        "epoch": float(epoch + 1),
        "learning_rate": float(rate),
        "train_loss": loss,
        "clips_per_s": len(split.train) / (time.monotonic() - started),
    }
    if (epoch + 1) % training.evaluation_epochs == 0 or epoch + 1 == training.epochs:
        row |= evaluate.figures(state.evaluated, split.select, config, seed, place)
        if training.calculate_train_metric:
            row |= evaluate.train_figures(state.evaluated, split.train, config, place)
    return row


def train_epoch(
    state: State, clips: Clips, config: TrainConfig, seed: int, place: torch.device, step: Callable[[str], None]
) -> float:
    """Returns: the mean training loss."""
    training = config.training
    state.network.train()
    losses: list[float] = []
    total = steps(config, len(clips))
    for number, batch in enumerate(batches(clips, config, seed, state.epoch), 1):
        loss = _loss(state.network, batch, config, place)
        state.scaler.scale(loss / training.grad_accumulation).backward()  # type: ignore[no-untyped-call]
        if number % training.grad_accumulation == 0 or number == total:
            _update(state, config)
        losses.append(loss.item())
        step(f"epoch {state.epoch + 1}/{training.epochs} loss {np.mean(losses[-50:]):.4f}")
    return float(np.mean(losses))


def _loss(network: WhaleNet, batch: Batch, config: TrainConfig, place: torch.device) -> Tensor:
    with torch.no_grad():  # features always in float32: half precision would not resolve the DFT
        log_mel = augment.mask(network.features(torch.from_numpy(batch.audio).to(place)), config)
    with device.autocast(place, config.environment.mixed_precision_training):
        logits = network.classify(log_mel.contiguous(memory_format=torch.channels_last))
    return optimisation.loss(logits, torch.from_numpy(batch.targets).to(place), config)


def _update(state: State, config: TrainConfig) -> None:
    if config.training.gradient_clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.network.parameters(), config.training.gradient_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.schedule.step()
    if state.average:
        state.average.update(state.network, step=state.schedule.last_epoch)  # of its own count it keeps none


def start(config: TrainConfig, weights: Path | None, clips: int, place: torch.device) -> State:
    """A network before its first step on this many clips, and all that changes with it."""
    training = config.training
    network = WhaleNet(config, weights).to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimisation.make_optimizer(network, config)
    updates = math.ceil(steps(config, clips) / training.grad_accumulation)
    schedule = optimisation.make_schedule(optimizer, config, updates)
    decay = training.weight_average_decay
    average = ModelEmaV3(network, decay=decay, use_warmup=True) if decay else None
    scaler = device.make_scaler(place, config.environment.mixed_precision_training)
    return State(network, average, optimizer, schedule, scaler, [])


def _seed(config: TrainConfig, saved: dict[str, Any] | None) -> int:
    if saved:
        return int(saved["seed"])
    return secrets.randbelow(_SEEDS) if config.environment.seed == -1 else config.environment.seed


def _load(job: Job, seed: int, console: Console) -> Split:
    with _progress(console) as progress:
        task = progress.add_task("reading clips")
        split = dataset.load(
            job.data, job.config, seed, lambda n, total: progress.update(task, completed=n, total=total)
        )
    for line in split.summary:
        console.print(line, soft_wrap=True)
    for note in split.notes:
        console.print(f"warning: {note}", soft_wrap=True)
    return split


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _keep_best(state: State, config: TrainConfig) -> None:
    """Remember the weights if this epoch is the best so far, where that is asked for."""
    if config.training.save_best_checkpoint and evaluate.best_epoch(state.history, config) == state.epoch:
        state.best = {name: value.detach().cpu().clone() for name, value in state.evaluated.state_dict().items()}


def _write_history(path: Path, history: History) -> None:
    columns = list(dict.fromkeys(key for row in history for key in row))
    with checkpoint.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" if key in _SHORT else f"{key} {value:.4f}" for key, value in row.items())


_SHORT = ("epoch", "learning_rate")
