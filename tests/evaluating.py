"""`pamd evaluate` as a process: what it prints, and its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PAMD = [sys.executable, "-m", "pam_daemon"]


def pamd(*arguments: object, code: int = 0) -> tuple[str, list[str]]:
    done = subprocess.run([*PAMD, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr.splitlines()


def figures(*arguments: object) -> dict[str, Any]:
    wire: dict[str, Any] = json.loads(pamd("evaluate", *arguments, "--json")[0])
    return wire
