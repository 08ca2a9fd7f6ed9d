"""The training configuration: a YAML file with Hydrogen Torch's keys (and a few of ours), checked once, frozen.

Our own keys stand in the same sections; their defaults leave a Hydrogen Torch file with its own meaning.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from pam_daemon.errors import ConfigError

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the configuration; an unknown key in it is an error."""


class Architecture(Section, frozen=True):
    backbone: str = "resnet50"  # a name of timm's
    dropout: Share = 0.0  # before the head
    pool: Literal["Average", "Max", "AvgMax", "Concat", "GeM"] = "Average"
    pretrained: bool = True


class Audio(Section, frozen=True):
    audio_parameters: Literal["Auto", "Manual"] = "Auto"  # how a form filled in the keys below; they hold as written
    hop_size: Count = 512  # samples between frames
    maximum_frequency: Positive = 16000.0  # Hz
    mel_frequency_bins: Count = 128
    minimum_frequency: NotNegative = 50.0  # Hz
    sample_rate: Count = 2000  # Hz, of the model
    spectrogram_normalization: Literal["No", "Instance", "Band", "BandInstance"] = "No"
    stft_window_size: Count = 2048  # samples of the taper
    training_chunk_seconds: Positive = 2.0
    # ours
    fft_size: CountOrNone = 0  # samples, the taper is zero-padded to it; 0: stft_window_size


class Augmentation(Section, frozen=True):
    mix_audio: Literal["Disabled", "Mixup"] = "Disabled"
    mix_concentration: Positive = 1.0  # both parameters of the beta distribution
    mix_iterations: Count = 1
    mix_probability: Share = 1.0
    mix_target: Literal["Ratio", "Max"] = "Ratio"
    # ours
    time_shift_seconds: NotNegative = 0.0  # largest shift, either way
    backwards_probability: Share = 0.0  # of a clip with a call to be played backwards, and to hold none
    speed_octaves: NotNegative = 0.0  # largest change of speed of half of the clips, either way: pitch and length
    distractor_probability: Share = 0.0  # of a clip to get simulated sounds that are not a call
    noise_probability: Share = 0.0  # of a clip to get noise
    noise_folder: str | None = None  # recordings of noise
    noise_simulated: bool = True  # the simulated sea's noise: alone, or as often as the folder's
    noise_snr_db: tuple[float, float] = (0.0, 20.0)  # least and most of the clip's rms over the noise's
    gain_db: NotNegative = 0.0  # largest change of level, either way
    frequency_mask_bins: CountOrNone = 0  # widest band of mel bins blanked
    time_mask_frames: CountOrNone = 0  # longest run of frames blanked


class Dataset(Section, frozen=True):
    audio_column: str = "clip_name"
    data_folder: str | None = None
    data_folder_test: str | None = None
    data_sample: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    data_sample_choice: list[Literal["Train", "Validation"]] = msgspec.field(
        default_factory=lambda: ["Train", "Validation"]
    )
    folds: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["0"])
    group_fold_column: str | None = None
    label_columns: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["label"])
    test_dataframe: str | None = None
    train_dataframe: str | None = None
    unlabeled_dataframe: str | None = None
    validation_dataframe: str | None = None
    validation_size: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.2
    validation_strategy: Literal["automatic", "kfold", "grouped_kfold", "custom", "blocks", "column"] = "kfold"
    # ours
    block_size: CountOrNone = 0  # clips that stay together with the strategy blocks; 0: four blocks a fold
    longer_clips: Literal["Middle", "Windows"] = "Middle"  # what is taken of clips longer than a window
    mark_delay_seconds: Annotated[float, msgspec.Meta(ge=-1e4, le=1e4)] = 0.0  # by which marks are late
    mark_guard_seconds: NotNegative = 1.0  # negative windows stay away from marks
    negatives_per_positive: NotNegative = 0.0  # at most so many windows from unmarked sound; 0: all there are
    negative_names: tuple[str, ...] = ("background", "negative", "noise", "none", "other", "silence", "0")
    ignored_names: tuple[str, ...] = ("uncertain", "unknown", "unsure", "?")  # of folders and marks, as the above
    split_column: str = "split"  # of clips.csv: train, select or report
    label_names: list[str] = []  # as detections name them; empty: label_columns
    notice: str = ""  # the data's copyright notice, for the model's card
    note: str = ""  # what a reader of the model's figures should know of the data


class Environment(Section, frozen=True):
    gpus: list[str] = msgspec.field(default_factory=lambda: ["0"])
    mixed_precision_inference: bool = False
    mixed_precision_training: bool = True
    number_of_workers: CountOrNone = 4
    seed: Annotated[int, msgspec.Meta(ge=-1)] = -1  # -1: a random one, printed and kept in the card


