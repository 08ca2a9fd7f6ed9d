"""Recordings: sound files found, checked and joined into segments before anything starts, then read in blocks."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.filenames import NamedStart, start_of
from pam_daemon.capture.sources.headers import Mended, promise_of
from pam_daemon.errors import SourceError

HIGHEST_RATE_HZ = 1_000_000
MEETING_TOLERANCE = timedelta(milliseconds=50)
SUFFIXES = (
    *(".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp3"),
    *(".oga", ".ogg", ".opus", ".rf64", ".snd", ".w64", ".wav", ".wave"),
)
# A header that promises more was never filled in (libsndfile reports SF_COUNT_MAX for a FLAC's) or is damaged: what it
# lacks would be gap records by the million.
_LONGEST_S = 100 * 86_400
_COUNTING_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class SoundFile:
    """One file as its header describes it."""

    path: Path
    sample_rate_hz: int
    channels: int
    samples: int
    """Per channel, as the header promises; counted where it does not say."""
    named_start: NamedStart | None
    """What the file's name tells."""


@dataclass(slots=True)
class Recording:
    """One or several files that meet: a Source without a gap, but where a file is cut short."""

    files: tuple[SoundFile, ...]
    start_utc: datetime | None
    """Of the first sample; None when neither the user nor the name tells."""
    truncated: bool = False
    """Whether a file turned out shorter than its header says; true from the read that found it on."""
    _digests: dict[Path, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The first file's path; what is not text in it is escaped, as it goes into records."""
        return os.fsencode(self.files[0].path).decode(errors="backslashreplace")

    @property
    def state(self) -> str:
        """A file is always heard."""
        return self.name

    @property
    def sample_rate_hz(self) -> int:
        """The same in all files."""
        return self.files[0].sample_rate_hz

    @property
    def channels(self) -> int:
        """The same in all files."""
        return self.files[0].channels

    @property
    def samples(self) -> int:
        """Per channel, by the headers."""
        return sum(file.samples for file in self.files)

    @property
    def assumed_utc(self) -> bool:
        """Whether `start_utc` comes from a name without a time zone: the user must be told."""
        named = self.files[0].named_start
        return named is not None and named.assumed_utc and self.start_utc == named.utc

    @property
    def sha256(self) -> str:
        """The first file's digest, in hex: the key of every id whose first sample it holds."""
        return self.key(0)[0]

    def locate(self, sample: int) -> tuple[SoundFile, int]:
        """The file that holds a sample of the recording, and the sample's number in it.

        Numbers from the end on are counted on in the last file.
        """
        if sample < 0:
            raise ValueError(f"sample numbers begin at 0, got {sample}")
        for file in self.files[:-1]:
            if sample < file.samples:
                return file, sample
            sample -= file.samples
        return self.files[-1], sample

    def key(self, sample: int) -> tuple[str, int]:
        """The digest (SHA-256, hex) of the file that holds a sample, and the sample's number in it.

        Raises:
            SourceError: The file can no longer be read.
        """
        file, offset = self.locate(sample)
        if file.path not in self._digests:
            self._digests[file.path] = _digest(file.path)
        return self._digests[file.path], offset

    def blocks(self, block_samples: int | None = None) -> Iterator[Audio | Missing]:
        """The files' samples in order, in blocks of a second or of so many samples; what a cut file lacks is `Missing`.

        Raises:
            SourceError: A file can no longer be opened.
        """
        for file in self.files:
            done = 0
            for samples in _read(file, block_samples or self.sample_rate_hz):
                done += samples.shape[1]
                yield Audio(samples, None)
            if done < file.samples:
                self.truncated = True
                yield Missing(file.samples - done, "truncated")


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The sound files that FILE, DIR and GLOB arguments mean, each once, in the order given.

    A directory stands for the files directly in it that have a sound file's suffix, by name; `DIR/**/*.wav` reaches
    below. A file named outright is taken whatever its suffix.

    Raises:
        SourceError: An argument means no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        try:
            files = _matching(pattern)
        except OSError as error:  # a directory that may not be read, a name too long
            raise SourceError(f"{pattern}: {error.strerror}; check the path and its permissions") from error
        if not files:
            reason = (
                "no sound file in this directory"
                if Path(pattern).is_dir()
                else "no such file, nor does a pattern match"
            )
            raise SourceError(f"{pattern}: {reason}; give sound files, directories that hold some, or patterns")
        found.update(dict.fromkeys(files))
    return list(found)


def recordings(paths: Sequence[Path], *, min_rate_hz: float, start: datetime | None = None) -> list[Recording]:
    """Open and check every file, then join those that follow one another and meet, by their names, within 50 ms.

    `min_rate_hz` is the model's rate; `start` (aware) overrides the name's and fits a single recording only.

    Raises:
        SourceError: A file cannot be read, holds nothing or has a rate out of range, or `start` does not fit.
    """
    if start is not None and start.tzinfo is None:
        raise ValueError("start needs a time zone")
    groups: list[list[SoundFile]] = []
    for file in [_inspect(path, min_rate_hz) for path in paths]:
        if groups and _meet(groups[-1][-1], file):
            groups[-1].append(file)
        else:
            groups.append([file])
    if start is not None and len(groups) > 1:
        raise SourceError(
            f"{groups[1][0].path}: does not follow the file before it, so one start time cannot be both theirs; "
            "replay them one by one"
        )
    return [Recording(tuple(group), _start(group[0], start)) for group in groups]


def _matching(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern.
    names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    matches = [Path(name) for name in names]
    return [file for match in matches for file in (_files_in(match) if match.is_dir() else [match])]


def _files_in(directory: Path) -> list[Path]:
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _start(first: SoundFile, start: datetime | None) -> datetime | None:
    if start is not None:
        return start.astimezone(UTC)
    return first.named_start.utc if first.named_start else None


def _meet(file: SoundFile, following: SoundFile) -> bool:
    alike = (file.sample_rate_hz, file.channels) == (following.sample_rate_hz, following.channels)
    if not alike or file.named_start is None or following.named_start is None:
        return False
    end = file.named_start.utc + timedelta(seconds=file.samples / file.sample_rate_hz)
    return abs(end - following.named_start.utc) <= MEETING_TOLERANCE


def _inspect(path: Path, min_rate_hz: float) -> SoundFile:
    with _opened(path) as sound:
        rate_hz = sound.samplerate
        if not min_rate_hz <= rate_hz <= HIGHEST_RATE_HZ:
            raise SourceError(
                f"{path}: sample rate {rate_hz} Hz is outside {min_rate_hz:g} Hz (the model's) to "
                f"{HIGHEST_RATE_HZ} Hz; give another recording or a model for this rate"
            )
        samples = promise_of(path).frames or sound.frames
        if samples > _LONGEST_S * rate_hz:
            samples = _count(sound)
        if samples == 0:
            raise SourceError(f"{path}: holds no samples; leave it out or record it again")
        return SoundFile(path, rate_hz, sound.channels, samples, start_of(path.name))


class _Sound(soundfile.SoundFile):  # type: ignore[misc]  # soundfile publishes no types
    """A sound file read from its beginning to its end.

    python-soundfile seeks after each read in a file that can seek. At the end of a cut FLAC that fails, and takes the
    samples just decoded with it; elsewhere it only costs time.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[_Sound]:
    """Open for reading, with one line about whatever prevents it.

    Raises:
        SourceError: There is no such file, it may not be read, or it is no sound file.
    """
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: is empty (0 bytes); leave it out or copy it again")
        mend = promise_of(path).mend
        with path.open("rb") as file, _Sound(Mended(file, *mend) if mend else file.fileno(), closefd=False) as sound:
            yield sound
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}; check the path and its permissions") from error
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path}: libsndfile cannot read it ({error.error_string.strip()}); give an AIFF, WAV or FLAC file"
        ) from error


def _read(file: SoundFile, block_samples: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of shape (channels, samples), as many as can be decoded and at most `file.samples`."""
    with _opened(file.path) as sound:
        left = file.samples
        while left:
            block = np.empty((min(block_samples, left), file.channels), np.float32)
            got = _fill(block, sound)
            if got:
                yield np.ascontiguousarray(block[:got].T)
            if got < len(block):
                return
            left -= got


def _count(sound: _Sound) -> int:
    """Frames that can be decoded."""
    block = np.empty((_COUNTING_BLOCK, sound.channels), np.float32)
    frames = 0
    while got := _fill(block, sound):
        frames += got
    return frames


def _fill(block: NDArray[np.float32], sound: _Sound) -> int:
    """Read into a block of shape (samples, channels); gives the frames read, fewer where the file ends or is cut."""
    before = sound.tell()
    try:
        return len(sound.read(out=block))
    except soundfile.LibsndfileError:
        # A cut FLAC: the decoder fills the block up to its last whole frame before it gives up.
        return int(sound.tell()) - int(before)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; it was there a moment ago") from error
