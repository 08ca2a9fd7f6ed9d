"""The log-mel layer against torchaudio's, and what a gain or silence does to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from clips import HYDROGEN_TORCH, NARW

from export.config import TrainConfig
from export.features import LOG_FLOOR, LogMel, empty_bins_warning
from export.settings import load
from export.sound import read_clip
from pam_daemon.errors import ConfigError

BOTH = pytest.mark.parametrize("path", [HYDROGEN_TORCH, NARW], ids=["hydrogen-torch", "narw"])


def without_normalization(path: Path) -> TrainConfig:
    return load(path, ["audio.spectrogram_normalization='No'"])[0]


@pytest.fixture(scope="module")
def waveforms(data_dir: Path) -> torch.Tensor:
    """(64, 4000) real clips."""
    paths = sorted((data_dir / "narw_clips" / "audio").iterdir())[:64]
    return torch.from_numpy(np.stack([read_clip(path, 2000) for path in paths]))


def reference(config: TrainConfig, waveform: torch.Tensor) -> torch.Tensor:
    """torchaudio's log-mel in double precision: in single, its own error exceeds 1e-4 in nearly empty bins."""
    audio = config.audio
    transform = torchaudio.transforms.MelSpectrogram(
        audio.sample_rate,
        n_fft=config.fft_samples,
        win_length=audio.stft_window_size,
        hop_length=audio.hop_size,
        f_min=audio.minimum_frequency,
        f_max=audio.maximum_frequency,
        n_mels=audio.mel_frequency_bins,
    ).double()
    return transform(waveform.double()).clamp(min=LOG_FLOOR).log()


@BOTH
@pytest.mark.parametrize("sound", ["real", "noise"])
@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_equals_torchaudio_down_to_60_db_below_the_loudest_bin(path: Path, sound: str, waveforms: torch.Tensor) -> None:
    """Deeper bins hold the rounding of the loud ones in single precision, torchaudio's as ours."""
    config = without_normalization(path)
    noise = 0.1 * torch.randn(waveforms.shape, generator=torch.Generator().manual_seed(1))
    waveform = noise if sound == "noise" else waveforms
    expected = reference(config, waveform)
    actual = LogMel(config)(waveform)[:, 0].double()
    assert actual.shape == expected.shape
    audible = expected > expected.amax((1, 2), keepdim=True) - 6 * np.log(10)
    assert audible.double().mean() > 0.2
    torch.testing.assert_close(actual[audible], expected[audible], rtol=0, atol=1e-4)
    assert (actual - expected).abs().mean() < 1e-5


@pytest.mark.parametrize("normalization", ["Instance", "Band", "BandInstance"])
@pytest.mark.parametrize("gain_db", [-40, -20, 20])
def test_normalization_takes_a_gain_out(normalization: str, gain_db: float, waveforms: torch.Tensor) -> None:
    layer = LogMel(load(NARW, [f"audio.spectrogram_normalization={normalization}"])[0])
    louder = layer(waveforms * 10 ** (gain_db / 20))
    torch.testing.assert_close(louder, layer(waveforms), rtol=0, atol=2e-3)


def coloured(waveform: torch.Tensor, db_per_octave: float) -> torch.Tensor:
    """The same with a spectrum that falls (or rises), equal at 100 Hz."""
    spectrum = torch.fft.rfft(waveform.double())
    octaves = torch.log2(torch.fft.rfftfreq(waveform.shape[1], 1 / 2000).clamp(min=5) / 100)
    return torch.fft.irfft(spectrum * 10 ** (db_per_octave * octaves / 20)).float()


def test_normalization_by_band_takes_the_noise_s_colour_out(waveforms: torch.Tensor) -> None:
    """Clips are whitened, the sea falls by some 6 dB an octave; by spectrogram, the same colour moves everything."""
    change = {}
    for normalization in ("Instance", "Band", "BandInstance"):
        layer = LogMel(load(NARW, [f"audio.spectrogram_normalization={normalization}"])[0])
        plain = layer(waveforms)
        change[normalization] = float((layer(coloured(waveforms, -6)) - plain).std() / plain.std())
    assert change["Band"] < 0.25 and change["BandInstance"] < 0.25
    assert change["Instance"] > 3 * max(change["Band"], change["BandInstance"])


def test_without_normalization_a_gain_is_a_shift(waveforms: torch.Tensor) -> None:
    layer = LogMel(without_normalization(NARW))
    plain, louder = layer(waveforms), layer(waveforms * 2)
    torch.testing.assert_close(louder - plain, torch.full_like(plain, np.log(4.0)), rtol=0, atol=1e-3)


@BOTH
def test_digital_silence_and_a_constant_give_finite_features(path: Path) -> None:
    config = load(path)[0]
    for level in (0.0, 0.5):
        assert LogMel(config)(torch.full((1, config.window_samples), level)).isfinite().all()


def test_bins_over_nyquist_are_counted_with_the_remedy() -> None:
    warning = empty_bins_warning(load(HYDROGEN_TORCH)[0])
    assert warning is not None
    assert warning.startswith("93 of 128 mel bins are empty")
    assert "audio.maximum_frequency to at most 1000" in warning


def test_the_shipped_configuration_has_no_empty_bin() -> None:
    assert empty_bins_warning(load(NARW)[0]) is None


def test_bins_too_narrow_for_the_fft_are_named() -> None:
    warning = empty_bins_warning(load(NARW, ["audio.mel_frequency_bins=200"])[0])
    assert warning is not None
    assert "audio.fft_size higher" in warning


def test_a_filterbank_wholly_over_nyquist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"audio\.minimum_frequency"):
        empty_bins_warning(load(NARW, ["audio.minimum_frequency=1200", "audio.maximum_frequency=2000"])[0])
