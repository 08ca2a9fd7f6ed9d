"""On a process's PYTHONPATH: keeps in the file PAMD_TEE every frame that PortAudio gives it (float32).

The tee is on python-sounddevice's own read, so that the daemon under test, and the child that holds its device, are
the ones that ship.
"""

import os
from pathlib import Path
from typing import Any

import sounddevice

_read = sounddevice.InputStream.read


def _read_and_keep(stream: sounddevice.InputStream, frames: int) -> Any:
    data, overflowed = _read(stream, frames)
    with Path(os.environ["PAMD_TEE"]).open("ab") as copy:
        copy.write(data.tobytes())
    return data, overflowed


sounddevice.InputStream.read = _read_and_keep