class Logging(Section, frozen=True):
    logger: Literal["TensorBoard"] | None = None
    neptune_project: str | None = ""
    number_of_audios: CountOrNone = 8


class Prediction(Section, frozen=True):
    inference_chunk_method: Literal["Fix"] = "Fix"
    inference_chunk_seconds: Positive = 2.0
    max_inference_chunk_seconds: Positive = 600.0
    metric: Literal["ROC_AUC", "AP", "LogLoss", "Accuracy", "Precision", "Recall", "F1", "F05", "F2", "MCC"] = "ROC_AUC"
    probability_threshold: Share = 0.5
    # ours
    threshold_selection: Literal["Fixed", "FalsePositiveRate"] = "Fixed"
    threshold_false_positive_rate: Share = 0.02  # of shifted validation clips without a call
    temperature_scaling: bool = False
    hop_seconds: Positive = 0.5  # the card's default advance between windows
    precision: Literal["float32", "float16", "int8"] = "float32"
    quantization_largest_loss: Positive = 0.002  # of validation ROC AUC
    quantization_largest_megabytes: Positive = 25.0


class Training(Section, frozen=True):
    automatically_adjust_batch_size: bool = False
    batch_size: Annotated[int, msgspec.Meta(ge=2)] = 32
    build_scoring_pipelines: bool = True
    calculate_train_metric: bool = False
    differential_learning_rate: Positive = 0.001
    differential_learning_rate_layers: list[str] = []
    drop_last_batch: bool = True
    epochs: Count = 8
    evaluation_epochs: Count = 1
    grad_accumulation: Count = 1
    gradient_clip: NotNegative = 0.0
    learning_rate: Positive = 0.001
    loss_function: Literal["BCE", "Focal"] = "BCE"
    optimizer: Literal["Adadelta", "Adam", "AdamW", "RAdam", "RMSprop", "SGD"] = "AdamW"
    run_interpretations: bool = True
    save_best_checkpoint: bool = False
    schedule: Literal["Cosine", "Linear", "Constant"] = "Cosine"
    train_validation_data: bool = False
    warmup_epochs: NotNegative = 0.0
    weight_decay: NotNegative = 0.0
    # ours
    label_smoothing: Share = 0.0
    weight_average_decay: Share = 0.0  # exponential moving average of the weights, per step; 0: none


class TrainConfig(Section, frozen=True):
    """See the module's first line. The names are Hydrogen Torch's, hence without units; the comments give them."""

    architecture: Architecture = Architecture()
    audio: Audio = Audio()
    augmentation: Augmentation = Augmentation()
    dataset: Dataset = Dataset()
    environment: Environment = Environment()
    experiment_name: str = "model"
    logging: Logging = Logging()
    prediction: Prediction = Prediction()
    training: Training = Training()

    @property
    def window_samples(self) -> int:
        return round(self.audio.training_chunk_seconds * self.audio.sample_rate)

    @property
    def fft_samples(self) -> int:
        return self.audio.fft_size or self.audio.stft_window_size

    @property
    def labels(self) -> list[str]:
        return self.dataset.label_names or self.dataset.label_columns


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
        The configuration, its YAML text as used (for the card), and a warning for each given key without effect.

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
    return config, text, _without_effect(tree, config)


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
        metric = tree.pop("prediction", {}).get("metric")  # which chooses the best epoch
        for section, keys in _READ_LATER.items():
            for key in keys:
                tree.get(section, {}).pop(key, None)
        return tree | {"metric": metric}

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
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
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
        (not -200 <= low_db <= high_db <= 200, "augmentation.noise_snr_db: give the least and the most, in dB"),
        (
            bool(augmentation.noise_probability) and not (augmentation.noise_folder or augmentation.noise_simulated),
            "augmentation.noise_probability: there is no noise; give noise_folder, or set noise_simulated: true",
        ),
    ]


def _without_effect(tree: dict[str, Any], config: TrainConfig) -> list[str]:
    notes: dict[str, str] = {}
    training = config.training
    own_rate = training.differential_learning_rate != training.learning_rate
    if own_rate and not training.differential_learning_rate_layers:
        notes["training.differential_learning_rate"] = "differential_learning_rate_layers is empty"
    if config.logging.neptune_project:
        notes["logging.neptune_project"] = "no run is sent to a service"
    if config.prediction.max_inference_chunk_seconds != Prediction().max_inference_chunk_seconds:
        notes["prediction.max_inference_chunk_seconds"] = "inference_chunk_method Fix cuts what is longer"
    given = [f"{section}.{key}" for section, branch in tree.items() if isinstance(branch, dict) for key in branch]
    return [f"{name} has no effect: {notes[name]}" for name in given if name in notes]
