"""The recorder: every stream's sound onto the disk, by cursors of its own, in files that end at gaps and full hours."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog

from pam_daemon.analysis.stream import Stream
from pam_daemon.capture.ring import Heard, Unheard
from pam_daemon.capture.sources.filenames import start_of
from pam_daemon.clock import NS_PER_S, Clock, utc_ns_of
from pam_daemon.config import Record
from pam_daemon.errors import ConfigError, RecordError
from pam_daemon.outlets import captured_utc_ns, clips, flac, tell
from pam_daemon.outlets.flac import FlacFile, file_name
from pam_daemon.outlets.quota import Quota
from pam_daemon.records import Event, RecorderStatus, Severity

_EVERY_S = 0.5
_BLOCK_S = 10.0  # of sound, at most, between two looks at the disk
_RETRY_NS = 60 * NS_PER_S  # after a refusal of the disk
_ON_AGAIN_S = 10.0  # of sound that the disk has taken: it takes what comes
_TOO_SOON_NS = NS_PER_S  # a file that would be shorter goes on to the boundary after

log = structlog.get_logger()


class Recorder:
    """A station's recorder. `round` is called by its own thread alone.

    It is no stage of the watchdog's: a disk that hangs must not end a daemon that listens.

    Raises:
        RecordError: the directory cannot be made or written.
        ConfigError: a rate that FLAC does not know, or names that look like times.
    """

    def __init__(self, config: Record, station: str, streams: Sequence[Stream], clock: Clock) -> None:
        assert config.directory is not None, "nothing is recorded without a directory"
        directory = Path(config.directory)
        for stream in streams:
            _check(station, stream, clock)
        _prepare(directory, station)
        self._directories = (directory, directory / clips.DIRECTORY)
        self._station = station
        quota = Quota(directory, station, config, clock)
        self._tracks = [Track(stream, directory, station, config, quota, clock) for stream in streams]

    def run(self, listening: Callable[[], bool]) -> None:
        """Until the worker has ended: its last calls want clips too."""
        left = [part for directory in self._directories for part in flac.leftovers(directory, self._station)]
        while listening():
            if left and flac.rescue(part := left.pop()):
                log.info("recording rescued", file=str(part.with_suffix("")))
            self.round()
            time.sleep(_EVERY_S)
        self.round()
        self.close()

    def round(self) -> None:
        """Write what has come, and the clips that are complete."""
        for track in self._tracks:
            track.take()
            track.clips.write()

    def close(self) -> None:
        """End the files that are open."""
        for track in self._tracks:
            track.close()


class Track:
    """One stream's files."""

    def __init__(
        self, stream: Stream, directory: Path, station: str, config: Record, quota: Quota, clock: Clock
    ) -> None:
        self.clips = clips.Clips(stream, directory, station, config.clip_margin_s)
        self._stream = stream
        self._cursor = stream.ring.cursor()
        self._directory = directory
        self._station = station
        self._period_ns = config.file_minutes * 60 * NS_PER_S
        self._quota = quota
        self._clock = clock
        self._file: FlacFile | None = None
        self._file_end = 0  # the first sample of the next file
        self._files = 0
        self._bytes = 0
        self._refused_samples = 0  # by the disk
        self._retry_ns: int | None = None  # the disk refuses; when it is asked again
        stream.recorder = self

    def order_clip(self, identity: str, start: int, end: int) -> str | None:
        return self.clips.order(identity, start, end)

    def status(self) -> RecorderStatus:
        return RecorderStatus(
            lost_samples=self._cursor.lost_samples + self._refused_samples,
            files=self._files,
            bytes=self._bytes,
            clips=self.clips.written,
            clips_lost=self.clips.lost + self.clips.refused,
        )

    def take(self) -> None:
        """Write what has come into the ring; what comes meanwhile waits, so that no stream holds up the others."""
        limit, end = round(_BLOCK_S * self._stream.sample_rate_hz), self._stream.ring.elapsed_samples
        while self._cursor.position < end and (piece := self._cursor.read(limit)) is not None:
            if isinstance(piece, Unheard):
                self.close()
            else:
                self._record(piece)

    def close(self) -> None:
        """End the file, if one is open."""
        if self._file is None:
            return
        file, self._file = self._file, None
        kept = file.close()
        if kept:
            self._files += 1
            with suppress(OSError):  # somebody was quick to take it away
                self._bytes += file.path.stat().st_size
        if kept < file.samples:
            self._refused_samples += file.samples - kept
            self._refuse(f"{file.path}: the disk took {kept} of {file.samples} samples")

    def _record(self, heard: Heard) -> None:
        if self._retry_ns is not None and self._clock.monotonic_ns() < self._retry_ns:
            self._refused_samples += len(heard.samples)
            return
        rest = heard.samples
        try:
            self._quota.make_room()
            while len(rest):
                start = heard.start + len(heard.samples) - len(rest)
                file = self._file = self._file or self._open(start)
                part, rest = np.split(rest, [self._file_end - start])
                file.write(part)
                self._see_taken(file)
                if start + len(part) == self._file_end:
                    self.close()
        except RecordError as error:
            self._refused_samples += len(rest)
            self.close()
            self._refuse(str(error))

    def _open(self, start: int) -> FlacFile:
        stream = self._stream
        utc_ns = captured_utc_ns(stream, start)
        file = FlacFile(self._directory / file_name(self._station, stream.name, utc_ns), stream.sample_rate_hz)
        self._file_end = next_file(start, utc_ns, stream.sample_rate_hz, self._period_ns)
        return file

    def _refuse(self, why: str) -> None:
        """Said once, until the disk takes what comes."""
        if self._retry_ns is None:
            self._tell("recording_stopped", "error", f"not recording: {why}; tried again every minute")
        self._retry_ns = self._clock.monotonic_ns() + _RETRY_NS

    def _see_taken(self, file: FlacFile) -> None:
        if self._retry_ns is not None and file.samples >= _ON_AGAIN_S * self._stream.sample_rate_hz:
            self._retry_ns = None
            self._tell("recording_resumed", "info", "recording again")

    def _tell(self, what: str, severity: Severity, text: str) -> None:
        tell(self._stream, Event(what, severity, text, {"lost_samples": self.status().lost_samples}))


def next_file(start: int, utc_ns: int, sample_rate_hz: int, period_ns: int) -> int:
    """The first sample of the file after one that begins at `start`: at or after a multiple of the period in UTC."""
    boundary_ns = ((utc_ns + _TOO_SOON_NS) // period_ns + 1) * period_ns
    return start - (utc_ns - boundary_ns) * sample_rate_hz // NS_PER_S


def _check(station: str, stream: Stream, clock: Clock) -> None:
    if not flac.holds(stream.sample_rate_hz):
        raise ConfigError(
            f"record.directory: stream {stream.name} has {stream.sample_rate_hz} Hz; FLAC holds up to 65535 Hz, and "
            "tens up to 655350 Hz: give its device another sample_rate_hz, or do not record"
        )
    utc_ns = clock.utc_ns()
    named = start_of(file_name(station, stream.name, utc_ns))
    if named is None or utc_ns_of(named.utc) != utc_ns // 1000 * 1000:
        raise ConfigError(
            f"station {station}, stream {stream.name}: reads like a time, and would hide that of a recording; "
            "choose another name"
        )


def _prepare(directory: Path, station: str) -> None:
    """A directory that is wrong is found now; one that is full is no reason not to listen."""
    try:
        (directory / clips.DIRECTORY).mkdir(parents=True, exist_ok=True)
        probe = directory / f".{station}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise RecordError(f"record.directory {directory}: cannot be written: {error.strerror}") from error
