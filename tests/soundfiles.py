"""Sound files for tests: written, cut, and read as recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.file import Recording, recordings

RATE_HZ = 2000
Samples = NDArray[np.float32]


def noise(samples: int, channels: int = 1, seed: int = 0) -> Samples:
    """Shape (channels, samples), exact in 16 bits."""
    values = np.random.default_rng(seed).integers(-20000, 20000, (channels, samples))
    return (values / 32768).astype(np.float32)


def write(path: Path, samples: Samples, rate_hz: int = RATE_HZ, **kind: str) -> Path:
    soundfile.write(path, samples.T, rate_hz, **kind)
    return path


def only(path: Path, **options: object) -> Recording:
    (recording,) = recordings([path], **{"min_rate_hz": RATE_HZ, **options})  # type: ignore[arg-type]
    return recording


def collect(recording: Recording, block_samples: int | None = None) -> tuple[Samples, list[Missing]]:
    """All audio, and what was missing; checks that blocks are what the interface promises."""
    audio: list[Samples] = [np.zeros((recording.channels, 0), np.float32)]
    missing = []
    for item in recording.blocks(block_samples):
        if isinstance(item, Missing):
            missing.append(item)
            continue
        assert isinstance(item, Audio)
        assert (item.samples.dtype, item.monotonic_ns) == (np.float32, None)
        assert item.samples.shape[1] <= (block_samples or recording.sample_rate_hz)
        assert item.samples.flags.c_contiguous
        audio.append(item.samples)
    return np.concatenate(audio, axis=1), missing


def cut(path: Path, keep: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path
