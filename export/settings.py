"""How a training configuration is written: YAML, then `--set section.key=value`; checked once, refused by name."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from export.config import TrainConfig
from pam_daemon.errors import ConfigError

# Values that cannot be honoured: key, the only value that can, remedy.
_ONLY: dict[str, tuple[object, str]] = {
    "dataset.unlabeled_dataframe": (None, "clips without labels are not learned from: set None"),
    "training.automatically_adjust_batch_size": (
        False,
        "a computer's memory would decide the weights; set false, and batch_size lower where memory runs out",
    ),
}

# Values of Hydrogen Torch's, in lower case, that other reasons stand against than that nobody knows them.
_REFUSED = {
    "logging.logger": {"neptune": "no run is sent to a service; use TensorBoard or None"},
    "prediction.inference_chunk_method": {
        "full": "the model's window has one length, and slides over what is longer; use Fix"
    },
    "training.loss_function": {
        "crossentropy": "it chooses one label of several, where a window may hold many or none; use BCE or Focal",
        "ce": "it chooses one label of several, where a window may hold many or none; use BCE or Focal",
    },
}


def load(path: Path, overrides: Sequence[str] = ()) -> tuple[TrainConfig, str, list[str]]:
    """Configuration from a file and `section.key=value` overrides.

    Returns:
        The configuration, its YAML text as used (for the card), and a warning for each key that is set in vain.

    Raises:
        ConfigError: unreadable file, unknown key, or a value that cannot be used or honoured; each named.
    """
    tree = _read(path)
    for override in overrides:
        _set(tree, override)
    _unquoted_no(tree)
    _refuse_unknown(tree, path)
    _refuse_known(tree, path)
    _spell(tree)
    text = yaml.safe_dump(tree, sort_keys=True, allow_unicode=True)
    tree = _none(tree)
    try:
        config = msgspec.convert(tree, TrainConfig)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from error
    _refuse(config, path)
    return config, text, _without_effect(config)


_RANKING = ("ROC_AUC", "AP", "LogLoss")  # metrics without a threshold
_READ_LATER = {  # or never where it would change a weight
    "dataset": ("notice", "note"),
    "environment": ("number_of_workers",),
    "training": ("build_scoring_pipelines", "run_interpretations"),
}


def trains_alike(one: str, other: str) -> bool:
    """Whether two configuration texts make the same weights: they differ only in what is read after training."""

    def part(text: str) -> dict[str, Any]:
        tree: dict[str, Any] = yaml.safe_load(text)
        tree.pop("experiment_name", None)
        tree.pop("logging", None)
        prediction = tree.pop("prediction", {})
        metric = prediction.get("metric", "ROC_AUC")  # which chooses the best epoch
        at = None if metric in _RANKING else prediction.get("probability_threshold")
        for section, keys in _READ_LATER.items():
            for key in keys:
                tree.get(section, {}).pop(key, None)
        return tree | {"metric": metric, "at": at}

    return part(one) == part(other)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file with --config") from error
    except Exception as error:  # PyYAML lets out whatever its constructors meet: 2026-13-45, !!int ""
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({reason}); see configs/narw.yaml") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: not a training configuration; see configs/narw.yaml")
    return tree


def _set(tree: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value` (or `experiment_name=value`) to the tree."""
    name, separator, value = override.partition("=")
    *section, key = name.strip().split(".")
    if not separator or len(section) > 1 or not key:
        raise ConfigError(f"--set {override}: not of the form section.key=value")
    branch = tree
    for part in section:
        branch = branch.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {override}: {part} is not a section")
    try:
        branch[key] = yaml.safe_load(value)
    except Exception as error:  # as above
        raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from error


def _none(tree: dict[str, Any]) -> dict[str, Any]:
    """Hydrogen Torch writes `None`, which YAML reads as a string. Sections have one level of keys."""
    return {
        name: {key: None if value == "None" else value for key, value in branch.items()}
        if isinstance(branch, dict)
        else branch
        for name, branch in tree.items()
    }


def _unquoted_no(tree: dict[str, Any]) -> None:
    """YAML reads an unquoted `No` as false."""
    audio = tree.get("audio")
    if isinstance(audio, dict) and audio.get("spectrogram_normalization") is False:
        audio["spectrogram_normalization"] = "No"


