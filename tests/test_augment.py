"""Augmentation: what each kind does to audio and targets, and that it does nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from clips import fast_config

from export.augment import DISTRACTORS, FADE_S, Augmenter, distract, mask, mix, quiet, shift, tilt, vary_speed
from export.dataset import Clips
from export.noise import recordings
from export.store import Audio
from pam_daemon.errors import SourceError
from pam_daemon.tools.simulate import upcall
from pam_daemon.tools.sounds import band_rms

RATE_HZ = 2000
WINDOW = 4000
OFF = (
    "augmentation.mix_audio=Disabled",
    "augmentation.backwards_probability=0",
    "augmentation.tilt_probability=0",
    "augmentation.speed_octaves=0",
    "augmentation.time_shift_seconds=0",
    "augmentation.distractor_probability=0",
)


def noise(count: int, seed: int, level: float = 0.1) -> Audio:
    return np.random.default_rng(seed).normal(0, level, (count, WINDOW)).astype(np.float32)


def test_a_shift_moves_the_clip_and_fills_the_rest_at_its_level() -> None:
    audio, filling = noise(3, 1), noise(3, 2, level=0.5)
    shifted = shift(audio, filling, np.array([700, -500, 0]), RATE_HZ)
    fade = round(FADE_S * RATE_HZ)
    np.testing.assert_array_equal(shifted[0, 700 + fade :], audio[0, fade:-700])
    np.testing.assert_array_equal(shifted[1, : -500 - fade], audio[1, 500:-fade])
    np.testing.assert_array_equal(shifted[2], audio[2])
    scale = np.sqrt(np.mean(audio[0] ** 2) / np.mean(filling[0] ** 2))
    np.testing.assert_allclose(shifted[0, :700], scale * filling[0, :700], rtol=1e-5)
    assert np.std(shifted[0, 700 : 700 + fade]) < 0.2  # the crossfade keeps the power


def test_fillings_hold_no_call_and_come_from_near_in_the_table() -> None:
    audio = np.zeros((200, WINDOW), np.float32)
    labels = (np.arange(200) % 3 == 0).astype(np.float32)[:, None]
    clips = Clips([""] * 200, audio, labels, [""] * 200)
    index = np.array([0, 60, 199])
    for seed in range(20):
        places = quiet(clips, index, np.random.default_rng(seed))
        assert (labels[places] == 0).all()
        assert (np.abs(places - index) <= 26).all()


def test_mixing_weighs_two_clips_of_equal_level() -> None:
    audio, other = noise(2, 1), noise(2, 2, level=0.7)
    mixed = mix(audio, other, np.array([[1.0], [0.25]], np.float32))
    np.testing.assert_array_equal(mixed[0], audio[0])
    scale = np.sqrt(np.mean(audio[1] ** 2) / np.mean(other[1] ** 2))
    np.testing.assert_allclose(mixed[1], 0.25 * audio[1] + 0.75 * scale * other[1], rtol=1e-4, atol=1e-6)


def test_mixed_targets_follow_the_shares() -> None:
    labels = (np.arange(32) % 2).astype(np.float32)[:, None]
    clips = Clips([""] * 32, noise(32, 3), labels, [""] * 32)
    index = np.arange(32)
    always = ("augmentation.mix_audio=Mixup", "augmentation.mix_probability=1")
    _, ratio = Augmenter(clips, fast_config(*always)).draw(index, np.random.default_rng(1))
    _, highest = Augmenter(clips, fast_config(*always, "augmentation.mix_target=Max")).draw(
        index, np.random.default_rng(1)
    )
    assert ((ratio > 0) & (ratio < 1)).any()
    assert set(np.unique(highest)) == {0.0, 1.0}
    assert (highest >= ratio).all()


def test_without_augmentation_a_batch_is_the_clips() -> None:
    clips = Clips([""] * 4, noise(4, 3), np.array([[0], [1], [0], [1]], np.float32), [""] * 4)
    off = fast_config(*OFF)
    audio, targets = Augmenter(clips, off).draw(np.array([2, 1]), np.random.default_rng(1))
    np.testing.assert_array_equal(audio, clips.audio[[2, 1]])
    np.testing.assert_array_equal(targets, [[0], [1]])


def test_distractors_are_added_to_that_share_of_the_clips_and_the_rest_is_untouched() -> None:
    audio = noise(400, 3)
    mixed = distract(audio, 0.3, RATE_HZ, np.random.default_rng(1))
    assert mixed.dtype == np.float32 and np.isfinite(mixed).all()
    changed = (mixed != audio).any(1)
    assert 0.2 < changed.mean() < 0.4
    added_db = [
        20 * np.log10(band_rms(m - a, RATE_HZ) / band_rms(a, RATE_HZ))
        for m, a in zip(mixed, audio, strict=True)
        if (m != a).any()
    ]
    assert max(added_db) < 25  # the loudest kind has 20 dB, and there may be three
    assert max(added_db) > 5


def test_distractors_leave_the_labels_and_hold_no_call() -> None:
    assert all(kind.draw is not upcall for kind in DISTRACTORS)
    labels = (np.arange(32) % 2).astype(np.float32)[:, None]
    clips = Clips([""] * 32, noise(32, 3), labels, [""] * 32)
    config = fast_config(*OFF, "augmentation.distractor_probability=1")
    audio, targets = Augmenter(clips, config).draw(np.arange(32), np.random.default_rng(1))
    np.testing.assert_array_equal(targets, labels)
    assert (audio != clips.audio).any(1).all()


def test_calls_played_backwards_are_none() -> None:
    clips = Clips([""] * 400, noise(400, 3), (np.arange(400) % 2).astype(np.float32)[:, None], [""] * 400)
    config = fast_config(*OFF, "augmentation.backwards_probability=0.25")
    audio, targets = Augmenter(clips, config).draw(np.arange(400), np.random.default_rng(1))
    turned = (audio != clips.audio).any(1)
    assert 30 < turned.sum() < 70 and clips.labels[turned].all()
    np.testing.assert_array_equal(audio[turned], clips.audio[turned, ::-1])
    np.testing.assert_array_equal(targets[:, 0], np.where(turned, 0, clips.labels[:, 0]))


def test_a_tilted_call_is_none() -> None:
    clips = Clips([""] * 400, noise(400, 3), (np.arange(400) % 2).astype(np.float32)[:, None], [""] * 400)
    config = fast_config(*OFF, "augmentation.tilt_probability=0.25")
    audio, targets = Augmenter(clips, config).draw(np.arange(400), np.random.default_rng(1))
    tilted = (audio != clips.audio).any(1)
    assert 30 < tilted.sum() < 70 and clips.labels[tilted].all()
    np.testing.assert_array_equal(targets[:, 0], np.where(tilted, 0, clips.labels[:, 0]))


def test_a_tilt_makes_a_sweep_level() -> None:
    """One from 100 to 300 Hz in 2 s is a tone of 200 Hz, as loud, once it is tilted by as much the other way."""
    at_s = np.arange(4000) / 2000
    sweep = np.sin(2 * np.pi * (100 * at_s + 50 * at_s**2)).astype(np.float32)
    level, falling = tilt(np.stack([sweep, sweep]), np.array([-100.0, -200.0]), 2000)[:, 200:-200]
    spectrum = np.abs(np.fft.rfft(level * np.hanning(level.size)))
    assert np.fft.rfftfreq(level.size, 1 / 2000)[spectrum.argmax()] == pytest.approx(200, abs=1)
    assert np.sqrt(np.mean(level**2)) == pytest.approx(np.sqrt(0.5), rel=0.02)
    crossings = [np.count_nonzero(np.diff(np.signbit(part))) for part in (falling[:1000], falling[-1000:])]
    assert crossings[0] > 1.5 * crossings[1]


def test_speed_moves_pitch_and_length_together_about_the_middle() -> None:
    """A tone of 100 Hz that lasts from 0.5 to 1.5 s, played by at most a quarter of an octave faster or slower."""
    at_s = np.arange(4000) / 2000
    tone = np.where(np.abs(at_s - 1) < 0.5, np.sin(2 * np.pi * 100 * at_s), 0).astype(np.float32)
    audio = vary_speed(np.tile(tone, (64, 1)), 0.25, np.random.default_rng(1))
    changed = (audio != tone).any(1)
    assert 16 < changed.sum() < 48
    pitch_hz = np.fft.rfftfreq(4000, 1 / 2000)[np.abs(np.fft.rfft(audio)).argmax(1)]
    sounds = np.abs(audio) > 0
    length_s = (sounds[:, ::-1].argmax(1) * -1 + 4000 - sounds.argmax(1)) / 2000
    np.testing.assert_allclose(pitch_hz * length_s, 100, rtol=0.02)
    np.testing.assert_allclose(sounds.argmax(1), sounds[:, ::-1].argmax(1), atol=3)
    factor = pitch_hz[changed] / 100
    assert 2**-0.26 < factor.min() < 0.95 and 1.05 < factor.max() < 2**0.26
    np.testing.assert_array_equal(audio[~changed], np.tile(tone, (64, 1))[~changed])


def test_a_gain_changes_the_level_alone() -> None:
    clips = Clips([""] * 4, noise(4, 3), np.array([[0], [1], [0], [1]], np.float32), [""] * 4)
    config = fast_config(*OFF, "augmentation.gain_db=12")
    audio, _ = Augmenter(clips, config).draw(np.arange(4), np.random.default_rng(1))
    gain = audio / clips.audio
    np.testing.assert_allclose(gain, np.broadcast_to(gain[:, :1], gain.shape), rtol=1e-5)
    assert (np.abs(20 * np.log10(gain)) <= 12).all()
    assert np.ptp(gain[:, 0]) > 0.1


def test_masks_blank_at_most_the_configured_band_and_time() -> None:
    config = fast_config("augmentation.frequency_mask_bins=3", "augmentation.time_mask_frames=5")
    spectrogram = torch.randn(50, 1, 16, 32)
    torch.manual_seed(1)
    masked = mask(spectrogram, config)
    changed = (masked != spectrogram)[:, 0]
    whole_bins, whole_frames = changed.all(2).sum(1), changed.all(1).sum(1)
    assert whole_bins.max() == 3
    assert whole_frames.max() == 5
    rest = changed & ~changed.all(2, keepdim=True) & ~changed.all(1, keepdim=True)
    assert not rest.any()
    mean = spectrogram.mean((2, 3), keepdim=True)
    assert torch.equal(masked, torch.where(changed[:, None], mean, spectrogram))
    torch.manual_seed(1)
    assert torch.equal(mask(spectrogram, config), masked)
    off = fast_config("augmentation.frequency_mask_bins=0", "augmentation.time_mask_frames=0")
    assert mask(spectrogram, off) is spectrogram


def noise_clips(count: int) -> Clips:
    labels = (np.arange(count) % 2).astype(np.float32)[:, None]
    return Clips([""] * count, noise(count, 3), labels, [""] * count)


def snr_db(audio: Audio, mixed: Audio) -> Audio:
    """Of each clip (clips, samples) that something was added to."""
    changed = (mixed != audio).any(1)
    added = mixed[changed] - audio[changed]
    ratio: Audio = 10 * np.log10(np.mean(audio[changed] ** 2, 1) / np.mean(added**2, 1))
    return ratio


def test_simulated_noise_is_mixed_in_at_the_ratios_asked_for() -> None:
    clips = noise_clips(200)
    config = fast_config(*OFF, "augmentation.noise_probability=0.5", "augmentation.noise_snr_db=[3, 9]")
    audio, targets = Augmenter(clips, config).draw(np.arange(200), np.random.default_rng(1))
    ratios = snr_db(clips.audio, audio)
    assert 70 < len(ratios) < 130
    assert 2.9 < ratios.min() < 4 and 8 < ratios.max() < 9.1
    np.testing.assert_array_equal(targets, clips.labels)


def test_recorded_noise_is_from_the_folder_and_silence_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    hum = np.sin(2 * np.pi * 440 * np.arange(4 * 8000) / 8000)
    soundfile.write(tmp_path / "deep" / "hum.wav", hum, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "deep" / "silence.wav", np.zeros_like(hum), 8000)
    clips = noise_clips(20)
    folder = f"augmentation.noise_folder={tmp_path}"
    config = fast_config(*OFF, folder, "augmentation.noise_probability=1", "augmentation.noise_simulated=false")
    audio, _ = Augmenter(clips, config).draw(np.arange(20), np.random.default_rng(1))
    spectrum = np.abs(np.fft.rfft(audio - clips.audio, axis=1))
    assert (spectrum.argmax(1) == 880).all()  # 440 Hz in bins of half a hertz
    both = fast_config(*OFF, folder, "augmentation.noise_probability=1")
    audio, _ = Augmenter(clips, both).draw(np.arange(20), np.random.default_rng(1))
    hums = np.abs(np.fft.rfft(audio - clips.audio, axis=1)).argmax(1) == 880
    assert 0 < hums.sum() < 20


def test_a_noise_folder_without_noise_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        config = fast_config(f"augmentation.noise_folder={folder}", "augmentation.noise_probability=1")
        with pytest.raises(SourceError, match=r"augmentation\.noise_folder: .* no sound file of a window's length"):
            recordings(config)


def test_the_same_generator_gives_the_same_batch_again() -> None:
    """So an epoch that is begun again after a stop is the same epoch."""
    clips = noise_clips(32)
    settings = (
        "time_shift_seconds=0.5",
        "distractor_probability=0.5",
        "noise_probability=0.5",
        "gain_db=6",
        "speed_octaves=0.2",
    )
    config = fast_config(*(f"augmentation.{setting}" for setting in settings))
    batches = [Augmenter(clips, config).draw(np.arange(32), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    assert (batches[0][0] != batches[2][0]).any(1).all()
