"""What a stream's sound tells of its hydrophone: digital silence, direct current, too quiet to be the sea, clipping.

Such a device delivers, so nothing is missing; but it hears no whale, and silence must not be taken for absence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pam_daemon.capture.ring import CLIPPED
from pam_daemon.records import Event

_LOOK_S = 1.0  # is judged as one
_SETTLED_LOOKS = 10  # of one judgement make a state
_CLIPPED_SHARE = 0.001  # of a look: more than the odd shrimp
TEXTS = {
    "silent": "digital silence: check the cable, the channel and the mute switch",
    "dc": "direct current and no sound: check the hydrophone's supply and coupling",
    "quiet": "quieter than the sea can be: check the hydrophone, its supply and the gain",
    "clipping": "the converter is overdriven: lower the gain",
}


@dataclass(slots=True)
class Look:
    """A stretch of one stream's sound, judged as one."""

    count: int = 0  # samples
    clipped: int = 0  # of them, at full scale
    _sum: float = 0.0
    _power_sum: float = 0.0

    def feed(self, samples: npt.NDArray[np.float32]) -> None:
        """Samples (n,), full scale +-1."""
        self.count += len(samples)
        self.clipped += int(np.count_nonzero(np.abs(samples) >= CLIPPED))
        self._sum += float(samples.sum(dtype=np.float64))
        # No dot product: of many samples OpenBLAS makes it on threads of its own, which spin for long after it.
        self._power_sum += float(np.square(samples, dtype=np.float64).sum())

    @property
    def level_dbfs(self) -> float | None:
        """20 log10 rms, a full-scale square wave is 0 dB; None for digital silence."""
        return 10 * math.log10(self._power_sum / self.count) if self._power_sum > 0 else None

    def judge(self, floor_dbfs: float) -> str | None:
        """One of `silent`, `dc`, `quiet`, `clipping`; None where all is well."""
        floor_power = 10 ** (floor_dbfs / 10)
        mean = self._sum / self.count
        sound_power = max(self._power_sum / self.count - mean * mean, 0.0)
        if self._power_sum == 0:
            return "silent"
        if self.clipped > _CLIPPED_SHARE * self.count and sound_power > floor_power:
            return "clipping"
        if not sound_power > floor_power:  # a mean far above what is left of the sound is no sound
            return "dc" if mean * mean > 100 * max(sound_power, floor_power) else "quiet"
        return None


class Hearing:
    """Judges one stream, block by block, at the source's rate.

    Args:
        floor_dbfs: less sound than this (rms without the mean, a full-scale square wave is 0 dB) is `quiet`.
    """

    def __init__(self, sample_rate_hz: int, floor_dbfs: float) -> None:
        self.state: str | None = None
        """One of `silent`, `dc`, `quiet`, `clipping`; None while all is well."""
        self._look_samples = round(_LOOK_S * sample_rate_hz)
        self._floor_dbfs = floor_dbfs
        self._judged: str | None = None
        self._looks = 0  # of one judgement, so far
        self._look = Look()

    def feed(self, samples: npt.NDArray[np.float32]) -> Event | None:
        """Samples (n,), full scale +-1. Returns: the change of state, where there is one."""
        self._look.feed(samples)
        if self._look.count < self._look_samples:
            return None
        judged = self._look.judge(self._floor_dbfs)
        self._look = Look()
        self._looks = self._looks + 1 if judged == self._judged else 1
        self._judged = judged
        if self._looks < _SETTLED_LOOKS or judged == self.state:
            return None
        self.state = judged
        if judged is None:
            return Event("signal", "info", "the sea is heard", {"state": "heard"})
        return Event("signal", "warning", TEXTS[judged], {"state": judged})
