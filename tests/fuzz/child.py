"""A process that serves cases, one after the other, with limits: what kills it, or hangs it, is found.

In tests/, `python -m fuzz.child KIND < fuzz/found/KIND` tries a stored case again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import BinaryIO

import msgspec

Case = list[bytes]

COUNTS: dict[str, int] = {}  # cases attempted in this run, by kind
FOUND = Path(__file__).parent / "found"
WALL_S = 15.0  # without an answer nor work; a machine that is busy otherwise is no fault of the code
CPU_S = 10  # of a case
_LOOKS = 20  # so many times WALL_S, even at work
MEMORY_BYTES = 1 << 30  # more than the process has at its start
_START_S = 120.0
_LENGTH_BYTES = 4
_TESTS = Path(__file__).parent.parent


class Child:
    """The parent's side: started at need, and again after each failure; a context manager that ends it."""

    def __init__(self, kind: str, wall_s: float = WALL_S) -> None:
        self.kind = kind
        self.wall_s = wall_s
        self.cases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._log.close()

    def attempt(self, case: Case) -> str:
        """`read` or `refused`; whatever else happens is an AssertionError, and the case is stored in FOUND."""
        self.cases += 1
        process = self._process or self._start()
        assert process.stdin is not None
        payload = msgspec.msgpack.encode(case)
        try:
            process.stdin.write(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)
            process.stdin.flush()
            verdict = self._answer(process, self.wall_s) or self._death(process)
        except BrokenPipeError:
            verdict = self._death(process)
        if verdict not in ("read", "refused"):
            self._end()
            FOUND.mkdir(exist_ok=True)
            (FOUND / self.kind).write_bytes(len(payload).to_bytes(_LENGTH_BYTES, "little") + payload)
            raise AssertionError(f"{self.kind}: {verdict}\nthe case, stored as {FOUND / self.kind}: {case!r:.2000}")
        return verdict

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fuzz.child", self.kind]
        self._process = subprocess.Popen(
            command, cwd=_TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        if self._answer(self._process, _START_S) != "ready":
            raise AssertionError(f"{self.kind}: does not start: {self._death(self._process)}")
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], patience_s: float) -> str | None:
        """None where the child has ended. One that goes on working is waited for: RLIMIT_CPU ends it."""
        assert process.stdout is not None
        used = None
        for _ in range(_LOOKS):
            if select.select([process.stdout], [], [], patience_s)[0]:
                line = process.stdout.readline()
                return str(json.loads(line)) if line else None
            before, used = used, _cpu_ticks(process.pid)
            if used == before:
                break
        return f"hangs: no answer in {patience_s:g} s"

    def _death(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")[-4000:]
        return f"ends the process with {code} (negative: the signal)\n{said}"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _cpu_ticks(pid: int) -> int:
    """What a process has used so far, in the kernel's ticks."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def serve(kind: str) -> None:
    """Answer every case on stdin with a line on stdout."""
    from fuzz.targets import TARGETS

    from pam_daemon.errors import PamdError

    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not mix with the answers
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="pamd-fuzz-") as directory, TARGETS[kind](Path(directory)) as target:
        _limit_memory()
        _say(out, "ready")
        while (case := _next(sys.stdin.buffer)) is not None:
            _limit_cpu()
            try:
                target(case)
                verdict = "read"
            except PamdError as error:
                verdict = "refused" if _is_one_line(str(error)) else f"not one line: {error!r}"
            except BaseException:  # noqa: BLE001 - what a case may raise is the question
                verdict = traceback.format_exc()
            _say(out, verdict)


def _next(stream: BinaryIO) -> Case | None:
    head = stream.read(_LENGTH_BYTES)
    return msgspec.msgpack.decode(stream.read(int.from_bytes(head, "little")), type=Case) if head else None


def _say(out: object, verdict: str) -> None:
    print(json.dumps(verdict), file=out, flush=True)  # type: ignore[call-overload]


def _is_one_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and len(text) < 2000


def _limit_memory() -> None:
    match = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    limit = int(match[1]) * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu() -> None:
    """So many seconds from now on; SIGXCPU ends the process."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_S, resource.RLIM_INFINITY))


if __name__ == "__main__":
    serve(sys.argv[1])
