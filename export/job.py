"""A training run: what was asked for, and what changes while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from export.config import TrainConfig
from export.network import WhaleNet

History = list[dict[str, float]]


@dataclass(frozen=True)
class Job:
    """What `pamd train` was asked for."""

    config: TrainConfig
    text: str  # the configuration's YAML, as used
    data: Sequence[Path]  # folders; none: the configuration names the tables
    out: Path
    weights: str | None
    resume: bool
    ledger: Path | None  # of models scored on report clips; None: do not score
    command: str


@dataclass
class State:
    """What changes during training, and what a checkpoint holds."""

    network: WhaleNet
    average: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: GradScaler
    history: History
    best: dict[str, Tensor] | None = None  # weights of the best epoch, where that is what is wanted

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.history)

    @property
    def evaluated(self) -> WhaleNet:
        """The network that is judged and shipped: the averaged one where there is one."""
        network: WhaleNet = self.average.module if self.average else self.network
        return network
