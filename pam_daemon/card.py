"""The model card: everything that a model says of itself, kept in the ONNX file's metadata.

The card is the authority (sample rate, window, labels, threshold, hop); `analysis.model` reads it, `export` writes it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pam_daemon.errors import ModelError

METADATA_KEY = "pamd_card"  # the key of the card's JSON in the ONNX metadata
SCHEMA = "pamd-card/1"
RESAMPLER = "soxr HQ float32"
GOLDEN_COUNT = 16
# Largest difference from the golden scores that another processor or provider may show, by precision.
GOLDEN_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 2e-2}

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Golden(msgspec.Struct, frozen=True):
    """Windows with known scores: the self-test that the model carries with it."""

    windows: str  # base64 of zlib of int16 little-endian PCM, (GOLDEN_COUNT, window_samples); full scale 32768
    scores: list[list[float]]  # (GOLDEN_COUNT, labels), by onnxruntime on a CPU from the exported file

    @staticmethod
    def pack(pcm: npt.NDArray[np.int16], scores: npt.NDArray[np.float32]) -> Golden:
        """From pcm (windows, samples) and scores (windows, labels)."""
        data = base64.b64encode(zlib.compress(pcm.astype("<i2").tobytes(), 9)).decode("ascii")
        return Golden(data, [[round(float(s), 7) for s in row] for row in scores])

    def unpack(self, window_samples: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Windows (count, window_samples) float32, full scale +-1, and scores (count, labels).

        Raises:
            ValueError, zlib.error: something else is packed there.
        """
        # A little text may stand for gigabytes: one byte too many is enough to be refused.
        wanted_bytes = GOLDEN_COUNT * window_samples * 2
        data = zlib.decompressobj().decompress(base64.b64decode(self.windows), wanted_bytes + 1)
        pcm = np.frombuffer(data, "<i2")
        windows = pcm.reshape(-1, window_samples).astype(np.float32) / np.float32(32768)
        return windows, np.array(self.scores, np.float32)


class Features(msgspec.Struct, frozen=True):
    """The log-mel layer inside the graph, for the reader of the card."""

    taper_samples: Count
    frame_hop_samples: Count
    fft_samples: Count
    mel_bins: Count
    min_hz: float
    max_hz: float
    normalization: str


class OperatingPoint(msgspec.Struct, frozen=True):
    """What a threshold gave, and on which data; counts, so that others can put intervals on them."""

    data: str
    threshold: Share
    found: int
    marked: int
    false: int
    hours: float


class Training(msgspec.Struct, frozen=True):
    """How the model came to be."""

    command: str
    configuration: str  # the whole YAML, as used
    seed: int
    epochs: int
    data: str
    split: str
    notice: str
    prior: Share  # share of positive windows in the training data
    metrics: dict[str, float]  # name with split -> figure, e.g. "select/roc_auc"


class Card(msgspec.Struct, frozen=True):
    """See the module's first line. Model samples are at `sample_rate_hz`."""

    schema: Literal["pamd-card/1"]
    name: str
    created_utc: str
    sample_rate_hz: Count
    window_samples: Count
    hop_samples: Count
    labels: Annotated[list[str], msgspec.Meta(min_length=1)]
    threshold: Share
    precision: Literal["float32", "float16", "int8"]
    resampler: Literal["soxr HQ float32"]
    features: Features
    training: Training
    temperature: float  # the logits are divided by it inside the graph
    models_scored_on_report: int  # how many frozen models were ever scored on the report recordings
    golden: Golden
    operating_points: list[OperatingPoint] = []
    notes: list[str] = []

    def to_metadata(self) -> dict[str, str]:
        """The key and value for the ONNX file's metadata."""
        return {METADATA_KEY: msgspec.json.encode(self).decode()}


def read_card(metadata: Mapping[str, str], path: str) -> Card:
    """The card in an ONNX file's metadata.

    Raises:
        ModelError: no card, or one with a wrong field (named).
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ModelError(f"{path}: an ONNX file without a pamd card; make one with `pamd train`")
    try:
        return msgspec.json.decode(text, type=Card)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ModelError(f"{path}: the model card is damaged: {error}; use another copy of the file") from error
