"""What the unit forbids, tried: prints, as a JSON object, what came of each attempt, `done` or the error's name.

Run by root outside a unit everything is done; a word on the command line leaves an attempt out.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x1000_0000


def execute_what_was_written() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def make_executable_later() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    _checked(libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC))


def write(path: str) -> Callable[[], None]:
    def attempt() -> None:
        Path(path).write_text("planted\n")
        Path(path).unlink()

    return attempt


def read(path: str) -> Callable[[], object]:
    return lambda: os.close(os.open(path, os.O_RDONLY))


def setuid_file() -> None:
    with open("mine", "w") as file:  # noqa: PTH123 - in the directory where this is started
        os.fchmod(file.fileno(), 0o4755)


def new_namespace() -> None:
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(0 if libc.unshare(CLONE_NEWUSER) == 0 else ctypes.get_errno())
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(code, "unshare")


def real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _checked(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), "refused")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "memory written and executable": execute_what_was_written,
    "memory made executable": make_executable_later,
    "write /etc": write("/etc/pamd/planted"),
    "write /usr": write("/usr/planted"),
    "write /opt": write("/opt/pamd/planted"),
    "write /var": write("/var/lib/planted"),
    "read /home": read("/home/keeper/letter"),
    "read /proc/1": read("/proc/1/status"),
    "open a device": read("/dev/tun"),
    "sound card": read("/dev/snd"),
    "read the kernel's log": read("/dev/kmsg"),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "setuid file": setuid_file,
    "user namespace": new_namespace,
    "real-time priority": real_time,
    "become root": lambda: os.setuid(0),
}


def tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    print(json.dumps({name: tried(attempt) for name, attempt in ATTEMPTS.items() if name not in sys.argv}))
