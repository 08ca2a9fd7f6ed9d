"""The picture: what was found, missed and false can be told apart on it, and a long recording costs no memory."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from pam_daemon.errors import SourceError
from pam_daemon.tools import picture
from pam_daemon.tools.evaluate import Detected
from pam_daemon.tools.picture import draw, draw_clip
from pam_daemon.tools.tables import Selection

RATE_HZ = 2000


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three minutes of faint noise, with a loud 200 Hz tone from 60 to 70 s."""
    samples = np.random.default_rng(0).normal(0, 0.001, 180 * RATE_HZ)
    samples[60 * RATE_HZ : 70 * RATE_HZ] += 0.1 * np.sin(2 * np.pi * 200 * np.arange(10 * RATE_HZ) / RATE_HZ)
    path = tmp_path_factory.mktemp("picture") / "noise.wav"
    soundfile.write(path, samples, RATE_HZ)
    return path


def pixels(path: Path, color: str) -> int:
    """How many pixels of the PNG have nearly this colour."""
    image = imread(path)[:, :, :3]
    return int((np.abs(image - np.array(to_rgb(color))).max(axis=2) < 0.02).sum())


def marks(path: Path) -> dict[str, int]:
    names = {"found": picture.FOUND, "missed": picture.MISSED, "false": picture.FALSE, "duplicate": picture.DUPLICATE}
    return {name: pixels(path, color) for name, color in names.items()}


def test_each_outcome_is_drawn_in_its_colour(noise: Path, tmp_path: Path) -> None:
    """The legend has one of each; only what is drawn beyond it is asked for."""
    calls = [Selection(20, 21, 90, 180), Selection(100, 101), Selection(150, 151, 90, 180)]
    detections = [Detected(20.5, 0.9), Detected(21.2, 0.5), Detected(50, 0.8), Detected(100.2, 0.7)]
    draw(noise, tmp_path / "none.png", [], [], "noise")
    matching = draw(noise, tmp_path / "all.png", calls, detections, "noise")
    assert matching is not None
    assert (len(matching.found), len(matching.missed), len(matching.false), len(matching.duplicates)) == (2, 1, 1, 1)
    without, with_all = marks(tmp_path / "none.png"), marks(tmp_path / "all.png")
    assert all(with_all[name] > without[name] + 30 for name in with_all), (without, with_all)
    assert with_all["found"] > with_all["missed"]


def test_without_a_truth_nothing_is_called_false_or_missed(noise: Path, tmp_path: Path) -> None:
    assert draw(noise, tmp_path / "p.png", None, [Detected(20.5, 0.9), Detected(50, 0.8)], "noise") is None
    drawn = marks(tmp_path / "p.png")
    assert drawn["found"] > 60
    assert drawn["missed"] == drawn["false"] == drawn["duplicate"] == 0


def test_the_title_says_that_the_sea_is_simulated(noise: Path, tmp_path: Path) -> None:
    draw(noise, tmp_path / "real.png", [], [], "noise", simulated=False)
    draw(noise, tmp_path / "simulated.png", [], [], "noise", simulated=True)
    draw(noise, tmp_path / "spelt.png", [], [], "noise · simulated sea")
    real, simulated, spelt = (imread(tmp_path / f"{name}.png") for name in ("real", "simulated", "spelt"))
    assert not np.array_equal(real, simulated)
    np.testing.assert_array_equal(simulated, spelt)


def rows_of(path: Path, channel: int = 1) -> list[tuple[float, float, npt.NDArray[np.float32]]]:
    duration_s, row_s, top_hz = picture._rows_of(path, channel, picture.TOP_HZ)
    rows = list(picture._spectrograms(path, channel, row_s, top_hz))
    assert rows[-1].end_s == duration_s
    return [(row.begin_s, row.end_s, row.decibels) for row in rows]


