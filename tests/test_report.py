"""RUN/report.html: whole in itself, well-formed, with every section, and its numbers those of the predictions."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch
from clips import FAST, NARW, read_rows, synthetic_clips, write_table
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from export import cli
from export.attribution import attribute
from export.job import Job
from export.plots import reliability
from export.report import draw
from export.run import open_run
from export.settings import load
from export.ship import card_of
from export.train import train
from pam_daemon.errors import ConfigError, ModelError, TableError

pytestmark = pytest.mark.xdist_group("report")  # what one test trains, others use

SECTIONS = ("summary", "curves", "decisions", "calibration", "worst", "best", "looked", "samples", "data", "card")
OVERRIDES = (
    *FAST,
    "training.epochs=1",
    "prediction.precision=float32",
    "logging.number_of_audios=2",
    'experiment_name="<sea> & more"',
)


def job(folder: Path, out: Path, *overrides: str, resume: bool = False) -> Job:
    config, text, _ = load(NARW, [*OVERRIDES, *overrides])
    return Job(config, text, [folder], out, None, resume, None, "pamd train")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("report")
    train(job(synthetic_clips(folder / "clips"), folder / "run"), Console(file=io.StringIO()))
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def page(run: Path) -> ElementTree.Element:
    text = (run / "report.html").read_text("utf-8")
    return ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def predictions(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of the validation clips."""
    rows = read_rows(run / "predictions_validation.csv")
    return np.array([int(row["label"]) for row in rows]), np.array([float(row["score"]) for row in rows], np.float32)


def tiles(run: Path) -> list[str]:
    found = page(run).findall(".//section[@id='summary']//div[@class='tile']/b")
    return [text_of(tile) for tile in found]


def confusion(run: Path) -> list[int]:
    return [int(text_of(cell)) for cell in page(run).findall(".//table[@class='confusion']//td")]


def test_the_page_is_well_formed_and_has_every_section(run: Path) -> None:
    root = page(run)
    assert tuple(section.get("id") for section in root.iter("section")) == SECTIONS
    links = {a.get("href") for a in root.iter("a")}
    assert links <= {f"#{section}" for section in SECTIONS}
    headings = [h for section in root.iter("section") for h in section.findall("h2")]
    assert len(headings) == len(SECTIONS) - 1
    assert text_of(root.find(".//h1")) == "<sea> & more"  # type: ignore[arg-type]


def test_the_page_needs_no_other_file(run: Path) -> None:
    """Pictures and sound are inside, and decode; nothing is fetched from anywhere."""
    root = page(run)
    sources = [e.get(key) for e in root.iter() for key in ("src", "srcset", "href", "data") if e.get(key)]
    assert all(source and re.match(r"data:(image/png|audio/flac);base64,|#", source) for source in sources)
    style = text_of(root.find(".//style"))  # type: ignore[arg-type]
    assert "url(" not in style and "@import" not in style
    assert not list(root.iter("script")) and not list(root.iter("link"))
    pictures = [e.get("src", "") for e in root.iter("img") if e.get("class") == "light"]
    assert len(pictures) == 3 + 4 + 2 + 2 + 1 + 1  # curves, decisions, best, worst, looked at, samples
    assert all(base64.b64decode(p.partition(",")[2])[:4] == b"\x89PNG" for p in pictures)
    assert len({e.get("src") for e in root.iter("img")}) == 2 * len(pictures)  # for dark pages, too
    heard = [
        soundfile.read(io.BytesIO(base64.b64decode(e.get("src", "").partition(",")[2]))) for e in root.iter("audio")
    ]
    assert [(len(sound) / rate_hz, rate_hz) for sound, rate_hz in heard] == [(2.0, 8000)] * 4
    files = {path.name for path in (run / "report").iterdir()}
    assert {"loss.png", "roc.png", "calibration.png", "worst_1.png", "looked_at.png"} <= files
    assert len(files) == len(pictures)


