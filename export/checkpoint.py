"""The run directory: checkpoints that a stopped run is carried on from, and files that are whole or not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from export.job import Job, State
from export.settings import load, trains_alike
from pam_daemon.errors import ConfigError

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.yaml"
SPLIT = "split.csv"
_KEYS = ("seed", "command", "data", "history", "network", "average", "optimizer", "schedule", "best")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block has succeeded and removed when it has not.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path}: cannot be written ({reason}); make room, or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def look(out: Path, text: str, resume: bool) -> dict[str, Any] | None:
    """Read the checkpoint of a run directory, or see that a new run may begin there. Writes nothing.

    Returns:
        The checkpoint to carry on from, or None for a new run (also where a run stopped before its first).

    Raises:
        ConfigError: a directory in use without `resume`, another configuration, or an unreadable checkpoint.
    """
    started = (out / CONFIG).exists()
    if started and not resume:
        raise ConfigError(f"{out}: holds a run already; carry it on with --resume or give another --out")
    if resume and not started:
        raise ConfigError(f"{out}: no run to carry on here; leave --resume away or give its directory with --out")
    if not started:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out}: not an empty directory; give another --out")
        return None
    if not trains_alike(load(out / CONFIG)[1], text):
        raise ConfigError(f"{out}: began with another configuration; give the same one, or another --out")
    return read(out / CHECKPOINT) if (out / CHECKPOINT).exists() else None


def begin(out: Path, text: str) -> None:
    """Make the run directory, with the configuration that is used.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    with replacing(out / CONFIG) as temporary:
        temporary.write_text(text, "utf-8")


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises:
        ConfigError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint; name the directory of a run that has ended an epoch")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{path}: damaged, or no checkpoint; name the directory of a run, or train it anew"
        ) from error
    if not isinstance(saved, dict) or not saved.keys() >= set(_KEYS):
        raise ConfigError(f"{path}: not a checkpoint of pamd train; give the directory of a run")
    return saved


def save(job: Job, state: State, seed: int) -> None:
    """Write everything that the next epoch depends on.

    Random numbers are not in it: every epoch derives its own from the seed and its number.
    """
    saved = {
        "seed": seed,
        "text": job.text,
        "command": job.command,
        "data": [str(folder.resolve()) for folder in job.data],
        "history": state.history,
        "network": state.network.state_dict(),
        "average": state.average.module.state_dict() if state.average else None,
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "scaler": state.scaler.state_dict(),
        "best": state.best,
    }
    with replacing(job.out / CHECKPOINT) as temporary:
        try:
            torch.save(saved, temporary)
        except RuntimeError as error:  # torch's writer says so of a full disk
            raise OSError(str(error).splitlines()[0]) from error


def restore(state: State, saved: dict[str, Any]) -> None:
    """Bring a fresh state to where the checkpoint was written."""
    state.network.load_state_dict(saved["network"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.schedule.load_state_dict(saved["schedule"])
    if saved.get("scaler"):  # empty where it had nothing to scale
        state.scaler.load_state_dict(saved["scaler"])
    state.history = list(saved["history"])
    state.best = saved["best"]
    if state.average:
        state.average.module.load_state_dict(saved["average"])
