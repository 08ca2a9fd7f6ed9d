"""The sounds of a simulated sea, one function each: `simulate` lays them out in time, training mixes them in.

Every function is pure: the same generator state gives the same samples. Waveforms are float64, full scale +-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]
Psd = Callable[[Samples], Samples]  # frequencies (n,) Hz -> one-sided power per hertz (n,)

BAND_HZ = (50.0, 250.0)  # the upcall's band: signal-to-noise ratios are stated in it
ECHO_S = 0.12  # the longest multipath delay: a waveform is this much longer than the call itself
SOUND_SPEED_M_S = 1500.0
RECORDER_HIGHPASS_HZ = 25.0


@dataclass(frozen=True)
class Sound:
    """A transient: `samples` (n,), peak 1, its echoes included; the frequencies that its loudest part sweeps."""

    samples: Samples
    low_hz: float
    high_hz: float


def wind_psd(freq_hz: Samples) -> Samples:
    """Wind-driven noise: flat to about 450 Hz, then -5 dB an octave (Wenz 1962; Knudsen et al. 1948)."""
    return _recorder(freq_hz) / (1.0 + (freq_hz / 450.0) ** 1.7)


def traffic_psd(freq_hz: Samples) -> Samples:
    """Distant shipping: flat to about 80 Hz, then -8 dB an octave (Wenz 1962, "usual traffic noise")."""
    return _recorder(freq_hz) / (1.0 + (freq_hz / 80.0) ** 2.6)


def cavitation_psd(freq_hz: Samples) -> Samples:
    """A near ship's propeller: a hump at 50 to 150 Hz, then -6 dB an octave (Ross 1976)."""
    rise = (freq_hz / 60.0) ** 2
    return _recorder(freq_hz) * rise / (1.0 + rise) / (1.0 + (freq_hz / 150.0) ** 2)


def _recorder(freq_hz: Samples) -> Samples:
    """The power response of a recorder's two-pole high-pass, which keeps swell and flow noise out."""
    ratio = (freq_hz / RECORDER_HIGHPASS_HZ) ** 4
    return ratio / (1.0 + ratio)


