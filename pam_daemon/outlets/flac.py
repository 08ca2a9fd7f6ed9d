"""FLAC files, 24 bit, one channel: under a `.part` name until they are whole, then under one that tells their start."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import soundfile
import structlog

from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources.file import recordings
from pam_daemon.clock import rfc3339
from pam_daemon.errors import RecordError, SourceError

PART = ".part"
_LENGTH_AT = 21

log = structlog.get_logger()


def file_name(station: str, stream: str, utc_ns: int, identity: str = "") -> str:
    """`STATION.STREAM.20090329T171500.000000Z.flac`, of which `capture.sources.filenames` reads the start back.

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
        with suppress(OSError, soundfile.LibsndfileError):
            self._sound.close()
            # libsndfile does not tell when the last frame found no room; the length is filled in after it.
            if not self._failed and soundfile.info(self._part).frames == self.samples:
                _sync(self._part)
                self._part.rename(self.path)
                return self.samples
        return rescue(self._part)


def leftovers(directory: Path, station: str) -> list[Path]:
    """Files that a killed process has not ended."""
    return sorted(directory.glob(f"{station}.*{PART}"))


def rescue(part: Path) -> int:
    """End a file that was left open or that the disk has refused to take more of; how many samples are in it.

    One without a sample is removed; one that is no sound is left as it is, and that is said.
    """
    try:
        (recording,) = recordings([part], min_rate_hz=1)  # decodes it, for its header does not tell its length
        _fill_in_length(part, recording.samples)
        _sync(part)
        part.rename(part.with_suffix(""))
        return recording.samples
    except (OSError, SourceError) as error:
        if isinstance(error, SourceError) and _is_hollow(part):
            part.unlink(missing_ok=True)
        else:
            log.warning("recording cannot be rescued", file=str(part), error=str(error))
        return 0


def _is_hollow(part: Path) -> bool:
    """Nothing, or a FLAC file's header with not a whole frame behind it."""
    with suppress(OSError, soundfile.LibsndfileError):
        return part.stat().st_size == 0 or bool(soundfile.info(part).format == "FLAC")
    return False


def _fill_in_length(path: Path, samples: int) -> None:
    """Into the stream information block, where it takes the last 36 bits of these five bytes (RFC 9639, 8.2)."""
    with path.open("r+b") as file:
        file.seek(_LENGTH_AT)
        others = int.from_bytes(file.read(5), "big") >> 36
        file.seek(_LENGTH_AT)
        file.write((others << 36 | samples).to_bytes(5, "big"))


def _sync(path: Path) -> None:
    """Onto the disk, before the name says that it is whole."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
