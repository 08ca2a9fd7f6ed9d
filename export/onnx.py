"""The trained network as an ONNX graph: float32, float16, or int8 with as many layers in float as accuracy needs."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export.checkpoint import replacing
from export.network import Scorer
from export.store import Audio

INPUT = "waveform"
OUTPUT = "scores"
OPSET = 18
_CALIBRATION_BATCH = 16
_SCORING_BATCH = 32
_QUANTIZED = ["Conv", "Add", "Relu", "MaxPool"]  # pooling before the head, and the head, stay in float
_SENSITIVITY_WINDOWS = 96
_HEAD = ["Gemm", "MatMul", "Conv"]  # the last of these gives the logits
_TIMED_S = 1.0  # a file
_LEAST_TURNS = 3


def export_float(scorer: Scorer, window_samples: int, path: Path) -> None:
    """Write the graph `waveform (batch, window_samples) -> scores (batch, labels)`, any batch, batch norms folded."""
    batch = torch.export.Dim("batch", min=1)
    example = torch.linspace(-0.1, 0.1, 2 * window_samples).reshape(2, window_samples)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own future
        torch.onnx.export(
            scorer.eval(),
            (example,),
            temporary,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"waveform": {0: batch}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        write(onnx.load(temporary), {}, temporary)


def write(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Save the graph with this metadata alone; what exporters note (source paths, stack traces) is taken out."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def score(path: Path, audio: Audio, threads: int = 0) -> Audio:
    """Scores (clips, labels) by onnxruntime on the CPU; threads 0: its own choice."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run([OUTPUT], {INPUT: audio[first : first + _SCORING_BATCH]})[0]
        for first in range(0, len(audio), _SCORING_BATCH)
    ]
    scores: Audio = np.concatenate(parts)
    return scores


def windows_per_s(paths: Sequence[Path], audio: Audio) -> list[float]:
    """The fastest batch of each file on the CPU, of `_SCORING_BATCH` (or fewer) of these windows.

    In turns, so that whatever else the computer does slows all alike.
    """
    batch = audio[:_SCORING_BATCH]
    sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths]
    fastest_s = [float("inf")] * len(paths)
    end_s = time.perf_counter() + _TIMED_S * len(paths)
    for turn in count():
        if turn > _LEAST_TURNS and time.perf_counter() > end_s:
            break
        for i, session in enumerate(sessions):
            begun_s = time.perf_counter()
            session.run([OUTPUT], {INPUT: batch})
            fastest_s[i] = min(fastest_s[i], time.perf_counter() - begun_s)
    return [len(batch) / one_s for one_s in fastest_s]


