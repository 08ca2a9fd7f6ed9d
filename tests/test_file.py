"""Sound files: checked and read, with nothing lost in silence."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from soundfiles import RATE_HZ, collect, cut, noise, only, write

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.file import recordings
from pam_daemon.errors import SourceError

KINDS = {
    "a.aiff": {"subtype": "PCM_16"},
    "a.aifc": {"format": "AIFF", "subtype": "FLOAT"},
    "a.wav": {"subtype": "PCM_16"},
    "b.wav": {"subtype": "PCM_24"},
    "c.wav": {"subtype": "FLOAT"},
    "d.wav": {"format": "WAVEX", "subtype": "PCM_32"},
    "e.wav": {"subtype": "DOUBLE", "endian": "BIG"},  # RIFX
    "a.rf64": {"format": "RF64", "subtype": "PCM_24"},
    "a.flac": {"subtype": "PCM_16"},
    "b.flac": {"subtype": "PCM_24"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_is_read_exactly(tmp_path: Path, name: str, channels: int) -> None:
    """All channels, all samples, full scale +-1, whatever the container and the sample format."""
    samples = noise(5001, channels)
    recording = only(write(tmp_path / name, samples, **KINDS[name]))
    audio, missing = collect(recording)
    assert (recording.sample_rate_hz, recording.channels, recording.samples) == (RATE_HZ, channels, 5001)
    np.testing.assert_array_equal(audio, samples)
    assert (missing, recording.truncated) == ([], False)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("keep", [0.25, 0.61])
def test_a_cut_file_gives_what_it_holds_and_says_what_it_lacks(tmp_path: Path, name: str, keep: float) -> None:
    """Audio and the missing rest make up exactly what the header promised, whatever the block size."""
    samples = noise(50_000, 2)
    path = cut(write(tmp_path / name, samples, **KINDS[name]), keep)
    for block_samples in (777, 4096, 1 << 17):
        recording = only(path)
        assert recording.samples == 50_000
        assert not recording.truncated
        audio, missing = collect(recording, block_samples)
        held = audio.shape[1]
        # A FLAC gives whole frames of 4096 samples, the others every sample.
        assert keep * 50_000 - (4096 * 1.5 if name.endswith("flac") else 30) < held < 50_000
        np.testing.assert_array_equal(audio, samples[:, :held])
        assert missing == [Missing(50_000 - held, "truncated")]
        assert recording.truncated


def test_a_real_recording_cut_in_the_middle(tmp_path: Path, data_dir: Path) -> None:
    """A SoundTrap's FLAC, cut: the audio up to the cut is the original's."""
    name = "67416073.210610033655.flac"
    original = data_dir / "recordings" / name
    whole, _ = soundfile.read(original, dtype="float32")
    (tmp_path / name).write_bytes(original.read_bytes()[:1_000_000])
    recording = only(tmp_path / name)
    audio, missing = collect(recording)
    assert recording.samples == len(whole) == audio.shape[1] + missing[0].samples
    assert audio.shape[1] > 400_000
    np.testing.assert_array_equal(audio[0], whole[: audio.shape[1]])


def with_sizes(path: Path, riff: int, data: int) -> Path:
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", riff)
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", data)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0x7FFFFFFF, 0x7FFFFFFF)],
)
def test_an_unfinished_wav_is_read_to_its_end(tmp_path: Path, riff: int, data: int) -> None:
    """Sizes that a recorder never filled in promise nothing, so nothing is missing; all that was written is read."""
    samples = noise(5000, 2)
    recording = only(with_sizes(write(tmp_path / "a.wav", samples), riff, data))
    audio, missing = collect(recording)
    assert (recording.samples, missing, recording.truncated) == (5000, [], False)
    np.testing.assert_array_equal(audio, samples)


def test_an_unfinished_rf64_is_read_to_its_end(tmp_path: Path) -> None:
    """The same for the 64-bit sizes of the `ds64` chunk."""
    samples = noise(5000)
    path = write(tmp_path / "a.rf64", samples, format="RF64", subtype="PCM_24")
    content = bytearray(path.read_bytes())
    at = content.index(b"ds64") + 8
    content[at : at + 24] = bytes(24)
    path.write_bytes(content)
    audio, missing = collect(only(path))
    assert missing == []
    np.testing.assert_array_equal(audio, samples)


def test_an_unfinished_aiff_is_read_to_its_end(tmp_path: Path) -> None:
    """The same for an AIFF whose three size fields are 0."""
    samples = noise(5000)
    path = write(tmp_path / "a.aiff", samples)
    content = bytearray(path.read_bytes())
    for at in (4, content.index(b"SSND") + 4, content.index(b"COMM") + 10):
        content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    recording = only(path)
    audio, missing = collect(recording)
    assert (recording.samples, missing) == (5000, [])
    np.testing.assert_array_equal(audio, samples)


def test_a_flac_of_unknown_length_is_counted(tmp_path: Path) -> None:
    """A streamed FLAC (total 0 in STREAMINFO) is read to its end, and its length is known before it is replayed."""
    samples = noise(50_000)
    path = write(tmp_path / "a.flac", samples)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the total is the low 36 bits of the eight bytes from 18 on
    content[22:26] = bytes(4)
    path.write_bytes(content)
    recording = only(path)
    audio, missing = collect(recording)
    assert (recording.samples, missing, recording.truncated) == (50_000, [], False)
    np.testing.assert_array_equal(audio, samples)


def test_a_wav_whose_last_chunk_alone_is_cut_lacks_nothing(tmp_path: Path) -> None:
    """Only lost samples count as truncated, not lost remarks behind them."""
    path = write(tmp_path / "a.wav", noise(5000))
    content = path.read_bytes() + b"LIST" + struct.pack("<I", 100) + b"INFO"
    path.write_bytes(content[:4] + struct.pack("<I", len(content) + 88) + content[8:])
    recording = only(path)
    assert (recording.samples, collect(recording)[1]) == (5000, [])


def test_values_that_are_no_numbers_come_as_they_are(tmp_path: Path) -> None:
    """What to make of not-a-number and infinity is decided later, not here."""
    samples = noise(3000)
    samples[0, 100], samples[0, 200] = np.nan, -np.inf
    audio, _ = collect(only(write(tmp_path / "a.wav", samples, subtype="FLOAT")))
    np.testing.assert_array_equal(audio, samples)


@given(st.integers(1, 7000), st.integers(1, 9000))
@settings(max_examples=40, deadline=None)
def test_the_block_size_changes_nothing(tmp_path_factory: pytest.TempPathFactory, length: int, block: int) -> None:
    """The same samples whatever the blocks."""
    samples = noise(length, 2)
    path = write(tmp_path_factory.mktemp("blocks") / "a.flac", samples)
    np.testing.assert_array_equal(collect(only(path), block)[0], samples)


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 8000, 1_000_000])
def test_rates_from_the_models_to_a_megahertz_are_taken(tmp_path: Path, rate_hz: int) -> None:
    """Both ends of the range are in it."""
    assert only(write(tmp_path / "a.wav", noise(9), rate_hz)).sample_rate_hz == rate_hz


@pytest.mark.parametrize("rate_hz", [RATE_HZ - 1, 1_000_001])
def test_other_rates_are_refused(tmp_path: Path, rate_hz: int) -> None:
    """With the file, the rate and what to do."""
    with pytest.raises(SourceError, match=rf"a\.wav: sample rate {rate_hz} Hz is outside 2000 Hz.*1000000 Hz; give"):
        only(write(tmp_path / "a.wav", noise(9), rate_hz))


def _text(path: Path) -> None:
    path.write_text("not a sound\n" * 50)


def _header_alone(path: Path) -> None:
    write(path, np.zeros((1, 0), np.float32))


def _cut_in_the_header(path: Path) -> None:
    write(path, noise(100))
    path.write_bytes(path.read_bytes()[:30])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "empty": (Path.touch, r"is empty \(0 bytes\)"),
    "text": (_text, "libsndfile cannot read it"),
    "directory": (Path.mkdir, "Is a directory"),
    "header alone": (_header_alone, "holds no samples"),
    "cut in the header": (_cut_in_the_header, "libsndfile cannot read it"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_read_is_refused_before_anything_starts(tmp_path: Path, what: str) -> None:
    """One line that names the file, what is wrong and a remedy, even when it is the last of several."""
    make, message = BAD[what]
    bad = tmp_path / "bad.wav"
    make(bad)
    with pytest.raises(SourceError, match=message) as caught:
        recordings([write(tmp_path / "good.wav", noise(100)), bad], min_rate_hz=RATE_HZ)
    text = str(caught.value)
    assert (str(bad) in text, "\n" in text, ";" in text) == (True, False, True)


def test_a_file_that_vanishes_after_the_check_is_an_error(tmp_path: Path) -> None:
    """Reading it says so, in one line."""
    path = write(tmp_path / "a.wav", noise(100))
    recording = only(path)
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.wav: No such file"):
        list(recording.blocks())
    with pytest.raises(SourceError, match=r"a\.wav: No such file"):
        _ = recording.sha256


def test_a_name_that_is_not_text_is_escaped_where_it_goes_into_records(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.wav")
    path.write_bytes(write(tmp_path / "a.wav", noise(100)).read_bytes())
    assert only(path).name == f"{tmp_path}/\\xff.wav"


def test_what_has_no_header_is_refused_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(SourceError, match=r"a\.raw: libsndfile cannot read it"):
        recordings([path], min_rate_hz=RATE_HZ)


@pytest.mark.parametrize("kind", ["RF64", "FLAC"])
def test_a_promise_of_years_is_no_promise(tmp_path: Path, kind: str) -> None:
    """A damaged size field would make gap records by the million: what can be read counts."""
    path = tmp_path / "a.wav"
    write(path, noise(1000), format=kind)
    data = bytearray(path.read_bytes())
    if kind == "RF64":
        at = data.index(b"ds64") + 16
        data[at : at + 8] = (2**62).to_bytes(8, "little")
    else:
        data[21:26] = bytes([data[21] | 0x0F]) + b"\xff\xff\xff\xfe"  # the low 36 bits: total samples
    path.write_bytes(data)
    assert sum(piece.samples.shape[1] for piece in only(path).blocks() if isinstance(piece, Audio)) == 1000
    assert only(path).samples == 1000


@given(st.binary(max_size=300), st.sampled_from([b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b""]))
@settings(max_examples=200, deadline=None)
def test_no_content_is_a_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes, magic: bytes) -> None:
    """Random bytes behind a familiar beginning are read or refused in one line."""
    path = tmp_path_factory.getbasetemp() / "fuzz.wav"
    kind = {b"FORM": b"AIFF"}.get(magic, b"WAVE")
    path.write_bytes(magic + content[:4] + kind + content[4:])
    try:
        collect(only(path))
    except SourceError as error:
        assert "\n" not in str(error)


def test_reading_takes_no_more_memory_for_longer_files(tmp_path: Path) -> None:
    """Blocks are made one at a time: a file of ten minutes needs a few seconds' worth."""
    recording = only(write(tmp_path / "a.wav", noise(RATE_HZ * 600)))
    tracemalloc.start()
    try:
        for item in recording.blocks():
            assert isinstance(item, Audio)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    a_second_bytes = RATE_HZ * 4
    assert peak_bytes < 10 * a_second_bytes < recording.samples * 4
