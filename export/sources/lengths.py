"""Clips that are longer than a window: their middle, or one window after the other."""

from __future__ import annotations

from dataclasses import replace

from export.config import TrainConfig
from export.sound import samples_of
from export.sources.cut import Cut


def cuts(clip: Cut, config: TrainConfig) -> list[Cut]:
    """The clip itself, or as `dataset.longer_clips` asks the windows of its length; the last is aligned to its end.

    Raises:
        SourceError: a clip that is missing or cannot be read, where its length matters.
    """
    if config.dataset.longer_clips == "Middle":
        return [clip]
    window, rate_hz = config.window_samples, config.audio.sample_rate
    last = samples_of(clip.path, rate_hz) - window
    if last <= 0:
        return [clip]
    begins = [*range(0, last, window), last]
    return [replace(clip, begin=begin, begin_s=begin / rate_hz) for begin in begins]
