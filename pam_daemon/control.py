"""The private Unix socket: serves a running daemon's state to `pamd status`, one question a connection."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import platformdirs

from pam_daemon.clock import NS_PER_S, parse_rfc3339
from pam_daemon.errors import EndpointError
from pam_daemon.journal import Journal
from pam_daemon.records import Mode, Wire

_TIMEOUT_S = 1.0
_ANSWER_TIMEOUT_S = 10.0
_DAY_NS = 86_400 * NS_PER_S
_SERVICES = Path("/run/pamd")  # the unit's RuntimeDirectory, a directory a station


def address(station: str, mode: Mode) -> str:
    """What a station's process is called on this machine; a drill runs beside the one that listens."""
    return f"{station}.drill" if mode == "drill" else station


def socket_path(address: str) -> Path:
    """Where a process's socket is: in systemd's or the user's runtime directory, else beside the user's journals."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given) / f"{address}.sock"
    # Without XDG_RUNTIME_DIR there is no private runtime directory, only one below /tmp.
    private = platformdirs.user_runtime_path if os.environ.get("XDG_RUNTIME_DIR") else platformdirs.user_state_path
    return private("pamd") / f"{address}.sock"


def running_socket_path(station: str, mode: Mode = "live") -> Path:
    """Where whoever asks finds a station's socket: their own daemon's, else the service's."""
    own = socket_path(address(station, mode))
    service = _SERVICES / station
    return service / own.name if service.is_dir() and not own.exists() else own


class Control:
    """The daemon's side.

    Raises:
        EndpointError: the socket cannot be made, or another daemon answers on it.
    """

    def __init__(self, path: Path, answer: Callable[[], Wire]) -> None:
        self._path = path
        self._answer = answer
        if _is_served(path):
            raise EndpointError(f"{path}: another pamd answers here; end it, or give this one another --station")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            path.chmod(0o600)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise EndpointError(f"{path}: cannot be made: {error}; set RUNTIME_DIRECTORY") from error
        self._socket.settimeout(_TIMEOUT_S)

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop`."""
        try:
            while not stop.is_set():
                with suppress(TimeoutError), closing(self._socket.accept()[0]) as connection:
                    connection.settimeout(_TIMEOUT_S)
                    # Whoever asked may have gone: that is no concern of ours.
                    with suppress(OSError):
                        connection.sendall(msgspec.json.encode(self._answer()))
        finally:
            self._socket.close()
            self._path.unlink(missing_ok=True)


def ask(path: Path) -> Wire:
    """A running daemon's state.

    Raises:
        EndpointError: nobody answers, or something else than a pamd.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
            state: Wire = msgspec.json.decode(answer)
        except (OSError, ValueError, RecursionError) as error:
            raise EndpointError(f"{path}: no pamd answers ({error}); is it running, as this user?") from error
        return state


def state(status: Wire, journal: Journal, now_utc_ns: int) -> Wire:
    """A status, and what the journal says of today (UTC): coverage, what was missed and why, the last detection.

    Coverage is the share of the stream time since midnight, or since the journal's first record, that was captured
    and analysed; all streams together.
    """
    day_ns = now_utc_ns - now_utc_ns % _DAY_NS
    for first in journal.since(0, limit=1):
        day_ns = max(day_ns, parse_rfc3339(first["time_utc"]))
    missed_ns: dict[str, int] = {}
    for gap in journal.latest("gap"):
        start_ns = parse_rfc3339(gap["start_utc"])
        end_ns = start_ns + int(gap["duration_s"] * NS_PER_S)
        if end_ns <= day_ns:
            break
        missed_ns[gap["reason"]] = missed_ns.get(gap["reason"], 0) + end_ns - max(start_ns, day_ns)
    streams_ns = max(1, now_utc_ns - day_ns) * max(1, len(status["streams"]))
    return {
        "status": status,
        "missed_today_s": {reason: round(ns / NS_PER_S, 1) for reason, ns in missed_ns.items()},
        "coverage_today": round(max(0.0, 1 - sum(missed_ns.values()) / streams_ns), 4),
        "last_detection": next(journal.latest("detection"), None),
    }


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_S)
        with suppress(OSError):
            probe.connect(str(path))
            return True
    return False
