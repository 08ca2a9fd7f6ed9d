"""The plain energy detector that a network must beat, with every advantage: its threshold is chosen on the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter
from scipy.signal import butter, sosfilt

from pam_daemon.tools.evaluate import Detected, Matching, match
from pam_daemon.tools.tables import Selection

BAND_HZ = (80.0, 220.0)
WINDOW_S, HOP_S = 2.0, 0.5
MEDIAN_S = 60.0
SEPARATION_S = 1.5


def f1(matching: Matching) -> float:
    """The harmonic mean of precision and recall; duplicates are not counted against the detector."""
    hits = len(matching.found)
    return 2 * hits / (2 * hits + len(matching.missed) + len(matching.false))


def energy_peaks(samples: npt.NDArray[np.float32], sample_rate_hz: int) -> list[Detected]:
    """Every local peak of the band's energy in dB above its running median, in samples (n,)."""
    sos = butter(6, BAND_HZ, "bandpass", fs=sample_rate_hz, output="sos")
    power = np.concatenate([[0.0], np.cumsum(sosfilt(sos, samples.astype(np.float64)) ** 2)])
    window, hop = round(WINDOW_S * sample_rate_hz), round(HOP_S * sample_rate_hz)
    first = np.arange(0, samples.size - window + 1, hop)
    level_db = 10 * np.log10(power[first + window] - power[first])
    above_db = level_db - median_filter(level_db, round(MEDIAN_S / HOP_S) + 1, mode="nearest")
    # A window of 2 s holds a short call wholly at several hops: their middle is the peak, as for pamd's plateaus.
    reach = round(SEPARATION_S / HOP_S) - 1
    peaks: list[Detected] = []
    for index, height_db in enumerate(above_db):
        around = above_db[max(index - reach, 0) : index + reach + 1]
        level = np.flatnonzero(around > height_db - 1.0)
        if height_db == around.max():
            centre_s = (first[max(index - reach, 0)] / sample_rate_hz) + level.mean() * HOP_S + WINDOW_S / 2
            peaks.append(Detected(float(centre_s), float(height_db)))
    return peaks


def energy_detector(
    samples: npt.NDArray[np.float32], sample_rate_hz: int, truth: Sequence[Selection]
) -> tuple[list[Detected], Matching]:
    """The detections, and their matching, at the threshold with the best F1 on this very truth."""
    peaks = energy_peaks(samples, sample_rate_hz)
    best: tuple[list[Detected], Matching] = ([], match([], truth))
    for threshold_db in sorted({peak.score for peak in peaks}):
        detections = [peak for peak in peaks if peak.score >= threshold_db]
        matching = match(detections, truth)
        if f1(matching) > f1(best[1]):
            best = detections, matching
    return best