def _refuse_unknown(tree: dict[str, Any], path: Path) -> None:
    sections = {field.name: field.type for field in msgspec.structs.fields(TrainConfig)}
    for name, branch in tree.items():
        if name not in sections:
            raise ConfigError(f"{path}: {name}: unknown key; {_nearest(str(name), list(sections))}")
        if name == "experiment_name":
            continue
        if not isinstance(branch, dict):
            raise ConfigError(f"{path}: {name}: must be a section with keys; see configs/narw.yaml")
        known = [field.name for field in msgspec.structs.fields(sections[name])]
        for key in branch:
            if key not in known:
                raise ConfigError(f"{path}: {name}.{key}: unknown key; {_nearest(str(key), known)}")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"remove it, or use one of: {', '.join(known)}"


def _refuse_known(tree: dict[str, Any], path: Path) -> None:
    for name, reasons in _REFUSED.items():
        section, key = name.split(".")
        value = tree.get(section, {}).get(key)
        reason = reasons.get(value.casefold()) if isinstance(value, str) else None
        if reason:
            raise ConfigError(f"{path}: {name}: {value} cannot be honoured: {reason}")


def _spell(tree: dict[str, Any]) -> None:
    """A choice may be written in any case: AdaDelta, gem."""
    for section, branch in tree.items():
        for key, value in list(branch.items()) if isinstance(branch, dict) else ():
            if not isinstance(value, str):
                continue
            meant = [choice for choice in _choices(section, key) if choice.casefold() == value.casefold()]
            branch[key] = meant[0] if meant else value


def _choices(section: str, key: str) -> list[str]:
    """The words that a key may have, where they are a list."""
    kind = typing.get_type_hints(TrainConfig).get(section)
    hint = typing.get_type_hints(kind).get(key) if kind else None
    for candidate in (hint, *typing.get_args(hint)):
        if typing.get_origin(candidate) is Literal:
            return [str(choice) for choice in typing.get_args(candidate)]
    return []


def _explain(error: str) -> str:
    """`section.key: what is wrong`, with the values that can be honoured where they are a list."""
    what, _, where = error.partition(" - at `$.")
    name = where.rstrip("`")
    section, _, key = re.sub(r"\[.*?\]", "", name).partition(".")
    choices = _choices(section, key) if key else []
    if choices:
        return f"{name}: {what} cannot be honoured; use one of: {', '.join(choices)}"
    return f"{name}: {what}; see configs/narw.yaml"


def _refuse(config: TrainConfig, path: Path) -> None:
    for name, (only, remedy) in _ONLY.items():
        value = _value(config, name)
        if value != only:
            raise ConfigError(f"{path}: {name}: {value} cannot be honoured; {remedy}")
    audio, prediction, training = config.audio, config.prediction, config.training
    chosen_by_validation = {
        "training.save_best_checkpoint": training.save_best_checkpoint,
        "prediction.temperature_scaling": prediction.temperature_scaling,
        "prediction.threshold_selection": prediction.threshold_selection != "Fixed",
    }
    rules = [
        (len(config.dataset.folds) > 1, "dataset.folds: one fold is trained at a time; name one"),
        (len(config.environment.gpus) > 1, "environment.gpus: one GPU is used; name one"),
        (
            prediction.inference_chunk_seconds != audio.training_chunk_seconds,
            "prediction.inference_chunk_seconds: must equal audio.training_chunk_seconds, the model's window",
        ),
        (audio.maximum_frequency <= audio.minimum_frequency, "audio.maximum_frequency: must exceed minimum_frequency"),
        (config.fft_samples < audio.stft_window_size, "audio.fft_size: must be 0 or at least stft_window_size"),
        (
            bool(audio.stft_window_size % 2 or config.fft_samples % 2),
            "audio.stft_window_size and fft_size: must be even, so that frames are centred",
        ),
        (
            config.fft_samples // 2 >= config.window_samples,
            "audio.fft_size and stft_window_size: must be under two windows' length",
        ),
        (
            prediction.hop_seconds > audio.training_chunk_seconds,
            "prediction.hop_seconds: must be at most audio.training_chunk_seconds, or audio goes unheard",
        ),
        (
            prediction.hop_seconds * audio.sample_rate < 1,
            "prediction.hop_seconds: must be at least one sample",
        ),
        (
            config.augmentation.time_shift_seconds > audio.training_chunk_seconds / 2,
            "augmentation.time_shift_seconds: must be at most half of audio.training_chunk_seconds, or calls leave "
            "their window",
        ),
        *_data_rules(config),
        (
            len(config.labels) != len(config.dataset.label_columns),
            "dataset.label_names: give one name for each of label_columns, or none",
        ),
        *(
            (training.train_validation_data and asked, f"{name}: chooses by clips that train_validation_data trains on")
            for name, asked in chosen_by_validation.items()
        ),
    ]
    for broken, text in rules:
        if broken:
            raise ConfigError(f"{path}: {text}")


