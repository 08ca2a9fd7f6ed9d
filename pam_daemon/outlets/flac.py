"""FLAC files, 24 bit, one channel: under a `.part` name until they are whole, then under one that tells their start."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import soundfile
import structlog

from pam_daemon.clock import rfc3339
from pam_daemon.errors import RecordError, SourceError
from pam_daemon.ring import FloatArray
from pam_daemon.sources import Audio
from pam_daemon.sources.file import recordings

PART = ".part"

log = structlog.get_logger()


def file_name(station: str, stream: str, utc_ns: int, identity: str = "") -> str:
    """`STATION.STREAM.20090329T171500.000000Z.flac`, of which `sources.filenames` reads the start back.

    A station's name has no dot in it, so that none takes another's files for its own.
    """
    time = rfc3339(utc_ns).replace("-", "").replace(":", "")
    return ".".join(part for part in (station, stream, time, identity, "flac") if part)


def holds(sample_rate_hz: int) -> bool:
    """Whether FLAC's frame headers have a code for a rate."""
    return sample_rate_hz < 1 << 16 or (sample_rate_hz % 10 == 0 and sample_rate_hz // 10 < 1 << 16)


class FlacFile:
    """A file that is being written.

    Raises:
        RecordError: the disk refuses.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self.path = path
        self.samples = 0  # given to it
        self._part = path.with_name(path.name + PART)
        self._failed = False
        try:
            path.parent.mkdir(exist_ok=True)
            # By its path: a Python file object would need callbacks, which the systemd unit forbids.
            self._sound = soundfile.SoundFile(self._part, "w", sample_rate_hz, 1, "PCM_24", format="FLAC")
        except (OSError, soundfile.LibsndfileError) as error:
            raise RecordError(f"{self._part}: cannot be made: {error}") from error

    def write(self, samples: FloatArray) -> None:
        """Append samples (n,); what is beyond full scale is clipped.

        Raises:
            RecordError: the disk refuses; how much it has taken, `close` tells.
        """
        self.samples += len(samples)
        try:
            self._sound.write(samples)
        except (OSError, soundfile.LibsndfileError) as error:
            self._failed = True
            raise RecordError(f"{self._part}: cannot be written: {error}") from error

    def close(self) -> int:
        """End the file and give it its name; how many samples are in it: all, unless the disk refused."""
        try:
            self._sound.close()
            if not self._failed:
                _sync(self._part)
                self._part.rename(self.path)
                return self.samples
        except (OSError, soundfile.LibsndfileError) as error:
            log.warning("recording cut short", file=str(self._part), error=str(error))
        return _rescue(self._part)


def rescue(directory: Path, station: str) -> None:
    """Give the files that a killed process has left their names; one that cannot be read is left, and that is said.

    Only the first sample is decoded: to decode all would hold the recorder up for longer than the ring. Their headers
    do not tell their length.
    """
    for part in sorted(directory.glob(f"{station}.*{PART}")):
        try:
            if _begins(part):
                part.rename(part.with_suffix(""))
                log.info("recording rescued", file=str(part.with_suffix("")))
            else:
                part.unlink()
        except (OSError, soundfile.LibsndfileError) as error:
            log.warning("recording cannot be rescued, left as it is", file=str(part), error=str(error))


def _begins(part: Path) -> bool:
    """Whether there is a sample in a file."""
    if part.stat().st_size == 0:
        return False
    with soundfile.SoundFile(part) as sound:
        return len(sound.read(1)) > 0


def _rescue(part: Path) -> int:
    """Name what a disk has taken of a file before it refused: so many samples, decoded to count them."""
    with suppress(OSError):
        try:
            (recording,) = recordings([part], min_rate_hz=1)
            pieces = [piece.samples.shape[1] for piece in recording.blocks() if isinstance(piece, Audio)]
            part.rename(part.with_suffix(""))
            return sum(pieces)
        except SourceError:
            part.unlink()
    return 0


def _sync(path: Path) -> None:
    """Onto the disk, before the name says that it is whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
