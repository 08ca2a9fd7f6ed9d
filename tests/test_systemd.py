"""The unit: systemd itself reads and scores it."""

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "systemd"
MOST_EXPOSED = 1.6


def analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(name="unit")
def unit_fixture(tmp_path: Path) -> Path:
    """An instance that can be verified here: with a command that exists."""
    unit = tmp_path / "pamd@harbour.service"
    unit.write_text((UNITS / "pamd@.service").read_text().replace("/opt/pamd/bin/pamd", "/bin/true"))
    return unit


def test_systemd_understands_every_line_of_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` has nothing to say; it does of a key that does not exist."""
    assert analyze("verify", str(unit)) == ""
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "WatchDogSec" in analyze("verify", str(unit))


def test_the_unit_exposes_little(unit: Path) -> None:
    """`systemd-analyze security` gives at most 1.6."""
    report = analyze("security", "--offline=true", str(unit))
    exposure = re.search(r"exposure level for .*: ([0-9.]+)", report)
    assert exposure, report
    assert float(exposure[1]) <= MOST_EXPOSED
