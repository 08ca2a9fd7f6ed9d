"""What takes minutes: more seas, and real time. Run by `make test-long`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from energy import energy_detector, f1

from pam_daemon.records import Wire
from pam_daemon.tools.evaluate import Detected, match
from pam_daemon.tools.simulate import simulate

pytestmark = pytest.mark.long


def replay(path: Path, *options: str) -> list[Wire]:
    command = [sys.executable, "-m", "pam_daemon", "replay", str(path), *options]
    done = subprocess.run(command, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_the_shipped_model_beats_an_energy_detector_on_every_sea(tmp_path: Path, seed: int) -> None:
    """Clearly, though the energy detector's threshold is the best for this very sea."""
    sea = tmp_path / "sea.aiff"
    truth = simulate(sea, minutes=10, calls=30, seed=seed)
    detections = [Detected(r["peak_s"], r["score"]) for r in replay(sea) if r["kind"] == "detection"]
    samples, rate_hz = soundfile.read(sea, dtype="float32")
    _, by_energy = energy_detector(samples, rate_hz, truth)
    assert f1(match(detections, truth)) >= f1(by_energy) + 0.2


def test_real_time_gives_the_records_of_full_speed(data_dir: Path, tmp_path: Path) -> None:
    """Two minutes of real whales at their own pace: the same records, but for when they were made."""
    samples, rate_hz = soundfile.read(data_dir / "recordings" / "NOPP6_EST_20090329_121500.wav", dtype="float32")
    path = tmp_path / "excerpt.wav"
    soundfile.write(path, samples[490 * rate_hz : 610 * rate_hz], rate_hz, subtype="FLOAT")
    fast, paced = replay(path), replay(path, "--speed", "realtime")
    assert sum(record["kind"] == "detection" for record in fast) >= 5
    assert [record | {"time_utc": None} for record in paced] == [record | {"time_utc": None} for record in fast]
