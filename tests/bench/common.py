"""What the measurements share: the model, the sound, and how a spread is written."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pam_daemon.analysis.model import Model
from pam_daemon.tools.simulate import Sea
from pam_daemon.tools.tables import Selection

PAMD = (sys.executable, "-m", "pam_daemon")


@dataclass(frozen=True)
class Bench:
    """What is measured, and how thoroughly."""

    model: Model
    directory: Path
    rounds: int
    hours: float

    @property
    def hop_s(self) -> float:
        return self.model.card.hop_samples / self.model.card.sample_rate_hz


def sea(
    sample_rate_hz: int, minutes: float, calls: int, model_rate_hz: int
) -> tuple[npt.NDArray[np.float32], list[Selection]]:
    """A simulated sea (samples,) and its calls; above the model's rate it is resampled, which is quicker to make."""
    made = Sea(minutes=minutes, calls=calls, seed=1, sample_rate_hz=model_rate_hz)
    samples = np.concatenate(list(made.blocks()))
    if sample_rate_hz != model_rate_hz:
        samples = soxr.resample(samples, model_rate_hz, sample_rate_hz)
    return samples, made.truth()


def write_sound(path: Path, samples: npt.NDArray[np.float32], sample_rate_hz: int, repeat: int = 1) -> Path:
    """As 16-bit AIFF, so many times over, without holding it all in memory."""
    with soundfile.SoundFile(path, "w", sample_rate_hz, 1, "PCM_16", format="AIFF") as file:
        for _ in range(repeat):
            file.write(samples)
    return path


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median with minimum and maximum."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} {unit} (median of {len(values)}, {low:.{digits}f} to {high:.{digits}f})"
