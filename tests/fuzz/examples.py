"""Valid examples of all that pamd reads, made by the writers that pamd and its users have."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import soundfile
from fakes import event, toy_model
from onnx import TensorProto, helper, numpy_helper

from pam_daemon.analysis.model import Model, shipped_model
from pam_daemon.card import Card, Golden
from pam_daemon.journal import Journal
from pam_daemon.records import Detection, Effort, Gap, Latency, ModelName, Record, Wire
from pam_daemon.tools.tables import Selection, write_raven

MODEL_WINDOW = 32
_SOUNDS = """
AIFF:PCM_16 AIFF:PCM_24 AIFF:FLOAT AIFF:IMA_ADPCM WAV:PCM_16 WAV:FLOAT WAV:MS_ADPCM WAV:ULAW WAVEX:PCM_24 RF64:PCM_16
W64:PCM_16 CAF:PCM_16 CAF:ALAC_16 FLAC:PCM_16 FLAC:PCM_24 OGG:VORBIS MP3:MPEG_LAYER_III AU:PCM_16 MAT5:PCM_16 VOC:PCM_16
SVX:PCM_16 NIST:PCM_16 IRCAM:PCM_16 SDS:PCM_16
"""


def sound_file(file_format: str, subtype: str, seconds: float = 2.2, rate_hz: int = 2000, channels: int = 1) -> bytes:
    """A rising tone of varying loudness."""
    if file_format == "MP3":
        rate_hz = 8000
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * (100 + 20 * time_s) * time_s) * np.abs(np.sin(time_s))
    file = io.BytesIO()
    soundfile.write(file, np.repeat(tone[:, None], channels, 1), rate_hz, subtype, format=file_format)
    return file.getvalue()


def sounds() -> list[bytes]:
    """A sound file in every format."""
    stereo = [sound_file(name, "PCM_16", 0.3, 4000, 2) for name in ("WAV", "AIFF", "FLAC")]
    tagged = [struct.pack("<4s4sI", b"LIST", b"INFO", 400), struct.pack("<4sI", b"bext", 602) + bytes(602)]
    wav = sound_file("WAV", "PCM_16", 0.2)
    return [
        *(sound_file(*kind.split(":")) for kind in _SOUNDS.split()),
        *stereo,
        *(wav[:12] + chunk + wav[12:] for chunk in tagged),
    ]


def models() -> list[bytes]:
    """Small models with true cards: one of a few operations, one with convolutions, quantisation and a branch."""
    with tempfile.TemporaryDirectory() as directory:
        card = Model(toy_model(Path(directory) / "toy.onnx"), "cpu", 1).card
        return [_with_card(graph, card, Path(directory) / "small.onnx") for graph in (_plain_graph(), _rich_graph())]


def cards() -> list[Any]:
    """A small model's card and the shipped one's, both with the small one's golden windows."""
    small, shipped = (_card(model) for model in (models()[0], shipped_model().read_bytes()))
    return [small, shipped | {"golden": small["golden"]}]


def with_card_text(model: bytes, text: bytes) -> bytes:
    """The model with another text for a card."""
    changed = onnx.load_from_string(model)
    del changed.metadata_props[:]
    # Not `entry.value = `: that refuses what is not UTF-8.
    entry = b"\x0a\x09pamd_card\x12" + _varint(len(text)) + text
    return changed.SerializeToString() + b"\x72" + _varint(len(entry)) + entry


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _card(model: bytes) -> Any:
    return msgspec.json.decode(onnx.load_from_string(model).metadata_props[0].value)


