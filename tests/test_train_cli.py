"""The command line of `pamd train`, as processes: without torch, with mistakes, and what it says at its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from clips import FAST, HYDROGEN_TORCH, NARW, read_rows, small_clips, write_table

from export.device import computes_in_half
from pam_daemon.tools.simulate import ambient_noise, simulate
from pam_daemon.tools.sounds import upcall

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "
PAMD = "from pam_daemon.cli import main; main()"
FULL_PRECISION = ("--set", "environment.mixed_precision_training=false")  # in which every processor computes


def pamd(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + PAMD, *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_without_torch_the_help_works_and_training_names_the_remedy(tmp_path: Path) -> None:
    shown = pamd("--help", before=WITHOUT_TORCH)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "train" in shown.stdout
    done = pamd("train", "--config", NARW, "--data", tmp_path, "--out", tmp_path / "run", before=WITHOUT_TORCH)
    assert done.returncode == 1
    assert done.stderr == 'pamd: pamd train needs torch, which is not installed; pip install "pamd[train]"\n'


def test_a_mistake_is_one_line_and_leaves_no_run(data_dir: Path, tmp_path: Path) -> None:
    folder = small_clips(data_dir, tmp_path / "clips")
    lost = next((folder / "audio").iterdir())
    lost.unlink()
    done = pamd("train", "--config", NARW, "--data", folder, "--out", tmp_path / "run", *FULL_PRECISION)
    assert done.returncode == 1
    assert done.stderr == f"pamd: {lost}: no such clip; restore it or remove its row from the table\n"
    assert not (tmp_path / "run").exists()  # so that the same command works once the clip is there


def test_the_hydrogen_torch_file_says_all_that_has_no_effect_and_asks_for_weights(tmp_path: Path) -> None:
    arguments = ("--config", HYDROGEN_TORCH, "--data", tmp_path, "--out", tmp_path / "run")
    done = pamd("train", *arguments, "--set", "architecture.backbone=resnet26", "--set", "environment.gpus=[]")
    assert done.returncode == 1
    *warnings, error = done.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    told = any("environment.mixed_precision_training has no effect" in warning for warning in warnings)
    assert told == (not computes_in_half(torch.device("cpu")))
    assert any("dataset.group_fold_column has no effect: validation_strategy kfold" in line for line in warnings)
    assert any("93 of 128 mel bins are empty" in line for line in warnings)
    assert error.startswith("pamd: architecture.pretrained: no weights of resnet26")


def clips(folder: Path, table: str, count: int, seed: int) -> None:
    """A data frame of simulated clips in audio/, every second one with a call."""
    (folder / "audio").mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        samples = 0.05 * ambient_noise(4000, 2000, random)
        if i % 2:
            call = upcall(random, 2000, 1.0).samples
            samples[1000 : 1000 + len(call)] += 0.3 * call
        soundfile.write(folder / "audio" / f"{seed}-{i}.wav", samples, 2000)
    write_table(folder / table, [{"clip_name": f"{seed}-{i}.wav", "label": str(i % 2)} for i in range(count)])


def test_folders_of_the_command_line_and_tables_of_the_configuration_train_a_model(tmp_path: Path) -> None:
    """Both ways to name data: what was understood is said, the split is kept, the test clips are scored at the end."""
    for number, name in enumerate(("train", "validation", "test")):
        clips(tmp_path, f"{name}.csv", 16, number)
    (tmp_path / "sea").mkdir()
    simulate(tmp_path / "sea" / "sea.aiff", minutes=1, calls=3, seed=1)
    frames = [f"dataset.{n}_dataframe={tmp_path / n}.csv" for n in ("train", "validation", "test")]
    settings = [*FAST, "training.epochs=1", "prediction.precision=float32", *frames]
    settings += [f"dataset.data_folder={tmp_path / 'audio'}", "dataset.validation_strategy=custom"]
    options = [word for setting in settings for word in ("--set", setting)]
    start = ("train", "--config", NARW, *options, "--out")
    done = pamd(*start, tmp_path / "run", "--data", tmp_path, "--data", tmp_path / "sea")
    assert done.returncode == 0, done.stderr
    assert "warning: dataset.train_dataframe has no effect: --data gives the table" in done.stderr
    assert f"{tmp_path}: 16 clips of train.csv: train 16 (8 narw_upcall)" in done.stderr
    assert "1 recordings with 3 marks (upcall is narw_upcall), 0 without: train" in done.stderr
    assert f"{tmp_path}: 16 clips of test.csv: test 16 (8 narw_upcall)" in done.stderr
    assert "test, narw_upcall: positive 8, negative 8, roc_auc" in done.stderr
    rows = read_rows(tmp_path / "run" / "split.csv")
    assert [sum(row["split"] == part for row in rows) for part in ("select", "test")] == [16, 16]
    assert sum(row["split"] == "train" for row in rows) == len(rows) - 32 > 16
    assert len(read_rows(tmp_path / "run" / "test.csv")) == 16
