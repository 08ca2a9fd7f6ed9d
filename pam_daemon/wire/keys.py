"""CurveZMQ keys as files: whose secret is whose, and which public keys a station admits.

A directory holds `NAME.secret`, the key pair of a station or a subscriber in the certificate format of pyzmq and CZMQ,
for its owner alone, and `subscribers`, a line `NAME PUBLIC_KEY` for each that a station admits. Keys are Z85.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import struct
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from pam_daemon.errors import KeyFileError
from pam_daemon.records import NAME_PATTERN

_KEY_CHARACTERS = 40
_SECRET_SUFFIX = ".secret"
_SUBSCRIBERS = "subscribers"
_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Of a station or a subscriber."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StationKeys:
    """Who a station is, and the public keys that it admits, by name."""

    own: KeyPair
    subscribers: Mapping[str, str]


def default_directory() -> Path:
    """The user's own keys."""
    return platformdirs.user_config_path("pamd") / "keys"


def new_pair(directory: Path, name: str) -> KeyPair:
    """Make the key pair of a station or a subscriber; never over another.

    Raises:
        KeyFileError: a name that is none, or has a key pair already; a directory that cannot be written.
    """
    path = secret_path(directory, name)
    public, secret = zmq.curve_keypair()
    while public.startswith(b"-"):  # a command would take it for an option
        public, secret = zmq.curve_keypair()
    pair = KeyPair(public.decode(), secret.decode())
    text = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{pair.public}"\n    secret-key = "{pair.secret}"\n'
    _put(path, text, 0o600, os.link)
    return pair


def read_pair(path: Path, *, guarded: bool = False) -> KeyPair:
    """A key pair; the public half is computed from the secret one.

    Args:
        guarded: another than the file's mode keeps strangers out.

    Raises:
        KeyFileError: a file that cannot be read, that others may read, or that is no key pair.
    """
    _refuse_mode(path, 0 if guarded else _BY_OTHERS, "readable by others: this key may be known; make a new one")
    try:
        secret = load_certificate(path)[1] or b""
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be read: {error.strerror}; it must belong to the user who uses it"
        ) from error
    except ValueError:
        secret = b""
    key = _z85(secret.decode("ascii", "replace"), f"{path}: no key pair in it; `pamd keys new NAME` makes one")
    return KeyPair(zmq.curve_public(key.encode()).decode(), key)


def public_key(given: str) -> str:
    """A public key, given as such or as a file with it.

    Raises:
        KeyFileError: neither.
    """
    remedy = "40 characters of Z85 are expected, as `pamd keys new` prints them, or a file with them"
    path, text = Path(given), given
    with suppress(OSError, ValueError):  # some keys cannot be names of files
        if path.is_file():
            text = path.read_text(encoding="ascii").strip()
            if "public-key" in text:
                text = load_certificate(path)[0].decode("ascii")
    return _z85(text, f"{given!r}: no public key; {remedy}")


def read_subscribers(directory: Path) -> Mapping[str, str]:
    """The public keys that stations admit, by name; none where nobody has been allowed yet.

    Raises:
        KeyFileError: a file that cannot be read, that others may write, or a line that is not NAME PUBLIC_KEY.
    """
    path = directory / _SUBSCRIBERS
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: cannot be read: {error}") from error
    _refuse_mode(path, _WRITABLE_BY_OTHERS, f"writable by others; look through it, then chmod 644 {path}")
    for number, line in enumerate(lines, 1):
        name, _, key = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        place = f"{path}: line {number}"
        _check_name(name, place)
        key = _z85(key.strip(), f"{place}: NAME PUBLIC_KEY is expected")
        if name in found or key in found.values():
            raise KeyFileError(f"{place}: {name} or its key stands here twice; remove one line")
        found[name] = key
    return found


def allow(directory: Path, name: str, key: str) -> None:
    """Let a subscriber in, from a station's next start or reload.

    Raises:
        KeyFileError: a name or key that is allowed already; a directory that cannot be written.
    """
    _check_name(name, "NAME")
    found = read_subscribers(directory)
    for other, theirs in found.items():
        if name == other or key == theirs:
            raise KeyFileError(f"{name}: {other} is allowed already, as '{theirs}'; `pamd keys revoke {other}` first")
    _put_subscribers(directory, {**found, name: key})


def revoke(directory: Path, name: str) -> None:
    """Let a subscriber in no more, from a station's next start or reload; its connections end then.

    Raises:
        KeyFileError: nobody of this name is allowed; a directory that cannot be written.
    """
    found = dict(read_subscribers(directory))
    if found.pop(name, None) is None:
        raise KeyFileError(f"{name}: not among the allowed ({', '.join(found) or 'nobody'}) of {directory}")
    _put_subscribers(directory, found)


def own_pairs(directory: Path) -> Mapping[str, KeyPair]:
    """The key pairs in a directory, by name.

    Raises:
        KeyFileError: one that cannot be read.
    """
    return {path.stem: read_pair(path) for path in sorted(directory.glob(f"*{_SECRET_SUFFIX}"))}


def station_keys(directory: Path, station: str) -> StationKeys:
    """What a station serves with; its secret comes from systemd's credentials where they hold it.

    Raises:
        KeyFileError: see `read_pair`, `read_subscribers`.
    """
    path = secret_path(directory, station)
    loaded = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere")) / path.name
    # systemd gives the service's user access by an ACL, which looks like a right of the group's.
    own = read_pair(loaded, guarded=True) if os.access(loaded, os.R_OK) else read_pair(path)
    return StationKeys(own, read_subscribers(directory))


def allow_command(name: str, pair: KeyPair) -> str:
    """What lets a subscriber in, to be typed where the station is."""
    return f"pamd keys allow {name} {shlex.quote(pair.public)}"


def _put_subscribers(directory: Path, subscribers: Mapping[str, str]) -> None:
    text = "".join(f"{name} {key}\n" for name, key in subscribers.items())
    _put(directory / _SUBSCRIBERS, text, 0o644, os.replace)


def _put(path: Path, text: str, mode: int, place: Callable[[Path, Path], None]) -> None:
    """A whole file or none: written beside, then put in its place, by `os.link` never over another."""
    with ExitStack() as exits:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            number, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
            exits.callback(Path(beside).unlink, missing_ok=True)
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(text)
                os.fchmod(number, mode)
                file.flush()
                os.fsync(number)
            place(Path(beside), path)
        except OSError as error:
            if isinstance(error, FileExistsError) and path.parent.is_dir():
                raise KeyFileError(f"{path}: is there already; choose another name, or move it away") from error
            raise KeyFileError(f"{path}: cannot be written: {error.strerror}; give --dir") from error


def secret_path(directory: Path, name: str) -> Path:
    """Where a station's or subscriber's key pair is.

    Raises:
        KeyFileError: a name that is none.
    """
    _check_name(name, "NAME")
    return directory / f"{name}{_SECRET_SUFFIX}"


def _check_name(name: str, place: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeyFileError(f"{place}: {name!r}: letters, digits, _ and -, at most 32, are expected")


def _refuse_mode(path: Path, forbidden: int, remedy: str) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; `pamd keys new NAME` makes one") from error
    if not stat.S_ISREG(mode):
        raise KeyFileError(f"{path}: not a file; give a file with keys")
    if mode & forbidden:
        raise KeyFileError(f"{path}: mode {stat.S_IMODE(mode):o}: {remedy}")


def _z85(key: str, refusal: str) -> str:
    with suppress(ValueError, KeyError, struct.error):
        if len(key) == _KEY_CHARACTERS and z85.decode(key):
            return key
    raise KeyFileError(refusal)
