"""Where windows lie: in memory, and past a limit in a file that is mapped into it, so that hours of sound fit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pam_daemon.errors import ConfigError

Audio = npt.NDArray[np.float32]
IN_MEMORY_BYTES = 2**30  # of one part of a split; what is larger is mapped
_BATCH = 512  # windows handled at once
_FOLDER = "/var/tmp"  # where TMPDIR does not name another: /tmp often is memory


def empty(windows: int, samples: int) -> Audio:
    """Zeros (windows, samples), mapped from a file without a name where they are large.

    Raises:
        ConfigError: there is no room for the file.
    """
    size_bytes = windows * samples * np.dtype(np.float32).itemsize
    if size_bytes <= IN_MEMORY_BYTES:
        return np.zeros((windows, samples), np.float32)
    folder = os.environ.get("TMPDIR") or (_FOLDER if Path(_FOLDER).is_dir() else None)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is an error here, and no signal later
            return np.memmap(file, np.float32, "r+", shape=(windows, samples))
    except OSError as error:
        raise ConfigError(
            f"TMPDIR: {folder}: no {size_bytes / 1e9:.1f} GB for the windows ({error.strerror}); "
            "name a larger disk with TMPDIR, or give less --data"
        ) from error


def batches(count: int) -> Iterator[slice]:
    """Slices of so many windows as are handled at once."""
    for first in range(0, count, _BATCH):
        yield slice(first, min(first + _BATCH, count))


def take(audio: Audio, index: npt.NDArray[np.intp]) -> Audio:
    """The windows at these places, in their order, in a store of their own."""
    taken = empty(len(index), audio.shape[1])
    for rows in batches(len(index)):
        taken[rows] = audio[index[rows]]
    return taken


def join(one: Audio, other: Audio) -> Audio:
    """The windows of both, in a store of their own."""
    joined = empty(len(one) + len(other), one.shape[1])
    for rows in batches(len(one)):
        joined[rows] = one[rows]
    for rows in batches(len(other)):
        joined[len(one) + rows.start : len(one) + rows.stop] = other[rows]
    return joined
