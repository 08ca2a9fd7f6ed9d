"""A small folder of real clips for the training tests, laid out as the whole one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from export.config import TrainConfig
from export.settings import load

REPOSITORY = Path(__file__).resolve().parent.parent
NARW = REPOSITORY / "configs" / "narw.yaml"
HYDROGEN_TORCH = REPOSITORY / "configs" / "whale_detection.yaml"
BASELINE = REPOSITORY / "configs" / "hydrogen_torch_baseline.yaml"

# A network and a schedule that train in seconds.
FAST = (
    "architecture.backbone=test_resnet",
    "training.epochs=2",
    "training.batch_size=8",
    "training.warmup_epochs=0",
    "audio.mel_frequency_bins=16",
    "audio.hop_size=128",
    "audio.fft_size=1024",
    "logging.number_of_audios=1",
)


def fast_config(*overrides: str) -> TrainConfig:
    """The configuration of the shipped model, made fast, and changed as asked."""
    return load(NARW, [*FAST, *overrides])[0]


def small_clips(data_dir: Path, folder: Path, each: int = 8) -> Path:
    """A folder with the first `each` clips of every label and part, linked."""
    source = data_dir / "narw_clips"
    with (source / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [
        row
        for part in ("train", "select", "report")
        for label in "01"
        for row in [row for row in rows if row["split"] == part and row["label"] == label][:each]
    ]
    (folder / "audio").mkdir(parents=True)
    for row in chosen:
        (folder / "audio" / row["clip_name"]).symlink_to(source / "audio" / row["clip_name"])
    write_table(folder / "train.csv", [{key: row[key] for key in ("clip_name", "label")} for row in chosen])
    write_table(folder / "clips.csv", [{key: row[key] for key in ("clip_name", "split")} for row in chosen])
    return folder


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows of equal keys as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def synthetic_clips(folder: Path, seed: int = 1) -> Path:
    """A folder of 24 clips of noise, every other one with a tone: 16 to train with and 8 to select by."""
    random = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True)
    rows = [
        {"clip_name": f"{i:02}.wav", "label": str(i % 2), "split": "select" if i >= 16 else "train"} for i in range(24)
    ]
    for i, row in enumerate(rows):
        tone = 0.2 * (i % 2) * np.sin(2 * np.pi * 200 * np.arange(4000) / 2000)
        soundfile.write(folder / "audio" / row["clip_name"], random.normal(0, 0.1, 4000) + tone, 2000)
    write_table(folder / "train.csv", [{key: row[key] for key in ("clip_name", "label")} for row in rows])
    write_table(folder / "clips.csv", [{key: row[key] for key in ("clip_name", "split")} for row in rows])
    return folder
