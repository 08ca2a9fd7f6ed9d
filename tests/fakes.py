"""Stand-ins with the real interfaces: a clock, a source, records, and a tiny ONNX model that scores loudness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.card import Card, Features, Golden, Training
from pam_daemon.clock import NS_PER_S, Sync
from pam_daemon.records import Event, Kind, Record, record_id

TOY_RATE_HZ = 2000
TOY_WINDOW = 4000
BEGAN_UTC_NS = 1_238_346_900 * NS_PER_S  # 2009-03-29T17:15:00Z


class FakeClock:
    """Stands still until a test moves it; its UTC can be stepped."""

    def __init__(self, utc_ns: int = BEGAN_UTC_NS) -> None:
        self.now_ns = 0
        self.began_utc_ns = utc_ns  # UTC when the monotonic clock was 0, as the machine has it now
        self.quality: Literal["synchronised", "unsynchronised"] = "synchronised"

    def monotonic_ns(self) -> int:
        return self.now_ns

    def utc_ns(self) -> int:
        return self.began_utc_ns + self.now_ns

    def sync(self) -> Sync:
        return Sync(self.quality, 0.01)


@dataclass
class FakeSource:
    """Gives what a test wrote down."""

    pieces: Sequence[Audio | Missing]
    sample_rate_hz: int = TOY_RATE_HZ
    channels: int = 1
    name: str = "made up"
    state: str = "made up"

    def blocks(self) -> Iterator[Audio | Missing]:
        yield from self.pieces


def event(number: int, *, kind: Kind = "event", station: str = "pamd", stream: str = "ch1") -> Record:
    """A made-up record; the same number gives the same id."""
    body = Event("test", "info", f"number {number}", {"number": number})
    identity = record_id(kind, station, stream, "key", number, "test")
    return Record(kind, station, stream, "replay", identity, "2026-01-01T00:00:00.000000Z", body)


def toy_model(path: Path, *, card: dict[str, Any] | None = None, labels: int = 1) -> Path:
    """Write a real ONNX model with a card: score = sigmoid(energy / 2 - 2) of a 2 s window at 2 kHz, 0.5 at rms 0.032.

    Args:
        card: fields of the card to replace, whether or not they are true.
        labels: columns that the graph gives, each the same score.
    """
    model = _loudness(labels)
    for key, value in msgspec.structs.replace(_toy_card(model), **card or {}).to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return path


def wrong_alone(path: Path) -> Path:
    """The toy, whose scores are wrong once windows come alone: not in the self-test, which scores all in one batch."""
    model = onnx.load(toy_model(path))
    graph = model.graph
    (logit,) = [node for node in graph.node if node.output[0] == "logit"]
    logit.output[0] = "right"
    alone = [
        helper.make_node("Shape", ["waveform"], ["batch_size"], start=0, end=1),
        helper.make_node("Equal", ["batch_size", "one"], ["is_alone"]),
        helper.make_node("Cast", ["is_alone"], ["wrong"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["right", "wrong"], ["logit"]),
    ]
    nodes = list(graph.node)
    place = nodes.index(logit) + 1
    del graph.node[:]
    graph.node.extend([*nodes[:place], *alone, *nodes[place:]])
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    path.write_bytes(model.SerializeToString())
    return path


def _loudness(labels: int) -> onnx.ModelProto:
    """Waveform (batch, 4000) -> scores (batch, labels)."""
    constants: dict[str, npt.NDArray[Any]] = {
        "axes": np.array([1], np.int64),
        "slope": np.full((1, labels), 0.5, np.float32),
        "offset": np.array(2.0, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSumSquare", ["waveform", "axes"], ["energy"], keepdims=1),
            helper.make_node("Mul", ["energy", "slope"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "offset"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["scores"]),
        ],
        "toy",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", TOY_WINDOW])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", labels])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _toy_card(model: onnx.ModelProto) -> Card:
    noise = np.random.default_rng(0).standard_normal((16, TOY_WINDOW))
    pcm = (noise * np.linspace(0.01, 0.06, 16)[:, None] * 32768).astype(np.int16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores: npt.NDArray[np.float32] = session.run(None, {"waveform": pcm.astype(np.float32) / 32768})[0]
    return Card(
        schema="pamd-card/1",
        name="toy",
        created_utc="2026-01-01T00:00:00Z",
        sample_rate_hz=TOY_RATE_HZ,
        window_samples=TOY_WINDOW,
        hop_samples=1000,
        labels=["loud"],
        threshold=0.5,
        precision="float32",
        resampler="soxr HQ float32",
        features=Features(256, 64, 256, 64, 40, 400, "No"),
        training=Training("by hand", "", 0, 1, "none", "none", "", 0.5, {}),
        temperature=1.0,
        models_scored_on_report=0,
        golden=Golden.pack(pcm, scores[:, :1]),
    )
