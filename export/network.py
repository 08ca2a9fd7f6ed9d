"""The network: log-mel layer, timm backbone and head in one module; waveform in, logits out."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

from export.config import TrainConfig
from export.features import LogMel
from export.weights import NO_WEIGHTS, check_backbone
from pam_daemon.errors import ConfigError

# timm's names of what a feature map is pooled by; GeM, which timm lacks, takes the place of its average.
POOLS = {"Average": "avg", "Max": "max", "AvgMax": "avgmax", "Concat": "catavgmax", "GeM": "avg"}
_REASONS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError, OSError)


class WhaleNet(nn.Module):
    """Waveform (batch, samples) to logits (batch, labels)."""

    def __init__(self, config: TrainConfig, weights: Path | None = None) -> None:
        super().__init__()
        self.features = LogMel(config)
        silence = self.features(torch.zeros(2, config.window_samples))
        self.backbone = _backbone(config, weights, silence)

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


class GeM(nn.Module):
    """Generalised mean pooling (Radenovic et al. 2018, arXiv:1711.02512): from average (p 1) towards maximum.

    Args:
        dim: of height and width.
        keepdim: whether these stay, with length 1.
    """

    def __init__(self, dim: tuple[int, int], keepdim: bool) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))
        self._dim, self._keepdim = dim, keepdim

    def forward(self, features: Tensor) -> Tensor:
        powers = features.float().clamp(min=1e-6) ** self.p
        return powers.mean(self._dim, keepdim=self._keepdim) ** (1 / self.p)


def _backbone(config: TrainConfig, weights: Path | None, log_mel: Tensor) -> nn.Module:
    """timm's network, proved on spectrograms of this size, (batch, 1, mel bins, frames).

    Raises:
        ConfigError: timm lacks it, it cannot be built as configured, or the weights do not fit.
    """
    architecture, size = config.architecture, tuple(log_mel.shape[2:])
    name = architecture.backbone
    check_backbone(name)
    known = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": size} if known and known.fixed_input_size else {}
    if weights:
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        backbone: nn.Module = timm.create_model(
            name,
            pretrained=weights is not None,
            in_chans=1,  # timm adds up the three colours of the first convolution
            num_classes=len(config.labels),
            global_pool=POOLS[architecture.pool],
            drop_rate=architecture.dropout,
            **options,
        )
        with torch.no_grad():
            backbone.eval()(log_mel)
    except (*_REASONS, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        if weights:
            text = f"--weights: {weights} does not fit {name} ({reason}); give another file or `--weights {NO_WEIGHTS}`"
        else:
            text = (
                f"architecture.backbone: {name} cannot be built for {size[0]} mel bins x {size[1]} frames with "
                f"pool {architecture.pool} ({reason}); use resnet50, or other audio keys"
            )
        raise ConfigError(text) from error
    if weights:
        _complete(backbone, weights, name)
    if architecture.pool == "GeM":
        _pool_by_gem(backbone, name)
    return backbone.train()


def _pool_by_gem(backbone: nn.Module, name: str) -> None:
    pools = [module for module in backbone.modules() if isinstance(module, SelectAdaptivePool2d)]
    if not pools:
        raise ConfigError(f"architecture.pool: {name} pools no feature map, so GeM cannot be honoured; use Average")
    for module in pools:
        average = module.pool
        gem = GeM(getattr(average, "dim", (2, 3)), not getattr(average, "flatten", False))
        module.pool = gem  # type: ignore[assignment] # of the modules that it may be, timm's first


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
