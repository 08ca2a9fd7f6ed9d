"""`pamd keys` and its commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pam_daemon.cli.options import PATH


@click.group()
def keys() -> None:
    """Make keys, and say whose are allowed: a station's and its subscribers', for CurveZMQ."""


def keys_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where keys are."""
    return click.option("--dir", "directory", type=PATH, help="Of the keys, instead of the user's own.")(command)


@keys.command()
@click.argument("name")
@keys_option
def new(name: str, directory: Path | None) -> None:
    """Make the key pair of a station or a subscriber; its public key goes to stdout."""
    from pam_daemon.wire.keys import allow_command, default_directory, new_pair

    place = directory or default_directory()
    pair = new_pair(place, name)
    click.echo(pair.public)
    click.echo(f"{name}: the secret is in {place}; a subscriber is let in by this, said at the station:", err=True)
    click.echo(f"  {allow_command(name, pair)}", err=True)


@keys.command()
@click.argument("name")
@click.argument("public_key")
@keys_option
def allow(name: str, public_key: str, directory: Path | None) -> None:
    """Let the subscriber NAME in, whose PUBLIC_KEY is given as such or as a file with it."""
    from pam_daemon.wire import keys as files

    files.allow(directory or files.default_directory(), name, files.public_key(public_key))
    click.echo(f"{name}: allowed, from the station's next start or reload", err=True)


@keys.command()
@click.argument("name")
@keys_option
def revoke(name: str, directory: Path | None) -> None:
    """Let the subscriber NAME in no more."""
    from pam_daemon.wire import keys as files

    files.revoke(directory or files.default_directory(), name)
    click.echo(f"{name}: revoked; a reload of the station (SIGHUP) ends its connections", err=True)


@keys.command("list")
@keys_option
def list_keys(directory: Path | None) -> None:
    """List the public keys: one's own, and those that are allowed."""
    from pam_daemon.wire.keys import default_directory, own_pairs, read_subscribers

    place = directory or default_directory()
    for name, pair in own_pairs(place).items():
        click.echo(f"own\t{name}\t{pair.public}")
    for name, key in read_subscribers(place).items():
        click.echo(f"allowed\t{name}\t{key}")