def test_a_tone_lies_at_its_time_and_frequency(noise: Path) -> None:
    (begin_s, end_s, decibels), second = rows_of(noise)
    assert (begin_s, end_s, *second[:2]) == (0.0, 120.0, 120.0, 180.0)
    row, column = np.unravel_index(decibels.argmax(), decibels.shape)
    assert row * RATE_HZ / (0.2 * RATE_HZ) == pytest.approx(200, abs=5)
    loud_s = np.flatnonzero(decibels[row] > 30) * 120 / decibels.shape[1]
    assert (loud_s.min(), loud_s.max()) == pytest.approx((60, 70), abs=0.25)
    assert 60 <= column * 120 / decibels.shape[1] <= 70
    assert second[2].shape == (decibels.shape[0], decibels.shape[1] // 2)
    assert second[2].max() < 25


def test_the_second_channel_is_drawn_when_asked_for(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.001, (20 * RATE_HZ, 2))
    samples[:, 1] += 0.1 * np.sin(2 * np.pi * 300 * np.arange(20 * RATE_HZ) / RATE_HZ)
    soundfile.write(tmp_path / "two.wav", samples, RATE_HZ)
    first, second = (rows_of(tmp_path / "two.wav", channel)[0][2] for channel in (1, 2))
    assert second.mean(axis=1).argmax() * 5 == pytest.approx(300, abs=5)
    assert second.mean(axis=1).max() > first.mean(axis=1).max() + 20
    with pytest.raises(SourceError, match="no channel 3: choose 1 to 2"):
        draw(tmp_path / "two.wav", tmp_path / "p.png", [], [], "two", channel=3)


def test_a_recording_shorter_than_the_taper_is_drawn(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(100, 0.1), RATE_HZ)
    draw(tmp_path / "short.wav", tmp_path / "p.png", [], [], "short")
    assert imread(tmp_path / "p.png").shape[1] == 1650


@pytest.mark.parametrize(
    ("duration_s", "row_s"),
    [(0.05, 0.05), (30.0, 30.0), (119.5, 119.5), (600.0, 120.0), (1440.0, 120.0), (36000.0, 3000.0)],
)
def test_a_recording_fills_at_most_twelve_rows(tmp_path: Path, duration_s: float, row_s: float) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(round(duration_s * 1000), np.int16), 1000)
    assert picture._rows_of(tmp_path / "long.flac", 1, 400.0) == (duration_s, row_s, 400.0)


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A recording five times as long has as many rows, of as many pixels, and its samples are not held."""
    peaks = []
    for name, minutes in (("short", 24), ("long", 120)):
        noise = np.random.default_rng(0).normal(0, 0.01, minutes * 60 * RATE_HZ)
        soundfile.write(tmp_path / f"{name}.wav", noise, RATE_HZ)
        duration_s, row_s, top_hz = picture._rows_of(tmp_path / f"{name}.wav", 1, picture.TOP_HZ)
        assert duration_s / row_s == 12
        tracemalloc.start()
        rows = list(itertools.islice(picture._spectrograms(tmp_path / f"{name}.wav", 1, row_s, top_hz), 2))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows[0].decibels.shape == rows[1].decibels.shape == (81, picture.COLUMNS)
    assert peaks[1] < 1.2 * peaks[0]


def test_a_clip_is_drawn_beside_it_as_far_as_its_frequencies_go(noise: Path, tmp_path: Path) -> None:
    """All the width is its own, whatever its length; what reaches higher than the recording shows is left out."""
    samples, _ = soundfile.read(noise, start=60 * RATE_HZ, frames=5 * RATE_HZ)
    clip = tmp_path / "harbour.ch1.20090329T171500.250000Z.0123.flac"
    soundfile.write(clip, samples, RATE_HZ)
    assert draw_clip(clip, None, 400.0, 1) == clip.with_name(clip.name + ".png")
    drawn = imread(clip.with_name(clip.name + ".png"))[:, :, :3]
    bright = (np.abs(drawn - np.array(to_rgb(picture.SEA[-1]))).max(axis=2) < 0.05).sum(axis=1)
    height = int(bright.argmax())
    assert bright[height] > 1400, "a tone of 200 Hz from one side to the other"
    draw_clip(clip, tmp_path / "wide.png", 10_000.0, 1)
    wide = (np.abs(imread(tmp_path / "wide.png")[:, :, :3] - np.array(to_rgb(picture.SEA[-1]))).max(axis=2) < 0.05).sum(
        axis=1
    )
    assert wide.max() > 1400
    assert int(wide.argmax()) > height, "half as high on an axis to the Nyquist frequency"


def test_the_command_says_where_the_picture_is_and_what_is_wrong_with_a_clip(noise: Path, tmp_path: Path) -> None:
    """A path, or one line and exit code 1."""
    (tmp_path / "clip.flac").write_text("not sound")
    for clip, code, out, err in (
        (noise, 0, f"{tmp_path / 'p.png'}\n", ""),
        (tmp_path / "clip.flac", 1, "", f"pamd: {tmp_path / 'clip.flac'}: cannot be read"),
    ):
        command = [sys.executable, "-m", "pam_daemon", "picture", str(clip), "--out", str(tmp_path / "p.png")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, out), done.stderr
        assert done.stderr.startswith(err) and len(done.stderr.splitlines()) == code
    assert imread(tmp_path / "p.png").shape[1] == 1650


def test_a_flac_that_breaks_off_is_an_error(noise: Path, tmp_path: Path) -> None:
    samples, _ = soundfile.read(noise)
    soundfile.write(tmp_path / "whole.flac", samples, RATE_HZ)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut\.flac: cannot be read at sample"):
        draw(tmp_path / "cut.flac", tmp_path / "p.png", [], [], "cut")


def test_what_cannot_be_read_or_written_is_an_error(noise: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE_HZ)
    for recording, message in (
        ("text.wav", "cannot be read"),
        ("none.wav", "cannot be read"),
        ("empty.wav", "no samples"),
    ):
        with pytest.raises(SourceError, match=message):
            draw(tmp_path / recording, tmp_path / "p.png", [], [], "x")
    with pytest.raises(SourceError, match="cannot be written"):
        draw(noise, tmp_path / "no folder" / "p.png", [], [], "x")
    assert not (tmp_path / "p.png").exists()
