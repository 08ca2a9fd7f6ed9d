"""Who may listen, and whom records are handed on to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pam_daemon.config import BridgeChoice
from pam_daemon.outlets.bridge import Undelivered
from pam_daemon.outlets.bridges import outlet
from pam_daemon.tools.doctor.case import Case, Result, guarded
from pam_daemon.wire.keys import read_subscribers, secret_path, station_keys


def check_keys(case: Case) -> Iterator[Result]:
    """The station's key pair and whom it admits: whether they are there, and their modes."""
    if case.config.publish.keys is not None:
        yield from guarded("keys", _keys(Path(case.config.publish.keys), case.config.station.name))


def _keys(directory: Path, station: str) -> Iterator[Result]:
    secret = secret_path(directory, station)
    if secret.exists() and not os.access(secret, os.R_OK):
        remedy = "as a service, let systemd hand it over (pamd-keys.conf, docs/deploying.md); else examine as its owner"
        yield Result("keys", "warning", f"{secret}: another user's alone", remedy)
        admitted = read_subscribers(directory)
    else:
        admitted = station_keys(directory, station).subscribers
        yield Result("keys", "ok", f"{secret}: its owner's alone")
    if admitted:
        yield Result("keys", "ok", f"{len(admitted)} subscribers are allowed: {', '.join(admitted)}")
    else:
        remedy = "`pamd keys allow NAME PUBLIC_KEY` lets one in: docs/security.md"
        yield Result("keys", "warning", f"{directory}: nobody is allowed to listen", remedy)


def check_bridges(case: Case) -> Iterator[Result]:
    """Whether the other side of each is there; it gets no record."""
    for choice in case.config.bridges:
        case.doing(f"looking for {choice.name}")
        yield from guarded("bridge", _bridge(choice, case.config.station.name))


def _bridge(choice: BridgeChoice, station: str) -> Iterator[Result]:
    # A broker would end the connection of the station's own client for another of its name.
    side = outlet(choice, f"{station}.doctor")
    try:
        yield Result("bridge", "ok", f"{choice.name}: {side.reach()}")
    except Undelivered as error:
        remedy = "records wait until it is there; else mend its address, its credentials or the network"
        yield Result("bridge", "warning", f"{choice.name}: {error}", remedy)
