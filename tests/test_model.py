"""The model file: loaded only when it is whole, says what it is, and gives its golden scores."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from fakes import TOY_WINDOW, toy_model, wrong_alone
from onnx import TensorProto, helper, numpy_helper

from pam_daemon.analysis.model import Model
from pam_daemon.capture.ring import FloatArray
from pam_daemon.card import METADATA_KEY, Golden, read_card
from pam_daemon.errors import ModelError


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        Model(path, **{"provider": "cpu", **options})
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def golden(toy: Path) -> Golden:
    return Model(toy, "cpu").card.golden


def with_scores(toy: Path, path: Path, window: int, score: float) -> Path:
    """The toy whose card says another score of one golden window."""
    card = golden(toy)
    scores = [*card.scores]
    scores[window] = [score]
    return toy_model(path, card={"golden": Golden(card.windows, scores)})


def noise(count: int) -> FloatArray:
    rng = np.random.default_rng(3)
    return (rng.standard_normal((count, TOY_WINDOW)) * rng.uniform(0.01, 0.06, (count, 1))).astype(np.float32)


def test_onnxruntime_reports_nothing_to_its_maker(toy: Path, tmp_path: Path) -> None:
    """It makes no device id and no store of events, as it does where it is imported alone."""

    def left(code: str) -> list[Path]:
        home = tmp_path / str(len(list(tmp_path.iterdir())))
        home.mkdir()
        subprocess.run(
            [sys.executable, "-c", code], env={"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}, check=True
        )
        return [path for path in home.rglob("*") if path.is_file()]

    begin = "from pathlib import Path; from pam_daemon.analysis.model import Model"
    assert left(f"{begin}; Model(Path({str(toy)!r}), 'cpu')") == []
    assert left("import onnxruntime") != []


def test_a_good_model_says_what_it_is(toy: Path) -> None:
    model = Model(toy, "cpu")
    assert (model.name.name, model.provider, model.card.labels) == ("toy", "cpu", ["loud"])
    assert model.name.sha256 == hashlib.sha256(toy.read_bytes()).hexdigest()
    assert model.golden_difference <= 1e-6


def test_scores_are_the_graphs_whatever_the_batch_and_the_threads(toy: Path) -> None:
    windows = noise(37)
    expected = 1 / (1 + np.exp(2 - np.square(windows, dtype=np.float64).sum(axis=1) / 2))
    whole = Model(toy, "cpu", 1).scores(windows)
    np.testing.assert_allclose(whole[:, 0], expected, atol=1e-5)
    for threads, batch in ((1, 1), (1, 8), (2, 37), (0, 5)):
        model = Model(toy, "cpu", threads)
        parts = [model.scores(windows[at : at + batch]) for at in range(0, 37, batch)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_auto_is_the_cpu_where_there_is_no_device(toy: Path, cuda_device: bool) -> None:
    assert Model(toy).provider == ("cuda" if cuda_device else "cpu")


def test_cuda_is_cuda_or_an_error(toy: Path, cuda_device: bool) -> None:
    if cuda_device:
        assert Model(toy, "cuda").provider == "cuda"
    else:
        assert "cuda" in refusal(toy, provider="cuda").lower()


@pytest.fixture
def cuda_device() -> bool:
    return Path("/dev/nvidiactl").exists()


@pytest.mark.parametrize(("window", "off"), [(0, 2e-4), (7, -2e-4), (15, 2e-4)])
def test_a_golden_score_that_does_not_come_out_is_refused(toy: Path, tmp_path: Path, window: int, off: float) -> None:
    path = with_scores(toy, tmp_path / "off.onnx", window, golden(toy).scores[window][0] + off)
    message = refusal(path)
    assert "golden self-test failed" in message
    assert f"window {window}" in message


def test_a_golden_score_within_the_tolerance_passes(toy: Path, tmp_path: Path) -> None:
    path = with_scores(toy, tmp_path / "near.onnx", 7, golden(toy).scores[7][0] + 5e-5)
    assert 4e-5 < Model(path, "cpu").golden_difference < 6e-5


def test_the_tolerance_is_the_precisions(toy: Path, tmp_path: Path) -> None:
    scores = [[row[0] - 0.015] for row in golden(toy).scores]
    card: dict[str, Any] = {"golden": Golden(golden(toy).windows, scores), "threshold": 0.999}
    Model(toy_model(tmp_path / "a.onnx", card=card | {"precision": "int8"}), "cpu")
    refusal(toy_model(tmp_path / "b.onnx", card=card | {"precision": "float16"}))
    refusal(toy_model(tmp_path / "c.onnx", card=card))


def test_a_canary_that_scores_wrong_ends_what_the_self_test_let_begin(toy: Path, tmp_path: Path) -> None:
    sound, broken = Model(toy, "cpu"), Model(wrong_alone(tmp_path / "alone.onnx"), "cpu")
    for _ in range(20):  # more than there are golden windows
        sound.canary()
    with pytest.raises(ModelError, match="golden self-test failed on cpu: window 0 scored"):
        broken.canary()


def test_no_golden_score_may_cross_the_threshold(toy: Path, tmp_path: Path) -> None:
    """Within the tolerance, but on its other side."""
    score = golden(toy).scores[9][0]
    card = golden(toy)
    scores = [*card.scores]
    scores[9] = [score + 4e-5]
    replaced: dict[str, Any] = {"golden": Golden(card.windows, scores), "threshold": score + 2e-5}
    assert "window 9" in refusal(toy_model(tmp_path / "crossed.onnx", card=replaced))


@pytest.mark.parametrize(
    "tampered",
    [
        {"windows": "no base64!"},
        {"windows": base64.b64encode(b"no zlib").decode()},
        {"windows": base64.b64encode(zlib.compress(b"\0" * 999)).decode()},
        {"windows": base64.b64encode(zlib.compress(b"")).decode()},
        {"windows": base64.b64encode(zlib.compress(b"\0\0" * TOY_WINDOW * 15)).decode()},
        {"scores": []},
        {"scores": [[0.5]] * 15},
        {"scores": [[0.5, 0.5]] * 16},
        {"scores": [[0.5]] * 15 + [[]]},
        {"windows": base64.b64encode(zlib.compress(b"")).decode(), "scores": []},
    ],
    ids=range(10),
)
def test_golden_windows_that_are_none_are_refused(toy: Path, tmp_path: Path, tampered: dict[str, Any]) -> None:
    card = msgspec.structs.replace(golden(toy), **tampered)
    assert "golden" in refusal(toy_model(tmp_path / "tampered.onnx", card={"golden": card}))


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.onnx")
    refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model\n" * 10, b"\0" * 1000, bytes(range(256)) * 8])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_model(toy: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(toy.read_bytes()[: int(share * toy.stat().st_size)])
    refusal(path)


def test_every_flipped_byte_is_noticed_or_harmless(toy: Path, tmp_path: Path) -> None:
    """A damaged file is refused in one line; where it is not, it scores as before."""
    data = toy.read_bytes()
    path = tmp_path / "flipped.onnx"
    windows = noise(4)
    expected = Model(toy, "cpu", 1).scores(windows)
    refused = 0
    for at in np.random.default_rng(1).integers(0, len(data), 60):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            actual = Model(path, "cpu", 1).scores(windows)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert refused > 0


def plain(
    path: Path, *, shape: Sequence[int | str] = ("batch", TOY_WINDOW), kind: int = TensorProto.FLOAT, card: str = ""
) -> Path:
    """A graph that gives one column of its input back."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["waveform"], ["scores"], axes=[1])],
        "plain",
        [helper.make_tensor_value_info("waveform", kind, shape)],
        [helper.make_tensor_value_info("scores", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if card:
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, card
    path.write_bytes(model.SerializeToString())
    return path


def card_text(toy: Path) -> str:
    return str(next(entry.value for entry in onnx.load(toy).metadata_props if entry.key == METADATA_KEY))


def test_a_model_without_a_card(tmp_path: Path) -> None:
    assert "without a pamd card" in refusal(plain(tmp_path / "plain.onnx"))


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (("batch", 16_000), "16000"),
        (("batch", 1, TOY_WINDOW), "4000"),
        ((1, TOY_WINDOW), "batch"),
    ],
)
def test_a_graph_of_another_shape_than_its_card_says(
    toy: Path, tmp_path: Path, shape: Sequence[int | str], named: str
) -> None:
    assert named in refusal(plain(tmp_path / "shape.onnx", shape=shape, card=card_text(toy)))


