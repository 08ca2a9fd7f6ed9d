"""What each key of a training configuration does: optimizers to loggers, and a stopped run under all of them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import FAST, NARW, read_rows, synthetic_clips
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from torch import Tensor

from export import dataset, device, evaluate, optimisation
from export.augment import Augmenter
from export.batches import batches, steps
from export.config import TrainConfig
from export.dataset import Clips
from export.job import Job, State
from export.metrics import METRICS
from export.network import POOLS, WhaleNet
from export.settings import load
from export.train import start, train, train_epoch
from export.weights import find_weights
from pam_daemon.errors import ConfigError

pytestmark = pytest.mark.xdist_group("keys")

CPU = torch.device("cpu")
# No graph is exported, which would take longer than the training.
QUICK = (*FAST, "training.build_scoring_pipelines=false", "prediction.precision=float32")
PLAIN = (
    "augmentation.mix_audio=Disabled",
    "augmentation.speed_octaves=0",
    "augmentation.time_shift_seconds=0",
    "augmentation.distractor_probability=0",
    "augmentation.frequency_mask_bins=0",
    "augmentation.time_mask_frames=0",
    "training.label_smoothing=0",
    "training.weight_average_decay=0",
)


class Stopped(Console):
    """A terminal whose user stops the run once the first epoch is over."""

    def print(self, *texts: object, **options: object) -> None:
        if str(texts[0]).startswith("epoch 1,"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_clips(tmp_path_factory.mktemp("keys") / "clips")


@pytest.fixture(scope="module")
def clips(folder: Path) -> Clips:
    return dataset.load([folder], config_of(), 1, lambda done, total: None).train


def config_of(*overrides: str) -> TrainConfig:
    return load(NARW, [*QUICK, *overrides])[0]


def run(
    folder: Path, out: Path, *overrides: str, resume: bool = False, console: Console | None = None
) -> dict[str, Tensor]:
    """Train, and return the weights in the checkpoint."""
    config, text, _ = load(NARW, [*QUICK, *overrides])
    job = Job(config, text, [folder], out, None, resume, None, "pamd train")
    train(job, console or Console(stderr=True))
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    weights: dict[str, Tensor] = saved["network"]
    return weights


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def trained(clips: Clips, *overrides: str) -> tuple[State, dict[str, Tensor]]:
    """A network after one epoch, and its weights before."""
    config = config_of(*PLAIN, *overrides)
    torch.manual_seed(1)
    state = start(config, None, len(clips), CPU)
    before = {name: value.detach().clone() for name, value in state.network.named_parameters()}
    train_epoch(state, clips, config, 1, CPU, lambda text: None)
    return state, before


# One of each loss, schedule, pool and metric goes with some optimizer.
COMBINATIONS = {
    "Adadelta": ("training.schedule=Linear", "architecture.pool=GeM"),
    "Adam": ("training.loss_function=Focal", "training.grad_accumulation=2"),
    "AdamW": ("augmentation.mix_iterations=2", "environment.number_of_workers=0"),
    "RAdam": ("training.schedule=Constant", "prediction.metric=LogLoss"),
    "RMSprop": ("architecture.pool=AvgMax", "training.differential_learning_rate_layers=[head]"),
    "SGD": ("architecture.pool=Max", "training.warmup_epochs=1", "logging.logger=TensorBoard"),
}


@pytest.mark.parametrize("optimizer", optimisation.OPTIMIZERS)
def test_a_stopped_run_carries_on_to_the_same_weights(optimizer: str, folder: Path, tmp_path: Path) -> None:
    """With every optimizer, and with mixup, shifts, masks, dropout, averaged weights and workers as they are on."""
    keys = (f"training.optimizer={optimizer}", *COMBINATIONS[optimizer])
    whole = run(folder, tmp_path / "whole", *keys)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "stopped", *keys, console=Stopped(stderr=True))
    assert len(read_rows(tmp_path / "stopped" / "history.csv")) == 1
    assert same(whole, run(folder, tmp_path / "stopped", *keys, resume=True))
    figures = [read_rows(tmp_path / name / "history.csv") for name in ("whole", "stopped")]
    for one, other in zip(*figures, strict=True):
        assert one | {"clips_per_s": ""} == other | {"clips_per_s": ""}


def test_the_choices_of_the_configuration_are_those_that_exist() -> None:
    for registry, section, key in (
        (optimisation.OPTIMIZERS, "training", "optimizer"),
        (optimisation.LOSSES, "training", "loss_function"),
        (optimisation.SCHEDULES, "training", "schedule"),
        (POOLS, "architecture", "pool"),
        (METRICS, "prediction", "metric"),
    ):
        for name in registry:
            assert getattr(getattr(config_of(f"{section}.{key}={name}"), section), key) == name
        with pytest.raises(ConfigError, match=f"{section}.{key}: .*") as caught:
            config_of(f"{section}.{key}=none-of-them")
        offered = str(caught.value).partition("use one of: ")[2].split(", ")
        assert sorted(offered) == sorted(registry)


@pytest.mark.parametrize("iterations", [1, 2])
def test_mixup_joins_so_many_clips_where_it_does(iterations: int) -> None:
    """Every clip has a frequency of its own, so a spectrum tells which ones are in a mixture."""
    tones_hz = 100 + 50 * np.arange(16)
    audio = np.sin(2 * np.pi * tones_hz[:, None] * np.arange(4000) / 2000).astype(np.float32)
    labels = (np.arange(16) % 2).astype(np.float32)[:, None]
    every = Clips([""] * 16, audio, labels, [""] * 16)

    def joined(probability: float) -> list[int]:
        keys = (*PLAIN[1:], "augmentation.mix_audio=Mixup", f"augmentation.mix_iterations={iterations}")
        config = config_of(*keys, f"augmentation.mix_probability={probability}", "augmentation.mix_concentration=10")
        mixed, _ = Augmenter(every, config).draw(np.arange(16), np.random.default_rng(1))
        spectrum = np.abs(np.fft.rfft(mixed))[:, tones_hz * 2]
        return list((spectrum > 20).sum(1))

    assert set(joined(0)) == {1}
    assert max(joined(1)) == iterations + 1
    assert 1 < np.mean(joined(0.5)) < np.mean(joined(1))


def test_how_many_workers_make_the_batches_changes_no_weight(folder: Path, tmp_path: Path) -> None:
    one_epoch = ("training.epochs=1",)
    alone = run(folder, tmp_path / "alone", *one_epoch, "environment.number_of_workers=0")
    assert same(alone, run(folder, tmp_path / "three", *one_epoch, "environment.number_of_workers=3"))
    assert not same(alone, run(folder, tmp_path / "other", *one_epoch, "environment.seed=2"))


def test_an_error_in_a_worker_ends_the_epoch(clips: Clips) -> None:
    broken = Clips(clips.names, clips.audio[:3], clips.labels, clips.hashes)
    with pytest.raises(IndexError):
        list(batches(broken, config_of(), 1, 0))


@pytest.mark.parametrize(
    ("count", "dropped", "kept"), [(16, [8, 8], [8, 8]), (19, [8, 8], [8, 8, 3]), (17, [8, 8], [8, 8])]
)
def test_the_last_batch_is_dropped_or_kept_but_never_one_clip_alone(
    count: int, dropped: list[int], kept: list[int], clips: Clips
) -> None:
    chosen = clips.take(np.arange(count) % len(clips))
    for drop, sizes in (("true", dropped), ("false", kept)):
        config = config_of(f"training.drop_last_batch={drop}")
        made = list(batches(chosen, config, 1, 0))
        assert [len(batch.audio) for batch in made] == sizes
        assert steps(config, count) == len(sizes)


def test_the_losses() -> None:
    logits, targets = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [0.0]])
    probability = torch.sigmoid(torch.tensor([2.0, 1.0]))  # of the right answer
    bce, focal = -probability.log().mean(), -((1 - probability) ** 2 * probability.log()).mean()
    off = "training.label_smoothing=0"
    torch.testing.assert_close(optimisation.loss(logits, targets, config_of(off)), bce)
    torch.testing.assert_close(
        optimisation.loss(logits, targets, config_of(off, "training.loss_function=Focal")), focal
    )
    smooth = optimisation.loss(logits, targets, config_of("training.label_smoothing=0.2"))
    torch.testing.assert_close(smooth, bce + 0.1 * torch.tensor([2.0, 1.0]).mean())


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("Constant", [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1]),
        ("Linear", [0.2, 0.4, 0.6, 0.8, 1, 0.75, 0.5, 0.25, 0]),
        ("Cosine", [0.2, 0.4, 0.6, 0.8, 1, 0.85355, 0.5, 0.14645, 0]),
    ],
)
def test_the_learning_rate_rises_over_the_warm_up_and_then_follows_the_schedule(
    schedule: str, shares: list[float]
) -> None:
    config = config_of(f"training.schedule={schedule}", "training.warmup_epochs=1", "training.epochs=2")
    assert [optimisation.rate(update, 4, config) for update in range(9)] == pytest.approx(shares, abs=1e-4)


def test_without_a_warm_up_the_first_update_has_the_whole_rate() -> None:
    assert optimisation.rate(0, 4, config_of("training.warmup_epochs=0")) == 1


def test_layers_may_have_a_learning_rate_of_their_own() -> None:
    keys = ("training.learning_rate=0.01", "training.differential_learning_rate=0.5", "training.weight_decay=0.25")

    def rates(layers: str) -> dict[str, float]:
        config = config_of(*keys, f"training.differential_learning_rate_layers={layers}")
        network = WhaleNet(config)
        groups = optimisation.make_optimizer(network, config).param_groups
        assert all(group["weight_decay"] == 0.25 for group in groups)
        lr_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        return {name: lr_of[id(parameter)] for name, parameter in network.backbone.named_parameters()}

    assert set(rates("[]").values()) == {0.01}
    for layers, starts in (("[head]", "fc."), ("[layer1]", "layer1."), ("[layer4.0, fc]", ("layer4.0.", "fc."))):
        found = rates(layers)
        assert {name for name, lr in found.items() if lr == 0.5} == {name for name in found if name.startswith(starts)}
    assert {name for name, lr in rates("[Backbone]").items() if lr == 0.01} == {"fc.weight", "fc.bias"}
    with pytest.raises(ConfigError, match=r"no layer layer; there are: backbone, head, conv1"):
        rates("[layer]")  # the beginning of a name is not a name


def test_gradients_are_gathered_over_so_many_batches(clips: Clips) -> None:
    updates = {
        number: trained(clips, "training.batch_size=4", f"training.grad_accumulation={number}")[0].schedule.last_epoch
        for number in (1, 2, 3)
    }
    assert updates == {1: 4, 2: 2, 3: 2}  # of four batches; what is left over at the end counts too


def test_a_gradient_longer_than_the_limit_is_shortened(clips: Clips) -> None:
    keys = ("training.optimizer=SGD", "training.batch_size=16", "training.learning_rate=1", "training.weight_decay=0")

    def moved(limit: float) -> float:
        state, before = trained(clips, *keys, f"training.gradient_clip={limit}")
        after = state.network.state_dict()
        return float(torch.cat([(after[name] - before[name]).flatten() for name in before]).norm())

    assert moved(0.01) == pytest.approx(1.9 * 0.01, rel=1e-3)  # Nesterov's first step is 1.9 gradients
    assert moved(0) > 10 * 0.019


def test_weight_decay_shrinks_the_weights(clips: Clips) -> None:
    keys = ("training.learning_rate=0.001", "training.schedule=Constant")

    def norm(decay: int) -> float:
        state, _ = trained(clips, *keys, f"training.weight_decay={decay}")
        return float(state.network.state_dict()["backbone.layer4.0.conv1.weight"].norm())

    assert norm(100) < 0.9 * norm(0)


def test_figures_come_every_so_many_epochs_and_after_the_last(folder: Path, tmp_path: Path) -> None:
    run(
        folder,
        tmp_path / "run",
        "training.epochs=3",
        "training.learning_rate=0.001",
        "training.evaluation_epochs=2",
        "training.calculate_train_metric=true",
        "prediction.metric=F1",
    )
    rows = read_rows(tmp_path / "run" / "history.csv")
    figures = ("select_loss", "select_roc_auc", "select_f1", "select_shifted_f1", "train_f1")
    assert [bool(row[name]) for row in rows for name in figures] == [False] * 5 + [True] * 10
    assert all(row["train_loss"] for row in rows)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.001, 0.00075, 0.00025])


def test_the_train_metric_is_not_calculated_unasked(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "run", "training.epochs=1")
    assert not any(name.startswith("train_roc") for name in read_rows(tmp_path / "run" / "history.csv")[0])


def test_the_best_epoch_is_that_of_the_metric() -> None:
    history = [
        {"epoch": 1.0, "select_roc_auc": 0.9, "select_logloss": 0.2},
        {"epoch": 2.0},
        {"epoch": 3.0, "select_roc_auc": 0.95, "select_logloss": 0.4},
    ]
    off = "augmentation.time_shift_seconds=0"
    assert evaluate.best_epoch(history, config_of(off)) == 3
    assert evaluate.best_epoch(history, config_of(off, "prediction.metric=LogLoss")) == 1


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("ROC_AUC", 0.75),
        ("AP", (1 + 2 / 3) / 2),
        ("LogLoss", -np.log([0.9, 0.6, 0.3, 0.9]).mean()),
        ("Accuracy", 0.75),
        ("Precision", 1.0),
        ("Recall", 0.5),
        ("F1", 2 / 3),
        ("F05", 1.25 * 0.5 / (0.25 + 0.5)),
        ("F2", 5 * 0.5 / (4 + 0.5)),
        ("MCC", 2 / np.sqrt(1 * 2 * 2 * 3)),
    ],
)
def test_the_metrics(metric: str, value: float) -> None:
    labels, scores = np.array([[1.0], [0.0], [1.0], [0.0]]), np.array([[0.9], [0.4], [0.3], [0.1]])
    assert METRICS[metric](labels, scores, 0.5) == pytest.approx(value)
    both = METRICS[metric](np.hstack([labels, labels]), np.hstack([scores, scores]), 0.5)
    assert both == pytest.approx(value)  # the mean over the labels


def test_metrics_of_decisions_use_the_probability_threshold() -> None:
    labels, logits = np.array([[1.0], [0.0]], np.float32), np.array([[-1.0], [-2.0]], np.float32)
    recall = "prediction.metric=Recall"
    assert evaluate.metric(labels, logits, config_of(recall)) == 0
    assert evaluate.metric(labels, logits, config_of(recall, "prediction.probability_threshold=0.2")) == 1


def test_validation_clips_may_be_trained_on_and_the_run_says_so(folder: Path, tmp_path: Path) -> None:
    keys = ("training.epochs=1", "training.save_best_checkpoint=false", "prediction.temperature_scaling=false")
    console = Console(file=(tmp_path / "log").open("w"), width=200)
    run(
        folder,
        tmp_path / "run",
        *keys,
        "prediction.threshold_selection=Fixed",
        "training.train_validation_data=true",
        console=console,
    )
    console.file.close()
    log = (tmp_path / "log").read_text()
    assert "24 train, 8 validation clips" in log
    assert "warning: the validation clips are trained on" in log


def test_without_pipelines_no_model_is_made_until_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """With a pool that is not timm's: the model's scores are proved to be torch's when it is made."""
    keys = ("training.epochs=1", "architecture.pool=GeM", "training.build_scoring_pipelines")
    run(folder, tmp_path / "run", *keys[:2], f"{keys[2]}=false")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not [name for name in names if name.endswith(".onnx")]
    run(folder, tmp_path / "run", *keys[:2], f"{keys[2]}=true", resume=True)
    assert (tmp_path / "run" / "model.onnx").exists()


