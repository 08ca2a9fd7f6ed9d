"""The flood guard: a source that repeats itself, a squeaking mooring for one, is recognised by its rate.

A crowd of whales is a high rate too: so it marks, and withholds nothing.
"""

from __future__ import annotations

from collections import deque


class FloodGuard:
    """Judges the calls of one label of one stream, in source samples.

    Args:
        count: so many calls in less than `window` are a flood, from the last of them on; 0: never.
        window: and so long after the last such call it is over.
    """

    def __init__(self, count: int, window: int) -> None:
        self.calls = 0  # of the flood that goes on, or went on last
        self._window = window
        self._peaks: deque[int] = deque(maxlen=count)
        self._over: int | None = None  # the sample at which it is, if no more come

    def heard(self, peak: int) -> bool:
        """Whether the call whose peak is this sample belongs to a flood."""
        self._peaks.append(peak)
        if not self._peaks or len(self._peaks) < (self._peaks.maxlen or 1) or peak - self._peaks[0] >= self._window:
            return False
        self.calls = 1 if self._over is None else self.calls + 1
        self._over = peak + self._window
        return True

    def ends(self, decided: int) -> bool:
        """Whether a flood is over at this sample, before which all calls are known."""
        if self._over is None or decided < self._over:
            return False
        self._over = None
        return True
