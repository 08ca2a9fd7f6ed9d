"""Sound files: found, read, resampled to the model's rate and cut; which windows are cut is the sources' matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from export.store import Audio
from pam_daemon.errors import SourceError

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | {
    ".aif",
    ".aifc",
    ".oga",
    ".opus",
}
_BLOCK_FRAMES = 2**18
_ROUNDING_SAMPLES = 2  # by which a resampled recording may be shorter than its length in seconds says
_REMEDY = "restore it or remove its row from the table"
# Beside libsndfile's own: a file without a header (.raw), and a header that promises more than there is memory.
_UNREADABLE = (OSError, soundfile.SoundFileError, TypeError, ValueError, MemoryError)


def sounds_in(folder: Path, *, below: bool = False) -> list[Path]:
    """The sound files of a folder (and of those below it), in the order of their names."""
    found = folder.rglob("*") if below else folder.iterdir()
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())


def look(path: Path) -> Any:
    """What its header says: `frames`, `samplerate`, `channels`.

    Raises:
        SourceError: missing or unreadable.
    """
    try:
        return soundfile.info(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def samples_of(path: Path, sample_rate_hz: int) -> int:
    """Its length in samples of the model's rate.

    Raises:
        SourceError: as `look`.
    """
    info = look(path)
    return int(info.frames * sample_rate_hz // info.samplerate)


def read_clip(path: Path, sample_rate_hz: int, channel: int = 1) -> Audio:
    """One channel of a whole clip, (samples,) at the model's rate; soxr HQ, the same call as in serving.

    Raises:
        SourceError: missing, unreadable, empty, or not finite.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    clip: Audio = np.ascontiguousarray(samples[:, channel - 1])
    if not len(clip) or not np.isfinite(clip).all():
        raise SourceError(f"{path}: no samples, or not all finite; {_REMEDY}")
    if rate_hz != sample_rate_hz:
        clip = soxr.resample(clip, rate_hz, sample_rate_hz, quality="HQ").astype(np.float32)
    return clip


def fit(samples: Audio, window_samples: int) -> Audio:
    """The middle of a longer clip; a shorter one between reflections of itself (silence where it is very short)."""
    excess = len(samples) - window_samples
    if excess >= 0:
        return samples[excess // 2 : excess // 2 + window_samples]
    before = -excess // 2
    mode = "reflect" if -excess - before < len(samples) else "constant"
    padded: Audio = np.pad(samples, (before, -excess - before), mode=mode)  # type: ignore[call-overload]
    return padded


def cut(path: Path, channel: int, begins: Sequence[int], sample_rate_hz: int, window_samples: int) -> Iterator[Audio]:
    """The windows (samples,) that begin at these samples of the model's rate, in rising order.

    The recording may be as long as it likes: no more of it is held than a block and a window.

    Raises:
        SourceError: it cannot be read, has no such channel, or ends before the last window.
    """
    blocks = _resampled(path, channel, sample_rate_hz)
    held, first = np.zeros(0, np.float32), 0  # the samples from number `first` on
    for begin in begins:
        while first + len(held) < begin + window_samples and (block := next(blocks, None)) is not None:
            kept = held[max(0, begin - first) :]
            first += len(held) - len(kept)
            held = np.concatenate([kept, block])
        window = held[begin - first :][:window_samples]
        missing = window_samples - len(window)
        if missing > _ROUNDING_SAMPLES:
            ends_s = (first + len(held)) / sample_rate_hz
            raise SourceError(f"{path}: ends at {ends_s:.3f} s, before its header says; restore it")
        yield np.pad(window, (0, missing))


def _resampled(path: Path, channel: int, sample_rate_hz: int) -> Iterator[Audio]:
    """One channel in blocks (samples,) at the model's rate; the same samples as `read_clip` gives."""
    try:
        with soundfile.SoundFile(path) as file:
            if channel > file.channels:
                raise SourceError(f"{path}: has {file.channels} channels, and no channel {channel}; correct the table")
            rate_hz = file.samplerate
            stream = None
            if rate_hz != sample_rate_hz:
                stream = soxr.ResampleStream(rate_hz, sample_rate_hz, 1, dtype="float32", quality="HQ")
            for block in file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True):
                samples = np.ascontiguousarray(block[:, channel - 1])
                if not np.isfinite(samples).all():
                    raise SourceError(f"{path}: not all samples are finite; restore it")
                yield samples if stream is None else stream.resample_chunk(samples)
            if stream is not None:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> SourceError:
    reason = "no such clip" if not path.is_file() else f"cannot be read ({error})"
    return SourceError(f"{path}: {reason}; {_REMEDY}")
