"""The loop that joins the stages: take ready windows of all streams, score them in one call, settle, hand on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pam_daemon.analysis.model import Model
from pam_daemon.analysis.stream import Stream, Timing
from pam_daemon.capture.ring import FloatArray
from pam_daemon.chores import Chore, Rota
from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.records import Record

_IDLE_S = 0.5  # the longest sleep between two looks at the rings
_FORGET_AFTER_S = 60.0  # of stream time: the real-time factor is that of the last minute or two


class Worker:
    """Analyses streams that share one model.

    Args:
        changed: notified when one of their rings is written to or closed.
        told: gives the station's own records since the last round.
        hand_on: takes the records of one round, in order, also where there are none; journal first, then whoever
            listens.
        moved: called once a round.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        changed: threading.Condition,
        told: Callable[[], list[Record]],
        hand_on: Callable[[Sequence[Record]], None],
        clock: Clock,
        moved: Callable[[], None],
    ) -> None:
        self._model = model
        self._batch = batch
        self._changed = changed
        self._told = told
        self._hand_on = hand_on
        self._clock = clock
        self._moved = moved
        self._busy_s = 0.0
        self._heard_s = 0.0  # stream time analysed, of the stream that had most

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work a second of sound: above 1 the worker falls behind."""
        return round(self._busy_s / self._heard_s, 4) if self._heard_s else None

    def run(self, streams: Sequence[Stream], chores: Sequence[Chore] = ()) -> None:
        """Until all streams have ended and everything in them is decided; between rounds, the chores that are due."""
        rota = Rota(chores, self._clock)
        while not all(stream.settled for stream in streams):
            self._moved()
            if not self._round(streams):
                with self._changed:
                    if not any(stream.waiting for stream in streams):
                        self._changed.wait(_IDLE_S)
            rota.tick()

    def _round(self, streams: Sequence[Stream]) -> bool:
        """Whether there was anything to do."""
        share = max(1, self._batch // len(streams))
        taken = [stream.take(share) for stream in streams]
        read_ns = self._clock.monotonic_ns()
        scores = self._score([window for windows in taken for window in windows])
        timing = Timing(read_ns, self._clock.monotonic_ns())
        heard_s = [stream.analysed_s for stream in streams]
        records = self._told()
        for stream, windows in zip(streams, taken, strict=True):
            own, scores = scores[: len(windows)], scores[len(windows) :]
            records += stream.settle(own, timing, self._clock)
        self._hand_on(records)
        if any(taken):
            fresh_s = max(stream.analysed_s - before for stream, before in zip(streams, heard_s, strict=True))
            self._tally(timing.scored_ns - read_ns, fresh_s)
        return bool(records or any(taken))

    def _score(self, windows: Sequence[FloatArray]) -> FloatArray:
        if not windows:
            return np.zeros((0, 0), np.float32)
        return self._model.scores(np.stack(windows))

    def _tally(self, busy_ns: int, fresh_s: float) -> None:
        self._busy_s += busy_ns / NS_PER_S
        self._heard_s += fresh_s
        if self._heard_s > _FORGET_AFTER_S:
            self._busy_s, self._heard_s = self._busy_s / 2, self._heard_s / 2
