"""How far a subscriber is in each journal that it has heard of, and the file that outlives it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pam_daemon.errors import ListenError
from pam_daemon.records import Wire

SCHEMA = "pamd-place/1"


class _Stored(msgspec.Struct):
    schema: str
    places: dict[str, int]  # by log: the last seq that was handed on


@dataclass(slots=True)
class Place:
    """Where a subscriber is in one log; its publisher answers recovery at `port`."""

    log: str
    port: int
    seq: int  # up to here all has come, or is none of ours
    handed_on: int  # and this far the program has dealt with it
    _began: int = field(init=False)
    _last: dict[tuple[str, str, str], int] = field(default_factory=dict)  # seq by topic

    def __post_init__(self) -> None:
        self._began = self.seq

    def step(self, wire: Wire) -> bool:
        """Come to a record. Returns: whether `prev_seq` tells that one before it is missing."""
        topic = (wire["kind"], wire["station"], wire["stream"])
        missing = (wire.get("prev_seq") or 0) > self._last.get(topic, self._began)
        self._last[topic] = self.seq = wire["seq"]
        return missing


class PlaceFile:
    """The places on disk, replaced as a whole: a reader finds the old ones or the new ones.

    Raises:
        ListenError: a file that holds something else, or that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, int] = {}
        try:
            self.places = self._read(path.read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ListenError(f"{path}: cannot be read: {error.strerror}; give another --state") from error
        try:
            self.write(self.places)
        except OSError as error:
            raise ListenError(f"{path}: cannot be written: {error.strerror}; give another --state") from error

    def write(self, places: dict[str, int]) -> None:
        """Store them by log.

        Raises:
            OSError: the disk refuses; what was there before still is.
        """
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(_Stored(SCHEMA, places)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        self.places = places

    def _read(self, text: bytes) -> dict[str, int]:
        try:
            stored = msgspec.json.decode(text, type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ListenError(f"{self.path}: no place of a subscriber: {error}; give another --state") from error
        if stored.schema != SCHEMA:
            raise ListenError(f"{self.path}: {stored.schema!r}, {SCHEMA} is expected; give another --state")
        return stored.places
