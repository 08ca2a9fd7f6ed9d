"""Which stages of the daemon move, and what systemd is told of it (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable


class Stages:
    """The stages that have to move: capture of each device, worker, publisher."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._moved: set[str] = set()

    def add(self, name: str) -> Callable[[], None]:
        """A stage; it calls what this returns whenever it has moved, at least every second."""

        def moved() -> None:
            with self._lock:
                self._moved.add(name)

        with self._lock:
            self._names.add(name)
        return moved

    def all_moved(self) -> bool:
        """Whether every stage has moved since this was last true."""
        with self._lock:
            if self._moved < self._names:
                return False
            self._moved.clear()
            return True

    def still(self) -> set[str]:
        """The stages that have not moved since."""
        with self._lock:
            return self._names - self._moved


class Supervisor:
    """systemd, where it listens (NOTIFY_SOCKET); nobody, elsewhere."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0

    def tell(self, *assignments: str) -> None:
        """`READY=1`, `STATUS=...`, `WATCHDOG=1`, `STOPPING=1`."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto("\n".join(assignments).encode(), address)