def test_the_predictions_are_those_of_the_model_file(run: Path) -> None:
    labels, scores = predictions(run)
    card = card_of(run / "model.onnx")
    assert [row["clip"] for row in read_rows(run / "predictions_validation.csv")] == [f"{i}.wav" for i in range(16, 24)]
    assert card.training.metrics["select/roc_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-5)
    assert card.training.metrics["select/true_positive_rate"] == np.mean(scores[labels == 1] >= card.threshold)


def test_the_figures_are_those_of_the_predictions(run: Path) -> None:
    labels, scores = predictions(run)
    found = scores >= card_of(run / "model.onnx").threshold
    edges = np.minimum((scores * 10).astype(int), 9)
    error = sum(abs(scores[edges == i].mean() - labels[edges == i].mean()) * (edges == i).sum() for i in set(edges)) / 8
    assert tiles(run) == [
        f"{roc_auc_score(labels, scores):.4f}",
        f"{average_precision_score(labels, scores):.4f}",
        f"{found[labels == 1].mean():.1%}",
        f"{found[labels == 0].mean():.1%}",
        f"{error:.3f}",
    ]
    expected = [(truth, decided) for truth in (1, 0) for decided in (True, False)]
    assert confusion(run) == [int(((labels == truth) & (found == decided)).sum()) for truth, decided in expected]


def test_it_is_drawn_again_from_what_the_run_left(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is scored again: what the table of predictions says is what the report shows."""
    (copy / "report.html").unlink()
    rows = read_rows(copy / "predictions_validation.csv")
    write_table(copy / "predictions_validation.csv", [row | {"score": row["label"]} for row in rows])
    cli.report.main([str(copy)], standalone_mode=False)
    assert capsys.readouterr().out == f"{copy / 'report.html'}\n"
    assert tiles(copy)[:2] == ["1.0000", "1.0000"]
    assert confusion(copy) == [4, 0, 0, 4]


def test_a_report_that_fails_leaves_the_model(copy: Path, run: Path) -> None:
    clips = run.parent / "clips"
    shutil.rmtree(copy / "report")
    (copy / "report").write_text("in the way")
    (copy / "model.onnx").unlink()
    out = io.StringIO()
    assert train(job(clips, copy, resume=True), Console(file=out)) == copy / "model.onnx"
    assert card_of(copy / "model.onnx").name == "<sea> & more"
    assert f"try `pamd report {copy}`" in out.getvalue()


def test_a_run_without_a_model_file_has_a_report(tmp_path: Path) -> None:
    clips = synthetic_clips(tmp_path / "clips")
    off = ("training.build_scoring_pipelines=false", "training.run_interpretations=false", "logging.number_of_audios=0")
    train(job(clips, tmp_path / "run", *off), Console(file=io.StringIO()))
    root = page(tmp_path / "run")
    assert tuple(section.get("id") for section in root.iter("section")) == SECTIONS
    assert not list(root.iter("audio"))
    labels, scores = predictions(tmp_path / "run")
    assert tiles(tmp_path / "run")[0] == f"{roc_auc_score(labels, scores):.4f}"


def test_predictions_of_other_clips_are_refused(copy: Path) -> None:
    path = copy / "predictions_validation.csv"
    rows = read_rows(path)
    write_table(path, [rows[0] | {"clip": "other.wav"}, *rows[1:]])
    with pytest.raises(TableError, match="is not of these validation clips"):
        cli.report.main([str(copy)], standalone_mode=False)
    write_table(path, [rows[0] | {"score": "high"}, *rows[1:]])
    with pytest.raises(TableError, match="a score is no number"):
        cli.report.main([str(copy)], standalone_mode=False)


def test_what_is_no_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such checkpoint; name the directory of a run"):
        open_run(tmp_path, [], Console(file=io.StringIO()))
    (tmp_path / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes())
    text = (run / "config.yaml").read_text().replace("mel_frequency_bins: 16", "mel_frequency_bins: 24")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="does not fit its configuration"):
        open_run(tmp_path, [], Console(file=io.StringIO()))


def test_a_run_is_opened_with_no_other_clips(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split\.csv: the clips or their split are not those the run began with"):
        open_run(run, [synthetic_clips(tmp_path / "other", seed=9)], Console(file=io.StringIO()))


def test_a_damaged_model_file_is_named(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no model")
    trained, history, job = open_run(copy, [], Console(file=io.StringIO()))
    with pytest.raises(ModelError, match=r"model\.onnx: no ONNX model; remove it"):
        draw(trained, history, job, anew=False)


def test_reliability_counts_each_bin() -> None:
    labels = np.array([[0], [1], [1], [1]], np.float32)
    made = reliability(labels, np.array([[0.05], [0.95], [0.93], [1.0]], np.float32))
    np.testing.assert_array_equal(made.count, [1, 3])
    np.testing.assert_array_equal(made.share, [0, 1])
    np.testing.assert_allclose(made.error, (0.05 + 0.05 + 0.07 + 0) / 4, atol=1e-6)


def test_the_table_of_predictions_has_its_columns(run: Path) -> None:
    with (run / "predictions_validation.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["clip", "name", "label", "score", "split"]


def test_what_the_network_looked_at_adds_up_to_the_logit(run: Path) -> None:
    """Integrated gradients are complete: their sum is how far the logit lies from that of a flat spectrogram."""
    network = open_run(run, [], Console(file=io.StringIO()))[0].network
    audio = np.random.default_rng(1).normal(0, 0.1, (3, 4000)).astype(np.float32)
    log_mel, towards = attribute(network, audio, np.zeros(3, np.intp))
    flat = np.broadcast_to(log_mel.mean((1, 2), keepdims=True), log_mel.shape).copy()
    with torch.no_grad():
        logits = [network.classify(torch.from_numpy(picture[:, None])).numpy()[:, 0] for picture in (log_mel, flat)]
    np.testing.assert_allclose(towards.sum((1, 2)), logits[0] - logits[1], atol=0.05 * np.ptp(logits) + 1e-3)
