"""`python tee.py FILE ARGUMENTS`: runs `pamd ARGUMENTS`, and keeps in FILE every frame that PortAudio gave it (float32).

The tee is on python-sounddevice's own read, so that the daemon under test is the one that ships.
"""

import sys
from pathlib import Path
from typing import Any

import sounddevice

from pam_daemon.cli import main


def run(path: Path) -> None:
    """Run the command line with the tee in place."""
    read = sounddevice.InputStream.read
    with path.open("wb", buffering=0) as copy:

        def read_and_keep(stream: sounddevice.InputStream, frames: int) -> Any:
            data, overflowed = read(stream, frames)
            copy.write(data.tobytes())
            return data, overflowed

        sounddevice.InputStream.read = read_and_keep
        main()


if __name__ == "__main__":
    path, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    run(path)