def test_a_graph_of_another_number_type(toy: Path, tmp_path: Path) -> None:
    refusal(plain(tmp_path / "double.onnx", kind=TensorProto.DOUBLE, card=card_text(toy)))


def test_a_graph_with_more_columns_than_labels(tmp_path: Path) -> None:
    message = refusal(toy_model(tmp_path / "two.onnx", labels=2))
    assert "(16, 2)" in message
    assert "(16, 1)" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "pamd-card/2"),
        ("threshold", 1.5),
        ("labels", []),
        ("window_samples", 0),
        ("precision", "int4"),
        ("resampler", "linear"),
        ("golden", None),
    ],
)
def test_a_card_with_a_wrong_field_names_it(toy: Path, tmp_path: Path, field: str, value: object) -> None:
    card = msgspec.json.decode(card_text(toy)) | {field: value}
    text = msgspec.json.encode(card).decode()
    assert f"$.{field}" in refusal(plain(tmp_path / "card.onnx", card=text))


def test_a_card_that_is_no_json(tmp_path: Path) -> None:
    assert "damaged" in refusal(plain(tmp_path / "card.onnx", card="{"))


def test_a_card_survives_its_file(toy: Path) -> None:
    card = Model(toy, "cpu").card
    assert read_card(card.to_metadata(), "x") == card


