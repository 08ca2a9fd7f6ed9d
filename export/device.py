"""Where the network is trained, and in what precision it computes there."""

from __future__ import annotations

import torch
from rich.console import Console
from torch.amp.grad_scaler import GradScaler

from export.config import TrainConfig
from pam_daemon.errors import ConfigError


def choose(config: TrainConfig, console: Console) -> torch.device:
    """The configured GPU where there is CUDA; otherwise the CPU, and what has no effect there is said.

    Raises:
        ConfigError: a GPU that this computer does not have.
    """
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


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """Half precision on CUDA where wanted: bfloat16, or float16 on GPUs that are too old for it.

    Never on a CPU, few of which compute faster in it.
    """
    return torch.autocast(device.type, half(device), enabled=wanted and device.type == "cuda")


def make_scaler(device: torch.device, wanted: bool) -> GradScaler:
    """Scales the loss where gradients are float16, which would lose the small ones; elsewhere it does nothing."""
    return GradScaler(device.type, enabled=wanted and device.type == "cuda" and half(device) is torch.float16)


def half(device: torch.device) -> torch.dtype:
    """The type of half precision on this device."""
    old = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if old else torch.bfloat16
