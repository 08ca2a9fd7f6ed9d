"""The main job on real whales, and the demonstration on a simulated sea: the shipped model, real processes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from energy import energy_detector, f1

from pam_daemon.records import Wire
from pam_daemon.tools.evaluate import Detected, Matching, match
from pam_daemon.tools.simulate import truth_path
from pam_daemon.tools.tables import Selection, read_raven
from pam_daemon.wire.sockets import free_endpoint

PAMD = [sys.executable, "-m", "pam_daemon"]


@contextmanager
def listening(endpoint: str, received: Path) -> Iterator[None]:
    """A subscriber process that writes what it gets."""
    with received.open("wb") as out, subprocess.Popen([*PAMD, "listen", endpoint], stdout=out) as listener:
        try:
            yield
        finally:
            listener.send_signal(signal.SIGTERM)
            assert listener.wait(timeout=60) == 0


def lines(text: bytes) -> list[Wire]:
    return [json.loads(line) for line in text.splitlines()]


def compare(records: Sequence[Wire], truth: Sequence[Selection]) -> Matching:
    return match([Detected(r["peak_s"], r["score"]) for r in records if r["kind"] == "detection"], truth)


@pytest.fixture(scope="module")
def nopp6(data_dir: Path) -> Path:
    return data_dir / "recordings" / "NOPP6_EST_20090329_121500.wav"


def test_replay_finds_real_right_whales_and_a_subscriber_hears_them(nopp6: Path, tmp_path: Path) -> None:
    """At least 33 of the 43 marked calls with at most 5 false detections, and the same records in another process."""
    endpoint = free_endpoint()
    with listening(endpoint, tmp_path / "received"):
        done = subprocess.run(
            [*PAMD, "replay", str(nopp6), "--endpoint", endpoint, "--linger", "1"], capture_output=True, check=True
        )
    records = lines(done.stdout)
    received = [record for record in lines((tmp_path / "received").read_bytes()) if record["kind"] != "status"]
    assert received == records
    matching = compare(records, read_raven(nopp6.with_suffix(".selections.txt")))
    assert len(matching.found) >= 33
    assert len(matching.false) <= 5
    detections = [record for record in records if record["kind"] == "detection"]
    assert all(record["peak_utc"].startswith("2009-03-29T17:") for record in detections)  # EST is UTC-05:00
    assert {record["threshold_source"] for record in detections} == {"model"}


def test_raven_table_holds_the_detections(nopp6: Path, tmp_path: Path) -> None:
    """`--raven` writes a table that reads back as the detections on stdout."""
    done = subprocess.run(
        [*PAMD, "replay", str(nopp6), "--raven", str(tmp_path / "out.txt")], capture_output=True, check=True
    )
    detections = [record for record in lines(done.stdout) if record["kind"] == "detection"]
    table = read_raven(tmp_path / "out.txt")
    assert [(round(s.begin_s, 3), round(s.end_s, 3), s.label) for s in table] == [
        (round(d["start_s"], 3), round(d["end_s"], 3), d["label"]) for d in detections
    ]
    assert {selection.extra["Begin Path"] for selection in table} == {str(nopp6.resolve())}


def test_demo_finds_what_an_energy_detector_cannot(tmp_path: Path) -> None:
    """The demonstration runs, draws its picture, and beats a plain energy detector at its best threshold clearly."""
    done = subprocess.run([*PAMD, "demo", "--dir", str(tmp_path)], capture_output=True, text=True, check=True)
    assert "simulated" in done.stdout
    assert (tmp_path / "sea.png").stat().st_size > 100_000
    sea = tmp_path / "sea.aiff"
    truth = read_raven(truth_path(sea))
    heard = compare(lines((tmp_path / "received.jsonl").read_bytes()), truth)
    assert f"{len(heard.found)} of {len(truth)} simulated calls found" in done.stdout
    samples, rate_hz = soundfile.read(sea, dtype="float32")
    _, by_energy = energy_detector(samples, rate_hz, truth)
    assert f1(heard) >= f1(by_energy) + 0.2
