"""`pamd export`: variants with their cards and golden windows; what loses too much is refused; nothing half-written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from clips import FAST, NARW, fast_config, synthetic_clips
from onnx import TensorProto
from rich.console import Console
from scipy.special import logit

from export import cli
from export.dataset import Clips, Split
from export.job import Job
from export.network import Scorer, WhaleNet
from export.offer import Offered, offer, refuse, table
from export.onnx import score
from export.settings import load
from export.ship import card_of
from export.train import train
from export.variants import PRECISIONS, Precision, Trained, Variant
from pam_daemon.analysis.model import Model
from pam_daemon.errors import ConfigError, ModelError

pytestmark = pytest.mark.xdist_group("offer")  # what one test exports, others use

LEAST_LOSS = ("prediction.quantization_largest_loss=0.000000001", "prediction.quantization_largest_megabytes=0.01")


def clips(count: int, labels: np.ndarray, random: np.random.Generator) -> Clips:
    """Tones of any pitch and loudness in noise."""
    pitch_hz, level = random.uniform(50, 350, (count, 1)), random.uniform(0, 0.3, (count, 1))
    audio = level * np.sin(2 * np.pi * pitch_hz * np.arange(4000) / 2000) + random.normal(0, 0.1, (count, 4000))
    names = [str(i) for i in range(count)]
    return Clips(names, audio.astype(np.float32), labels[:, None].astype(np.float32), names)


def trained(*overrides: str) -> Trained:
    """A network with spread scores, and clips whose labels are its own decisions: any change of rank is a loss."""
    config = fast_config("augmentation.time_shift_seconds=0", *overrides)
    torch.manual_seed(3)
    network = WhaleNet(config).eval()
    random = np.random.default_rng(1)
    select = clips(160, np.zeros(160), random)
    with torch.no_grad():
        logits = network(torch.from_numpy(select.audio))
        head = network.backbone.get_classifier()  # type: ignore[operator]
        head.weight.mul_(2 / logits.std())
        head.bias.zero_().sub_(network(torch.from_numpy(select.audio)).mean())
        scores = Scorer(network, 1.0)(torch.from_numpy(select.audio)).numpy()[:, 0]
    select.labels[:, 0] = scores > np.median(scores)
    train_clips = clips(32, np.arange(32) % 2, random)
    return Trained(network, Split(train_clips, select, None, "made for this test", []), config, 1, 1)


def job(of: Trained, out: Path) -> Job:
    return Job(of.config, "", [], out, None, False, None, "pamd train")


def export(of: Trained, out: Path, *precisions: Precision, force: bool = False) -> list[Offered]:
    return offer(of, job(of, out), precisions or PRECISIONS, out, force, Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path, list[Offered]]:
    of, out = trained("prediction.quantization_largest_loss=0.5"), tmp_path_factory.mktemp("offer")
    return of, out, export(of, out)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_file_has_its_card_and_passes_the_daemons_self_test(
    precision: Precision, exported: tuple[Trained, Path, list[Offered]]
) -> None:
    path = exported[1] / f"model.{precision}.onnx"
    card = card_of(path)
    assert card.precision == precision
    assert card.training.metrics["select/roc_auc"] > 0.9
    model = Model(path, "cpu")  # runs the golden windows
    windows, golden = card.golden.unpack(card.window_samples)
    assert np.ptp(golden) > 0.5
    assert not ((golden >= card.threshold) != (model.scores(windows) >= card.threshold)).any()


def test_nothing_else_is_left_in_the_folder(exported: tuple[Trained, Path, list[Offered]]) -> None:
    assert {path.name for path in exported[1].iterdir()} == {f"model.{precision}.onnx" for precision in PRECISIONS}


def test_float16_is_half_as_large_and_close_to_float32(exported: tuple[Trained, Path, list[Offered]]) -> None:
    of, out, _ = exported
    whole, half = out / "model.float32.onnx", out / "model.float16.onnx"
    network = [
        sum(t.raw_data.__len__() for t in onnx.load(path).graph.initializer if len(t.dims) == 4)
        for path in (whole, half)
    ]
    assert network[1] == network[0] / 2
    # A network of a few steps has logits of any size, and float16 some 3 digits of them.
    near, exact = (logit(score(path, of.split.select.audio).clip(1e-4, 0.9999)) for path in (half, whole))
    assert np.abs(near - exact).max() < 0.02 * np.abs(exact).max()


def test_float16_keeps_the_log_mel_and_the_scores_in_float32(exported: tuple[Trained, Path, list[Offered]]) -> None:
    graph = onnx.load(exported[1] / "model.float16.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["network.features.kernel"] == TensorProto.FLOAT
    assert {types[n.input[1]] for n in graph.node if n.op_type == "Conv" and len(n.input) > 1} == {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
    }
    made_by = {output: node for node in graph.node for output in node.output}
    sigmoid = next(node for node in graph.node if node.op_type == "Sigmoid" and node.output[0] == "scores")
    before = made_by[sigmoid.input[0]]
    while before.op_type != "Cast":
        before = made_by[before.input[0]]
    assert before.attribute[0].i == TensorProto.FLOAT
    assert [graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type] == [1, 1]


def test_what_loses_too_much_is_refused_by_name_unless_forced(tmp_path: Path) -> None:
    of = trained(*LEAST_LOSS)
    offered = export(of, tmp_path / "asked", "float32", "int8")
    assert [path.name for path in (tmp_path / "asked").iterdir()] == ["model.float32.onnx"]
    assert offered[1].path is None and offered[1].variant.loss > 0
    with pytest.raises(ModelError, match=r"int8 loses 0\.\d+ ROC AUC .*not written.*--force"):
        refuse(offered, force=False)
    forced = export(of, tmp_path / "forced", "int8", force=True)
    refuse(forced, force=True)
    assert [path.name for path in (tmp_path / "forced").iterdir()] == ["model.int8.onnx"]
    assert f"int8 loses {offered[1].variant.loss:.4f}" in card_of(tmp_path / "forced" / "model.int8.onnx").notes[-1]


def test_the_loss_is_of_the_validation_clips(exported: tuple[Trained, Path, list[Offered]]) -> None:
    of, out, offered = exported
    labels = of.split.select.labels[:, 0] == 1
    for one in offered:
        scores = score(out / f"model.{one.variant.precision}.onnx", of.split.select.audio)[:, 0]
        pairs = scores[labels][:, None] - scores[~labels]
        assert one.variant.roc_auc == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)), abs=1e-6)
        assert one.variant.loss == pytest.approx(offered[0].variant.roc_auc - one.variant.roc_auc)


def test_one_precision_may_be_one_file(tmp_path: Path) -> None:
    of = trained()
    path = tmp_path / "buoy.onnx"
    offer(of, job(of, tmp_path), ["float16"], path, False, Console(file=io.StringIO()))
    assert card_of(path).precision == "float16"
    assert [entry.name for entry in tmp_path.iterdir()] == ["buoy.onnx"]
    with pytest.raises(ConfigError, match="one file, but 2 precisions; name a folder"):
        offer(of, job(of, tmp_path), ["float16", "int8"], path, False, Console(file=io.StringIO()))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    of = trained()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out: cannot be written .*; give another --output"):
        export(of, tmp_path / "file" / "out", "float32")


def test_the_table_compares_with_float32() -> None:
    whole = Variant("float32", Path("a"), 0.96, 0.0, "", "")
    half = Variant("float16", Path("b"), 0.957, 0.003, "", "float16 loses 0.0030 ROC AUC")
    rows = [Offered(whole, Path("model.onnx"), 4_000_000, 100.0), Offered(half, None, 2_000_000, 50.0)]
    text = io.StringIO()
    Console(file=text, width=200).print(table(rows))
    first, second = (line.split() for line in text.getvalue().splitlines()[1:])
    assert first == ["float32", "4.0", "0.9600", "+0.0000", "100", "1.00", "x", "model.onnx"]
    assert second == ["float16", "2.0", "0.9570", "-0.0030", "50", "0.50", "x", "refused"]


def test_a_run_is_exported_from_its_checkpoint_with_the_data_that_it_remembers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    overrides = [*FAST, "training.epochs=1", "prediction.precision=float32"]
    config, text, _ = load(NARW, overrides)
    folder = synthetic_clips(tmp_path / "clips")
    asked = Job(config, text, [folder], tmp_path / "run", None, False, None, "pamd train --out run")
    model = train(asked, Console(file=io.StringIO()))
    assert model is not None
    cli.export.main([str(tmp_path / "run" / "checkpoint.pt"), "--precision", "float16"], standalone_mode=False)
    assert "float16" in capsys.readouterr().out
    whole, half = card_of(model), card_of(tmp_path / "run" / "model.float16.onnx")
    assert half.training.command == "pamd train --out run"
    assert (half.training.epochs, half.temperature) == (whole.training.epochs, whole.temperature)
    np.testing.assert_allclose(
        half.training.metrics["select/roc_auc"], whole.training.metrics["select/roc_auc"], atol=0.1
    )
