"""The network: log-mel layer, timm backbone and head in one module; waveform in, logits out."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from export.config import TrainConfig
from export.features import LogMel
from pam_daemon.errors import ConfigError

NO_WEIGHTS = "none"  # the value of --weights that means training from scratch
_POOL = {"Average": "avg", "Max": "max", "Concat": "catavgmax"}


class WhaleNet(nn.Module):
    """Waveform (batch, samples) to logits (batch, labels)."""

    def __init__(self, config: TrainConfig, weights: Path | None = None) -> None:
        super().__init__()
        self.features = LogMel(config)
        self.backbone = _backbone(config, weights)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.classify(self.features(waveform))

    def classify(self, log_mel: Tensor) -> Tensor:
        """log_mel: (batch, 1, mel bins, frames), as `features` gives it, perhaps masked."""
        logits: Tensor = self.backbone(log_mel)
        return logits


class Scorer(nn.Module):
    """What is exported: waveform (batch, samples) to scores (batch, labels) 0..1.

    The logits are divided by a temperature fitted on validation clips (Guo et al. 2017, arXiv:1706.04599).
    """

    def __init__(self, network: WhaleNet, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.sigmoid(self.network(waveform) / self.temperature)


def find_weights(config: TrainConfig, weights: str | None) -> Path | None:
    """The file with the backbone's first weights, or None to train from scratch. Nothing is downloaded.

    Raises:
        ConfigError: the file is missing, or `pretrained: true` and no weights are on this computer.
    """
    if weights == NO_WEIGHTS:
        return None
    if weights is not None:
        if not Path(weights).is_file():
            raise ConfigError(f"--weights {weights}: no such file; give a file or `--weights {NO_WEIGHTS}`")
        return Path(weights)
    if not config.architecture.pretrained:
        return None
    name = config.architecture.backbone
    source = timm.get_pretrained_cfg(name)
    repository = source.hf_hub_id if source else None
    cached = try_to_load_from_cache(repository, "model.safetensors") if repository else None
    if isinstance(cached, str):
        return Path(cached)
    raise ConfigError(
        f"architecture.pretrained: no weights of {name} on this computer; give --weights FILE "
        f"(timm's, .safetensors or .pth) or train from scratch with `--weights {NO_WEIGHTS}`"
    )


def _backbone(config: TrainConfig, weights: Path | None) -> nn.Module:
    architecture = config.architecture
    name = architecture.backbone
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"{name[:6]}*")[:8]) or "resnet18, resnet50"
        raise ConfigError(f"architecture.backbone: timm has no {name}; try {near}")
    overlay = {"file": str(weights)} if weights else None
    try:
        backbone: nn.Module = timm.create_model(
            name,
            pretrained=weights is not None,
            pretrained_cfg_overlay=overlay,
            in_chans=1,  # timm adds up the three colours of the first convolution
            num_classes=len(config.labels),
            global_pool=_POOL[architecture.pool],
            drop_rate=architecture.dropout,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        if weights:
            text = f"--weights: {weights} does not fit {name} ({reason}); give another file or `--weights {NO_WEIGHTS}`"
        else:
            text = f"architecture.backbone: {name} cannot be built ({reason}); use resnet50"
        raise ConfigError(text) from error
    if weights:
        _complete(backbone, weights, name)
    return backbone


def _complete(backbone: nn.Module, weights: Path, name: str) -> None:
    """timm leaves a layer that the file lacks as it was, without a word."""
    saved = timm.models.load_state_dict(str(weights))
    head = str(getattr(timm.get_pretrained_cfg(name), "classifier", "fc"))
    missing = [key for key in backbone.state_dict() if key not in saved and not key.startswith(head)]
    if missing:
        raise ConfigError(
            f"--weights: {weights} does not fit {name} (it has no {missing[0]}); "
            f"give another file or `--weights {NO_WEIGHTS}`"
        )
