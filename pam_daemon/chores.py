"""What is done every so often, on the thread that looks after it between its other work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pam_daemon.clock import NS_PER_S, Clock


@dataclass(frozen=True, slots=True)
class Chore:
    """Some work and its period."""

    every_s: float
    work: Callable[[], None]


class Rota:
    """Chores, each first due after its period."""

    def __init__(self, chores: Sequence[Chore], clock: Clock) -> None:
        self._chores = chores
        self._clock = clock
        self._due_ns = [clock.monotonic_ns() + int(chore.every_s * NS_PER_S) for chore in chores]

    def tick(self) -> None:
        """Do what is due: once, however late it is."""
        for number, chore in enumerate(self._chores):
            now_ns = self._clock.monotonic_ns()
            if now_ns >= self._due_ns[number]:
                every_ns = int(chore.every_s * NS_PER_S)
                self._due_ns[number] += every_ns * (1 + (now_ns - self._due_ns[number]) // every_ns)
                chore.work()
