"""The training configuration: Hydrogen Torch's keys and a few of ours, with their defaults; frozen.

Our own keys stand in the same sections; their defaults leave a Hydrogen Torch file with its own meaning.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

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
    tilt_probability: Share = 0.0  # of a clip with a call to have its sweep tilted, and to hold none
    tilt_hz_per_second: tuple[float, float] = (-250.0, -150.0)  # the most and the least of the tilt
    # largest change of speed of half of the clips, either way: pitch and length
    speed_octaves: Annotated[float, msgspec.Meta(ge=0.0, le=2.0)] = 0.0
    distractor_probability: Share = 0.0  # of a clip to get simulated sounds that are not a call
    noise_probability: Share = 0.0  # of a clip to get noise
    noise_folder: str | None = None  # recordings of noise
    noise_simulated: bool = True  # the simulated sea's noise: alone, or as often as the folder's
    noise_snr_db: tuple[float, float] = (0.0, 20.0)  # least and most of the clip's rms over the noise's
    gain_db: Annotated[float, msgspec.Meta(ge=0.0, le=200.0)] = 0.0  # largest change of level, either way
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
    validation_size: Annotated[float, msgspec.Meta(ge=1e-4, le=0.5)] = 0.2
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
    seed: Annotated[int, msgspec.Meta(ge=-1, lt=2**31)] = -1  # -1: a random one, printed and kept in the card


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
