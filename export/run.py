"""A run directory opened again: its network, its data and what was written, for `pamd report` and `pamd export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from export import checkpoint, dataset, evaluate
from export.config import TrainConfig
from export.job import History, Job
from export.network import WhaleNet
from export.settings import load
from export.variants import Trained
from pam_daemon.errors import ConfigError


def open_run(place: Path, data: Sequence[Path], console: Console) -> tuple[Trained, History, Job]:
    """The run of a directory or of the checkpoint in it, split as it was trained.

    Args:
        data: folders, as for `pamd train`; without any, those that the run was trained on.

    Raises:
        PamdError: no run, one that has not ended its first epoch, or data that is missing or damaged.
    """
    out = place.parent if place.is_file() else place
    saved = checkpoint.read(out / checkpoint.CHECKPOINT if out is place else place)
    history: History = saved["history"]
    if not history:
        raise ConfigError(f"{place}: the run has not ended an epoch; carry it on with `pamd train --resume`")
    config, text, _ = load(out / checkpoint.CONFIG)
    folders = [*data] or [Path(folder) for folder in saved["data"]]
    with console.status("reading clips"):
        split = dataset.load(folders, config, int(saved["seed"]), lambda done, total: None)
    dataset.record(split, out / checkpoint.SPLIT)
    trained = Trained(_network(saved, config, place), split, config, int(saved["seed"]), len(history))
    if saved["best"] is not None:
        trained = Trained(trained.network, split, config, trained.seed, evaluate.best_epoch(history, config))
    job = Job(config, text, folders, out, None, True, None, saved["command"])
    return trained, history, job


def _network(saved: dict[str, Any], config: TrainConfig, place: Path) -> WhaleNet:
    network = WhaleNet(config)
    try:
        network.load_state_dict(saved["best"] or saved["average"] or saved["network"])
    except RuntimeError as error:
        raise ConfigError(
            f"{place}: the checkpoint does not fit its configuration; restore {checkpoint.CONFIG}"
        ) from error
    return network.eval()
