"""`pamd train` from end to end on a few clips: same seed same weights, resume, interruption, what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from clips import FAST, HYDROGEN_TORCH, NARW, read_rows, small_clips, write_table
from onnx import numpy_helper
from rich.console import Console

from export.job import Job
from export.run import open_run
from export.settings import load
from export.ship import card_of
from export.train import train
from pam_daemon.errors import ConfigError, TableError

pytestmark = pytest.mark.xdist_group("train")  # what one test trains, others use

COMMAND = [sys.executable, "-c", "from export.cli import train; train()"]


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_clips(data_dir, tmp_path_factory.mktemp("train") / "clips")


def job(folder: Path, out: Path, *overrides: str, resume: bool = False, ledger: Path | None = None) -> Job:
    config, text, _ = load(NARW, [*FAST, "prediction.precision=float32", *overrides])
    return Job(config, text, [folder], out, None, resume, ledger, "pamd train")


def run(*arguments: object, **keywords: object) -> Path:
    return train(job(*arguments, **keywords), Console(stderr=True))  # type: ignore[arg-type]


def weights(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted run."""
    return run(folder, tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_ends_with_model_card_curves_and_nothing_half_written(model: Path, folder: Path) -> None:
    names = {path.name for path in model.parent.iterdir()}
    assert names == {
        *("checkpoint.pt", "config.yaml", "history.csv", "split.csv", "model.float32.onnx", "model.onnx"),
        *("predictions_validation.csv", "report", "report.html"),
    }
    rows = read_rows(model.parent / "history.csv")
    assert [row["epoch"] for row in rows] == ["1.0", "2.0"]
    assert {"train_loss", "select_loss", "select_roc_auc", "select_shifted_roc_auc"} <= set(rows[0])
    card = card_of(model)
    assert (card.name, card.labels, card.sample_rate_hz, card.window_samples) == ("narw", ["narw_upcall"], 2000, 4000)
    assert (card.hop_samples, card.precision, card.training.seed) == (1000, "float32", 20090329)
    assert card.training.data == "clips: 16 train and 16 select clips"
    assert card.training.prior == 0.5
    assert card.models_scored_on_report == 0
    assert not any(name.startswith("report") for name in card.training.metrics)


def test_the_seed_decides_the_weights(model: Path, folder: Path, tmp_path: Path) -> None:
    assert same(model, run(folder, tmp_path / "again"))
    assert not same(model, run(folder, tmp_path / "other", "environment.seed=2", "training.epochs=1"))


def test_what_is_in_the_report_part_changes_no_weight(model: Path, folder: Path, tmp_path: Path) -> None:
    """Nor the threshold: labels turned round there, everything chosen stays."""
    twin = tmp_path / "clips"
    twin.mkdir()
    (twin / "audio").symlink_to(folder / "audio")
    splits = {row["clip_name"]: row["split"] for row in read_rows(folder / "clips.csv")}
    rows = read_rows(folder / "train.csv")
    for row in rows:
        if splits[row["clip_name"]] == "report":
            row["label"] = str(1 - int(row["label"]))
    write_table(twin / "train.csv", rows)
    write_table(twin / "clips.csv", read_rows(folder / "clips.csv"))
    ledger = tmp_path / "ledger.csv"
    other = run(twin, tmp_path / "run", ledger=ledger)
    assert same(model, other)
    mine, theirs = card_of(model), card_of(other)
    assert mine.threshold == theirs.threshold
    assert mine.golden == theirs.golden
    assert theirs.models_scored_on_report == 1 == len(read_rows(ledger))
    assert "report/roc_auc" in theirs.training.metrics
    # Finishing the same model again counts no second one.
    run(twin, tmp_path / "run", resume=True, ledger=ledger)
    assert len(read_rows(ledger)) == 1


def test_the_best_epoch_is_kept_where_asked(model: Path) -> None:
    figures = [float(row["select_shifted_roc_auc"]) for row in read_rows(model.parent / "history.csv")]
    assert card_of(model).training.epochs == 1 + int(np.argmax(figures))


def test_an_interrupted_run_carries_on_to_the_same_weights(model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--config", str(NARW), "--data", str(folder), "--out", str(out)]
    for override in [*FAST, "prediction.precision=float32"]:
        arguments += ["--set", override]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline_s = time.monotonic() + 180
    while not (out / "history.csv").exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert (out / "history.csv").exists(), "no epoch has ended"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("--resume`"), errors
    assert not list(out.glob("*.onnx"))
    assert not list(out.glob("*.tmp"))
    subprocess.run([*COMMAND, *arguments, "--resume"], check=True, timeout=120)
    assert same(model, out / "model.onnx")


def test_the_hydrogen_torch_file_itself_runs(folder: Path, tmp_path: Path) -> None:
    config, text, _ = load(HYDROGEN_TORCH, ["training.epochs=1"])
    with (tmp_path / "log").open("w") as log:
        path = train(
            Job(config, text, [folder], tmp_path / "run", "none", False, None, "pamd train"), Console(file=log)
        )
    card = card_of(path)
    assert (card.precision, card.threshold, card.labels) == ("float32", 0.5, ["label"])
    assert "neighbours in time on both sides" in card.training.split
    assert any("93 of 128 mel bins are empty" in note for note in card.notes)
    assert f"seed {card.training.seed};" in (tmp_path / "log").read_text()


def test_weights_from_a_file_are_the_networks_first(folder: Path, tmp_path: Path) -> None:
    import timm

    from export.network import WhaleNet

    source = timm.create_model("resnet18", pretrained=False)  # three colours, a thousand classes
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    resnet18 = "architecture.backbone=resnet18"
    network = WhaleNet(job(folder, tmp_path, resnet18).config, tmp_path / "weights.pth")
    state = network.backbone.state_dict()
    torch.testing.assert_close(state["layer3.0.conv1.weight"], source.state_dict()["layer3.0.conv1.weight"])
    torch.testing.assert_close(state["conv1.weight"], source.state_dict()["conv1.weight"].sum(1, keepdim=True))
    with pytest.raises(ConfigError, match=r"weights\.pth does not fit resnet34"):
        WhaleNet(job(folder, tmp_path, "architecture.backbone=resnet34").config, tmp_path / "weights.pth")


def refused(message: str, *arguments: object, **keywords: object) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(*arguments, **keywords)
    assert "\n" not in str(caught.value)


def test_run_directories_are_not_overwritten(model: Path, folder: Path, tmp_path: Path) -> None:
    refused("holds a run already; carry it on with --resume", folder, model.parent)
    refused("no run to carry on here", folder, tmp_path / "none", resume=True)
    refused("began with another configuration", folder, model.parent, "training.learning_rate=1", resume=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("precious")
    refused("not an empty directory", folder, tmp_path / "taken")


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    asked = job(folder, tmp_path)
    (tmp_path / "config.yaml").write_text(asked.text)
    (tmp_path / "checkpoint.pt").write_bytes(b"not torch")
    refused(r"checkpoint\.pt: damaged, or no checkpoint; name the directory of a run", folder, tmp_path, resume=True)
    torch.save({"weights": 1}, tmp_path / "checkpoint.pt")
    refused(r"checkpoint\.pt: not a checkpoint of pamd train", folder, tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text("dataset:\n")
    refused(r"config\.yaml: dataset: must be a section", folder, tmp_path, resume=True)


def test_what_is_refused_leaves_no_run_in_the_way(folder: Path, tmp_path: Path) -> None:
    out, ledger = tmp_path / "run", tmp_path / "ledger.csv"
    layers = "training.differential_learning_rate_layers=[layer9]"
    refused("no layer layer9; there are: backbone, head, conv1", folder, out, layers)
    blocks = "dataset.validation_strategy=blocks"
    refused("--report-ledger: the split has no report clips", folder, out, blocks, ledger=ledger)
    ledger.write_text("name\nnarw\n")
    with pytest.raises(TableError, match=r"ledger\.csv: no column created_utc"):
        run(folder, out, ledger=ledger)
    assert not out.exists()


def test_a_run_without_a_seed_keeps_the_one_it_drew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it was stopped in its first epoch: the folds are the same."""
    drawn = ("environment.seed=-1", "dataset.validation_strategy=kfold", "training.epochs=1")
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr("export.train.train_epoch", interrupted)
        run(folder, tmp_path / "run", *drawn)
    seed = torch.load(tmp_path / "run" / "checkpoint.pt")["seed"]
    with pytest.raises(ConfigError, match="the run has not ended an epoch; carry it on"):
        open_run(tmp_path / "run", [], Console(stderr=True))
    assert card_of(run(folder, tmp_path / "run", *drawn, resume=True)).training.seed == seed


def interrupted(*_: object) -> float:
    raise KeyboardInterrupt


def test_a_training_that_diverges_is_named(folder: Path, tmp_path: Path) -> None:
    wild = ("training.optimizer=SGD", "training.learning_rate=1.0e+9", "training.gradient_clip=0")
    refused(
        r"training\.learning_rate: the network's scores are not numbers any more; lower",
        folder,
        tmp_path / "run",
        *wild,
    )


def test_the_card_holds_the_whole_configuration(model: Path) -> None:
    card = card_of(model)
    (model.parent / "copy.yaml").write_text(card.training.configuration)
    again = load(model.parent / "copy.yaml")[0]
    (model.parent / "copy.yaml").unlink()
    assert msgspec.to_builtins(again) == msgspec.to_builtins(job(model, model.parent).config)
