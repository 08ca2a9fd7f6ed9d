"""`pamd doctor`: what a station needs, looked at one by one, as the daemon would use it; nothing is changed by it.

A check gives results with the remedy for what is wrong; one that cannot be made says why and stops no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from pam_daemon.tools.doctor.case import Case, Result, guarded
from pam_daemon.tools.doctor.disk import check_disk
from pam_daemon.tools.doctor.inference import check_model
from pam_daemon.tools.doctor.links import check_bridges, check_keys
from pam_daemon.tools.doctor.machine import check_clock, check_systemd
from pam_daemon.tools.doctor.sound import check_sound


def examine(case: Case) -> Iterator[Result]:
    """All checks, each result as it is found."""
    yield from check_sound(case)
    yield check_clock(case.clock)
    yield from check_disk(case)
    yield from guarded("model", check_model(case))
    yield from check_keys(case)
    yield from check_bridges(case)
    yield check_systemd(case.config.station.name)
