"""What moves the weights: losses, optimizers, schedules, and the layers with a learning rate of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from export.config import TrainConfig
from export.network import WhaleNet
from pam_daemon.errors import ConfigError

# Logits and targets 0..1, both (batch, labels), to the mean over both.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "BCE": functional.binary_cross_entropy_with_logits,
    # Lin et al. 2017, arXiv:1708.02002; no weight of the classes, which would move every score.
    "Focal": partial(sigmoid_focal_loss, alpha=-1, gamma=2, reduction="mean"),
}

# As H2O's trainers set them up, where torch's own defaults leave something open.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adadelta": torch.optim.Adadelta,
    "Adam": partial(torch.optim.Adam, fused=True),
    "AdamW": partial(torch.optim.AdamW, fused=True),
    "RAdam": torch.optim.RAdam,
    "RMSprop": partial(torch.optim.RMSprop, alpha=0.9, momentum=0.9),
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
}

# Share of the learning rate where this share of the updates after the warm-up is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "Constant": lambda done: 1.0,
    "Cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "Linear": lambda done: 1.0 - done,
}


def loss(logits: Tensor, targets: Tensor, config: TrainConfig) -> Tensor:
    """The configured loss, in float32, with smoothed targets."""
    smoothing = config.training.label_smoothing
    return LOSSES[config.training.loss_function](logits.float(), targets * (1 - smoothing) + smoothing / 2)


def make_optimizer(network: WhaleNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Raises: ConfigError: a layer with a learning rate of its own that the network does not have."""
    training = config.training
    make = OPTIMIZERS[training.optimizer]
    return make(_groups(network.backbone, config), lr=training.learning_rate, weight_decay=training.weight_decay)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, updates: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """updates: of the weights, in one epoch."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rate(update, updates, config))


def rate(update: int, updates: int, config: TrainConfig) -> float:
    """Share of the learning rate at an update: a linear rise over the warm-up, then the schedule."""
    training = config.training
    warmup = training.warmup_epochs * updates
    if update < warmup:
        return (update + 1) / (warmup + 1)
    done = (update - warmup) / max(1.0, training.epochs * updates - warmup)
    return SCHEDULES[training.schedule](min(1.0, done))


def _groups(backbone: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """All parameters; those of the layers with a learning rate of their own in a second group."""
    named = dict(backbone.named_parameters())
    head = f"{_head(backbone)}."
    own: set[str] = set()
    for layer in config.training.differential_learning_rate_layers:
        chosen = {name for name in named if _belongs(name, layer, head)}
        if not chosen:
            children = ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))
            raise ConfigError(
                f"training.differential_learning_rate_layers: no layer {layer}; there are: backbone, head, {children}"
            )
        own |= chosen
    parts = (
        ([named[name] for name in named if name not in own], config.training.learning_rate),
        ([named[name] for name in named if name in own], config.training.differential_learning_rate),
    )
    return [{"params": parameters, "lr": lr} for parameters, lr in parts if parameters]


def _belongs(name: str, layer: str, head: str) -> bool:
    """Whether a parameter is of a layer: `head`, `backbone` (all the rest), or a module such as layer4 or layer4.1."""
    if layer.casefold() == "head":
        return name.startswith(head)
    if layer.casefold() == "backbone":
        return not name.startswith(head)
    return name.startswith(f"{layer}.")


def _head(backbone: nn.Module) -> str:
    """The name of the classifier in a timm network."""
    classifier = backbone.get_classifier()  # type: ignore[operator]
    return next((str(name) for name, module in backbone.named_modules() if module is classifier), "head")
