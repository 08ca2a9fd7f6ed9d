"""Recordings: files found, and joined where one follows another."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from soundfiles import RATE_HZ, Samples, collect, cut, noise, only, write

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.errors import SourceError


def named(directory: Path, start: datetime, samples: Samples, rate_hz: int = RATE_HZ) -> Path:
    return write(directory / f"PAM_{start:%Y%m%d_%H%M%S}_{start.microsecond // 1000:03}.wav", samples, rate_hz)


START = datetime(2020, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("late_ms", "joined"), [(0, True), (50, True), (-50, True), (51, False), (-51, False), (3_600_000, False)]
)
def test_files_whose_named_times_meet_are_one_recording(tmp_path: Path, late_ms: int, joined: bool) -> None:
    """Within 50 ms, early or late, the files' samples follow one another; else they are two recordings."""
    first, second = noise(4000, seed=1), noise(3000, seed=2)
    paths = [
        named(tmp_path, START, first),
        named(tmp_path, START + timedelta(seconds=2, milliseconds=late_ms), second),
    ]
    found = recordings(paths, min_rate_hz=RATE_HZ)
    assert [len(recording.files) for recording in found] == ([2] if joined else [1, 1])
    assert found[0].start_utc == START
    audio = np.concatenate([collect(recording)[0] for recording in found], axis=1)
    np.testing.assert_array_equal(audio, np.concatenate([first, second], axis=1))


def test_files_that_differ_or_have_no_time_are_not_joined(tmp_path: Path) -> None:
    """Another rate, another number of channels or a name without a time begins a recording."""
    paths = [
        named(tmp_path, START, noise(4000)),
        named(tmp_path, START + timedelta(seconds=2), noise(8000), 4000),
        named(tmp_path, START + timedelta(seconds=4), noise(8000, 2), 4000),
        write(tmp_path / "x.wav", noise(4000)),
        write(tmp_path / "y.wav", noise(4000)),
    ]
    found = recordings(paths, min_rate_hz=RATE_HZ)
    assert [len(recording.files) for recording in found] == [1] * 5
    assert found[4].start_utc is None


def test_the_real_soundtrap_files_join(data_dir: Path) -> None:
    """Two consecutive five-minute files of one deployment are one segment."""
    paths = find_files([str(data_dir / "recordings" / "67416073.*.flac")])
    (recording,) = recordings(paths, min_rate_hz=RATE_HZ)
    assert recording.start_utc == datetime(2021, 6, 10, 3, 36, 55, tzinfo=UTC)
    assert recording.assumed_utc
    assert [file.path.name for file in recording.files] == ["67416073.210610033655.flac", "67416073.210610034155.flac"]


def test_a_cut_file_in_the_middle_does_not_move_what_follows(tmp_path: Path) -> None:
    """What is missing fills up to the next file's start, so its samples keep their numbers."""
    first, second = noise(4000, seed=1), noise(4000, seed=2)
    paths = [cut(named(tmp_path, START, first), 0.5), named(tmp_path, START + timedelta(seconds=2), second)]
    (recording,) = recordings(paths, min_rate_hz=RATE_HZ)
    at, blocks = 0, []
    for item in recording.blocks(1000):
        length = item.samples if isinstance(item, Missing) else item.samples.shape[1]
        blocks.append((at, item))
        at += length
    assert at == recording.samples == 8000
    assert isinstance(blocks[2][1], Missing)
    assert [start for start, _ in blocks[3:]] == [4000, 5000, 6000, 7000]
    rest = np.concatenate([item.samples for _, item in blocks[3:] if isinstance(item, Audio)], axis=1)
    np.testing.assert_array_equal(rest, second)


def test_a_sample_is_traced_to_its_file(tmp_path: Path) -> None:
    """Tables and ids need the file that holds a sample, the number in it, and the file's digest."""
    paths = [named(tmp_path, START, noise(4000)), named(tmp_path, START + timedelta(seconds=2), noise(3000, seed=1))]
    (recording,) = recordings(paths, min_rate_hz=RATE_HZ)
    assert [(file.path, offset) for file, offset in map(recording.locate, (0, 3999, 4000, 6999, 7000))] == [
        (paths[0], 0),
        (paths[0], 3999),
        (paths[1], 0),
        (paths[1], 2999),
        (paths[1], 3000),
    ]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert recording.sha256 == digests[0]
    assert recording.key(4001) == (digests[1], 1)
    with pytest.raises(ValueError, match="begin at 0"):
        recording.locate(-1)


def test_the_users_start_overrides_the_names(tmp_path: Path) -> None:
    """It is turned into UTC, nothing is assumed then, and it fits a single recording only."""
    path = named(tmp_path, START, noise(4000))
    recording = only(path, start=datetime(2021, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=-5))))
    assert (recording.start_utc, recording.assumed_utc) == (datetime(2021, 1, 1, 5, tzinfo=UTC), False)
    with pytest.raises(SourceError, match="does not follow"):
        recordings([path, write(tmp_path / "x.wav", noise(9))], min_rate_hz=RATE_HZ, start=START)
    with pytest.raises(ValueError, match="time zone"):
        only(path, start=datetime(2021, 1, 1))


def test_files_directories_and_patterns_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory gives its sound files by name, not those below; nothing is taken twice; order is as given."""
    deep = tmp_path / "card" / "deep"
    deep.mkdir(parents=True)
    for name in (
        "card/b.WAV",
        "card/a.flac",
        "card/notes.txt",
        "card/._a.flac",
        "card/deep/c.aiff",
        "odd.dat",
        "[1].wav",
    ):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    cases = {
        ("card",): ["card/a.flac", "card/b.WAV"],
        ("card/**/*.aiff", "card"): ["card/deep/c.aiff", "card/a.flac", "card/b.WAV"],
        ("odd.dat", "card/a.*", "card/a.flac"): ["odd.dat", "card/a.flac"],
        ("[1].wav",): ["[1].wav"],
        (str(tmp_path / "c*"),): [str(tmp_path / "card/a.flac"), str(tmp_path / "card/b.WAV")],
    }
    for patterns, expected in cases.items():
        assert [str(path) for path in find_files(patterns)] == expected


@pytest.mark.parametrize("pattern", ["nothing.wav", "*.wav", "empty"])
def test_an_argument_that_means_no_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Even when others mean some."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.flac").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"no sound file|no such file"):
        find_files(["a.flac", pattern])


def test_a_name_too_long_is_an_error() -> None:
    """As is every other argument that means no file."""
    with pytest.raises(SourceError, match="name too long"):
        find_files(["x" * 300])