def test_a_score_that_is_no_number_ends_it(toy: Path) -> None:
    """A broken model must not pass for a quiet sea."""
    model = Model(toy, "cpu")
    with pytest.raises(ModelError, match="no number"):
        model.scores(np.full((1, TOY_WINDOW), np.nan, np.float32))


def test_metadata_that_are_not_text_are_refused(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "bent.onnx"
    path.write_bytes(toy.read_bytes().replace(b'"name":"toy"', b'"name":"\xff\xfe\xfd"'))
    assert "metadata are damaged" in refusal(path)


def test_golden_windows_that_unpack_to_more_than_was_said_are_refused(toy: Path, tmp_path: Path) -> None:
    """A megabyte of text may stand for a gigabyte: no more is unpacked than windows can be."""
    packed = base64.b64encode(zlib.compress(bytes(10**7))).decode()
    tracemalloc.start()
    try:
        path = toy_model(tmp_path / "bomb.onnx", card={"golden": Golden(packed, golden(toy).scores)})
        tracemalloc.reset_peak()
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    finally:
        tracemalloc.stop()


def test_a_graph_that_may_never_end_is_refused(toy: Path, tmp_path: Path) -> None:
    """A Loop of 2^62 turns is a sound graph, and would hold pamd for ever before it listens."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["state"], ["next"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    model = onnx.load(toy)
    model.graph.node.append(helper.make_node("Loop", ["turns", "", "scores"], ["never"], body=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "turns"))
    path = tmp_path / "loop.onnx"
    path.write_bytes(model.SerializeToString())
    assert "may never end" in refusal(path)


def test_a_graph_that_gives_no_tensor_is_refused(toy: Path, tmp_path: Path) -> None:
    model = onnx.load(toy)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["scores"], ["several"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, None))
    path = tmp_path / "several.onnx"
    path.write_bytes(model.SerializeToString())
    assert "the graph gives scores" in refusal(path)
