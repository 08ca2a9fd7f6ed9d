"""What the worker does when it cannot keep up: it says so, then listens at a wider hop, if it may."""

from __future__ import annotations

from pam_daemon.records import Event

_OVER_SHARE = 0.4  # of the lag that began it: then it is over


class Overload:
    """Judges the lag, from round to round.

    Args:
        lag_s: stream time behind from which on the worker is overloaded.
        stride: of so many windows of the grid one is scored while it is; 1 leaves all.
        hop_s: the distance of the grid's windows.
    """

    def __init__(self, lag_s: float, stride: int, hop_s: float) -> None:
        self._lag_s = lag_s
        self._stride = stride
        self._hop_s = hop_s
        self._on = False
        self._worst_s = 0.0

    @property
    def stride(self) -> int:
        """Of so many windows one is to be scored now."""
        return self._stride if self._on else 1

    def judge(self, lag_s: float, skipped_samples: int) -> Event | None:
        """How far behind the slowest stream is, and what all have skipped so far. Returns: the change, if it is one."""
        self._worst_s = max(self._worst_s, lag_s) if self._on else lag_s
        if self._on == (lag_s > (self._lag_s * _OVER_SHARE if self._on else self._lag_s)):
            return None
        self._on = not self._on
        data = {"lag_s": round(lag_s, 1), "hop_s": self._hop_s * self.stride, "skipped_samples": skipped_samples}
        if self._on:
            does = f"listens every {data['hop_s']:g} s" if self._stride > 1 else "what it is late for will be skipped"
            return Event("overload", "warning", f"{lag_s:.0f} s behind; {does}", data)
        text = f"has caught up, was {self._worst_s:.0f} s behind; listens every {self._hop_s:g} s"
        return Event("overload_over", "info", text, data | {"worst_lag_s": round(self._worst_s, 1)})
