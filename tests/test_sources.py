"""Where labelled sound comes from: every layout is recognised, cut, resampled and counted; what is wrong is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clips import fast_config, read_rows, write_table

from export import store
from export.dataset import Split, load, record
from export.sound import cut, read_clip
from export.sources import find, recognise
from pam_daemon.analysis.windows import Grid, Window, Windower
from pam_daemon.capture.ring import Heard
from pam_daemon.errors import ConfigError, PamdError, SourceError, TableError
from pam_daemon.tools.simulate import ambient_noise, simulate
from pam_daemon.tools.sounds import upcall
from pam_daemon.tools.tables import Selection, write_raven

RATE_HZ = 2000
SMALL = ("training.batch_size=4", "dataset.validation_strategy=blocks", "dataset.validation_size=0.5")


def sound(path: Path, seed: int, seconds: float = 2.0, rate_hz: int = RATE_HZ, call: bool = False) -> Path:
    """A clip of the simulated sea, with a call in its middle if asked."""
    random = np.random.default_rng(seed)
    samples = 0.05 * ambient_noise(round(seconds * rate_hz), rate_hz, random)
    if call:
        made = upcall(random, rate_hz, 1.0).samples
        first = (len(samples) - len(made)) // 2
        samples[first : first + len(made)] += 0.3 * made
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def read(*folders: Path, settings: tuple[str, ...] = (), seed: int = 1) -> Split:
    return load(folders, fast_config(*SMALL, *settings), seed, lambda done, total: None)


def classes(folder: Path, each: int = 6) -> Path:
    for i in range(each):
        sound(folder / "upcall" / f"{i}.wav", i, call=True)
        sound(folder / "background" / "2009" / f"{i}.flac", 100 + i)
    return folder


def every(split: Split) -> dict[str, str]:
    """The label of every clip by its name."""
    return {row["clip"]: row["narw_upcall"] for row in split.table}


def test_a_folder_a_class_gives_its_name_to_its_clips(tmp_path: Path) -> None:
    split = read(classes(tmp_path / "site"), settings=("dataset.validation_strategy=kfold",))
    assert every(split) == {f"upcall/{i}.wav": "1" for i in range(6)} | {
        f"background/2009/{i}.flac": "0" for i in range(6)
    }
    assert split.summary == [
        f"{tmp_path / 'site'}: 2 folders of clips (upcall is narw_upcall): train 6 (3 narw_upcall); "
        "validation 6 (3 narw_upcall)"
    ]


def test_several_sources_make_one_run(tmp_path: Path) -> None:
    """Clips by class, a marked recording at another rate, and hard negatives: windows without the species."""
    (tmp_path / "sea").mkdir()
    calls = simulate(tmp_path / "sea" / "sea.aiff", minutes=1, calls=4, seed=1, sample_rate_hz=8000)
    sound(tmp_path / "quiet" / "song.flac", 7, seconds=21.0, rate_hz=4000)
    split = read(classes(tmp_path / "site"), tmp_path / "sea", tmp_path / "quiet")
    by_source = {name: [row for row in split.table if row["source"] == name] for name in ("site", "sea", "quiet")}
    assert [row["narw_upcall"] for row in by_source["quiet"]] == ["0"] * 10
    assert sum(row["narw_upcall"] == "1" for row in by_source["sea"]) == len(calls) == 4
    for row in by_source["sea"]:
        begin_s = float(row["begin_s"])
        held = [call for call in calls if begin_s - 1 <= call.begin_s and call.end_s <= begin_s + 3]
        assert bool(held) == (row["narw_upcall"] == "1")
    assert "1 recordings with 4 marks (upcall is narw_upcall), 0 without" in split.summary[1]
    assert "0 recordings" not in split.summary[2] and "1 without" in split.summary[2]
    assert split.data == "site, sea, quiet"


def test_windows_are_the_samples_that_pamd_hears(tmp_path: Path) -> None:
    path = sound(tmp_path / "a.wav", 3, seconds=9.0, rate_hz=8000)
    samples, _ = soundfile.read(path, dtype="float32")
    windower = Windower(Grid(8000, RATE_HZ, 4000, 1000))
    heard = [*windower.feed(Heard(0, samples)), *windower.close()]
    expected = [item.samples for item in heard if isinstance(item, Window)][:-1]
    found = list(cut(path, 1, [1000 * i for i in range(len(expected))], RATE_HZ, 4000))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read_clip(path, RATE_HZ)[3000:7000], expected[3])


def tabled(folder: Path, *, labels: tuple[str, ...] = ("RIWH", "RIWH"), seconds: float = 30.0) -> Path:
    """A recording with two marks, at 10 and 20 s."""
    sound(folder / "night.flac", 5, seconds=seconds)
    marks = [Selection(10.0 * i, 10.0 * i + 1, label=label) for i, label in enumerate(labels, 1)]
    write_raven(folder / "night.Table.1.selections.txt", marks)
    return folder


def test_audacity_labels_mean_the_same_as_a_raven_table(tmp_path: Path) -> None:
    raven = recognise(tabled(tmp_path / "raven"), fast_config())
    shutil.copytree(tmp_path / "raven", tmp_path / "audacity")
    (tmp_path / "audacity" / "night.Table.1.selections.txt").unlink()
    (tmp_path / "audacity" / "night.txt").write_text("10.0\t11.0\tRIWH\n\\\t50.0\t200.0\n20.0\t21.0\tRIWH\n")
    (tmp_path / "audacity" / "README.txt").write_text("From the buoy.\n")
    audacity = recognise(tmp_path / "audacity", fast_config())
    assert [cut.begin_s for cut in raven.cuts if any(cut.labels)] == [9.5, 19.5]
    assert [(cut.begin_s, cut.labels) for cut in raven.cuts] == [(cut.begin_s, cut.labels) for cut in audacity.cuts]


def test_a_table_may_name_its_files_and_count_through_them(tmp_path: Path) -> None:
    for i in (1, 2):
        sound(tmp_path / "day" / f"{i}.wav", i, seconds=15.0)
    extra = {"Begin File": "2.wav", "File Offset (s)": "5.0"}
    write_raven(tmp_path / "day" / "all.selections.txt", [Selection(20.0, 21.0, label="A", extra=extra)])
    source = recognise(tmp_path / "day", fast_config())
    assert [(cut.file, cut.begin_s) for cut in source.cuts if any(cut.labels)] == [("2.wav", 4.5)]
    assert {cut.file for cut in source.cuts if cut.unmarked} == {"1.wav", "2.wav"}


def test_a_table_as_spreadsheets_write_it_is_one(tmp_path: Path) -> None:
    """In UTF-16, or with a byte order mark: passed over, its calls would be taken for none."""
    raven = tabled(tmp_path / "utf16") / "night.Table.1.selections.txt"
    raven.with_name("night.txt").write_bytes(raven.read_text().encode("utf-16"))
    raven.unlink()
    sound(tmp_path / "bom" / "night.flac", 5, seconds=30.0)
    (tmp_path / "bom" / "night.txt").write_text("10.0\t11.0\tRIWH\n20.0\t21.0\tRIWH\n", "utf-8-sig")
    for name in ("utf16", "bom"):
        source = recognise(tmp_path / name, fast_config())
        assert [cut.begin_s for cut in source.cuts if any(cut.labels)] == [9.5, 19.5]


def test_channels_of_one_time_are_on_one_side(tmp_path: Path) -> None:
    path = sound(tmp_path / "night.flac", 5, seconds=30.0)
    mono = soundfile.read(path)[0]
    soundfile.write(path, np.stack([mono, mono[::-1]], 1), RATE_HZ)
    write_raven(tmp_path / "night.txt", [Selection(b, b + 1, channel=c, label="A") for b, c in ((10, 1), (10.5, 2))])
    both = [cut for cut in recognise(tmp_path, fast_config()).cuts if not cut.unmarked]
    assert [cut.channel for cut in both] == [1, 2] and len({cut.group for cut in both}) == 1


def test_a_short_recording_that_is_only_ignored_is_no_negative(tmp_path: Path) -> None:
    for name, label in (("a", "unsure"), ("b", "upcall"), ("c", "noise")):
        sound(tmp_path / f"{name}.wav", 1, seconds=1.0)
        write_raven(tmp_path / f"{name}.txt", [Selection(0.2, 0.8, label=label)])
    source = recognise(tmp_path, fast_config())
    assert [(cut.name, cut.labels) for cut in source.cuts] == [("b.wav", (1.0,)), ("c.wav", (0.0,))]


def test_late_marks_are_cut_earlier(tmp_path: Path) -> None:
    source = recognise(tabled(tmp_path), fast_config("dataset.mark_delay_seconds=0.4"))
    assert [cut.begin_s for cut in source.cuts if any(cut.labels)] == [9.1, 19.1]


def test_unmarked_windows_are_as_many_as_asked(tmp_path: Path) -> None:
    config, folder = fast_config("dataset.negatives_per_positive=2"), tabled(tmp_path / "a")
    names = [[cut.name for cut in find([folder], config, seed)[0][0].cuts] for seed in (1, 1, 2)]
    assert len(names[0]) == 6
    assert names[0] == names[1] != names[2]
    tested = fast_config("dataset.negatives_per_positive=2", f"dataset.data_folder_test={tabled(tmp_path / 'b')}")
    learned, test = find([folder], tested, 1)[0]
    assert [cut.name for cut in learned.cuts] == names[0]  # whatever is tested on
    assert len(test.cuts) == len(recognise(tmp_path / "b", tested).cuts)


def test_marks_of_several_labels_make_several_columns(tmp_path: Path) -> None:
    config = fast_config("dataset.label_columns=[upcall, gunshot]", "dataset.label_names=[]")
    sound(tmp_path / "a.wav", 1, seconds=40)
    marks = [(5, "Upcall"), (15, "gunshot"), (15.5, "upcall"), (25, "uncertain"), (35, "noise")]
    write_raven(tmp_path / "a.selections.txt", [Selection(b, b + 1, label=label) for b, label in marks])
    source = recognise(tmp_path, config)
    assert [(cut.begin_s, cut.labels) for cut in source.cuts if not cut.unmarked] == [
        (4.5, (1, 0)), (14.5, (1, 1)), (15.0, (1, 1)), (34.5, (0, 0)),
    ]  # fmt: skip


def test_longer_clips_give_their_middle_or_all_their_windows(tmp_path: Path) -> None:
    sound(tmp_path / "upcall" / "long.wav", 1, seconds=5.0, rate_hz=4000)
    sound(tmp_path / "none" / "short.wav", 2, seconds=1.5)
    middle = recognise(tmp_path, fast_config())
    assert [(cut.name, cut.begin) for cut in middle.cuts] == [("none/short.wav", None), ("upcall/long.wav", None)]
    windows = recognise(tmp_path, fast_config("dataset.longer_clips=Windows"))
    assert [cut.begin for cut in windows.cuts] == [None, 0, 4000, 6000]
    assert {cut.group for cut in windows.cuts[1:]} == {"upcall/long.wav"}


def table(folder: Path, name: str, numbers: range, **columns: Callable[[int], str]) -> Path:
    """A data frame, and its clips in sound/: those with an odd number hold a call."""
    rows = [{"clip_name": f"{i}.wav", **{c: value(i) for c, value in columns.items()}} for i in numbers]
    for i in numbers:
        sound(folder / "sound" / f"{i}.wav", i, call=i % 2 == 1)
    write_table(folder / name, rows)
    return folder / name


def odd(i: int) -> str:
    return str(i % 2)


def test_the_data_frames_of_hydrogen_torch_are_read(tmp_path: Path) -> None:
    settings = (
        f"dataset.train_dataframe={table(tmp_path, 'train.csv', range(10), label=odd)}",
        f"dataset.validation_dataframe={table(tmp_path, 'val.csv', range(8, 16), label=odd)}",
        f"dataset.test_dataframe={table(tmp_path, 'test.csv', range(15, 19))}",
        f"dataset.data_folder={tmp_path / 'sound'}",
        "dataset.validation_strategy=custom",
    )
    split = read(settings=settings)
    assert split.test is not None
    assert [part.names for part in (split.train, split.select, split.test)] == [
        [f"{i}.wav" for i in numbers] for numbers in (range(8), range(8, 15), range(15, 19))
    ]
    assert np.isnan(split.test.labels).all()
    assert split.notes == ["3 clips left out: the same audio is on the other side of the split"]


def test_a_test_folder_is_of_any_layout(tmp_path: Path) -> None:
    settings = (f"dataset.data_folder_test={classes(tmp_path / 'late', each=2)}", "dataset.validation_strategy=kfold")
    for i in range(6):
        sound(tmp_path / "site" / "upcall" / f"{i}.wav", 30 + i, call=True)
        sound(tmp_path / "site" / "none" / f"{i}.wav", 40 + i)
    split = read(tmp_path / "site", settings=settings)
    assert split.test is not None
    assert split.test.labels.ravel().tolist() == [0, 0, 1, 1]
    assert len(split.train) + len(split.select) == 12
    assert split.data == "site"


def test_a_folder_given_twice_is_on_one_side(tmp_path: Path) -> None:
    """Its longer clips too, which are read anew from their begin."""
    twice = tmp_path / "twice"
    sound(twice / "upcall" / "a.wav", 1, seconds=6.0, call=True)
    sound(twice / "none" / "a.wav", 2, seconds=6.0)
    settings = ("dataset.longer_clips=Windows", "dataset.validation_strategy=kfold", "training.batch_size=2")
    split = read(twice, twice, classes(tmp_path / "site"), settings=settings)
    assert len(split.table) == 2 * 6 + 12
    assert split.train.names.count("none/a.wav@0.000") in (0, 2)
    assert not set(split.train.hashes) & set(split.select.hashes)


def test_groups_of_a_column_stay_together(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    table(tmp_path / "a", "train.csv", range(24), label=odd, buoy=lambda i: str(i // 6))
    settings = ("dataset.validation_strategy=grouped_kfold", "dataset.group_fold_column=buoy")
    (tmp_path / "a" / "sound").rename(tmp_path / "a" / "audio")
    split = read(tmp_path / "a", settings=settings)
    sides = [{int(name.split(".")[0]) // 6 for name in part.names} for part in (split.train, split.select)]
    assert sides[0] | sides[1] == {0, 1, 2, 3} and not sides[0] & sides[1]


def test_much_sound_is_mapped_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classes(tmp_path / "site")
    held = read(folder, settings=("dataset.validation_strategy=kfold",))
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 1000)
    mapped = read(folder, settings=("dataset.validation_strategy=kfold",))
    assert isinstance(mapped.train.audio, np.memmap) and not isinstance(held.train.audio, np.memmap)
    np.testing.assert_array_equal(mapped.train.audio, held.train.audio)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"TMPDIR: .*nowhere: no 0\.0 GB for the windows .*; name a larger disk"):
        read(folder)


def test_the_split_is_kept_and_a_run_carries_on_with_no_other(tmp_path: Path) -> None:
    folder = classes(tmp_path / "site")
    split = read(folder, settings=("dataset.validation_strategy=kfold",))
    record(split, tmp_path / "split.csv")
    rows = read_rows(tmp_path / "split.csv")
    assert [row["clip"] for row in rows if row["split"] == "train"] == split.train.names
    assert {row["sha1"] for row in rows if row["split"] == "select"} == set(split.select.hashes)
    record(split, tmp_path / "split.csv")
    moved = folder.rename(tmp_path / "elsewhere")
    record(read(moved, settings=("dataset.validation_strategy=kfold",)), tmp_path / "split.csv")
    (moved / "upcall" / "0.wav").unlink()
    with pytest.raises(ConfigError, match=r"split\.csv: the clips or their split are not those the run began with"):
        record(read(moved, settings=("dataset.validation_strategy=kfold",)), tmp_path / "split.csv")


def test_contradicting_labels_are_told(tmp_path: Path) -> None:
    folder = classes(tmp_path / "site")
    shutil.copy(folder / "upcall" / "0.wav", folder / "background" / "copy.wav")
    split = read(folder, settings=("dataset.validation_strategy=kfold",))
    assert "2 clips have the same audio as others with other labels" in split.notes


def overwritten(path: Path, text: str) -> None:
    path.write_text(text)


def marks(path: Path, selection: Selection) -> None:
    write_raven(path, [selection])


def lost(folder: Path) -> None:
    (folder / "night.flac").rename(folder / "day.flac")


def named_twice(folder: Path) -> None:
    for year in ("2009", "2010"):
        sound(folder / year / "night.wav", 1)
    marks(folder / "all.selections.txt", Selection(0, 1, label="RIWH", extra={"Begin File": "night.wav"}))


def all_equal(folder: Path) -> None:
    first = folder / "upcall" / "0.wav"
    shutil.rmtree(folder / "background")
    (folder / "background").mkdir()
    for i in range(6):
        shutil.copy(first, folder / "background" / f"{i}.wav")
        shutil.copy(first, folder / "upcall" / f"{i + 1}.wav")


BAD: list[tuple[Callable[[Path], Path], Callable[[Path], object], type[PamdError], str]] = [
    (tabled, lost, TableError, r"night\.Table\.1\.selections\.txt: its recording is not beside it; restore it"),
    (tabled, lambda f: marks(f / "night.selections.txt", Selection(1, 2, label="song")), TableError,
     r"marks named 'RIWH' are of no label \(narw_upcall\); rename them, or add"),
    (tabled, lambda f: marks(f / "night.txt", Selection(31, 32, label="RIWH")), TableError,
     r"night\.txt: a mark begins at 31 s of a recording of 30 s; correct it"),
    (tabled, lambda f: marks(f / "night.txt", Selection(1, 2, channel=2, label="RIWH")), TableError,
     r"night\.txt: marks channel 2 of 1"),
    (tabled, lambda f: marks(f / "x.selections.txt", Selection(1, 2, extra={"Begin File": "b.wav"})), TableError,
     r"x\.selections\.txt: marks b\.wav, which is not in the folder"),
    (tabled, lambda f: overwritten(f / "night.txt", "1.0\t2.0\tRIWH\n3.0\tx\tRIWH\n"), TableError,
     r"night\.txt, row 2.*'x'"),
    (tabled, named_twice, TableError, r"all\.selections\.txt: night\.wav is in .*2009 and in .*2010; put the table"),
    (tabled, lambda f: sound(f / "night.wav", 1), TableError, r"belongs to night\.flac and to night\.wav"),
    (tabled, lambda f: overwritten(f / "night.flac", "no sound"), SourceError, r"night\.flac: cannot be read"),
    (classes, lambda f: (f / "song").mkdir() or sound(f / "song" / "1.wav", 1), TableError, r"folders named 'song'"),
    (classes, lambda f: sound(f / "1.wav", 1), SourceError, r"holds sound files and folders of them"),
    (classes, shutil.rmtree, SourceError, r"no such folder; give one with --data"),
    (classes, lambda f: shutil.rmtree(f) or f.mkdir(), SourceError, r"holds neither train\.csv nor sound files"),
    (classes, lambda f: shutil.rmtree(f / "upcall"), ConfigError, r"the train part has 3 clips, none with label"),
    (classes, all_equal, ConfigError, r"all 13 clips hold the same audio"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "break_it", "kind", "message"), BAD)
def test_what_is_wrong_is_named(
    make: Callable[[Path], Path],
    break_it: Callable[[Path], object],
    kind: type[PamdError],
    message: str,
    tmp_path: Path,
) -> None:
    folder = make(tmp_path / "site")
    break_it(folder)
    with pytest.raises(kind, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"no data: give a folder with --data, or a table with dataset\.train_dataframe"
    ):
        read()
