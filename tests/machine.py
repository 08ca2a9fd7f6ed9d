"""A machine whose PID 1 is systemd, for tests of the unit: namespaces of this one, with an overlay for its disk.

Needs root, the right to mount, and of Debian `systemd`, `dbus` and `util-linux`. What happens inside changes nothing
here: files go to the overlay, processes and cgroups end with PID 1, the network is a loopback alone.
pamd stands in /opt/pamd as `make install-systemd` leaves it, but that its packages are this environment's.
"""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0

# In a mount namespace of its own: the overlay, a cgroup to delegate, and at the end the cgroup's removal.
_OUTSIDE = r"""
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir groups upper work root
mount -t cgroup2 cgroup2 groups
group="groups/pamd-test-$$"
mkdir "$group"
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
(echo "$BASHPID" >"$group/cgroup.procs"
 exec setpriv --pdeathsig KILL unshare --mount --cgroup --pid --ipc --uts --net --fork --kill-child \
   bash -euc "$2" pid1 "${@:3}") || true
find "$group" -depth -type d -exec rmdir {} +
"""

# The future PID 1, which still sees the old /proc: it tells its number there, then makes the new root and goes.
_PID_1 = r"""
read -r pid _ </proc/self/stat
echo "$pid"
cd root
while [ "$#" -gt 0 ]; do mkdir -p ".$2"; mount --bind "$1" ".$2"; shift 2; done
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom; do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mkdir -p dev/shm dev/pts old
mount -t tmpfs -o mode=1777 tmpfs dev/shm
pivot_root . old
umount -l /old
exec env -i container=pamd-test PATH="$PATH" /lib/systemd/systemd --unit=sysinit.target --show-status=no
"""

_COMMAND = """#!/opt/pamd/bin/python
from pam_daemon.cli import main

main()
"""
# Python's own library, where it has one, lies where ProtectHome hides it.
_TEST_PYTHON = "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/python/lib\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """A running one."""

    pid: int

    def path(self, inside: str) -> Path:
        """One of its files, from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def run(self, *words: str) -> str:
        """What a command that root runs on it prints; it must succeed."""
        done = self.attempt(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.pid}", "--all", "env", "-i", f"PATH={os.environ['PATH']}"]
        return subprocess.run(
            [*enter, "LD_LIBRARY_PATH=/opt/python/lib", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def await_true(self, what: Callable[[], bool]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end_s, self.run("journalctl", "--no-pager", "--lines=60")
            time.sleep(0.1)


@contextmanager
def machine(directory: Path, shared: Mapping[Path, str]) -> Iterator[Machine]:
    """Boot one; it is switched off at the end.

    Args:
        shared: directories of this machine, and where the other sees them.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can boot a machine")
    binds = {
        sys.base_prefix: "/opt/python",
        sysconfig.get_paths()["purelib"]: "/opt/site",
        **{str(REPOSITORY / package): f"/opt/source/{package}" for package in ("pam_daemon", "export")},
    }
    binds |= {str(here): there for here, there in shared.items()}
    words = [word for bind in binds.items() for word in bind]
    shell = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "bash", "-euc"]  # does not outlive this process
    boot = [*shell, _OUTSIDE, "machine", str(directory), _PID_1, *words]
    with (
        (directory / "log").open("w") as log,
        subprocess.Popen(boot, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, (directory / "log").read_text()
        booted = Machine(int(first))
        try:
            booted.await_true(lambda: booted.attempt("systemctl", "is-active", "sysinit.target").returncode == 0)
            _install(booted)
            yield booted
        finally:
            os.kill(booted.pid, 9)
            process.wait(PATIENCE_S)


def _install(booted: Machine) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    booted.write("/opt/pamd/pyvenv.cfg", "home = /opt/python/bin\n")
    booted.write(f"/opt/pamd/lib/{version}/site-packages/test.pth", "/opt/source\n/opt/site\n")
    booted.write("/opt/pamd/bin/pamd", _COMMAND, 0o755)
    booted.path("/opt/pamd/bin/python").symlink_to(f"/opt/python/bin/{version}")
    booted.write("/etc/systemd/system/pamd@.service.d/python.conf", _TEST_PYTHON)
    install = ["make", "--no-print-directory", "install-units", f"DESTDIR={booted.path('')}"]
    subprocess.run(install, cwd=REPOSITORY, check=True, capture_output=True)
    booted.run("systemd-sysusers")
    booted.run("systemctl", "daemon-reload")