def scalars(folder: Path) -> dict[tuple[int, str], float]:
    """What TensorBoard would read: its files are length, checksum, event, checksum, over and over."""
    (path,) = folder.iterdir()
    data, place, found = path.read_bytes(), 0, {}
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        place += 16 + length
    return found


def test_tensorboard_gets_every_figure_of_every_epoch_once(folder: Path, tmp_path: Path) -> None:
    keys = ("logging.logger=TensorBoard",)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "run", *keys, console=Stopped(stderr=True))
    run(folder, tmp_path / "run", *keys, resume=True)
    rows = read_rows(tmp_path / "run" / "history.csv")
    expected = {
        (int(float(row["epoch"])), name): pytest.approx(float(value), rel=1e-5)
        for row in rows
        for name, value in row.items()
    }
    assert scalars(tmp_path / "run" / "tensorboard") == expected


@pytest.mark.parametrize("able", [True, False])
def test_a_processor_computes_in_half_precision_where_it_can(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    for wanted in (True, False):
        with device.autocast(CPU, wanted):
            computed = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        assert computed is (torch.bfloat16 if able and wanted else torch.float32)
        assert not device.make_scaler(CPU, wanted).is_enabled()
    said = Console(file=io.StringIO(), width=200)
    device.choose(config_of("environment.gpus=[]", "environment.mixed_precision_training=true"), said)
    assert ("environment.mixed_precision_training has no effect" in said.file.getvalue()) == (not able)


def test_in_half_precision_it_learns_the_same(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss falls as in full precision, to within what bfloat16's eight bits leave; on any CPU, slow or fast."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    losses = {}
    for wanted in ("false", "true"):
        config = config_of("environment.gpus=[]", f"environment.mixed_precision_training={wanted}")
        torch.manual_seed(1)
        state = start(config, None, len(clips), CPU)
        losses[wanted] = train_epoch(state, clips, config, 1, CPU, lambda text: None)
        assert all(value.dtype is torch.float32 for value in state.network.parameters())
    assert losses["true"] != losses["false"]
    assert losses["true"] == pytest.approx(losses["false"], rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_on_a_gpu(half: torch.dtype, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: half is torch.bfloat16)
    config = config_of("environment.gpus=['0']", "environment.mixed_precision_training=true")
    place = device.choose(config, Console(stderr=True))
    torch.manual_seed(1)
    state = start(config, None, len(clips), place)
    assert state.scaler.is_enabled() == (half is torch.float16)
    assert np.isfinite(train_epoch(state, clips, config, 1, place, lambda text: None))


def test_weights_are_not_looked_for_where_none_are_wanted(tmp_path: Path) -> None:
    say = Console(stderr=True)
    assert find_weights(config_of("architecture.pretrained=true"), "none", say) is None
    assert find_weights(config_of("architecture.pretrained=false"), None, say) is None
    with pytest.raises(ConfigError, match=r"--weights .*gone\.pth: no such file"):
        find_weights(config_of(), str(tmp_path / "gone.pth"), say)


def test_the_threshold_is_as_configured_or_that_of_a_rate_of_false_positives() -> None:
    labels = np.concatenate([np.zeros(100), np.ones(10)]).astype(np.float32)[:, None]
    scores = np.concatenate([np.arange(100) / 100, np.ones(10)]).astype(np.float32)[:, None]
    fixed = config_of("prediction.threshold_selection=Fixed", "prediction.probability_threshold=0.3")
    assert evaluate.threshold(labels, scores, fixed) == 0.3
    keys = ("prediction.threshold_selection=FalsePositiveRate", "prediction.threshold_false_positive_rate=0.05")
    chosen = evaluate.threshold(labels, scores, config_of(*keys))
    assert int((scores[labels == 0] >= chosen).sum()) == 5


def test_the_temperature_is_what_the_logits_are_too_large_by() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (5000, 1)).astype(np.float32)
    labels = (random.random((5000, 1)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    assert evaluate.temperature(labels, 3 * logits) == pytest.approx(3, rel=0.1)
