"""The first weights of a backbone: a file, timm's from this computer or the net, or none."""

from __future__ import annotations

import difflib
from pathlib import Path

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from rich.console import Console

from export.config import TrainConfig
from pam_daemon.errors import ConfigError

NO_WEIGHTS = "none"  # the value of --weights that means training from scratch
_FILE = "model.safetensors"
_ANSWER_S = 5.0  # within which a server that is there has answered


def check_backbone(name: str) -> None:
    """Raises: ConfigError: timm has no network of this name; those with the nearest ones are told."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 5) or ["resnet18", "resnet50"]
        raise ConfigError(f"architecture.backbone: timm has no {name}; try {', '.join(near)}")


def find_weights(config: TrainConfig, weights: str | None, console: Console) -> Path | None:
    """The file with the backbone's first weights, or None to train from scratch.

    Raises:
        ConfigError: the file is missing, or `pretrained: true` and timm's weights cannot be had.
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
    check_backbone(name)
    source = timm.get_pretrained_cfg(name)
    repository = source.hf_hub_id if source else None
    if repository is None:
        raise ConfigError(f"architecture.pretrained: timm has no weights of {name}; {_remedy()}")
    cached = try_to_load_from_cache(repository, _FILE)
    return Path(cached) if isinstance(cached, str) else _fetch(name, repository, console)


def _fetch(name: str, repository: str, console: Console) -> Path:
    url = hf_hub_url(repository, _FILE)
    try:
        # Asked once before: the download itself tries six times to find a net that is not there.
        get_hf_file_metadata(url, timeout=_ANSWER_S)
        console.print(f"fetching the weights of {name}: {url}", soft_wrap=True)
        return Path(hf_hub_download(repository, _FILE))
    except Exception as error:  # of the net, of the server, of the disk
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(
            f"architecture.pretrained: no weights of {name} on this computer, nor from {url} ({reason}); {_remedy()}"
        ) from error


def _remedy() -> str:
    return f"give --weights FILE (timm's, .safetensors or .pth) or train from scratch with `--weights {NO_WEIGHTS}`"
