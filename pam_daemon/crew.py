"""The threads of a process: started by name, stopped by the first that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Crew:
    """The threads of a station: the first failure stops them all, and is raised where they are joined."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop  # sources end; what they gave is still analysed
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=(work,), name=name)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        """Wait for all; raises what the first that failed raised."""
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - raised again by `join`
            self._failure = self._failure or failure
            self.stop.set()
