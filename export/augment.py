"""Augmentation of training clips: calls made into none, speed, shifts, distractors, noise, gain, mixup; masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import map_coordinates
from scipy.signal import hilbert
from torch import Tensor
from torchaudio.functional import mask_along_axis_iid

from export import noise
from export.config import TrainConfig
from export.dataset import Clips
from export.store import Audio
from pam_daemon.tools import sounds
from pam_daemon.tools.simulate import CONFOUNDERS, Kind

FADE_S = 0.05  # crossfade between a shifted clip and what fills the rest
_NEIGHBOURS = 16  # clips without a call, nearest in the table and so in time and noise, that fillings are drawn from

# What the sea has beside calls: the confounders of a simulated sea, and as often units of song, which few clips hold.
DISTRACTORS = (*CONFOUNDERS, Kind(sounds.song_unit, sum(kind.share for kind in CONFOUNDERS), (0.2, 1.5), (-3.0, 20.0)))
_SHARES = np.array([kind.share for kind in DISTRACTORS]) / sum(kind.share for kind in DISTRACTORS)
_MOST_DISTRACTORS = 3  # in one clip


class Augmenter:
    """Draws augmented batches from clips. All randomness comes from the generator given to each call."""

    def __init__(self, clips: Clips, config: TrainConfig) -> None:
        self._clips = clips
        self._config = config
        self._augmentation = config.augmentation
        self._sample_rate_hz = config.audio.sample_rate

    def draw(self, index: npt.NDArray[np.intp], random: np.random.Generator) -> tuple[Audio, Audio]:
        """Waveforms (batch, samples) and targets (batch, labels) 0..1 of the clips at `index`, mixup included."""
        augmentation = self._augmentation
        audio, targets = self._varied(index, random)
        if augmentation.mix_audio == "Disabled":
            return audio, targets
        for _ in range(augmentation.mix_iterations):
            partners = random.integers(len(self._clips), size=len(index))
            other, other_targets = self._varied(partners, random)
            share = random.beta(augmentation.mix_concentration, augmentation.mix_concentration, (len(index), 1))
            share[random.random((len(index), 1)) >= augmentation.mix_probability] = 1.0
            audio = mix(audio, other, share.astype(np.float32))
            if augmentation.mix_target == "Max":
                targets = np.where(share < 1, np.maximum(targets, other_targets), targets)
            else:
                targets = (share * targets + (1 - share) * other_targets).astype(np.float32)
        return audio, targets

    def _varied(self, index: npt.NDArray[np.intp], random: np.random.Generator) -> tuple[Audio, Audio]:
        audio, targets = self._clips.audio[index], self._clips.labels[index]
        if self._augmentation.backwards_probability:
            audio, targets = spoil(audio, targets, self._augmentation.backwards_probability, backwards, random)
        if self._augmentation.tilt_probability:
            audio, targets = spoil(audio, targets, self._augmentation.tilt_probability, self._tilted, random)
        if self._augmentation.speed_octaves:
            audio = vary_speed(audio, self._augmentation.speed_octaves, random)
        if self._augmentation.time_shift_seconds:
            limit = self._augmentation.time_shift_seconds * self._sample_rate_hz
            shifts = np.rint(random.uniform(-limit, limit, len(index))).astype(np.intp)
            audio = shift(audio, self._clips.audio[quiet(self._clips, index, random)], shifts, self._sample_rate_hz)
        if self._augmentation.distractor_probability:
            audio = distract(audio, self._augmentation.distractor_probability, self._sample_rate_hz, random)
        if self._augmentation.noise_probability:
            audio = noise.mix(audio, self._config, random)
        if self._augmentation.gain_db:
            gain_db = random.uniform(-self._augmentation.gain_db, self._augmentation.gain_db, (len(index), 1))
            audio = (audio * 10 ** (gain_db / 20)).astype(np.float32)
        return audio, targets

    def _tilted(self, audio: Audio, random: np.random.Generator) -> Audio:
        return tilt(audio, random.uniform(*self._augmentation.tilt_hz_per_second, len(audio)), self._sample_rate_hz)


def quiet(clips: Clips, index: npt.NDArray[np.intp], random: np.random.Generator) -> npt.NDArray[np.intp]:
    """For each clip the place of one near it in the table, without any call, to fill it up with; perhaps its own."""
    without = np.flatnonzero(clips.labels.max(1) == 0)
    first = np.clip(np.searchsorted(without, index) - _NEIGHBOURS // 2, 0, max(0, len(without) - _NEIGHBOURS))
    places: npt.NDArray[np.intp] = without[
        np.minimum(first + random.integers(_NEIGHBOURS, size=len(index)), len(without) - 1)
    ]
    return places


def shift(audio: Audio, filling: Audio, shifts_samples: npt.NDArray[np.intp], sample_rate_hz: int) -> Audio:
    """Move each clip later (positive) or earlier within its window; what is uncovered holds the filling.

    The filling is brought to the clip's rms and joined with an equal-power crossfade of `FADE_S`, so that a shifted
    window sounds like a continuous recording: rolling would move the end of a call before its start.

    Args:
        audio, filling: (batch, samples).
        shifts_samples: (batch,).
    """
    samples = audio.shape[1]
    source = np.arange(samples)[None, :] - shifts_samples[:, None]  # the clip's sample at each place
    later = shifts_samples[:, None] > 0
    inside = np.where(later, source, samples - 1 - source)  # samples since the seam
    fade = np.clip(inside / (FADE_S * sample_rate_hz), 0, 1)
    fade = np.where(shifts_samples[:, None] == 0, 1.0, fade)
    moved = np.take_along_axis(audio, np.clip(source, 0, samples - 1), 1)
    level = _rms(audio) / np.maximum(_rms(filling), np.finfo(np.float32).tiny)
    mixed: Audio = (np.sqrt(fade) * moved + np.sqrt(1 - fade) * level * filling).astype(np.float32)
    return mixed


def spoil(
    audio: Audio,
    targets: Audio,
    probability: float,
    change: Callable[[Audio, np.random.Generator], Audio],
    random: np.random.Generator,
) -> tuple[Audio, Audio]:
    """Change this share of the clips (batch, samples) with a call into none: their targets (batch, labels) become 0.

    What is left is in the same noise and as loud: nothing but the change tells it from a call.
    """
    changed = (random.random(len(audio)) < probability) & (targets.max(1) > 0)
    audio, targets = audio.copy(), targets.copy()
    audio[changed], targets[changed] = change(audio[changed], random), 0
    return audio, targets


def backwards(audio: Audio, random: np.random.Generator) -> Audio:
    """Clips (batch, samples) from their ends: what rises then falls. It draws nothing."""
    return audio[:, ::-1]


def tilt(audio: Audio, hz_per_s: npt.NDArray[np.float64], sample_rate_hz: int) -> Audio:
    """Shift all frequencies of each clip (batch, samples) by so much more each second, by none in its middle.

    By less than nothing (batch,), a sweep that rises becomes a level tone, or one that falls. A single sideband, from
    the analytic signal.
    """
    at_s = (np.arange(audio.shape[1]) - audio.shape[1] / 2) / sample_rate_hz
    chirp = np.exp(1j * np.pi * hz_per_s[:, None] * at_s**2)
    tilted: Audio = (hilbert(audio, axis=1) * chirp).real.astype(np.float32)
    return tilted


def vary_speed(audio: Audio, octaves: float, random: np.random.Generator) -> Audio:
    """Play half of the clips (batch, samples) faster or slower about their middles: higher and shorter, or the reverse.

    The factor is drawn up to so many octaves either way; what a faster clip lacks at its ends is mirrored there.
    """
    varied = audio.copy()
    middle = (audio.shape[1] - 1) / 2
    from_middle = np.arange(audio.shape[1]) - middle
    for row in np.flatnonzero(random.random(len(audio)) < 0.5):
        places = middle + from_middle * 2 ** random.uniform(-octaves, octaves)
        varied[row] = map_coordinates(audio[row], places[None], order=1, mode="mirror")
    return varied


def distract(audio: Audio, probability: float, sample_rate_hz: int, random: np.random.Generator) -> Audio:
    """Add to this share of the clips (batch, samples) one to three simulated sounds that are not a call.

    The level of each is its kind's signal-to-noise ratio: its rms against the clip's in the upcall's band.
    """
    mixed = audio.copy()
    for row in np.flatnonzero(random.random(len(audio)) < probability):
        clip_rms = sounds.band_rms(audio[row], sample_rate_hz)
        for number in random.choice(len(DISTRACTORS), random.integers(1, _MOST_DISTRACTORS + 1), p=_SHARES):
            kind = DISTRACTORS[number]
            sound = kind.draw(random, sample_rate_hz, random.uniform(*kind.duration_s)).samples
            gain = clip_rms * 10 ** (random.uniform(*kind.snr_db) / 20) / np.sqrt(np.mean(sound**2))
            first = int(random.integers(-sound.size // 2, audio.shape[1] - sound.size // 2))  # half of it is inside
            inside = slice(max(first, 0), first + sound.size)
            mixed[row, inside] += gain * sound[inside.start - first :][: audio.shape[1] - inside.start]
    return mixed


def mix(audio: Audio, other: Audio, share: Audio) -> Audio:
    """Mixup of waveforms (Zhang et al. 2018, arXiv:1710.09412): share (batch, 1) of audio, the rest of the other.

    The other is brought to the same rms first, since the level of a clip means nothing.
    """
    level = _rms(audio) / np.maximum(_rms(other), np.finfo(np.float32).tiny)
    mixed: Audio = (share * audio + (1 - share) * level * other).astype(np.float32)
    return mixed


def mask(log_mel: Tensor, config: TrainConfig) -> Tensor:
    """Blank one random band and one run of frames of each spectrogram (SpecAugment, arXiv:1904.08779).

    What is drawn follows from torch's generator on the CPU, so it is the same on every device.

    Args:
        log_mel: (batch, 1, mel bins, frames); blanked places get the spectrogram's mean.
    """
    widest = (config.augmentation.frequency_mask_bins, config.augmentation.time_mask_frames)
    if not any(widest):
        return log_mel
    kept = torch.ones(log_mel.shape)
    for axis, size in zip((2, 3), widest, strict=True):
        # It draws a width from 0 to below its parameter, rounded down.
        kept = mask_along_axis_iid(kept, min(size, kept.shape[axis]) + 1, 0.0, axis) if size else kept
    return torch.where(kept.to(log_mel.device) > 0, log_mel, log_mel.mean((2, 3), keepdim=True))


def _rms(audio: Audio) -> Audio:
    level: Audio = np.sqrt(np.mean(audio * audio, axis=1, keepdims=True))
    return level
