"""The log-mel layer: the first part of the network, so that it is trained, exported and served as one graph."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn

from export.config import TrainConfig
from pam_daemon.errors import ConfigError

LOG_FLOOR = 1e-10  # power under which a mel bin counts as empty
_RMS_FLOOR = 1e-6  # re full scale: -120 dB, under any converter's noise; keeps digital silence finite
_STD_FLOOR = 1e-3  # nepers of power


class LogMel(nn.Module):
    """Waveform (batch, samples) to log-mel spectrogram (batch, 1, mel bins, frames).

    Framing, Hann taper and DFT are one strided convolution, which ONNX runs everywhere; only the frequencies that a
    mel filter uses are computed. Equals the log of torchaudio.transforms.MelSpectrogram (centred, reflected at the
    ends, power 2, HTK scale), which a test holds.

    Any normalization but "No" first removes the waveform's mean and brings its rms to 1, so that the floor means the
    same at every level. "Instance" then brings the spectrogram's mean and standard deviation to 0 and 1: a gain
    changes nothing. "Band" instead removes each mel bin's mean over the window's frames (cepstral mean normalisation,
    Atal 1974, doi:10.1121/1.1914702): neither a gain nor the colour of hydrophone, filters and steady noise, which
    only add a constant to each bin, changes anything. The challenge's clips are whitened; the sea is not.
    "BandInstance" also brings the standard deviation of what is left, all bins together, to 1.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        audio = config.audio
        self.normalization = audio.spectrogram_normalization
        self.hop_samples = audio.hop_size
        filters = mel_filters(config)  # (frequencies, mel bins)
        used = torch.nonzero(filters.sum(1) > 0).flatten()
        self.register_buffer("kernel", _dft_kernel(used, audio.stft_window_size, config.fft_samples))
        self.register_buffer("filters", filters[used].T.contiguous())  # (mel bins, used frequencies)
        self.kernel: Tensor
        self.filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform: (batch, samples) float32, full scale +-1."""
        if self.normalization != "No":
            waveform = waveform - waveform.mean(1, keepdim=True)
            waveform = waveform * torch.rsqrt((waveform * waveform).mean(1, keepdim=True) + _RMS_FLOOR**2)
        pad = self.kernel.shape[2] // 2
        padded = F.pad(waveform.unsqueeze(1), (pad, pad), mode="reflect")
        parts = F.conv1d(padded, self.kernel, stride=self.hop_samples)  # (batch, 2 * frequencies, frames)
        cosine, sine = parts.chunk(2, 1)
        power = cosine * cosine + sine * sine
        mel = torch.matmul(self.filters, power)
        log_mel = torch.log(torch.clamp(mel, min=LOG_FLOOR)).unsqueeze(1)
        if self.normalization == "Instance":
            log_mel = log_mel - log_mel.mean((2, 3), keepdim=True)
        elif self.normalization in ("Band", "BandInstance"):
            log_mel = log_mel - log_mel.mean(3, keepdim=True)
        if self.normalization in ("Instance", "BandInstance"):
            log_mel = log_mel / (torch.sqrt((log_mel * log_mel).mean((2, 3), keepdim=True)) + _STD_FLOOR)
        return log_mel


def mel_filters(config: TrainConfig) -> Tensor:
    """Triangular filters on the HTK mel scale, (fft_samples // 2 + 1, mel bins)."""
    audio = config.audio
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty bins: ours (below) says what to do
        filters: Tensor = torchaudio.functional.melscale_fbanks(
            config.fft_samples // 2 + 1,
            audio.minimum_frequency,
            audio.maximum_frequency,
            audio.mel_frequency_bins,
            audio.sample_rate,
        )
    return filters


def mel_edges_hz(config: TrainConfig) -> npt.NDArray[np.float64]:
    """Between which frequencies a mel bin matters most: (mel bins + 1,), equal steps in mel (HTK)."""
    audio = config.audio
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (audio.minimum_frequency, audio.maximum_frequency))
    step = (high - low) / (audio.mel_frequency_bins + 1)
    mel = low + step * (np.arange(audio.mel_frequency_bins + 1) + 0.5)
    edges: npt.NDArray[np.float64] = 700 * (10 ** (mel / 2595) - 1)
    return edges


def empty_bins_warning(config: TrainConfig) -> str | None:
    """What to tell the user about mel bins that no frequency reaches, if there are any.

    Raises:
        ConfigError: all bins are empty.
    """
    audio = config.audio
    empty = int((mel_filters(config).sum(0) == 0).sum())
    nyquist_hz = audio.sample_rate / 2
    if empty == audio.mel_frequency_bins:
        raise ConfigError(
            f"audio.minimum_frequency: {audio.minimum_frequency:g} Hz leaves every mel bin empty at "
            f"{audio.sample_rate} Hz; set a range below {nyquist_hz:g} Hz"
        )
    if not empty:
        return None
    if audio.maximum_frequency > nyquist_hz:
        remedy = f"set audio.maximum_frequency to at most {nyquist_hz:g} (half of sample_rate)"
    else:
        remedy = "set audio.fft_size higher or audio.mel_frequency_bins lower"
    return f"{empty} of {audio.mel_frequency_bins} mel bins are empty and carry nothing; {remedy}"


def _dft_kernel(bins: Tensor, taper_samples: int, fft_samples: int) -> Tensor:
    """Hann-tapered cosines and sines, (2 * bins, 1, taper_samples); phase is free, for only the power is used."""
    sample = torch.arange(taper_samples, dtype=torch.float64)
    taper = torch.hann_window(taper_samples, periodic=True, dtype=torch.float64)
    angle = 2 * math.pi / fft_samples * bins.to(torch.float64)[:, None] * sample
    return torch.cat([angle.cos() * taper, angle.sin() * taper]).unsqueeze(1).to(torch.float32)
