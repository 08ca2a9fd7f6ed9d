"""Noise that is mixed into training clips: recorded at sea, or the simulated sea's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from export import sound, store
from export.config import TrainConfig
from export.store import Audio
from pam_daemon.errors import SourceError
from pam_daemon.tools.simulate import ambient_noise


def mix(audio: Audio, config: TrainConfig, random: np.random.Generator) -> Audio:
    """Add noise to `noise_probability` of the clips (batch, samples), at a signal-to-noise ratio drawn for each.

    The ratio is of the clip's rms, its own noise included, to the added noise's.
    """
    augmentation = config.augmentation
    recorded = recordings(config)
    mixed = audio.copy()
    for row in np.flatnonzero(random.random(len(audio)) < augmentation.noise_probability):
        added = _draw(recorded, config, random)
        snr_db = random.uniform(*augmentation.noise_snr_db)
        mixed[row] += added * np.sqrt(np.mean(audio[row] ** 2) / np.mean(added**2)) * 10 ** (-snr_db / 20)
    return mixed


def _draw(recorded: Audio | None, config: TrainConfig, random: np.random.Generator) -> Audio:
    """Noise (samples,) of a window's length, not silent."""
    if recorded is None or (config.augmentation.noise_simulated and random.random() < 0.5):
        return ambient_noise(config.window_samples, config.audio.sample_rate, random).astype(np.float32)
    drawn: Audio = recorded[random.integers(len(recorded))]
    return drawn


def recordings(config: TrainConfig) -> Audio | None:
    """The windows (windows, samples) of `augmentation.noise_folder`; None without one. Read once.

    Raises:
        SourceError: a folder without sound of a window's length, or a file that cannot be read.
    """
    folder = config.augmentation.noise_folder
    return _windows(folder, config.audio.sample_rate, config.window_samples) if folder else None


@lru_cache(maxsize=1)
def _windows(folder: str, sample_rate_hz: int, window_samples: int) -> Audio:
    paths = sound.sounds_in(Path(folder), below=True) if Path(folder).is_dir() else []
    begins = {
        path: range(0, sound.samples_of(path, sample_rate_hz) - window_samples + 1, window_samples) for path in paths
    }
    windows = store.empty(sum(map(len, begins.values())), window_samples)
    count = 0
    for path, own in begins.items():
        for window in sound.cut(path, 1, own, sample_rate_hz, window_samples):
            windows[count] = window
            count += bool(window.any())  # silence has no level that a ratio could be to
    if not count:
        raise SourceError(
            f"augmentation.noise_folder: {folder}: no sound file of a window's length; give another folder"
        )
    return windows[:count]
