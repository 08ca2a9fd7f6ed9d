"""The machine: its clock, and systemd."""

from __future__ import annotations

import subprocess

from pam_daemon.clock import Clock, rfc3339
from pam_daemon.tools.doctor.case import Result, Verdict

_MAX_ERROR_S = 2.0  # of UTC: the kernel adds 500 ppm until it is corrected, and that comes every 34 minutes or sooner
_SYSTEMD_S = 10.0  # to answer
_PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "SubState", "NRestarts")


def check_clock(clock: Clock) -> Result:
    """Whether UTC is kept right, by the kernel's word."""
    sync, now = clock.sync(), rfc3339(clock.utc_ns())[:19] + "Z"
    remedy = (
        "run chrony or systemd-timesyncd (`timedatectl set-ntp true`); without a network, chrony with a GPS receiver"
    )
    if sync.quality == "unknown":
        return Result("clock", "warning", f"{now}: the kernel does not say whether it is synchronised", remedy)
    if sync.quality == "unsynchronised":
        return Result("clock", "warning", f"{now}: not synchronised", remedy)
    found = f"{now}: synchronised, within {sync.max_error_s:.3g} s"
    if sync.max_error_s is not None and sync.max_error_s > _MAX_ERROR_S:
        return Result("clock", "warning", f"{found}: not corrected for long", remedy)
    return Result("clock", "ok", found)


def check_systemd(station: str) -> Result:
    """The station's unit: installed, started at boot, running."""
    unit = f"pamd@{station}.service"
    try:
        done = subprocess.run(
            ["systemctl", "show", unit, f"--property={','.join(_PROPERTIES)}"],
            capture_output=True,
            text=True,
            timeout=_SYSTEMD_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        remedy = "under systemd it begins at boot and is restarted: docs/deploying.md"
        return Result("systemd", "warning", "does not answer: nothing restarts pamd on this machine", remedy)
    return judge_unit(unit, dict(line.split("=", 1) for line in done.stdout.splitlines()))


def judge_unit(unit: str, state: dict[str, str]) -> Result:
    """From the properties that `systemctl show` gives."""
    load, at_boot, active = state["LoadState"], state["UnitFileState"], state["ActiveState"]
    found = f"{unit}: {at_boot or load}, {active} ({state['SubState']}), restarted {state['NRestarts']} times"
    verdict: Verdict = "warning"
    if load != "loaded":
        remedy = "`make install-systemd`: docs/deploying.md"
    elif active == "failed" or state["SubState"] == "auto-restart":
        verdict, remedy = "failure", f"`journalctl -u {unit}` says why"
    elif at_boot != "enabled":
        remedy = f"`systemctl enable {unit}`, so that it begins at boot"
    elif active != "active":
        remedy = f"`systemctl start {unit}`"
    else:
        return Result("systemd", "ok", found)
    return Result("systemd", verdict, found, remedy)
