"""The ONNX model at work: the provider proved, the golden self-test passed, windows in and scores out."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import structlog

from pam_daemon.capture.ring import FloatArray
from pam_daemon.card import GOLDEN_COUNT, GOLDEN_TOLERANCE, Card, read_card
from pam_daemon.config import Provider
from pam_daemon.errors import ModelError
from pam_daemon.records import ModelName

_ONNX_PROVIDER = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_LOOP = b"\x22\x04Loop"  # a node's operation, as ONNX's protocol buffer writes it
log = structlog.get_logger()
_SILENT = 4  # onnxruntime's level "fatal": what goes wrong is raised, and said once by us


def shipped_model() -> Path:
    """The model that comes with pamd."""
    return Path(str(resources.files("pam_daemon") / "models" / "narw.onnx"))


class Model:
    """A model file, loaded and tested.

    Args:
        path: the ONNX file, with its card in the metadata.
        provider: `auto` takes CUDA where it really works and else the CPU; `cuda` refuses to fall back.
        threads: of onnxruntime; 0 lets it take one a core.
        spin: whether they wait for the next call with a core in hand: faster where calls follow at once, and a core
            burnt between the windows of a live stream.

    Raises:
        ModelError: not a model, no card, a provider that is not to be had, or golden scores that do not come out.
    """

    def __init__(self, path: Path, provider: Provider = "auto", threads: int = 0, *, spin: bool = False) -> None:
        self.path = path
        data = _read(path)
        self._session = _open(path, data, provider, _options(threads, spin))
        self.provider = "cuda" if self._session.get_providers()[0] == _ONNX_PROVIDER["cuda"] else "cpu"
        self.card: Card = read_card(self._metadata(), str(path))
        self.name = ModelName(self.card.name, hashlib.sha256(data).hexdigest())
        self._input = self._named_input()
        self._canary = -1
        self.golden_difference = self._check_golden()

    def scores(self, windows: FloatArray) -> FloatArray:
        """Windows (batch, window_samples) at the model's rate -> scores (batch, labels), 0..1.

        Raises:
            ModelError: the graph cannot be run, or gives a score that is no number: to go on would be to be deaf and
                not to say so.
        """
        try:
            result: FloatArray = np.asarray(self._session.run(None, {self._input: windows})[0])
            finite = np.isfinite(result).all()
        except Exception as error:  # onnxruntime's have no base of their own
            what = str(error).strip().splitlines()[0][:200]
            raise ModelError(
                f"{self.path}: cannot score a batch of windows on {self.provider}: {what}; use another model"
            ) from error
        if not finite:
            raise ModelError(f"{self.path}: gave a score that is no number on {self.provider}; use another model")
        return result

    def canary(self) -> None:
        """Score one golden window again, the next each time.

        Raises:
            ModelError: it does not come out: a broken CUDA context can give garbage for hours.
        """
        windows, expected = self._golden()
        number = self._canary = (self._canary + 1) % len(windows)
        self._compare(self.scores(windows[number : number + 1]), expected[number : number + 1], number)

    def _metadata(self) -> Mapping[str, str]:
        try:
            metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path}: the metadata are damaged: {error}; use another copy of the file") from error
        return metadata

    def _named_input(self) -> str:
        wanted = self.card.window_samples
        try:
            (name, shape), *more = [(each.name, each.shape) for each in self._session.get_inputs()]
        except ValueError as error:  # none at all, or a name that is not UTF-8
            raise ModelError(f"{self.path}: the graph takes no windows: {error}; export the model again") from error
        if more or len(shape) != 2 or shape[1] != wanted:
            raise ModelError(
                f"{self.path}: the graph takes {shape}, its card says (batch, {wanted}); export the model again"
            )
        return str(name)

    def _check_golden(self) -> float:
        """The largest difference from the golden scores."""
        windows, expected = self._golden()
        actual = self.scores(windows)
        if actual.shape != expected.shape:
            raise ModelError(
                f"{self.path}: the graph gives scores {actual.shape}, its card says {expected.shape} "
                f"(windows, labels); export the model again"
            )
        return self._compare(actual, expected)

    def _compare(self, actual: FloatArray, expected: FloatArray, first: int = 0) -> float:
        """The largest difference of the golden windows' scores (windows, labels), from the window `first` on."""
        card = self.card
        difference = np.abs(actual - expected)
        crossed = (actual >= card.threshold) != (expected >= card.threshold)
        bad = ~(difference <= GOLDEN_TOLERANCE[card.precision]) | crossed
        if bad.any():
            window, label = np.argwhere(bad)[0]
            raise ModelError(
                f"{self.path}: golden self-test failed on {self.provider}: window {first + window} scored "
                f"{actual[window, label]:.4f}, the card says {expected[window, label]:.4f} "
                f"(tolerance {GOLDEN_TOLERANCE[card.precision]:g}); use another copy of the file or provider: cpu"
            )
        return float(difference.max())

    def _golden(self) -> tuple[FloatArray, FloatArray]:
        """The card's windows (count, window_samples) and their scores (count, labels)."""
        card = self.card
        try:
            windows, scores = card.golden.unpack(card.window_samples)
        except (ValueError, zlib.error) as error:
            raise ModelError(
                f"{self.path}: the card's golden windows are damaged: {error}; use another copy of the file"
            ) from error
        if scores.shape != (GOLDEN_COUNT, len(card.labels)) or len(windows) != GOLDEN_COUNT:
            raise ModelError(
                f"{self.path}: the card has {len(windows)} golden windows with scores {scores.shape}, wanted are "
                f"{GOLDEN_COUNT} with a score for each of {card.labels}; export the model again"
            )
        return windows, scores


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}; give another with --model") from error
    if _LOOP in data:  # the one operation that need not end, and no scoring of windows wants it
        raise ModelError(f"{path}: the graph has a Loop, which may never end; export it without")
    return data


def _open(path: Path, data: bytes, provider: Provider, options: Any) -> Any:
    if provider == "cpu" or (provider == "auto" and not has_nvidia_device()):
        return _session(path, data, "cpu", options)
    try:
        return _cuda_session(path, data, options)
    except ModelError as error:
        if provider == "cuda":
            raise
        log.warning("provider cpu", asked=provider, error=str(error))
        return _session(path, data, "cpu", options)


def _cuda_session(path: Path, data: bytes, options: Any) -> Any:
    """Asked for CUDA, onnxruntime falls back to the CPU with no more than a warning: that is refused."""
    session = _session(path, data, "cuda", options)
    got = session.get_providers()[0]
    if got != _ONNX_PROVIDER["cuda"]:
        raise ModelError(
            f"{path}: provider cuda was asked for and onnxruntime gave {got}; "
            'install the CUDA libraries (pip install "pamd[cuda]") or set model.provider: cpu'
        )
    return session


def has_nvidia_device() -> bool:
    """Whether there is one, and its driver."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _options(threads: int, spin: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return options


def _session(path: Path, data: bytes, provider: Literal["cuda", "cpu"], options: Any) -> Any:
    onnxruntime.set_default_logger_severity(_SILENT)  # a provider that cannot be loaded complains there
    try:
        return onnxruntime.InferenceSession(data, options, providers=[_ONNX_PROVIDER[provider]])
    except Exception as error:
        what = str(error).strip().splitlines()[0][:200]
        raise ModelError(f"{path}: not a usable ONNX model: {what}; give another with --model") from error
