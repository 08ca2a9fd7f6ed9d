"""`pamd evaluate --recordings`: it hears what a replay hears, counts by the tables, and says what it cannot know."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import read_rows
from evaluating import PAMD, await_open, figures, pamd
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from pam_daemon.analysis.detect import Detector, Threshold
from pam_daemon.analysis.windows import Place
from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.errors import PamdError
from pam_daemon.tools.evaluate import Detected, match
from pam_daemon.tools.evaluate.recordings import THRESHOLDS, Point, read_marks, table_of_points
from pam_daemon.tools.tables import Selection, read_raven, write_raven

RATE_HZ = 8000


def replayed(*arguments: object) -> list[dict[str, Any]]:
    done = subprocess.run([*PAMD, "replay", *map(str, arguments)], capture_output=True, timeout=120, check=False)
    return [wire for wire in map(json.loads, done.stdout.splitlines()) if wire["kind"] == "detection"]


def sound(total_s: float, bursts_s: Sequence[float], seed: int = 0) -> FloatArray:
    """Quiet noise, and at these seconds half a second of loud noise, each a little louder than the one before."""
    samples = np.random.default_rng(seed).standard_normal(round(total_s * RATE_HZ)) * 0.003
    for number, begin_s in enumerate(bursts_s):
        at = round(begin_s * RATE_HZ)
        samples[at : at + RATE_HZ // 2] *= 60 + 5 * number
    result: FloatArray = samples.astype(np.float32)
    return result


def write(path: Path, samples: FloatArray) -> Path:
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def counts(wire: dict[str, Any]) -> tuple[int, int, int, int]:
    return wire["found"], wire["marked"], wire["false"], wire["duplicates"]


def at(wire: dict[str, Any], threshold: float) -> dict[str, Any]:
    (point,) = (point for point in wire["points"] if point["threshold"] == threshold)
    return dict(point)


@pytest.fixture
def sea(tmp_path: Path) -> Path:
    """40 s with bursts at 5, 14, 23 and 32 s, of which those at 5 and 23 s are marked, and a call that is not there."""
    path = write(tmp_path / "night.wav", sound(40.0, [5, 14, 23, 32]))
    write_raven(tmp_path / "night.selections.txt", [Selection(5, 5.5), Selection(23, 23.5), Selection(18, 18.5)])
    return path


def test_each_outcome_is_counted(sea: Path, toy: Path, tmp_path: Path) -> None:
    wire = figures(toy, "--recordings", sea, "--output", tmp_path / "out")
    assert counts(at(wire, 0.5)) == counts(wire["recordings"][0]) == (2, 3, 2, 0)
    point = at(wire, 0.5)
    assert point["hours"] == wire["hours"] == pytest.approx(40 / 3600)
    assert point["recall"] == pytest.approx(2 / 3)
    assert point["false_per_hour"] == pytest.approx(180)
    assert point["false_per_hour_interval"] == pytest.approx([0.2422 * 90, 7.2247 * 90], rel=1e-3)  # Garwood's of 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curve.png", "figures.json", "scores.csv"]
    rows = read_rows(tmp_path / "out" / "scores.csv")
    assert [float(row["centre_s"]) for row in rows] == [1 + 0.5 * k for k in range(77)]
    assert imread(tmp_path / "out" / "curve.png").shape[0] > 400


def test_the_table_says_the_same(sea: Path, toy: Path) -> None:
    text, _ = pamd("evaluate", toy, "--recordings", sea)
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("* 0.5"))
    assert row[:4] == ["*", "0.5", "0.667", "2/3"] and "180.00" in row


def test_it_hears_what_a_replay_hears(toy: Path, tmp_path: Path) -> None:
    """Two channels at 8 kHz, samples that are no numbers, two files that meet, a file that is cut: at each threshold
    the counts are those of `pamd replay --threshold`."""
    first = np.stack([sound(30.0, [5, 14, 21]), sound(30.0, [9, 24], seed=1)], 1)
    first[80_000:80_100, 0] = np.nan
    write(tmp_path / "20240101_120000.wav", first)
    write(tmp_path / "20240101_120030.wav", np.stack([sound(20.0, [3, 12]), sound(20.0, [], seed=2)], 1))
    whole = write(tmp_path / "other.wav", sound(20.0, [4, 7.5, 16])).read_bytes()
    (tmp_path / "other.wav").write_bytes(whole[: len(whole) // 2])
    wire = figures(toy, "--recordings", tmp_path)
    assert [len(wire["recordings"]), *wire["notes"]] == [
        3,
        f"{tmp_path / 'other.wav'}: truncated: heard as far as it can be read",
    ]
    for threshold in (0.3, 0.5, 0.9, 0.95):
        assert at(wire, threshold)["false"] == len(replayed(tmp_path, "--model", toy, "--threshold", threshold)) > 0
    assert len(replayed(tmp_path, "--model", toy)) == sum(row["false"] for row in wire["recordings"])


def test_on_a_simulated_sea_the_shipped_model_s_figures_are_those_of_its_replay(tmp_path: Path) -> None:
    """Whole processes: simulate, replay and match by hand, evaluate."""
    sea = tmp_path / "sea.aiff"
    pamd("simulate", sea, "--minutes", "2", "--calls", "10", "--seed", "7")
    wire = figures("--recordings", sea)
    for threshold in (0.5, wire["threshold"]):
        calls = replayed(sea, "--threshold", threshold)
        truth = read_raven(tmp_path / "sea.selections.txt")
        matching = match([Detected(call["peak_s"], call["score"]) for call in calls], truth)
        expected = (len(matching.found), 10, len(matching.false), len(matching.duplicates))
        assert counts(at(wire, threshold)) == expected
    assert at(wire, wire["threshold"])["found"] >= 8
    (tmp_path / "sea.selections.txt").unlink()
    unmarked = figures("--recordings", sea)
    assert counts(at(unmarked, 0.5))[:2] == (0, 0) and at(unmarked, 0.5)["recall"] is None
    assert at(unmarked, 0.5)["false"] == len(replayed(sea, "--threshold", "0.5"))


def test_hop_and_threshold_of_the_command(sea: Path, toy: Path) -> None:
    wire = figures(toy, "--recordings", sea, "--hop", "0.25", "--threshold", "0.123")
    assert (wire["hop_s"], wire["threshold"], wire["threshold_source"]) == (0.25, 0.123, "command")
    assert counts(at(wire, 0.123))[:2] == (2, 3)


# Tables.


def marks_of(folder: Path, *chosen: str) -> dict[str, list[tuple[float, str]]]:
    found = recordings(find_files([str(folder)]), min_rate_hz=2000)
    read = read_marks(found, chosen)
    return {Path(name).name: [(mark.begin_s, mark.label) for mark in marks] for name, marks in read.items()}


def test_tables_of_raven_and_of_audacity_are_read_beside_their_sound(tmp_path: Path) -> None:
    for name in ("a.wav", "a.b.wav", "c.wav", "d.wav"):
        write(tmp_path / name, sound(3.0, []))
    write_raven(tmp_path / "a.Table.1.selections.txt", [Selection(1, 2, label="x")])
    (tmp_path / "a.b.txt").write_text("0.5\t1.5\tupcall\n\\\t50.0\t-1.0\n2.0\t2.0\tpoint\n")
    (tmp_path / "c.txt").write_text("")
    (tmp_path / "README.txt").write_text("These were made at sea.\n")
    assert marks_of(tmp_path) == {
        "a.wav": [(1.0, "x")],
        "a.b.wav": [(0.5, "upcall"), (2.0, "point")],
        "c.wav": [],
        "d.wav": [],
    }
    assert marks_of(tmp_path, "point")["a.b.wav"] == [(2.0, "point")]
    assert marks_of(tmp_path, "point")["a.wav"] == []


def test_the_marks_of_files_that_meet_follow_one_another(tmp_path: Path) -> None:
    for name in ("20240101_120000", "20240101_120003"):
        write(tmp_path / f"{name}.wav", sound(3.0, []))
        write_raven(tmp_path / f"{name}.selections.txt", [Selection(1, 2)])
    assert marks_of(tmp_path) == {"20240101_120000.wav": [(1.0, ""), (4.0, "")]}


def test_tables_that_would_mislead_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", sound(3.0, []))
    write_raven(tmp_path / "b.selections.txt", [Selection(1, 2)])
    with pytest.raises(PamdError, match=r"b\.selections\.txt.*its sound"):
        marks_of(tmp_path)
    write(tmp_path / "b.wav", sound(3.0, []))
    assert marks_of(tmp_path / "a.wav") == {"a.wav": []}, "the table's sound is there, and was not asked for"
    with pytest.raises(PamdError, match=r"--marked whale.*there are: "):
        marks_of(tmp_path, "whale")
    soundfile.write(tmp_path / "b.flac", sound(3.0, []), RATE_HZ)
    with pytest.raises(PamdError, match=r"b\.selections\.txt: belongs to b\.flac and to b\.wav"):
        marks_of(tmp_path)
    (tmp_path / "b.flac").unlink()
    write_raven(tmp_path / "b.selections.txt", [Selection(1, 2, channel=2)])
    with pytest.raises(PamdError, match=r"b\.selections\.txt: marks channel 2 of 1"):
        marks_of(tmp_path)


# The sweep.

SCORES = st.lists(st.integers(0, 6).map(lambda sixths: sixths / 6), max_size=40)


@given(SCORES, st.integers(1, 5), st.integers(0, 6), st.integers(0, 6))
def test_a_detection_at_a_threshold_is_one_at_each_lower_one(
    scores: list[float], hop: int, low: int, high: int
) -> None:
    """So counts fall as thresholds rise, which the bisection of `pamd calibrate` needs."""
    low, high = sorted((low, high))

    def peaks(threshold: float) -> list[tuple[int, float]]:
        detector, least = Detector(7), Threshold(threshold, "command")
        places = [Place(hop * k, hop * k, hop * k, hop * k, None) for k in range(len(scores))]
        pairs = zip(places, scores, strict=True)
        calls = [call for place, score in pairs for call in detector.push(place, score, least)]
        return [(call.peak.centre, call.score) for call in (*calls, *detector.end())]

    assert peaks(high / 6) == [(centre, score) for centre, score in peaks(low / 6) if score >= high / 6]


def test_the_table_of_points_has_the_least_threshold_for_each_rate() -> None:
    rates = {0.1: 100, 0.2: 30, 0.3: 9, 0.4: 11, 0.5: 4, 0.6: 2, 0.7: 0}  # that of 0.4 is above that of 0.3
    points = [Point(threshold, 0, 0, false, 0, 1.0) for threshold, false in rates.items()]
    picked = [point.threshold for point in table_of_points(points, 0.2)]
    assert picked == [0.7, 0.6, 0.5, 0.3, 0.2], "0.5 and 1/h from 0.7 on, 2 from 0.6, 5 and 10 from 0.5, 20 from 0.3"


def test_every_threshold_of_the_curve_is_there_once(sea: Path, toy: Path) -> None:
    wire = figures(toy, "--recordings", sea)
    assert [point["threshold"] for point in wire["points"]] == sorted({*THRESHOLDS, 0.5})


def test_a_recording_shorter_than_a_window_is_said_to_be_unheard(sea: Path, toy: Path) -> None:
    short = write(sea.parent / "short.wav", sound(1.0, []))
    wire = figures(toy, "--recordings", sea.parent)
    assert wire["notes"] == [f"{short}: shorter than a window: not heard"] and len(wire["recordings"]) == 1
    write_raven(sea.parent / "short.selections.txt", [Selection(0.2, 0.8)])
    assert "short.wav: shorter" in pamd("evaluate", toy, "--recordings", sea.parent, code=1)[1][0]


# Bad input.


def no_recordings(folder: Path) -> list[object]:
    (folder / "nothing").mkdir()
    return [folder / "nothing"]


def unreadable(folder: Path) -> list[object]:
    (folder / "notes.wav").write_text("heard a whale today\n")
    return [folder]


def too_short(folder: Path) -> list[object]:
    return [write(folder / "short.wav", sound(1.0, []))]


def lonely_table(folder: Path) -> list[object]:
    (folder / "night.wav").rename(folder / "day.wav")
    return [folder]


def damaged_table(folder: Path) -> list[object]:
    (folder / "night.txt").write_text("1.0\tlong\twhale\n")
    return [folder]


BAD = [
    (no_recordings, "nothing"),
    (unreadable, "notes.wav"),
    (too_short, "short.wav"),
    (lonely_table, "night.selections.txt"),
    (damaged_table, "night.txt, row 1"),
]


@pytest.mark.parametrize(("make", "named"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_bad_input_is_one_line(sea: Path, toy: Path, make: Any, named: str) -> None:
    _, (error,) = pamd("evaluate", toy, "--recordings", *make(sea.parent), code=1)
    assert error.startswith("pamd: ") and named in error


def test_an_interruption_is_one_line_and_leaves_no_file(toy: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(2000 * 3600 * 4, np.int16), 2000)
    out = tmp_path / "out"
    command = [*PAMD, "evaluate", str(toy), "--recordings", str(tmp_path / "long.wav"), "--output", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        await_open(process, "long.wav")
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    (error,) = errors.splitlines()
    assert error.startswith("pamd: interrupted") and text == ""
    assert list(out.iterdir()) == []
