"""Reading and splitting labelled clips; what is wrong with them is said in one line with the remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from clips import fast_config, read_rows, small_clips, write_table

from export.dataset import Split, load
from export.sound import fit, read_clip
from pam_daemon.errors import ConfigError, PamdError, SourceError, TableError


@pytest.fixture
def folder(data_dir: Path, tmp_path: Path) -> Path:
    return small_clips(data_dir, tmp_path / "clips")


def read(folder: Path, *overrides: str, seed: int = 1) -> Split:
    return load([folder], fast_config(*overrides), seed, lambda done, total: None)


def test_the_column_decides_the_split(folder: Path) -> None:
    split = read(folder)
    assert split.report is not None
    for part, name in ((split.train, "train"), (split.select, "select"), (split.report, "report")):
        assert part.names == [r["clip_name"] for r in read_rows(folder / "clips.csv") if r["split"] == name]
        assert part.audio.shape == (16, 4000)
        assert part.labels.ravel().tolist() == [0.0] * 8 + [1.0] * 8
    assert 0.05 < np.abs(split.train.audio).max() <= 1


def test_random_folds_share_nothing_and_follow_the_seed(folder: Path) -> None:
    parts = [read(folder, "dataset.validation_strategy=kfold", seed=seed) for seed in (1, 1, 2)]
    assert parts[0].report is None
    assert not set(parts[0].train.names) & set(parts[0].select.names)
    assert len(parts[0].train) + len(parts[0].select) == 48
    assert parts[0].select.names == parts[1].select.names != parts[2].select.names


def test_equal_audio_is_never_on_two_sides(folder: Path) -> None:
    rows = read_rows(folder / "clips.csv")
    source = next(row["clip_name"] for row in rows if row["split"] == "report")
    copy = next(row["clip_name"] for row in rows if row["split"] == "train")
    (folder / "audio" / copy).unlink()
    shutil.copy(folder / "audio" / source, folder / "audio" / copy)
    split = read(folder)
    assert copy not in split.train.names
    assert split.notes == ["1 clips left out: the same audio is on the other side of the split"]


def test_another_rate_is_resampled_and_another_length_fitted(folder: Path) -> None:
    name = read_rows(folder / "clips.csv")[0]["clip_name"]
    path = folder / "audio" / name
    original, rate_hz = soundfile.read(path, dtype="float32")
    path.unlink()
    faster = soxr.resample(original, rate_hz, 8000, quality="HQ")
    soundfile.write(path, np.concatenate([faster, faster[:800]]), 8000, format="AIFF", subtype="FLOAT")
    split = read(folder)
    assert split.notes == ["1 clips are not 2 s long: padded or cut, centred"]
    np.testing.assert_allclose(split.train.audio[0, 500:3000], original[600:3100], atol=2e-3)


def test_fitting_centres() -> None:
    ramp = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(fit(ramp, 4), [3, 4, 5, 6])
    np.testing.assert_array_equal(fit(ramp[:4], 6), [1, 0, 1, 2, 3, 2])
    np.testing.assert_array_equal(fit(ramp[1:2], 3), [0, 1, 0])


def test_a_sample_of_the_data_is_as_large_as_asked(folder: Path) -> None:
    split = read(folder, "dataset.data_sample=0.5", "dataset.data_sample_choice=[Train]")
    assert (len(split.train), len(split.select)) == (8, 16)


def change(path: Path, row: int, key: str, value: str) -> None:
    rows = read_rows(path)
    rows[row][key] = value
    write_table(path, rows)


@pytest.mark.parametrize(
    ("break_it", "kind", "message"),
    [
        (lambda f: (f / "train.csv").unlink(), SourceError, r"holds audio/ and no train\.csv; restore"),
        (lambda f: (f / "train.csv").write_bytes(b"\xff\xfe\x00"), TableError, r"train\.csv: cannot be read as CSV"),
        (lambda f: (f / "train.csv").write_text("clip_name,label\n"), TableError, r"train\.csv: no rows"),
        (lambda f: (f / "train.csv").write_text("name,label\na,1\n"), TableError, r"train\.csv: no column clip_name"),
        (lambda f: change(f / "train.csv", 3, "label", ""), TableError, r"train\.csv: line 5: label is empty"),
        (lambda f: change(f / "train.csv", 3, "label", "2"), TableError, r"train\.csv: line 5: label is 2; must be"),
        (lambda f: change(f / "train.csv", 0, "clip_name", "x.aiff"), TableError, r"clips\.csv: no row for x\.aiff"),
        (lambda f: change(f / "clips.csv", 0, "split", "test"), TableError, r"split is test; must be one of train"),
        (lambda f: next((f / "audio").iterdir()).unlink(), SourceError, r"\.aiff: no such clip; restore it"),
        (lambda f: overwrite(f, b"no audio"), SourceError, r"\.aiff: cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(break_it, kind: type[PamdError], message: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    break_it(folder)
    with pytest.raises(kind, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def overwrite(folder: Path, content: bytes) -> None:
    path = next((folder / "audio").iterdir())
    path.unlink()
    path.write_bytes(content)


def test_a_clip_without_a_header_and_one_that_promises_terabytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(4000))
    soundfile.write(tmp_path / "a.flac", np.zeros(4000), 2000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff\xff\xff\xfe"  # 2^36 samples
    (tmp_path / "a.flac").write_bytes(data)
    for name in ("a.raw", "a.flac"):
        with pytest.raises(SourceError, match=f"{name}: cannot be read"):
            read_clip(tmp_path / name, 2000)


def test_a_part_with_one_label_is_refused(folder: Path) -> None:
    rows = [r for r in read_rows(folder / "train.csv")]
    splits = {r["clip_name"]: r["split"] for r in read_rows(folder / "clips.csv")}
    write_table(folder / "train.csv", [r for r in rows if splits[r["clip_name"]] != "select" or r["label"] == "1"])
    with pytest.raises(ConfigError, match="the validation part has 8 clips, all with label"):
        read(folder)
