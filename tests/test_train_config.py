"""The training configuration: nothing in it is passed over."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from clips import BASELINE, HYDROGEN_TORCH, NARW

from export.settings import load, trains_alike
from pam_daemon.errors import ConfigError


def test_the_hydrogen_torch_file_means_what_it_says() -> None:
    config, _, _ = load(HYDROGEN_TORCH)
    assert (config.architecture.backbone, config.architecture.pretrained) == ("resnet50", True)
    assert (config.audio.stft_window_size, config.fft_samples, config.window_samples) == (2048, 2048, 4000)
    assert config.audio.spectrogram_normalization == "No"
    assert config.augmentation.mix_audio == "Disabled"
    assert config.augmentation.time_shift_seconds == 0
    assert config.dataset.data_folder_test is None  # written None, which YAML reads as text
    assert (config.prediction.precision, config.prediction.probability_threshold) == ("float32", 0.5)


def test_the_baseline_is_hydrogen_torch_but_for_split_weights_and_seed() -> None:
    baseline, theirs = load(BASELINE)[0], load(HYDROGEN_TORCH)[0]
    assert (baseline.audio, baseline.augmentation) == (theirs.audio, theirs.augmentation)
    assert (baseline.training, baseline.prediction) == (theirs.training, theirs.prediction)
    assert baseline.architecture == msgspec.structs.replace(theirs.architecture, pretrained=False)
    assert baseline.dataset.validation_strategy == "column"


def test_all_keys_of_their_file_but_one_have_an_effect() -> None:
    assert load(HYDROGEN_TORCH)[2] == [
        "dataset.group_fold_column has no effect: validation_strategy kfold does not ask for it"
    ]


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("training.differential_learning_rate=0.1", "differential_learning_rate_layers is empty"),
        ("logging.neptune_project=whales", "no run is sent to a service"),
        ("augmentation.noise_snr_db=[5, 20]", "noise_probability is 0"),
        ("augmentation.tilt_hz_per_second=[-100, -50]", "tilt_probability is 0"),
        ("dataset.block_size=7", "validation_strategy column does not ask for it"),
        ("dataset.validation_size=0.1", "validation_strategy column does not ask for it"),
        ("prediction.max_inference_chunk_seconds=60", "inference_chunk_method Fix cuts what is longer"),
    ],
)
def test_a_key_that_means_nothing_beside_the_others_is_named_once_it_is_set(override: str, warning: str) -> None:
    assert load(NARW, [override])[2] == [f"{override.partition('=')[0]} has no effect: {warning}"]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.optimizer=AdaDelta", "training", "optimizer", "Adadelta"),
        ("architecture.pool=gem", "architecture", "pool", "GeM"),
        ("logging.logger=Tensorboard", "logging", "logger", "TensorBoard"),
        ("logging.logger=None", "logging", "logger", None),
    ],
)
def test_a_choice_may_be_written_in_any_case(override: str, section: str, key: str, value: str | None) -> None:
    config, text, _ = load(NARW, [override])
    assert getattr(getattr(config, section), key) == value
    assert f"{key}: {value}" in text


# Lists of ten of the list before: a billion words, written out.
LAUGHS = ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 10)}]" for n in range(9))


def test_a_file_without_such_keys_warns_of_none() -> None:
    assert load(NARW)[2] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", r"training\.learning_rat: unknown key; did you mean learning_rate\?"),
        ("trainin.epochs=1", r"trainin: unknown key; did you mean training\?"),
        ("training.zzz=1", r"training\.zzz: unknown key; remove it, or use one of: .*batch_size"),
        ("training.optimizer=Lion", r"training\.optimizer: .*'Lion' cannot be honoured; use one of: .*AdamW"),
        ("training.optimizer=1", r"training\.optimizer: .*cannot be honoured; use one of: Adadelta"),
        ("training.schedule=Step", r"training\.schedule: .*use one of: Cosine, Linear, Constant"),
        (
            "training.loss_function=CrossEntropy",
            r"training\.loss_function: CrossEntropy cannot .*: it chooses one label",
        ),
        ("architecture.pool=Mean", r"architecture\.pool: .*use one of: Average, Max, AvgMax, Concat, GeM"),
        ("audio.audio_parameters=Guess", r"audio\.audio_parameters: .*use one of: Auto, Manual"),
        ("augmentation.mix_audio=Cutmix", r"augmentation\.mix_audio: .*use one of: Disabled, Mixup"),
        ("logging.logger=Neptune", r"logging\.logger: Neptune cannot be honoured: no run is sent to a service"),
        ("prediction.metric=Fbeta", r"prediction\.metric: .*use one of: ROC_AUC, AP, LogLoss, Accuracy"),
        (
            "prediction.inference_chunk_method=Full",
            r"inference_chunk_method: Full cannot .*: the model's window has one",
        ),
        ("training.automatically_adjust_batch_size=true", r"automatically_adjust_batch_size: True cannot be honoured"),
        ("dataset.data_sample_choice=[Test]", r"dataset\.data_sample_choice.*use one of: Train, Validation"),
        (
            "dataset.unlabeled_dataframe=u.csv",
            r"dataset\.unlabeled_dataframe: u\.csv cannot be honoured; clips",
        ),
        ("training.train_validation_data=true", r"save_best_checkpoint: chooses by clips that train_validation_data"),
        ("dataset.validation_dataframe=v.csv", r"validation_strategy: column does not read it; set custom, or None"),
        ("dataset.validation_strategy=custom", r"dataset\.validation_dataframe: the strategy custom needs it"),
        ("augmentation.noise_snr_db=[20, 0]", r"augmentation\.noise_snr_db: give the least and the most, in dB"),
        ("augmentation.noise_snr_db=[20]", r"augmentation\.noise_snr_db: Expected `array` of length 2"),
        (
            "augmentation.tilt_hz_per_second=[-150, -250]",
            r"augmentation\.tilt_hz_per_second: give two numbers, the lower first, within 1000 either way",
        ),
        ("augmentation.speed_octaves=5000", r"augmentation\.speed_octaves: Expected `float` <= 2\.0"),
        ("augmentation.gain_db=1.0e+5", r"augmentation\.gain_db: Expected `float` <= 200\.0"),
        ("augmentation.time_shift_seconds=1.5", r"augmentation\.time_shift_seconds: must be at most half"),
        ("dataset.validation_size=1.0e-9", r"dataset\.validation_size: Expected `float` >= 0\.0001"),
        ("environment.seed=20090329171500", r"environment\.seed: Expected `int` <= "),
        ("prediction.hop_seconds=1.0e-5", r"prediction\.hop_seconds: must be at least one sample"),
        ("training.epochs=0", r"training\.epochs: Expected `int` >= 1"),
        ("training.epochs=many", r"training\.epochs: Expected `int`, got `str`"),
        ("prediction.probability_threshold=1.5", r"prediction\.probability_threshold: Expected `float` <= 1\.0"),
        ("dataset.folds=['0', '1']", r"dataset\.folds: one fold"),
        ("environment.gpus=['0', '1']", r"environment\.gpus: one GPU"),
        ("prediction.inference_chunk_seconds=4", r"prediction\.inference_chunk_seconds: must equal"),
        ("prediction.hop_seconds=3", r"prediction\.hop_seconds: must be at most"),
        ("audio.maximum_frequency=20", r"audio\.maximum_frequency: must exceed"),
        ("audio.fft_size=100", r"audio\.fft_size: must be 0 or at least"),
        ("audio.stft_window_size=255", r"audio\.stft_window_size and fft_size: must be even"),
        ("audio.fft_size=8000", r"audio\.fft_size and stft_window_size: must be under"),
        ("dataset.label_names=[a, b]", r"dataset\.label_names: give one name"),
        ("training=3", r"training: must be a section"),
        ("training.epochs", r"--set training\.epochs: not of the form"),
        ("training.learning_rate=.inf", r"training\.learning_rate: Expected `float` <= "),
        ("audio.training_chunk_seconds=1.0e+300", r"audio\.training_chunk_seconds: Expected `float` <= "),
        ("experiment_name=2026-13-45", r"--set experiment_name=2026-13-45: the value is not valid YAML"),
        ('architecture.dropout="\\ud800"', r"surrogates not allowed"),
        ("training.epochs=[", r"--set training\.epochs=\[: the value is not valid YAML"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(NARW, [override])
    assert "\n" not in str(caught.value)


def test_an_unquoted_no_is_the_word() -> None:
    assert load(NARW, ["audio.spectrogram_normalization=No"])[0].audio.spectrogram_normalization == "No"


@pytest.mark.parametrize(
    "content",
    [None, "a: [", "- 1", "\x00", "a: 2026-13-45", "a: !!int ''", "[" * 5000, f"audio: {{hop_size: [{LAUGHS}]}}"],
)
def test_a_file_that_is_no_configuration_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_run_may_be_carried_on_with_other_predictions_but_not_with_another_training() -> None:
    text = load(NARW)[1]
    assert trains_alike(text, load(NARW, ["prediction.precision=float32", "dataset.notice=free"])[1])
    assert trains_alike(text, load(NARW, ["logging.logger=TensorBoard", "training.build_scoring_pipelines=false"])[1])
    assert trains_alike(text, load(NARW, ["environment.number_of_workers=0"])[1])
    assert not trains_alike(text, load(NARW, ["training.epochs=3"])[1])
    assert not trains_alike(text, load(NARW, ["prediction.metric=AP"])[1])  # it chooses the best epoch
    lower = "prediction.probability_threshold=0.1"
    assert trains_alike(text, load(NARW, [lower])[1])
    f1 = "prediction.metric=F1"  # at that threshold
    assert not trains_alike(load(NARW, [f1])[1], load(NARW, [f1, lower])[1])
