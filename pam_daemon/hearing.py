"""What a stream's sound tells of its hydrophone: digital silence, direct current, too quiet to be the sea, clipping.

Such a device delivers, so nothing is missing; but it hears no whale, and silence must not be taken for absence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pam_daemon.records import Event
from pam_daemon.ring import CLIPPED

_LOOK_S = 1.0  # is judged as one
_SETTLED_LOOKS = 10  # of one judgement make a state
_CLIPPED_SHARE = 0.001  # of a look: more than the odd shrimp
_TEXTS = {
    "silent": "digital silence: check the cable, the channel and the mute switch",
    "dc": "direct current and no sound: check the hydrophone's supply and coupling",
    "quiet": "quieter than the sea can be: check the hydrophone, its supply and the gain",
    "clipping": "the converter is overdriven: lower the gain",
}


class Hearing:
    """Judges one stream, block by block, at the source's rate.

    Args:
        floor_dbfs: less sound than this (rms without the mean, a full-scale square wave is 0 dB) is `quiet`.
    """

    def __init__(self, sample_rate_hz: int, floor_dbfs: float) -> None:
        self.state: str | None = None
        """One of `silent`, `dc`, `quiet`, `clipping`; None while all is well."""
        self._look_samples = round(_LOOK_S * sample_rate_hz)
        self._floor_power = 10 ** (floor_dbfs / 10)
        self._judged: str | None = None
        self._looks = 0  # of one judgement, so far
        self._begin_look()

    def feed(self, samples: npt.NDArray[np.float32]) -> Event | None:
        """Samples (n,), full scale +-1. Returns: the change of state, where there is one."""
        exact = samples.astype(np.float64)
        self._count += len(exact)
        self._sum += float(exact.sum())
        self._power_sum += float(exact @ exact)
        self._clipped += int(np.count_nonzero(np.abs(samples) >= CLIPPED))
        if self._count < self._look_samples:
            return None
        judged = self._judge()
        self._begin_look()
        self._looks = self._looks + 1 if judged == self._judged else 1
        self._judged = judged
        if self._looks < _SETTLED_LOOKS or judged == self.state:
            return None
        self.state = judged
        if judged is None:
            return Event("signal", "info", "the sea is heard", {"state": "heard"})
        return Event("signal", "warning", _TEXTS[judged], {"state": judged})

    def _judge(self) -> str | None:
        mean = self._sum / self._count
        sound_power = max(self._power_sum / self._count - mean * mean, 0.0)
        if self._power_sum == 0:
            return "silent"
        if self._clipped > _CLIPPED_SHARE * self._count and sound_power > self._floor_power:
            return "clipping"
        if not sound_power > self._floor_power:  # a mean far above what is left of the sound is no sound
            return "dc" if mean * mean > 100 * max(sound_power, self._floor_power) else "quiet"
        return None

    def _begin_look(self) -> None:
        self._count, self._clipped = 0, 0
        self._sum, self._power_sum = 0.0, 0.0
