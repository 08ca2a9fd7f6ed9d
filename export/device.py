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
        torch.backends.cudnn.benchmark = False  # the same weights again, as far as CUDA has it
        torch.backends.cudnn.deterministic = True
        return torch.device(f"cuda:{number}")
    cpu = torch.device("cpu")
    unused = {"gpus": "training runs on the CPU"} if environment.gpus else {}
    if not computes_in_half(cpu):
        wanted = (k for k in ("mixed_precision_training", "mixed_precision_inference") if getattr(environment, k))
        unused |= dict.fromkeys(wanted, "training runs on a CPU that does not compute in bfloat16")
    for key, reason in unused.items():
        console.print(f"warning: environment.{key} has no effect: {reason}", soft_wrap=True)
    return cpu


def autocast(device: torch.device, wanted: bool) -> torch.autocast:
    """Half precision where it is wanted and the device computes in it: bfloat16, or float16 on older GPUs."""
    return torch.autocast(device.type, half(device), enabled=wanted and computes_in_half(device))


def make_scaler(device: torch.device, wanted: bool) -> GradScaler:
    """Scales the loss where gradients are float16, which would lose the small ones; elsewhere it does nothing."""
    return GradScaler(device.type, enabled=wanted and half(device) is torch.float16)


def computes_in_half(device: torch.device) -> bool:
    """Every GPU does; CPUs that have no instructions for bfloat16 are slower in it."""
    if device.type == "cuda":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def half(device: torch.device) -> torch.dtype:
    """The type of half precision on this device."""
    old = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if old else torch.bfloat16