def shaped_noise(psd: Psd, samples: int, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """Gaussian noise (samples,) with the given one-sided power spectral density, whatever the sample rate.

    The last tenth below the Nyquist frequency rolls off as a recorder's anti-alias filter does.
    """
    freq_hz: Samples = np.arange(samples // 2 + 1, dtype=np.float64) * (sample_rate_hz / samples)
    above: Samples = np.clip((freq_hz / (sample_rate_hz / 2.0) - 0.9) / 0.1, 0.0, 1.0)
    gain = np.sqrt(psd(freq_hz) * sample_rate_hz / 2.0) * np.cos(above * np.pi / 2.0)
    noise: Samples = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * gain, samples)
    return noise


def ambient_noise(samples: int, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """Ambient noise (samples,) with the sea's falling spectrum in a random mix of wind and traffic; rms 1."""
    wind = 10.0 ** (rng.uniform(-15.0, -3.0) / 10.0)
    noise = shaped_noise(lambda f: traffic_psd(f) + wind * wind_psd(f), samples, sample_rate_hz, rng)
    return noise / float(np.sqrt(np.mean(noise**2)))


def band_rms(samples: Samples, sample_rate_hz: int) -> float:
    """The rms of what lies inside BAND_HZ, over all of `samples` (n,), by Parseval's theorem."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    freq_hz = np.fft.rfftfreq(samples.size, 1.0 / sample_rate_hz)
    inside = (freq_hz >= BAND_HZ[0]) & (freq_hz <= BAND_HZ[1])
    return float(np.sqrt(2.0 * power[inside].sum()) / samples.size)


def upcall(rng: np.random.Generator, sample_rate_hz: int, duration_s: float | None = None) -> Sound:
    """A right whale's upcall: about 90 Hz up to 170-200 Hz, slow first and steeper later.

    Shape after Clark (1982, Animal Behaviour 30): some calls level off at the top. Without `duration_s` it is
    drawn by `upcall_duration_s`.
    """
    duration_s = upcall_duration_s(rng) if duration_s is None else duration_s
    low_hz, high_hz = rng.normal(92.0, 7.0), rng.uniform(170.0, 200.0)
    low_hz = float(np.clip(low_hz, 78.0, 110.0))
    u = _progress(duration_s, sample_rate_hz)
    # A power of the progress bends the sweep upwards; a bounded share of a smooth step levels it off at the top.
    bend, level_off = rng.uniform(1.1, 2.3), rng.uniform(0.0, 0.6)
    shape = (1.0 - level_off) * u**bend + level_off * u**bend * (2.0 - u**bend)
    wobble_hz = rng.uniform(0.0, 2.5) * np.sin(2.0 * np.pi * (rng.uniform(1.0, 3.0) * u + rng.uniform()))
    contour_hz = low_hz + (high_hz - low_hz) * shape + wobble_hz
    attack, release = rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.25)
    swell = 1.0 + rng.uniform(0.0, 0.35) * np.sin(2.0 * np.pi * (rng.uniform(0.6, 2.5) * u + rng.uniform()))
    harmonics = (1.0, 10.0 ** (rng.uniform(-30.0, -16.0) / 20.0))
    tone = _tone(contour_hz, harmonics, sample_rate_hz, rng) * _envelope(u, attack, release) * swell
    return Sound(_multipath(tone, sample_rate_hz, rng), low_hz, float(high_hz))


def upcall_duration_s(rng: np.random.Generator) -> float:
    """A call's length: 0.5 to 1.5 s, mostly near 0.95 s."""
    return float(np.clip(rng.normal(0.95, 0.22), 0.5, 1.5))


def downsweep(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """A falling tone through the upcall's band, as sei and fin whales give: the upcall's energy, the wrong way."""
    high_hz, low_hz = rng.uniform(140.0, 210.0), rng.uniform(60.0, 95.0)
    u = _progress(duration_s, sample_rate_hz)
    contour_hz = high_hz + (low_hz - high_hz) * u ** rng.uniform(0.6, 1.2)
    tone = _tone(contour_hz, (1.0, 0.1), sample_rate_hz, rng) * _envelope(u, 0.15, 0.3)
    return Sound(_multipath(tone, sample_rate_hz, rng), float(low_hz), float(high_hz))


def moan(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """A flat tone with a slight vibrato and a weak octave."""
    centre_hz = rng.uniform(90.0, 190.0)
    u = _progress(duration_s, sample_rate_hz)
    depth_hz = rng.uniform(0.5, 3.0)
    contour_hz = centre_hz + depth_hz * np.sin(2.0 * np.pi * (rng.uniform(1.0, 4.0) * u + rng.uniform()))
    tone = _tone(contour_hz, (1.0, 0.25), sample_rate_hz, rng) * _envelope(u, 0.2, 0.35)
    return Sound(_multipath(tone, sample_rate_hz, rng), float(centre_hz - depth_hz), float(centre_hz + depth_hz))


def song_note(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """A note as in humpback song: an arch, rising then falling, with a stack of harmonics."""
    base_hz, rise_hz = rng.uniform(70.0, 150.0), rng.uniform(15.0, 50.0)
    u = _progress(duration_s, sample_rate_hz)
    contour_hz = base_hz + rise_hz * np.sin(np.pi * u**0.8)
    harmonics = tuple(rng.uniform(0.7, 1.3) * 0.75**k for k in range(4))
    tone = _tone(contour_hz, harmonics, sample_rate_hz, rng) * _envelope(u, 0.2, 0.25)
    return Sound(_multipath(tone, sample_rate_hz, rng), float(base_hz), float(base_hz + rise_hz))


def song_unit(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """A unit of humpback song as it is heard from afar: short, nearly level or falling, few harmonics or many.

    Below 260 Hz it rises by less than an upcall does; higher up it may sweep as it likes.
    """
    base_hz = float(np.exp(rng.uniform(np.log(60.0), np.log(600.0))))
    sweep_hz = rng.uniform(-0.3, 0.1) * base_hz if base_hz < 260.0 else rng.uniform(-0.4, 0.4) * base_hz
    u = _progress(duration_s, sample_rate_hz)
    contour_hz = base_hz + sweep_hz * u ** rng.uniform(0.5, 2.0) + rng.uniform(0.0, 0.06) * base_hz * np.sin(np.pi * u)
    fall, highest = rng.uniform(0.05, 0.8), int(np.clip(0.45 * sample_rate_hz / contour_hz.max(), 1.0, 6.0))
    harmonics = tuple(rng.uniform(0.5, 1.5) * fall**k for k in range(highest))
    tone = _tone(contour_hz, harmonics, sample_rate_hz, rng) * _envelope(u, 0.2, 0.3)
    return Sound(_multipath(tone, sample_rate_hz, rng), float(contour_hz.min()), float(contour_hz.max()))


def pulse_train(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """Low pulses, 3 to 6 a second, as minke whales and fish give."""
    centre_hz, rate_hz = rng.uniform(80.0, 200.0), rng.uniform(3.0, 6.0)
    u = _progress(duration_s, sample_rate_hz)
    beat = np.maximum(np.sin(2.0 * np.pi * rate_hz * duration_s * u), 0.0) ** 6
    noise = shaped_noise(lambda f: np.exp(-0.5 * ((f - centre_hz) / 30.0) ** 2), u.size, sample_rate_hz, rng)
    pulses = noise * beat * _envelope(u, 0.3, 0.3)
    return Sound(_multipath(pulses, sample_rate_hz, rng), float(centre_hz - 60.0), float(centre_hz + 60.0))


def knock(rng: np.random.Generator, sample_rate_hz: int, duration_s: float) -> Sound:
    """Bangs of a mooring or a hull: a click that rings in two or three decaying resonances, one to four times."""
    time_s = _progress(duration_s, sample_rate_hz) * duration_s
    # The deepest mode lies inside the band: its level is set by what lies there.
    modes_hz = np.array([rng.uniform(60.0, 220.0), *rng.uniform(60.0, 320.0, int(rng.integers(1, 3)))])
    samples = np.zeros(time_s.size)
    for begin_s in rng.uniform(0.0, 0.6 * duration_s, int(rng.integers(1, 5))):
        after_s = np.maximum(time_s - begin_s, 0.0)
        decay = np.exp(-after_s / rng.uniform(0.02, 0.08)) * rng.uniform(0.3, 1.0)
        ring = np.sin(2.0 * np.pi * modes_hz[:, None] * after_s).sum(axis=0)
        samples += ring * decay
    return Sound(_multipath(samples, sample_rate_hz, rng), float(modes_hz.min()), float(modes_hz.max()))


def snap(rng: np.random.Generator, sample_rate_hz: int) -> Samples:
    """A click of some milliseconds (n,), peak about 1: what snapping shrimp or ice leave below 1 kHz."""
    time_s = np.arange(round(0.03 * sample_rate_hz)) / sample_rate_hz
    tone = np.sin(2.0 * np.pi * rng.uniform(250.0, 800.0) * time_s)
    return tone * np.exp(-time_s / rng.uniform(0.002, 0.006)) * np.minimum(time_s / 0.001, 1.0)


@dataclass(frozen=True)
class Ship:
    """One ship on a straight course: harmonic lines of its blade rate, and cavitation that beats with it."""

    closest_s: float
    closest_m: float
    speed_m_s: float
    blade_hz: float
    wobble: float  # share by which the revolutions drift
    wobble_s: float
    level: float  # amplitude at the closest point of approach
    lines: tuple[tuple[int, float], ...]  # harmonic of the blade rate, amplitude

    @property
    def heard_s(self) -> float:
        """It is heard this long before and after the closest point of approach."""
        return 4.0 * self.closest_m / self.speed_m_s

    def sound(self, time_s: Samples, cavitation: Samples) -> Samples:
        """The ship at `time_s` (n,); `cavitation` (n,) is broadband noise to modulate.

        Phases follow the time at which the sound left the ship, so the lines carry their Doppler shift.
        """
        since_s = time_s - self.closest_s
        range_m = np.hypot(self.closest_m, self.speed_m_s * since_s)
        left_s = since_s - range_m / SOUND_SPEED_M_S
        drift_s = self.wobble * self.wobble_s / (2.0 * np.pi) * np.sin(2.0 * np.pi * left_s / self.wobble_s)
        phase = 2.0 * np.pi * self.blade_hz * (left_s + drift_s)
        lines = sum((a * np.sin(k * phase + k * k) for k, a in self.lines), np.zeros(time_s.size))
        beating = cavitation * (1.0 + 0.6 * np.cos(phase))
        fade = np.cos(np.clip(since_s / self.heard_s, -1.0, 1.0) * np.pi / 2.0)
        return (lines + beating) * (self.level * self.closest_m / range_m * fade)


def draw_ship(rng: np.random.Generator, duration_s: float) -> Ship:
    """A ship that passes at some moment of `duration_s` seconds."""
    harmonics = range(2, int(rng.integers(18, 36)))
    lines = tuple((k, float(rng.uniform(0.3, 1.0) ** 2 * 20.0 / (8.0 + k))) for k in harmonics if rng.uniform() < 0.6)
    return Ship(
        closest_s=float(rng.uniform(0.0, duration_s)),
        closest_m=float(rng.uniform(200.0, 600.0)),
        speed_m_s=float(rng.uniform(5.0, 10.0)),
        blade_hz=float(rng.uniform(5.0, 13.0)),
        wobble=float(rng.uniform(0.002, 0.01)),
        wobble_s=float(rng.uniform(30.0, 120.0)),
        level=float(10.0 ** (rng.uniform(-4.0, 4.0) / 20.0)),
        lines=lines,
    )


def _progress(duration_s: float, sample_rate_hz: int) -> Samples:
    """From 0 up to 1 over the sound, (n,)."""
    return np.linspace(0.0, 1.0, round(duration_s * sample_rate_hz), endpoint=False)


def _tone(contour_hz: Samples, harmonics: Sequence[float], sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """A tone (n,) along a frequency contour (n,), with harmonics of the given amplitudes, first the fundamental."""
    phase = 2.0 * np.pi * (np.cumsum(contour_hz) / sample_rate_hz + rng.uniform())
    return sum((a * np.sin(k * phase) for k, a in enumerate(harmonics, 1)), np.zeros(contour_hz.size))


def _envelope(u: Samples, attack: float, release: float) -> Samples:
    """Raised-cosine flanks, as shares of the sound."""
    flank: Samples = np.minimum(np.minimum(u / attack, (1.0 - u) / release), 1.0)
    return np.square(np.sin(flank * np.pi / 2.0))


def _multipath(direct: Samples, sample_rate_hz: int, rng: np.random.Generator) -> Samples:
    """The sound (n,) with two weaker echoes, by surface (inverted) and bottom; ECHO_S longer; peak 1."""
    samples = np.concatenate([direct, np.zeros(round(ECHO_S * sample_rate_hz))])
    for sign in (-1.0, 1.0):
        delay = int(rng.uniform(0.015, ECHO_S) * sample_rate_hz)
        samples[delay : delay + direct.size] += sign * rng.uniform(0.1, 0.4) * direct
    return samples / float(np.abs(samples).max())
