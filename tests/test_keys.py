"""Keys as files: what `pamd keys` makes and says, and what a station refuses to trust."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from zmq.auth import load_certificate

from pam_daemon.errors import KeyFileError
from pam_daemon.wire.keys import allow, new_pair, public_key, read_pair, read_subscribers, revoke, station_keys

KEYS = [sys.executable, "-m", "pam_daemon", "keys"]


def some_key() -> str:
    """A public key that a shell and a table of options take as it is."""
    key = "-"
    while not key[0].isalnum():
        key = zmq.curve_keypair()[0].decode()
    return key


def keys(directory: Path, *words: str, code: int = 0) -> tuple[list[str], str]:
    """`pamd keys`: the lines on stdout, and what is on stderr."""
    done = subprocess.run([*KEYS, *words, "--dir", str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_the_command_makes_allows_lists_and_revokes(tmp_path: Path) -> None:
    """A station and a subscriber: only public keys are printed, and the file of the allowed says who they are."""
    (station,), said = keys(tmp_path, "new", "harbour")
    assert "pamd keys allow harbour " in said
    (ferry,), _ = keys(tmp_path / "elsewhere", "new", "ferry")
    (tmp_path / "ferry.public").write_text(f"{ferry}\n")
    keys(tmp_path, "allow", "ferry", str(tmp_path / "ferry.public"))
    other = some_key()
    keys(tmp_path, "allow", "bridge", other)
    listed, _ = keys(tmp_path, "list")
    assert listed == [f"own\tharbour\t{station}", f"allowed\tferry\t{ferry}", f"allowed\tbridge\t{other}"]
    made = station_keys(tmp_path, "harbour")
    assert made.own.public == station
    assert made.subscribers == {"ferry": ferry, "bridge": other}
    keys(tmp_path, "revoke", "ferry")
    assert station_keys(tmp_path, "harbour").subscribers == {"bridge": other}
    lines, said = keys(tmp_path, "revoke", "ferry", code=1)
    assert (lines, said.count("\n")) == ([], 1)
    assert "among the allowed (bridge)" in said


def test_a_secret_is_its_owners_alone_and_the_allowed_are_not(tmp_path: Path) -> None:
    """Whatever the umask says; and nothing else is left in the directory."""
    before = os.umask(0)
    try:
        new_pair(tmp_path / "keys", "harbour")
        allow(tmp_path / "keys", "ferry", some_key())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {"harbour.secret": 0o600, "subscribers": 0o644}


def test_other_programs_read_the_pair(tmp_path: Path) -> None:
    """It is a certificate as pyzmq and CZMQ know it."""
    pair = new_pair(tmp_path, "harbour")
    assert load_certificate(tmp_path / "harbour.secret") == (pair.public.encode(), pair.secret.encode())
    assert read_pair(tmp_path / "harbour.secret") == pair
    assert pair.secret not in repr(pair)


def test_a_key_pair_is_never_overwritten(tmp_path: Path) -> None:
    pair = new_pair(tmp_path, "harbour")
    assert "is there already" in refusal(lambda: new_pair(tmp_path, "harbour"))
    assert read_pair(tmp_path / "harbour.secret") == pair
    assert [path.name for path in tmp_path.iterdir()] == ["harbour.secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o601])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    new_pair(tmp_path, "harbour")
    (tmp_path / "harbour.secret").chmod(mode)
    message = refusal(lambda: station_keys(tmp_path, "harbour"))
    assert f"harbour.secret: mode {mode:o}" in message
    assert "make a new one" in message


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_list_of_the_allowed_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    allow(tmp_path, "ferry", some_key())
    (tmp_path / "subscribers").chmod(mode)
    assert "chmod 644" in refusal(lambda: read_subscribers(tmp_path))


def test_a_station_takes_its_secret_from_systemd_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's access list reads as a right of the group's; the allowed come from the configured directory."""
    loaded = new_pair(tmp_path / "credentials", "harbour")
    (tmp_path / "credentials" / "harbour.secret").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    key = some_key()
    allow(tmp_path / "keys", "ferry", key)
    found = station_keys(tmp_path / "keys", "harbour")
    assert (found.own, found.subscribers) == (loaded, {"ferry": key})
    own = new_pair(tmp_path / "keys", "buoy")
    assert station_keys(tmp_path / "keys", "buoy").own == own


def test_the_allowed_may_be_written_by_hand(tmp_path: Path) -> None:
    key = some_key()
    (tmp_path / "subscribers").write_text(f"# the port's\n\n  ferry   {key}  \n")
    assert read_subscribers(tmp_path) == {"ferry": key}


NONSENSE = ["", "x", "x" * 39, "x" * 41, "x" * 39 + "~", "#" * 40, "ö" * 40, "no/such/file", "\0", "x\ny"]


@pytest.mark.parametrize("text", NONSENSE, ids=repr)
def test_what_is_no_key_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Given as such, in a file, as a line of the allowed, and as a secret."""
    assert "40 characters" in refusal(lambda: public_key(text))
    path = tmp_path / "file"
    path.write_text(text)
    path.chmod(0o600)
    assert "40 characters" in refusal(lambda: public_key(str(path)))
    assert "no key pair" in refusal(lambda: read_pair(path))
    path.write_text(f'public-key = "{some_key()}"\nsecret-key = "{text}"\n')
    assert "no key pair" in refusal(lambda: read_pair(path))
    (tmp_path / "subscribers").write_text(f"# first\nferry {text}\n", encoding="utf-8")
    assert "line 2" in refusal(lambda: read_subscribers(tmp_path))


@pytest.mark.parametrize("name", ["", "../harbour", "two words", "x" * 33, "öl", "a\nb", "#1"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    for act in (
        lambda: new_pair(tmp_path, name),
        lambda: allow(tmp_path, name, some_key()),
        lambda: station_keys(tmp_path, name),
    ):
        assert "at most 32" in refusal(act)
    assert list(tmp_path.iterdir()) == []


def test_a_name_and_a_key_are_allowed_once(tmp_path: Path) -> None:
    key = some_key()
    allow(tmp_path, "ferry", key)
    assert "revoke ferry" in refusal(lambda: allow(tmp_path, "ferry", some_key()))
    assert "revoke ferry" in refusal(lambda: allow(tmp_path, "bridge", key))
    revoke(tmp_path, "ferry")
    allow(tmp_path, "bridge", key)
    (tmp_path / "subscribers").write_text(f"bridge {key}\nferry {key}\n")
    assert "twice" in refusal(lambda: read_subscribers(tmp_path))


def test_what_cannot_be_read_or_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--dir" in refusal(lambda: new_pair(tmp_path / "file", "harbour"))
    assert "pamd keys new" in refusal(lambda: station_keys(tmp_path / "none", "harbour"))
    assert "not a file" in refusal(lambda: read_pair(Path("/dev/zero")))
    assert "not a file" in refusal(lambda: read_pair(tmp_path))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(KeyFileError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message
