"""The model that pamd ships with: what its card says of it is so, and neither gain nor threads change its scores."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import soundfile
from bench.invariance import SHIFTS_S, flips_by_gain, recall_by_shift, select_clips
from clips import REPOSITORY

from pam_daemon.analysis.model import Model
from pam_daemon.card import GOLDEN_TOLERANCE, Card, read_card

MODEL = REPOSITORY / "pam_daemon" / "models" / "narw.onnx"
Audio = npt.NDArray[np.float32]


def session(threads: int = 0) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


def scores_of(audio: Audio, batch: int = 32, threads: int = 0) -> Audio:
    shipped = session(threads)
    parts = [shipped.run(None, {"waveform": audio[i : i + batch]})[0] for i in range(0, len(audio), batch)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def card() -> Card:
    return read_card(session().get_modelmeta().custom_metadata_map, str(MODEL))


@pytest.fixture(scope="module")
def select(data_dir: Path) -> tuple[Audio, Audio]:
    """All select clips and their labels."""
    with (data_dir / "narw_clips" / "clips.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "select"]
    folder = data_dir / "narw_clips" / "audio"
    audio = np.stack([soundfile.read(folder / row["clip_name"], dtype="float32")[0] for row in rows])
    return audio, np.array([float(row["label"]) for row in rows], np.float32)


def test_the_card_names_what_the_model_is_and_comes_from(card: Card) -> None:
    assert (card.name, card.labels, card.precision) == ("narw", ["narw_upcall"], "int8")
    assert (card.sample_rate_hz, card.window_samples, card.hop_samples) == (2000, 4000, 1000)
    assert card.training.command == "pamd train --config configs/narw.yaml --data narw_clips --out runs/narw"
    assert "Cornell" in card.training.notice
    assert card.models_scored_on_report >= 1
    ledger = REPOSITORY / "docs" / "figures" / "scored_on_report.csv"
    with ledger.open(newline="") as file:
        own = list(csv.DictReader(file))[card.models_scored_on_report - 1]  # others may have been scored since
    assert (own["name"], own["seed"], own["epochs"]) == (card.name, str(card.training.seed), str(card.training.epochs))


def test_it_is_at_most_25_mb_and_names_no_path_of_a_machine() -> None:
    assert MODEL.stat().st_size <= 25_000_000
    content = MODEL.read_bytes()
    assert b"/home/" not in content and b"/tmp/" not in content and b".py" not in content


def test_the_golden_windows_spread_and_none_could_cross_the_threshold(card: Card) -> None:
    windows, expected = card.golden.unpack(card.window_samples)
    assert windows.shape == (16, 4000)
    assert expected.min() < 0.1 and expected.max() > 0.9
    assert np.diff(np.sort(expected[:, 0])).max() < 0.2
    assert (np.abs(expected - card.threshold) > GOLDEN_TOLERANCE["int8"]).all()
    np.testing.assert_allclose(scores_of(windows), expected, rtol=0, atol=GOLDEN_TOLERANCE["int8"])


def test_the_card_s_figures_come_out(card: Card, select: tuple[Audio, Audio]) -> None:
    audio, labels = select
    scores = scores_of(audio)[:, 0]
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable") + 1
    positive = labels == 1
    count = positive.sum()
    area = (order[positive].sum() - count * (count + 1) / 2) / (count * (len(labels) - count))
    assert area == pytest.approx(card.training.metrics["select/roc_auc"], abs=2e-3)
    assert area > 0.9
    found = (scores[positive] >= card.threshold).mean()
    assert found == pytest.approx(card.training.metrics["select/true_positive_rate"], abs=0.01)


def test_a_gain_changes_no_score(select: tuple[Audio, Audio]) -> None:
    audio = select[0][:48]
    plain = scores_of(audio)
    for gain_db in (-40, -20, 20):
        np.testing.assert_allclose(scores_of(audio * np.float32(10 ** (gain_db / 20))), plain, rtol=0, atol=0.02)


def test_neither_the_call_s_place_nor_a_gain_decides(data_dir: Path) -> None:
    """Real calls, moved to wherever they stay wholly inside, are found as they were but for less than 5 in 100, and no
    gain from -40 to +20 dB takes a clip across the threshold."""
    model = Model(MODEL, "cpu", threads=1)
    clips = select_clips(model, data_dir / "narw_clips", "select")
    moved = recall_by_shift(model, clips)
    assert [row.shift_s for row in moved] == list(SHIFTS_S)
    assert max(row.fall for row in moved) < 0.05
    assert set(flips_by_gain(model, clips).values()) == {0}


def test_scores_depend_neither_on_batch_nor_on_threads(select: tuple[Audio, Audio]) -> None:
    audio = select[0][:32]
    together = scores_of(audio, batch=32, threads=1)
    np.testing.assert_array_equal(scores_of(audio, batch=1, threads=1), together)
    np.testing.assert_array_equal(scores_of(audio, batch=32, threads=2), together)


def test_digital_silence_is_no_call(card: Card) -> None:
    assert scores_of(np.zeros((1, card.window_samples), np.float32))[0, 0] < card.threshold
