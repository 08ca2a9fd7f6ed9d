"""Alerts of replays, by real processes and the shipped model: the same at any speed, and however the sound is cut."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pam_daemon.records import Wire
from pam_daemon.tools.console import readable
from pam_daemon.tools.simulate import truth_path
from pam_daemon.tools.tables import read_raven

PAMD = [sys.executable, "-m", "pam_daemon"]
RULES = """
station: {name: buoy1, latitude_deg: 42.3, longitude_deg: -70.5}
alerts:
  - {name: tally, preset: tally-15min, extend_every_s: 0}
  - {name: three, preset: three-in-60s, hold_s: 60, cool_down_s: 20}
  - {name: pair, count: 2, window_s: 20, streams: 2, hold_s: 30}
  - {name: zone, preset: slow-zone-15d}
"""
# Another file holds the first sample, and another journal, or none, the record.
OF_FILES = {"id", "alert", "detections", "time_utc", "latency_ms", "log", "seq", "prev_seq", "durable"}


def replay(*arguments: object, directory: Path, rules: str = RULES) -> list[Wire]:
    (directory / "rules.yaml").write_text(rules)
    config = ["--config", str(directory / "rules.yaml")]
    done = subprocess.run([*PAMD, "replay", *map(str, arguments), *config], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def alerts(records: Sequence[Wire], *, without: set[str]) -> list[Wire]:
    return [
        {key: value for key, value in record.items() if key not in without}
        for record in records
        if record["kind"] == "alert"
    ]


def cut(path: Path, directory: Path, names: Sequence[str], seconds: Sequence[int]) -> list[Path]:
    """A recording as files that meet, one at each of these seconds."""
    samples, rate_hz = soundfile.read(path, dtype="int16")
    pieces = np.split(samples, [second * rate_hz for second in seconds])
    paths = [directory / name for name in names]
    for piece, part in zip(paths, pieces, strict=True):
        soundfile.write(piece, part, rate_hz)
    return paths


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated sea at two hydrophones: the second hears the first's calls two seconds later."""
    directory = tmp_path_factory.mktemp("sea")
    mono, path = directory / "mono.aiff", directory / "20090329_171500.wav"
    subprocess.run([*PAMD, "simulate", str(mono), "--minutes", "4", "--calls", "14", "--seed", "3"], check=True)
    samples, rate_hz = soundfile.read(mono, dtype="int16")
    soundfile.write(path, np.stack([samples, np.roll(samples, 2 * rate_hz)], axis=1), rate_hz)
    return path


def test_a_simulated_sea_raises_the_same_alerts_fast_slowly_and_in_pieces(sea: Path, tmp_path: Path) -> None:
    fast = replay(sea, directory=tmp_path)
    slow = replay(sea, "--speed", "20", "--set", "model.batch=1", directory=tmp_path)
    assert alerts(fast, without={"time_utc"}) == alerts(slow, without={"time_utc"})
    names = ["20090329_171500.wav", "20090329_171607.wav", "20090329_171730.wav"]
    pieces = replay(*cut(sea, tmp_path, names, [67, 150]), directory=tmp_path)
    expected = alerts(fast, without=OF_FILES)
    assert alerts(pieces, without=OF_FILES) == expected
    # It is worth comparing: every rule has something to say.
    assert {alert["rule"] for alert in expected} == {"tally", "three", "pair", "zone"}
    assert {alert["state"] for alert in expected} == {"raised", "extended", "cleared"}
    assert {alert["level"] for alert in expected} == {"possible", "detected"}
    assert {tuple(alert["streams"]) for alert in expected} >= {("ch1",), ("ch1", "ch2")}
    assert len(read_raven(truth_path(sea.parent / "mono.aiff"))) == 14


def test_real_right_whales_raise_the_same_alerts_fast_slowly_and_in_pieces(data_dir: Path, tmp_path: Path) -> None:
    """Fifteen minutes with 43 marked calls: a tally stands from the third on. A journal changes nothing, and a second
    time into the same one nothing is new."""
    nopp6, rules = data_dir / "recordings" / "NOPP6_EST_20090329_121500.wav", RULES.replace("streams: 2", "streams: 1")
    numbers = OF_FILES - {"id", "alert", "detections"}
    fast = replay(nopp6, directory=tmp_path, rules=rules)
    journal = ("--journal", tmp_path / "journal")
    slow = replay(nopp6, "--speed", "60", *journal, directory=tmp_path, rules=rules)
    assert alerts(fast, without=numbers) == alerts(slow, without=numbers)
    assert alerts(replay(nopp6, *journal, directory=tmp_path, rules=rules), without=set()) == alerts(
        slow, without=set()
    )
    names = ["20090329_171500.wav", "20090329_172000.wav", "20090329_172730.wav"]
    pieces = replay(*cut(nopp6, tmp_path, names, [300, 750]), directory=tmp_path, rules=rules)
    assert alerts(pieces, without=OF_FILES) == alerts(fast, without=OF_FILES)

    own = [alert for alert in alerts(fast, without=set()) if alert["rule"] == "tally"]
    assert [alert["level"] for alert in own][:3] == ["possible", "possible", "detected"]
    assert {alert["level"] for alert in own[2:]} == {"detected"}
    detections = {record["id"]: record for record in fast if record["kind"] == "detection"}
    for alert in own:
        heard = [detections[identity] for identity in alert["detections"]]
        assert (alert["count"], alert["last_utc"]) == (len(heard), heard[-1]["peak_utc"])


def test_a_hole_between_recordings_lets_an_alert_lapse(sea: Path, tmp_path: Path) -> None:
    """The middle of the deployment is missing: that time was not listened to."""
    names = ["20090329_171500.wav", "20090329_171607.wav", "20090329_171730.wav"]
    first, middle, last = cut(sea, tmp_path, names, [67, 150])
    middle.unlink()
    rules = "alerts: [{name: calls, count: 1, window_s: 10, hold_s: 45}]"
    states = [alert["state"] for alert in alerts(replay(first, last, directory=tmp_path, rules=rules), without=set())]
    assert "lapsed" in states


def test_an_alert_is_one_line_for_eyes(sea: Path, tmp_path: Path) -> None:
    """The word that matters comes first; without a start time nothing is said of times."""
    rules = "alerts: [{name: calls, count: 2, window_s: 60}]"
    timed = alerts(replay(sea, directory=tmp_path, rules=rules), without=set())[0]
    said = f"RAISED detected: 2 narw_upcall in 60 s, last at {timed['last_utc']}, until {timed['expires_utc']}"
    assert f"pamd/_ alert {said} (calls, " in readable(timed)
    nameless = tmp_path / "sea.wav"
    nameless.write_bytes(sea.read_bytes())
    untimed = alerts(replay(nameless, directory=tmp_path, rules=rules), without=set())[0]
    assert "alert RAISED detected: 2 narw_upcall in 60 s (calls, " in readable(untimed)
    assert [untimed[key] for key in ("first_utc", "last_utc", "expires_utc")] == [None, None, None]
    assert (untimed["count"], untimed["coverage"]) == (timed["count"], timed["coverage"])