def _with_card(graph: onnx.GraphProto, card: Card, path: Path) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    pcm = np.random.default_rng(0).integers(-3000, 3000, (16, MODEL_WINDOW)).astype(np.int16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = session.run(None, {"waveform": pcm.astype(np.float32) / 32768})[0]
    card = msgspec.structs.replace(
        card, sample_rate_hz=16, window_samples=MODEL_WINDOW, hop_samples=8, golden=Golden.pack(pcm, scores)
    )
    for key, value in card.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    Model(path, "cpu", 1)  # it is a good one
    return path.read_bytes()


def _plain_graph() -> onnx.GraphProto:
    return helper.make_graph(
        [
            helper.make_node("ReduceSumSquare", ["waveform", "axes"], ["energy"], keepdims=1),
            helper.make_node("Sigmoid", ["energy"], ["scores"]),
        ],
        "plain",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", MODEL_WINDOW])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )


def _rich_graph() -> onnx.GraphProto:
    rng = np.random.default_rng(1)
    constants: dict[str, Any] = {
        "axes": np.array([1], np.int64),
        "kernel": rng.standard_normal((4, 1, 5)).astype(np.float32),
        "scale": np.array(0.05, np.float32),
        "zero": np.array(0, np.int8),
        "weights": rng.standard_normal((4, 1)).astype(np.float32),
        "bias": np.zeros(1, np.float32),
        "true": np.array(True),
    }
    value = helper.make_tensor_value_info
    branch = [
        helper.make_graph([helper.make_node(op, ["pooled"], [name])], name, [], [value(name, TensorProto.FLOAT, None)])
        for op, name in (("Relu", "yes"), ("Neg", "no"))
    ]
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "axes"], ["signal"]),
        helper.make_node("QuantizeLinear", ["signal", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("Conv", ["dq", "kernel"], ["filtered"], strides=[2], pads=[2, 2]),
        helper.make_node("MaxPool", ["filtered"], ["smaller"], kernel_shape=[3]),
        helper.make_node("GlobalAveragePool", ["smaller"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["pooled"]),
        helper.make_node("If", ["true"], ["chosen"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Gemm", ["chosen", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["scores"]),
    ]
    return helper.make_graph(
        nodes,
        "rich",
        [value("waveform", TensorProto.FLOAT, ["batch", MODEL_WINDOW])],
        [value("scores", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )


def tables() -> list[bytes]:
    """Selection tables as pamd writes them, and in the encodings of others."""
    selections = [
        Selection(1.5, 2.75, 50.0, 200.0, 1, "upcall", 0.9, {"Begin File": "a.wav", "SNR (dB)": "3"}),
        Selection(61.0, 62.0, label="moan"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        write_raven(Path(directory) / "t.txt", selections)
        text = (Path(directory) / "t.txt").read_text(encoding="utf-8")
    two_views = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tSpecies\r\n"
    two_views += "1\tSpectrogram 1\t1\t1\t2\tEubalæna\r\n1\tWaveform 1\t1\t1\t2\tEubalæna\r\n"
    audacity = "1.500000\t2.750000\tupcall\n\\\t50.000000\t200.000000\n"  # another program's
    return [
        text.encode(),
        text.encode("utf-16"),
        two_views.encode("cp1252"),
        two_views.encode("utf-8-sig"),
        audacity.encode(),
    ]


def records() -> list[Wire]:
    """A journalled record of each kind that has a body of its own."""
    instant = "2026-01-01T00:00:00.000000Z"
    bodies: dict[str, Any] = {
        "detection": Detection(
            instant, instant, instant, 1.0, 3.0, 2.0, 2000, 6000, "upcall", 0.9, 0.5, "model", 3, False, False,
            ModelName("toy", "0" * 64), -30.0, Latency(1.0, None, None, None, None),
        ),
        "gap": Gap("gap", 0, 100, instant, 0.05, "overflow", True, 0.1),
        "effort": Effort(instant, instant, 0, 4000, 2000, 4000, 4000, 0, 0, 0),
    }  # fmt: skip
    made = [event(1), *(Record(kind, "pamd", "ch1", "live", "0" * 32, instant, body) for kind, body in bodies.items())]
    with tempfile.TemporaryDirectory() as directory, closing(Journal(Path(directory) / "j")) as journal:
        return [wire for wire, _ in journal.append(made)]


def journal() -> bytes:
    """A journal's file with records in it, in one piece."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "j"
        with closing(Journal(path)) as made:
            made.append([event(number) for number in range(5)])
            made.keep_places({"ch1": 5})
        with closing(sqlite3.connect(path)) as db:
            db.execute("pragma journal_mode = delete")
        return path.read_bytes()


def as_json(tree: Any) -> bytes:
    """Also of what JSON has no word for (NaN), as other programs write it."""
    return json.dumps(tree).encode()
