"""The room that recordings may take: the oldest go, so that new ones and the journal have it."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

import structlog

from pam_daemon.clock import NS_PER_S, Clock
from pam_daemon.config import Record
from pam_daemon.errors import RecordError
from pam_daemon.outlets.flac import PART

_LOOK_EVERY_NS = 60 * NS_PER_S
_GB = 1_000_000_000

log = structlog.get_logger()


class Quota:
    """Keeps a station's recordings in a directory within `max_gb`, and `min_free_gb` of its disk free.

    Only finished files of this station's are deleted, oldest first; never clips, nor what another has put there.
    """

    def __init__(self, directory: Path, station: str, config: Record, clock: Clock) -> None:
        self._directory = directory
        self._names = re.compile(
            rf"{re.escape(station)}\.[\w-]+\.(\d{{8}}T\d{{6}}\.\d{{6}}Z)\.flac(?:{PART})?", re.ASCII
        )
        self._max_bytes = None if config.max_gb is None else int(config.max_gb * _GB)
        self._min_free_bytes = int(config.min_free_gb * _GB)
        self._clock = clock
        self._due_ns = clock.monotonic_ns()
        self._refusal: str | None = None

    def make_room(self) -> None:
        """Looks once a minute, and deletes what has to go.

        Raises:
            RecordError: there is not enough room, and nothing left to delete.
        """
        if self._clock.monotonic_ns() >= self._due_ns:
            self._due_ns = self._clock.monotonic_ns() + _LOOK_EVERY_NS
            try:
                self._refusal = self._look()
            except OSError as error:
                self._refusal = f"{self._directory}: {error.strerror}"
        if self._refusal is not None:
            raise RecordError(self._refusal)

    def _look(self) -> str | None:
        excess = self._min_free_bytes - shutil.disk_usage(self._directory).free
        if excess <= 0 and self._max_bytes is None:
            return None
        sizes = self._sizes()
        if self._max_bytes is not None:
            excess = max(excess, sum(sizes.values()) - self._max_bytes)
        for path in sorted(sizes, key=self._began):
            if excess <= 0:
                return None
            if path.suffix != PART:
                path.unlink(missing_ok=True)
                excess -= sizes[path]
                log.info("recording deleted for room", file=str(path), bytes=sizes[path])
        if excess <= 0:
            return None
        return f"{self._directory}: {excess / _GB:.1f} GB too few by record.max_gb or record.min_free_gb"

    def _sizes(self) -> dict[Path, int]:
        """Bytes of each of the station's recordings, those that are being written among them."""
        sizes: dict[Path, int] = {}
        for path in self._directory.iterdir():
            if self._names.fullmatch(path.name):
                with suppress(FileNotFoundError):  # somebody else has taken it away
                    sizes[path] = path.stat().st_size
        return sizes

    def _began(self, path: Path) -> str:
        match = self._names.fullmatch(path.name)
        return match[1] if match else ""
