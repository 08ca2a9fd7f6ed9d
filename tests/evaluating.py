"""`pamd evaluate` as a process: what it prints, and its figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PAMD = [sys.executable, "-m", "pam_daemon"]


def pamd(*arguments: object, code: int = 0) -> tuple[str, list[str]]:
    done = subprocess.run([*PAMD, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr.splitlines()


def await_open(process: subprocess.Popen[str], name: str) -> None:
    """Until a process reads the file of this name."""
    while not _has_open(process.pid, name):
        assert process.poll() is None, "it ended before it began to read"
        time.sleep(0.01)


def _has_open(pid: int, name: str) -> bool:
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(FileNotFoundError):  # closed meanwhile
            if link.readlink().name == name:
                return True
    return False


def figures(*arguments: object) -> dict[str, Any]:
    wire: dict[str, Any] = json.loads(pamd("evaluate", *arguments, "--json")[0])
    return wire
