"""Files that a command leaves: whole, or not there."""

from __future__ import annotations

import os
from pathlib import Path

from pam_daemon.errors import RecordError


def check_directory(directory: Path) -> None:
    """Make the directory for the files, better before the work than after it.

    Raises:
        RecordError: it cannot be made, or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{directory}: cannot be made ({error.strerror}); choose another place") from error
    if not os.access(directory, os.W_OK):
        raise RecordError(f"{directory}: cannot be written; choose another place")


def replace_file(path: Path, data: bytes) -> None:
    """Written under a temporary name, then renamed.

    Raises:
        RecordError: it cannot be written; what was there before still is.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(path.stat().st_mode & 0o7777)
        part.replace(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        part.unlink(missing_ok=True)
