"""Scores model files on everything that choices may be made by, and appends a line each to a table of experiments.

    python tests/bench/ideas.py --data shared/data --table docs/figures/experiments.csv --idea NAME --proxy P RUN...

Clips: the select part of narw_clips, as they are and shifted to five places. Sea: the select recordings, all without
right whales, cut and judged as `pamd replay` does at a hop of 0.5 s. The threshold of every count is the one that the
same share of the shifted select clips with a call reaches, so that models of different calibration can be compared;
`sea_auc`, of these clips against all windows of the recordings, needs no threshold and varies least.
Simulated: seas with calls and confounders, at that threshold. Report clips and recordings are never opened.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import yaml

from export import dataset, evaluate, sound, table
from export.config import TrainConfig
from export.settings import load
from pam_daemon.analysis.detect import Detector, Threshold
from pam_daemon.analysis.model import Model
from pam_daemon.analysis.windows import Grid, Place, Window, Windower
from pam_daemon.capture.ring import Heard
from pam_daemon.tools.evaluate import Detected, match
from pam_daemon.tools.simulate import Sea

REPOSITORY = Path(__file__).resolve().parents[2]
SELECT_RECORDINGS = (
    "Samana_PU194_20090111_003000.flac",
    "Samana_PU194_20090111_025000.flac",
    "Samana_PU194_20090111_113000.flac",
    "67416073.210610033655.flac",
    "orcasound_lab_20250714T231129Z_n16.raw.flac",
    "orcasound_lab_20250724T174455Z_n1.raw.flac",
    "deepship_Passengership_5.flac",
    "deepship_Passengership_8.flac",
    "deepship_Passengership_12.flac",
    "deepship_Passengership_17.flac",
    "deepship_Passengership_31.flac",
    "background_small.flac",
)
RECALLS = (0.70, 0.80, 0.85, 0.90)
SEAS = (101, 102, 103)  # seeds
SEA_MINUTES, SEA_CALLS = 5.0, 25
HOP_S = 0.5
SEPARATION_S = 1.5
CLIP_PEAK = 2000 / 32768  # to which every clip of the challenge is scaled
_BATCH = 32

Audio = npt.NDArray[np.float32]
Scored = list[tuple[Place, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="RUN", help="run directories, or model files")
    parser.add_argument("--data", type=Path, required=True, help="folder with narw_clips/ and recordings/")
    parser.add_argument("--table", type=Path, help="CSV file to append to")
    parser.add_argument("--idea", default="")
    parser.add_argument("--proxy", default="none")
    parser.add_argument("--scores", type=Path, help="folder for the scores of every window, as .npz")
    chosen = parser.parse_args()
    for model in chosen.models:
        row = {"idea": chosen.idea or model.name, "proxy": chosen.proxy} | judge(model, chosen.data, chosen.scores)
        row |= {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "commit": _commit()}
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if chosen.table:
            _append(chosen.table, row)


def judge(run: Path, data: Path, keep: Path | None = None) -> dict[str, str]:
    """The figures of one model, as text for the table."""
    model = Model(run / "model.onnx" if run.is_dir() else run, "cpu", threads=1)
    scaled = model.card.features.normalization == "No"  # nothing in its graph brings a window to the clips' level
    clips, moved = _select_clips(data)
    plain = _scores(model, clips.audio)
    shifted = _scores(model, _to_peak(moved.audio) if scaled else moved.audio)
    sea = {name: recording(model, data / "recordings" / name, scaled) for name in SELECT_RECORDINGS}
    simulated = {seed: _simulated(model, seed, scaled) for seed in SEAS}
    called = np.sort(shifted[moved.labels[:, 0] == 1])
    row = {
        "seed": str(model.card.training.seed),
        "epochs": str(model.card.training.epochs),
        "precision": model.card.precision,
        "select_auc": f"{evaluate.roc_auc(clips.labels[:, 0], plain):.4f}",
        "select_shifted_auc": f"{evaluate.roc_auc(moved.labels[:, 0], shifted):.4f}",
    }
    for recall in RECALLS:
        threshold = float(called[int((1 - recall) * len(called))])
        false = {name: len(calls(scored, threshold)) for name, scored in sea.items()}
        song = sum(count for name, count in false.items() if name.startswith("Samana"))
        row[f"false_{recall:.0%}"] = f"{sum(false.values())}"
        if recall == 0.85:
            row |= {"threshold_85%": f"{threshold:.3f}", "song_85%": f"{song}"} | _found(simulated, threshold)
    windows = np.array([score for scored in sea.values() for _, score in scored])
    both = np.concatenate([called, windows])
    row["sea_auc"] = f"{evaluate.roc_auc(np.arange(len(both)) < len(called), both):.5f}"
    row["train_minutes"] = _minutes(run)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.array([score for _, score in scored]) for name, scored in sea.items()}
        arrays |= {f"sea{seed}": np.array([score for _, score in scored]) for seed, scored in simulated.items()}
        np.savez_compressed(keep / f"{run.stem}.npz", clips=plain, shifted=shifted, **arrays)
    return row


def _found(simulated: dict[int, Scored], threshold: float) -> dict[str, str]:
    found = false = 0
    for seed, scored in simulated.items():
        matching = match(calls(scored, threshold), _sea(seed).truth())
        found += len(matching.found)
        false += len(matching.false)
    return {"simulated_found": f"{found}/{len(SEAS) * SEA_CALLS}", "simulated_false": f"{false}"}


def calls(scored: Scored, threshold: float) -> list[Detected]:
    """As the daemon decides; seconds since the recording began."""
    detector, least = Detector(round(SEPARATION_S * 2000)), Threshold(threshold, "command")
    heard = [call for place, score in scored for call in detector.push(place, score, least)] + list(detector.end())
    return [Detected(call.peak.centre / 2000, call.score) for call in heard]


def recording(model: Model, path: Path, scaled: bool) -> Scored:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return _listen(model, np.ascontiguousarray(samples[:, 0]), rate_hz, scaled)


def _simulated(model: Model, seed: int, scaled: bool) -> Scored:
    return _listen(model, _sea_samples(seed), 2000, scaled)


def _listen(model: Model, samples: Audio, rate_hz: int, scaled: bool) -> Scored:
    card = model.card
    windows = list(_windows(samples, Grid(rate_hz, card.sample_rate_hz, card.window_samples, round(HOP_S * 2000))))
    audio = np.stack([window.samples for window in windows])
    scores = _scores(model, _to_peak(audio) if scaled else audio)
    return [(window.place, float(score)) for window, score in zip(windows, scores, strict=True)]


def _windows(samples: Audio, grid: Grid) -> Iterator[Window]:
    windower = Windower(grid)
    for first in range(0, len(samples), 10 * grid.source_rate_hz):
        piece = Heard(first, samples[first : first + 10 * grid.source_rate_hz])
        yield from (item for item in windower.feed(piece) if isinstance(item, Window))
    yield from (item for item in windower.close() if isinstance(item, Window))


def _scores(model: Model, audio: Audio) -> Audio:
    parts = [model.scores(audio[first : first + _BATCH])[:, 0] for first in range(0, len(audio), _BATCH)]
    return np.concatenate(parts)


def _to_peak(audio: Audio) -> Audio:
    """Each window (windows, samples) scaled as the challenge's clips are: its positive peak is 2000 of 32768."""
    scaled: Audio = audio * (CLIP_PEAK / np.maximum(audio.max(1, keepdims=True), 1e-9))
    return scaled


