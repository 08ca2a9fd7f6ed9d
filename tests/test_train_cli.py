"""The command line of `pamd train`, as processes: without torch, with mistakes, and what it says at its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from clips import HYDROGEN_TORCH, NARW, small_clips

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "
PAMD = "from pam_daemon.cli import main; main()"


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
    done = pamd("train", "--config", NARW, "--data", folder, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr == f"pamd: {lost}: no such clip; restore it or remove its row from the table\n"
    assert not (tmp_path / "run").exists()  # so that the same command works once the clip is there


def test_the_hydrogen_torch_file_says_all_that_has_no_effect_and_asks_for_weights(tmp_path: Path) -> None:
    arguments = ("--config", HYDROGEN_TORCH, "--data", tmp_path, "--out", tmp_path / "run")
    done = pamd("train", *arguments, "--set", "architecture.backbone=resnet26", "--set", "environment.gpus=[]")
    assert done.returncode == 1
    *warnings, error = done.stderr.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert any("training.run_interpretations has no effect" in line for line in warnings)
    assert any("environment.mixed_precision_training has no effect: training runs on the CPU" in w for w in warnings)
    assert any("93 of 128 mel bins are empty" in line for line in warnings)
    assert error.startswith("pamd: architecture.pretrained: no weights of resnet26")
