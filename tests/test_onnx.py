"""The exported graphs: equal to torch, any batch, the same on any number of threads, int8 within its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from clips import fast_config, small_clips

from export.dataset import Clips, load
from export.network import Scorer, WhaleNet
from export.onnx import Limits, Quantized, export_float, quantize, score
from export.store import Audio

pytestmark = pytest.mark.xdist_group("onnx")  # what one test trains, others use

TEMPERATURE = 1.3


@pytest.fixture(scope="module")
def clips(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = small_clips(data_dir, tmp_path_factory.mktemp("onnx") / "clips", each=24)
    return load([folder], fast_config(), 1, lambda done, total: None).train


@pytest.fixture(scope="module")
def scorer(clips: Clips) -> Scorer:
    """A network whose scores differ between clips: its head is scaled, for training would take too long."""
    torch.manual_seed(1)
    network = WhaleNet(fast_config("architecture.backbone=resnet18")).eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(clips.audio))
        head = network.backbone.get_submodule("fc")
        head.weight.mul_(2 / logits.std())  # type: ignore[operator, union-attr]
        head.bias.zero_().sub_(network(torch.from_numpy(clips.audio)).mean())  # type: ignore[operator, union-attr]
    return Scorer(network, TEMPERATURE).eval()


@pytest.fixture(scope="module")
def exported(scorer: Scorer, clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    export_float(scorer, clips.audio.shape[1], path)
    return path


@pytest.fixture(scope="module")
def quantized(exported: Path, clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantized]:
    path = tmp_path_factory.mktemp("onnx") / "int8.onnx"
    reference = score(exported, clips.audio)
    made = quantize(
        exported, path, clips.audio, lambda p: closeness(p, clips.audio, reference), Limits(0.2, 20_000_000)
    )
    return path, made


def closeness(path: Path, audio: Audio, reference: Audio) -> float:
    return 1.0 - float(np.abs(score(path, audio) - reference).mean())


def test_onnxruntime_equals_torch(scorer: Scorer, exported: Path, clips: Clips) -> None:
    with torch.inference_mode():
        expected = scorer(torch.from_numpy(clips.audio)).numpy()
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(score(exported, clips.audio), expected, rtol=0, atol=1e-4)


def test_the_temperature_is_inside(scorer: Scorer, exported: Path, clips: Clips) -> None:
    with torch.inference_mode():
        logits = scorer.network(torch.from_numpy(clips.audio)).numpy()
    np.testing.assert_allclose(score(exported, clips.audio), 1 / (1 + np.exp(-logits / TEMPERATURE)), atol=1e-4)


def test_the_graph_takes_waveforms_of_any_batch_and_holds_no_batch_norm(exported: Path) -> None:
    model = onnx.load(exported)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("waveform", "scores")
    assert shape[0].dim_param and shape[1].dim_value == 4000
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert model.opset_import[0].version >= 17


def test_no_path_of_the_exporting_machine_is_in_the_file(exported: Path, quantized: tuple[Path, Quantized]) -> None:
    for path in (exported, quantized[0]):
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path.home()).encode() not in content


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_scores_depend_neither_on_batch_nor_on_threads(
    precision: str, exported: Path, quantized: tuple[Path, Quantized], clips: Clips
) -> None:
    path = exported if precision == "float32" else quantized[0]
    audio = clips.audio[:33]
    expected = score(path, audio, threads=1)
    singly = np.concatenate([score(path, audio[i : i + 1], threads=1) for i in range(5)])
    tolerance = 2e-6 if precision == "float32" else 0
    np.testing.assert_allclose(singly, expected[:5], rtol=0, atol=tolerance)
    np.testing.assert_allclose(score(path, audio, threads=2), expected, rtol=0, atol=tolerance)


def test_int8_is_small_and_keeps_front_end_and_head_in_float(exported: Path, quantized: tuple[Path, Quantized]) -> None:
    path, made = quantized
    assert made.enough
    assert path.stat().st_size < exported.stat().st_size / 2
    nodes = onnx.load(path).graph.node
    inputs = {name: node.op_type for node in nodes for name in node.output}
    kernel = next(node for node in nodes if "network.features.kernel" in node.input)
    head = next(node for node in nodes if node.op_type == "Gemm")
    assert "DequantizeLinear" not in {inputs.get(name) for node in (kernel, head) for name in node.input}
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 15


def test_the_weights_use_seven_bits(quantized: tuple[Path, Quantized]) -> None:
    """Eight saturate without VNNI."""
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(quantized[0]).graph.initializer]
    largest = [np.abs(t.astype(int)).max() for t in tensors if t.dtype == np.int8 and t.ndim == 4]
    assert len(largest) > 15
    assert max(largest) <= 64


def test_layers_are_left_in_float_until_the_loss_is_small_enough(exported: Path, clips: Clips, tmp_path: Path) -> None:
    reference = score(exported, clips.audio)

    def make(limits: Limits) -> tuple[Quantized, int]:
        path = tmp_path / "model.onnx"
        made = quantize(exported, path, clips.audio[:32], lambda p: closeness(p, clips.audio, reference), limits)
        return made, path.stat().st_size

    everything, small = make(Limits(1.0, 20_000_000))
    assert everything.enough and not everything.left_in_float
    closer, larger = make(Limits(0.6 * everything.loss, 50_000_000))
    assert closer.enough and closer.left_in_float
    assert closer.loss < 0.6 * everything.loss
    assert larger > small
    cramped, size = make(Limits(0.0001, small + 10_000))
    assert not cramped.enough
    assert size <= small + 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