@cache
def _config() -> TrainConfig:
    return load(REPOSITORY / "configs" / "narw.yaml")[0]


@cache
def _select_clips(data: Path) -> tuple[dataset.Clips, dataset.Clips]:
    """The select clips as they are, and as a sliding window meets them."""
    folder = data / "narw_clips"
    rows = [row for row in table.read_table(folder / "clips.csv", ["clip_name", "split"]) if row["split"] == "select"]
    audio = np.stack([sound.read_clip(folder / "audio" / row["clip_name"], 2000) for row in rows])
    labels = np.array([[float(row["label"])] for row in rows], np.float32)
    clips = dataset.Clips([row["clip_name"] for row in rows], audio, labels, [""] * len(rows))
    return clips, evaluate.shifted(clips, _config(), seed=1)


@cache
def _sea(seed: int) -> Sea:
    return Sea(minutes=SEA_MINUTES, calls=SEA_CALLS, seed=seed)


@cache
def _sea_samples(seed: int) -> Audio:
    return np.concatenate(list(_sea(seed).blocks()))


def _minutes(run: Path) -> str:
    """Time in the epochs, by the run's history; nothing else is counted."""
    history = run / "history.csv"
    if not history.is_file():
        return ""
    configuration = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    share = configuration.get("dataset", {}).get("data_sample", 1)
    with history.open(newline="") as file:
        return f"{sum(share * 8332 / float(row['clips_per_s']) for row in csv.DictReader(file)) / 60:.1f}"


def _commit() -> str:
    command = ("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _append(table: Path, row: dict[str, str]) -> None:
    fields: Sequence[str] = list(row)
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