def _data_rules(config: TrainConfig) -> list[tuple[bool, str]]:
    """What keys of the data and of noise do not go together, with what to say."""
    dataset, augmentation = config.dataset, config.augmentation
    low_db, high_db = augmentation.noise_snr_db
    first, last = augmentation.tilt_hz_per_second
    nyquist = config.audio.sample_rate / 2
    custom = dataset.validation_strategy == "custom"
    return [
        (
            custom and not dataset.validation_dataframe,
            "dataset.validation_dataframe: the strategy custom needs it",
        ),
        (
            bool(dataset.validation_dataframe) and dataset.validation_strategy not in ("custom", "automatic"),
            f"dataset.validation_dataframe: validation_strategy: {dataset.validation_strategy} does not read it; "
            "set custom, or None here",
        ),
        (
            not -nyquist <= first <= last <= nyquist,
            f"augmentation.tilt_hz_per_second: give two numbers, the lower first, within {nyquist:g} either way",
        ),
        (not -200 <= low_db <= high_db <= 200, "augmentation.noise_snr_db: give the least and the most, in dB"),
        (
            bool(augmentation.noise_probability) and not (augmentation.noise_folder or augmentation.noise_simulated),
            "augmentation.noise_probability: there is no noise; give noise_folder, or set noise_simulated: true",
        ),
    ]


def _without_effect(config: TrainConfig) -> list[str]:
    """A line for each key that is set to something else than its default, and means nothing beside the others."""
    augmentation, prediction = config.augmentation, config.prediction
    strategy = config.dataset.validation_strategy
    split_by = f"validation_strategy {strategy} does not ask for it"
    drawn = strategy not in ("column", "custom")
    vain = {
        **dict.fromkeys(
            ("mix_concentration", "mix_iterations", "mix_probability", "mix_target"),
            (augmentation.mix_audio == "Disabled", "mix_audio is Disabled"),
        ),
        **dict.fromkeys(
            ("noise_folder", "noise_simulated", "noise_snr_db"),
            (not augmentation.noise_probability, "noise_probability is 0"),
        ),
        "tilt_hz_per_second": (not augmentation.tilt_probability, "tilt_probability is 0"),
    }
    vain = {f"augmentation.{key}": value for key, value in vain.items()} | {
        "dataset.folds": (not drawn, split_by),
        "dataset.validation_size": (not drawn, split_by),
        "dataset.block_size": (strategy not in ("blocks", "automatic"), split_by),
        "dataset.group_fold_column": (strategy not in ("grouped_kfold", "automatic"), split_by),
        "dataset.split_column": (strategy not in ("column", "automatic"), split_by),
        "logging.neptune_project": (True, "no run is sent to a service"),
        "prediction.max_inference_chunk_seconds": (True, "inference_chunk_method Fix cuts what is longer"),
        "prediction.threshold_false_positive_rate": (
            prediction.threshold_selection == "Fixed",
            "threshold_selection is Fixed",
        ),
        "training.differential_learning_rate": (
            not config.training.differential_learning_rate_layers,
            "differential_learning_rate_layers is empty",
        ),
    }
    return [
        f"{name} has no effect: {reason}"
        for name, (in_vain, reason) in vain.items()
        if in_vain and _value(config, name) not in (_value(TrainConfig(), name), None)
    ]


def _value(config: TrainConfig, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