def halve(source: Path, target: Path) -> None:
    """Write a float16 model: the log-mel and what follows the logits stay in float32, as do input and output.

    The power of a quiet frequency is under the least that float16 can tell from 0, and scores near 1 would be steps
    of 0.0005. onnxruntime's converter is given what lies between alone: told to leave nodes out, it leads what is
    between them through float16, and breaks graphs whose input has two readers.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    graph, nodes = model.graph, list(model.graph.node)
    begin = len(_layers(source)[0])
    end = 1 + max(number for number, node in enumerate(nodes) if node.op_type in _HEAD)
    inner, outer = nodes[begin:end], nodes[:begin] + nodes[end:]
    part = convert_float_to_float16(_part(model, inner, nodes[end:]), keep_io_types=True)
    OnnxModel(part).topological_sort()  # the converter appends its casts
    half = onnx.compose.add_prefix(part, "half/", rename_inputs=False, rename_outputs=False).graph
    kept = [tensor for tensor in graph.initializer if tensor.name in _read(outer)]
    for field, values in (
        (graph.node, [*nodes[:begin], *half.node, *nodes[end:]]),
        (graph.initializer, [*kept, *half.initializer]),
        (graph.value_info, []),
    ):
        del field[:]
        field.extend(values)
    with replacing(target) as temporary:
        write(model, {}, temporary)


def _part(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], later: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Some nodes as a model of their own; its outputs are what `later` ones read."""
    graph, made = model.graph, {output: None for node in nodes for output in node.output}
    typed = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    weights = [tensor for tensor in graph.initializer if tensor.name in _read(nodes)]
    known = {tensor.name for tensor in weights}
    inputs = [typed[name] for name in _read(nodes) if name not in made and name not in known]
    outputs = [typed[name] for name in made if name in _read(later)]
    made_graph = onnx.helper.make_graph(nodes, "part", inputs, outputs, weights)
    return onnx.helper.make_model(made_graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _read(nodes: Sequence[onnx.NodeProto]) -> dict[str, None]:
    """Names of what the nodes take in, in order."""
    return {name: None for node in nodes for name in node.input if name}


@dataclass(frozen=True)
class Limits:
    """What int8 may cost."""

    largest_loss: float  # of the figure that `quality` gives
    largest_bytes: int


@dataclass(frozen=True)
class Quantized:
    """What was made, and what it cost."""

    left_in_float: list[str]  # names of convolution weights
    loss: float
    enough: bool  # whether the limits were met


def quantize(
    source: Path, target: Path, calibration: Audio, quality: Callable[[Path], float], limits: Limits
) -> Quantized:
    """Write an int8 model (QDQ, per channel), leaving convolutions in float, the worst first, until the limits are met.

    Weights use 7 bits (`reduce_range`): without VNNI, 8 bits saturate in the 16-bit sums of x86 processors.

    Args:
        calibration: (windows, samples) of training audio, from which the ranges of activations are taken.
        quality: the figure (higher is better) of a model file.
    """
    prepared = target.with_name("prepared.onnx.tmp")
    trial = target.with_name("trial.onnx.tmp")
    try:
        with _quiet():
            quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        reference = quality(source)
        front, layers = _layers(prepared)
        excluded: list[str] = []
        ranking: list[str] | None = None
        while True:
            in_float = [node for name in excluded for node in layers[name].nodes]
            _quantize_once(prepared, trial, calibration, front + in_float)
            loss = reference - quality(trial)
            enough = loss < limits.largest_loss
            if not enough and ranking is None:
                ranking = _worst_first(prepared, trial, calibration, front, layers)
                _quantize_once(prepared, trial, calibration, front)
            following = None if enough else _next(ranking or [], excluded, layers, trial, limits)
            if following is None:
                break
            excluded.append(following)
        with replacing(target) as temporary:
            write(onnx.load(trial), {}, temporary)
        fits = target.stat().st_size <= limits.largest_bytes
        return Quantized([layers[name].weight for name in excluded], loss, enough and fits)
    finally:
        prepared.unlink(missing_ok=True)
        trial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Layer:
    weight: str
    parameters: int
    nodes: list[str]  # the convolution, and the additions, rectifiers and pooling that its output goes through


def _layers(path: Path) -> tuple[list[str], dict[str, _Layer]]:
    """Names of the log-mel front end's nodes, and the network's convolutions by node name."""
    graph = onnx.load(path).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    layers = {
        node.name: _Layer(node.input[1], int(np.prod(shapes[node.input[1]])), [node.name, *_followers(graph, node)])
        for node in graph.node
        if node.op_type == "Conv" and len(shapes[node.input[1]]) == 4
    }
    names = [node.name for node in graph.node]
    return names[: names.index(next(iter(layers)))], layers


def _followers(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[str]:
    """Names of the quantizable nodes, other than convolutions, between this node and the next convolutions."""
    found: list[str] = []
    reached, summed = set(node.output), set[str]()
    for other in graph.node:  # in topological order
        inputs, kind = set(other.input), other.op_type
        if kind not in _QUANTIZED or kind == "Conv" or not (reached & inputs or (kind == "Relu" and summed & inputs)):
            continue
        found.append(other.name)
        if kind == "Add":
            summed |= set(other.output)  # past its rectifier begins the next block, which the shortcut leads through
        elif reached & inputs:
            reached |= set(other.output)
    return found


def _next(
    ranking: Sequence[str], excluded: Sequence[str], layers: Mapping[str, _Layer], trial: Path, limits: Limits
) -> str | None:
    """The worst layer that is still quantized and that the file has room for in float (3 bytes more a weight)."""
    room = limits.largest_bytes - trial.stat().st_size
    for name in ranking:
        if name not in excluded and 3 * layers[name].parameters <= room:
            return name
    return None


def _worst_first(
    source: Path, trial: Path, calibration: Audio, front: list[str], layers: Mapping[str, _Layer]
) -> list[str]:
    """The convolutions by the error in the scores when each alone is quantized, largest first."""
    windows = calibration[:_SENSITIVITY_WINDOWS]
    reference = score(source, windows)
    errors = {}
    for name in layers:
        _quantize_once(source, trial, windows, front, [name])
        errors[name] = float(np.abs(score(trial, windows) - reference).mean())
    return sorted(errors, key=lambda name: -errors[name])


def _quantize_once(
    source: Path, target: Path, calibration: Audio, excluded: list[str], only: list[str] | None = None
) -> None:
    with _quiet():
        quantize_static(
            str(source),
            str(target),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=only,
            nodes_to_exclude=excluded,
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of windows, as onnxruntime asks for them."""

    def __init__(self, windows: Audio) -> None:
        self._batches: Iterator[Audio] = iter(
            [windows[first : first + _CALIBRATION_BATCH] for first in range(0, len(windows), _CALIBRATION_BATCH)]
        )

    def get_next(self) -> dict[str, Audio] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer gives advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
