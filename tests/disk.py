"""Real disks that a test may fill or break: a tmpfs, and an ext4 file system that turns read-only on an error.

They are mounted in the test's own directory, as root, and unmounted whatever happens.
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A tmpfs of a megabyte or more."""

    path: Path

    def fill(self) -> None:
        """To the brim."""
        with (self.path / "filler").open("ab", buffering=0) as filler:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while filler.write(b"x" * size):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class FragileDisk:
    """An ext4 file system in a file."""

    path: Path
    image: Path

    def mount(self) -> None:
        _do("mount", "-o", "loop,errors=remount-ro", self.image, self.path)

    def break_(self) -> None:
        """An error of the file system: from now on it is read-only, also for those who have files open."""
        device = Path(_do("findmnt", "--noheadings", "--output", "SOURCE", self.path).strip())
        Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("by a test")

    def unmount(self) -> None:
        """As soon as nobody has a file open there."""
        end_s = time.monotonic() + _PATIENCE_S
        while subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode:
            assert time.monotonic() < end_s, f"{self.path} is still in use"
            time.sleep(0.1)

    def repair(self) -> None:
        """What an administrator does: check, and mount again."""
        checked = subprocess.run(["e2fsck", "-p", "-f", str(self.image)], capture_output=True, check=False)
        assert checked.returncode in (0, 1), checked.stdout
        self.mount()


@contextmanager
def small_disk(path: Path, megabytes: int = 1) -> Iterator[SmallDisk]:
    _needs_root()
    path.mkdir()
    _do("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "pamd-test", path)
    try:
        yield SmallDisk(path)
    finally:
        _do("umount", "--lazy", path)  # whatever a test that failed has left open


@contextmanager
def fragile_disk(path: Path) -> Iterator[FragileDisk]:
    _needs_root()
    if not Path("/dev/loop-control").exists():
        pytest.skip("no loop devices: a file system cannot be broken")
    path.mkdir()
    disk = FragileDisk(path, path.with_suffix(".ext4"))
    with disk.image.open("wb") as image:
        image.truncate(8 << 20)
    _do("mkfs.ext4", "-q", "-b", "4096", disk.image)
    disk.mount()
    try:
        yield disk
    finally:
        if path.is_mount():
            disk.unmount()


def _needs_root() -> None:
    if os.geteuid():
        pytest.skip("mounting a disk that can be filled needs root")


def _do(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
