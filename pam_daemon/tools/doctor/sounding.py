"""What some seconds of sound tell a technician: mains hum, and the rate at which the samples really come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pam_daemon.capture.ring import FloatArray

_MAINS_HZ = (50, 60)
_HARMONICS = 6  # the sixth of a grid that is off by 0.1 Hz is still within _NEAR_HZ
_LINE_DB = 20.0  # above its neighbours: noise, averaged over ten seconds, never stands out so far
_NEAR_HZ, _AROUND_HZ, _BESIDE_HZ = 1.0, 3.0, 8.0  # 60 Hz is further from 50 Hz than what is beside it
_SEGMENT_S = 2.0  # bins of 0.5 Hz
_SETTLE_S = 1.0  # a device's buffer finds its level
_STRETCHES = 5  # of arrivals, whose least lags tell the rate
_STUDENT_99 = 5.84  # the factor of a 99 % interval for a line through five points


@dataclass(frozen=True, slots=True)
class Hum:
    """The mains in the sound."""

    mains_hz: int
    lines_db: dict[int, float]
    """By frequency in Hz, the fundamental's and the harmonics': how far they stand out of their neighbours."""


def mains_hum(samples: FloatArray, sample_rate_hz: int) -> Hum | None:
    """The mains that stand out most; None where none do, or in less than 2 s of samples (n,).

    Half-wave rectifiers hum at the mains' frequency, full-wave ones at twice that: a line at one of the two is asked.
    """
    if len(samples) < _SEGMENT_S * sample_rate_hz:
        return None
    power = _welch(samples, round(_SEGMENT_S * sample_rate_hz))
    frequency_hz = np.arange(len(power)) / _SEGMENT_S
    found = [Hum(mains_hz, dict(_lines(power, frequency_hz, mains_hz))) for mains_hz in _MAINS_HZ]
    hums = [hum for hum in found if {hum.mains_hz, 2 * hum.mains_hz} & hum.lines_db.keys()]
    return max(hums, key=lambda hum: sum(hum.lines_db.values()), default=None)


def _welch(samples: FloatArray, length: int) -> npt.NDArray[np.float64]:
    """Power by frequency, averaged over Hann-tapered segments that overlap by half (Welch 1967)."""
    taper = np.hanning(length)
    first = range(0, len(samples) - length + 1, length // 2)
    power: npt.NDArray[np.float64] = np.mean(
        [np.square(np.abs(np.fft.rfft(samples[at : at + length] * taper))) for at in first], axis=0
    )
    return power


def _lines(
    power: npt.NDArray[np.float64], frequency_hz: npt.NDArray[np.float64], mains_hz: int
) -> Iterator[tuple[int, float]]:
    """The frequencies at which there is a line, and nothing stronger around it, with its excess in dB."""
    for line_hz in range(mains_hz, (_HARMONICS + 1) * mains_hz, mains_hz):
        distance_hz = np.abs(frequency_hz - line_hz)
        beside = power[(distance_hz >= _AROUND_HZ) & (distance_hz <= _BESIDE_HZ)]
        if frequency_hz[-1] < line_hz + _BESIDE_HZ:
            return
        peak, floor = float(power[distance_hz <= _NEAR_HZ].max()), float(np.median(beside))
        is_peak = peak == power[distance_hz <= _AROUND_HZ].max()
        if is_peak and peak > floor * 10 ** (_LINE_DB / 10):
            yield line_hz, 10 * math.log10(peak / max(floor, np.finfo(np.float64).tiny))


@dataclass(frozen=True, slots=True)
class TrueRate:
    """By how many parts in a million samples come faster than the nominal rate, within a 99 % interval."""

    ppm: float
    uncertainty_ppm: float


def true_rate(arrivals: Sequence[tuple[float, int]], sample_rate_hz: int) -> TrueRate | None:
    """From what had arrived when: monotonic seconds, and all samples until then. None where there are too few.

    A device delivers in bursts, which only delay: of each stretch the arrival with the least lag is the truest.
    """
    settled = [(at_s, samples) for at_s, samples in arrivals if at_s >= arrivals[0][0] + _SETTLE_S]
    if len(settled) < 4 * _STRETCHES:
        return None
    at_s, samples = np.array(settled, np.float64).T
    lag_s = at_s - samples / sample_rate_hz
    best = [part[np.argmin(lag_s[part])] for part in np.array_split(np.arange(len(at_s)), _STRETCHES)]
    (slope, _), covariance = np.polyfit(at_s[best] - at_s[0], lag_s[best], 1, cov=True)
    return TrueRate(-1e6 * float(slope), 1e6 * _STUDENT_99 * math.sqrt(float(covariance[0, 0])))
