"""`pamd evaluate --clips`: figures that are known beforehand, every layout, and what is done with odd clips."""

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
from clips import read_rows, write_table
from evaluating import PAMD, await_open, figures, pamd
from fakes import toy_model

from pam_daemon.analysis.model import Model
from pam_daemon.capture.ring import FloatArray

RATE_HZ = 2000
LOUD, QUIET = 0.06, 0.01  # rms, as the toy model scores 0.99 and 0.14


def noise(seed: int, rms: float, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> FloatArray:
    samples: FloatArray = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)).astype(np.float32)
    return samples * np.float32(rms)


def write_clips(folder: Path, levels: Sequence[tuple[str, float]]) -> Path:
    """The challenge's layout: a clip of noise for each label and rms."""
    (folder / "audio").mkdir(parents=True)
    rows = []
    for number, (label, rms) in enumerate(levels):
        soundfile.write(folder / "audio" / f"{number}.wav", noise(number, rms), RATE_HZ, subtype="FLOAT")
        rows.append({"clip_name": f"{number}.wav", "label": label})
    write_table(folder / "train.csv", rows)
    return folder


EIGHT = [("1", LOUD)] * 3 + [("1", QUIET)] + [("0", QUIET)] * 3 + [("0", LOUD)]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Four calls of which one is quiet, four others of which one is loud: the toy model takes loud ones for calls."""
    return write_clips(tmp_path / "clips", EIGHT)


def test_the_figures_are_those_that_the_clips_were_made_for(clips: Path, toy: Path, tmp_path: Path) -> None:
    wire = figures(toy, "--clips", clips, "--output", tmp_path / "out")
    assert (wire["clips"], wire["called"]) == (8, 4)
    assert wire["confusion"] == {"found": 3, "missed": 1, "false": 1, "rejected": 3}
    assert (wire["recall"], wire["false_positive_rate"]) == (0.75, 0.25)
    low, high = wire["roc_auc_interval"]
    assert low < wire["roc_auc"] < high and 0.5 < wire["roc_auc"] < 0.9
    assert wire["notes"] == []
    rows = read_rows(tmp_path / "out" / "scores.csv")
    loud = [float(row["score"]) >= 0.5 for row in rows]
    assert loud == [True] * 3 + [False] * 4 + [True]
    assert [row["called"] for row in rows] == ["1"] * 4 + ["0"] * 4
    written = json.loads((tmp_path / "out" / "figures.json").read_bytes())
    assert written == wire


def test_the_table_says_the_same(clips: Path, toy: Path) -> None:
    text, errors = pamd("evaluate", toy, "--clips", clips)
    assert "8 clips, 4 of loud" in text and "3 of 4 found, 1 missed" in text and "1 of 4 false" in text
    assert errors == []


def test_the_threshold_of_the_command_is_that_of_the_confusion(clips: Path, toy: Path) -> None:
    assert figures(toy, "--clips", clips, "--threshold", "0")["confusion"]["false"] == 4


def test_a_folder_a_class_is_the_same(clips: Path, toy: Path, tmp_path: Path) -> None:
    for row in read_rows(clips / "train.csv"):
        place = tmp_path / "folders" / {"1": "loud", "0": "noise"}[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        (clips / "audio" / row["clip_name"]).rename(place / row["clip_name"])
    wire = figures(toy, "--clips", tmp_path / "folders")
    assert wire["confusion"] == {"found": 3, "missed": 1, "false": 1, "rejected": 3}
    other = figures(toy, "--clips", tmp_path / "folders", "--marked", "noise")
    assert other["confusion"] == {"found": 1, "missed": 3, "false": 3, "rejected": 1}


def test_a_part_is_chosen_by_the_column_split(clips: Path, toy: Path) -> None:
    names = [row["clip_name"] for row in read_rows(clips / "train.csv")]
    write_table(clips / "clips.csv", [{"clip_name": n, "split": "select" if n < "6" else "report"} for n in names])
    assert figures(toy, "--clips", clips, "--split", "select")["clips"] == 6
    assert "there are: report, select" in pamd("evaluate", toy, "--clips", clips, "--split", "train", code=1)[1][0]


def test_equal_audio_counts_once_and_not_at_all_under_two_labels(clips: Path, toy: Path) -> None:
    audio = clips / "audio"
    for name, of in (("8.wav", "0.wav"), ("9.wav", "5.wav")):
        (audio / name).write_bytes((audio / of).read_bytes())
    rows = [*read_rows(clips / "train.csv"), *({"clip_name": n, "label": "1"} for n in ("8.wav", "9.wav"))]
    write_table(clips / "train.csv", rows)
    wire = figures(toy, "--clips", clips)
    assert wire["confusion"] == {"found": 3, "missed": 1, "false": 1, "rejected": 2}
    assert [note.split(":")[0] for note in wire["notes"]] == ["2 clips are left out", "1 more are left out"]


def test_clips_of_other_rates_and_lengths_are_cut_as_recordings_are(clips: Path, toy: Path) -> None:
    """A loud clip at 8 kHz, a loud second between reflections, and a quiet minute with one loud window in it."""
    minute = noise(20, QUIET, 60.0)
    minute[40_000:44_000] *= 6
    odd = {
        "8.wav": (noise(21, LOUD * 2, rate_hz=8000), 8000),
        "9.wav": (noise(22, LOUD, 1.0), RATE_HZ),
        "10.wav": (minute, RATE_HZ),
    }
    for name, (samples, rate_hz) in odd.items():
        soundfile.write(clips / "audio" / name, samples, rate_hz, subtype="FLOAT")
    rows = [*read_rows(clips / "train.csv"), *({"clip_name": name, "label": "1"} for name in odd)]
    write_table(clips / "train.csv", rows)
    wire = figures(toy, "--clips", clips)
    assert wire["confusion"]["found"] == 3 + 3
    assert [note.partition(" clips are ")[2].partition(":")[0] for note in wire["notes"]] == [
        "of another rate than the model's",
        "shorter than 2 s",
        "longer than 2 s",
    ]


def test_a_model_of_several_labels_is_asked_for_one(clips: Path, tmp_path: Path) -> None:
    golden = Model(toy_model(tmp_path / "one.onnx"), "cpu").card.golden
    both = {"labels": ["loud", "louder"], "golden": type(golden)(golden.windows, [row * 2 for row in golden.scores])}
    two = toy_model(tmp_path / "two.onnx", card=both, labels=2)
    assert "one of: loud, louder" in pamd("evaluate", two, "--clips", clips, code=1)[1][0]
    assert figures(two, "--clips", clips, "--label", "louder")["label"] == "louder"


def no_such_label(clips: Path) -> list[object]:
    return ["--clips", clips, "--label", "whale"]


def missing_clip(clips: Path) -> list[object]:
    (clips / "audio" / "3.wav").unlink()
    return ["--clips", clips]


def text_as_clip(clips: Path) -> list[object]:
    (clips / "audio" / "3.wav").write_text("heard a whale today\n" * 9)
    return ["--clips", clips]


def cut_clip(clips: Path) -> list[object]:
    data = (clips / "audio" / "3.wav").read_bytes()
    (clips / "audio" / "3.wav").write_bytes(data[: len(data) // 2])
    return ["--clips", clips]


def no_column(clips: Path) -> list[object]:
    write_table(clips / "train.csv", [{"clip_name": "0.wav", "class": "1"}])
    return ["--clips", clips]


def one_kind(clips: Path) -> list[object]:
    write_table(clips / "train.csv", [{"clip_name": f"{n}.wav", "label": "whale"} for n in range(4)])
    return ["--clips", clips]


def empty_folder(clips: Path) -> list[object]:
    (clips.parent / "nothing").mkdir()
    return ["--clips", clips.parent / "nothing"]


def no_folder(clips: Path) -> list[object]:
    return ["--clips", clips.parent / "none"]


def binary_table(clips: Path) -> list[object]:
    (clips / "train.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    return ["--clips", clips]


def no_place(clips: Path) -> list[object]:
    (clips.parent / "taken").write_text("")
    return ["--clips", clips, "--output", clips.parent / "taken"]


BAD = [
    (no_such_label, "--label whale"),
    (missing_clip, "3.wav"),
    (text_as_clip, "3.wav"),
    (cut_clip, "3.wav"),
    (no_column, "label"),
    (one_kind, "labels there: whale"),
    (empty_folder, "nothing"),
    (no_folder, "none"),
    (binary_table, "train.csv"),
    (no_place, "taken"),
]


@pytest.mark.parametrize(("make", "named"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_bad_input_is_one_line(clips: Path, toy: Path, make: Any, named: str) -> None:
    _, (error,) = pamd("evaluate", toy, *make(clips), code=1)
    assert error.startswith("pamd: ") and named in error


def test_clips_or_recordings_not_both_and_not_neither(clips: Path, toy: Path) -> None:
    for options in ([], ["--clips", clips, "--recordings", clips]):
        assert "either --clips or --recordings" in pamd("evaluate", toy, *options, code=2)[1][-1]
    assert "--split" in pamd("evaluate", toy, "--recordings", clips, "--split", "select", code=2)[1][-1]


def test_an_interruption_is_one_line_and_leaves_no_file(clips: Path, toy: Path, tmp_path: Path) -> None:
    names = [f"{number}.wav" for number in range(8, 30_000)]
    for name in names:
        (clips / "audio" / name).symlink_to("0.wav")
    rows = [*read_rows(clips / "train.csv"), *({"clip_name": name, "label": "1"} for name in names)]
    write_table(clips / "train.csv", rows)
    out = tmp_path / "out"
    command = [*PAMD, "evaluate", str(toy), "--clips", str(clips), "--output", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        await_open(process, "0.wav")
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    (error,) = errors.splitlines()
    assert error.startswith("pamd: interrupted") and text == ""
    assert list(out.iterdir()) == []
