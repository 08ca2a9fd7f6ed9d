"""Scores frozen models on the report recordings, once each, and appends a line each to a table of seeds.

    python tests/bench/seeds.py --data shared/data --table docs/figures/seeds.csv --config NAME RUN...

Each model must have been entered in the ledger of models scored on the report part (`pamd train --report-ledger`),
which writes the figures of the report clips into its card. The threshold is that of the rule, from the select
recordings alone: midway, in logits, between the least thresholds at which all of them together hold no more than one
detection and none. Every threshold between has that one; the lowest lies by construction just above another.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import ideas
import numpy as np
import soundfile

from pam_daemon.analysis.model import Model
from pam_daemon.tools.evaluate import match
from pam_daemon.tools.tables import read_raven

ALLOWED = (1, 0)
RIGHT_WHALES = "NOPP6_EST_20090329_121500"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="folder with narw_clips/ and recordings/")
    parser.add_argument("--table", type=Path, required=True, help="CSV file to append to")
    parser.add_argument("--config", required=True)
    chosen = parser.parse_args()
    for run in chosen.runs:
        row = {"config": chosen.config} | figures(run, chosen.data)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        _append(chosen.table, row)


def figures(run: Path, data: Path) -> dict[str, str]:
    """The threshold of one model by the rule, and what it does on the report part, as text for the table."""
    model = Model(run / "model.onnx", "cpu", threads=1)
    card = model.card
    if "report/roc_auc" not in card.training.metrics:
        raise SystemExit(f"{run}: not in the ledger yet; finish it with `pamd train --resume --report-ledger FILE`")
    scaled = card.features.normalization == "No"  # nothing in its graph brings a window to the clips' level
    folder = data / "recordings"
    threshold = threshold_by_rule([ideas.recording(model, folder / name, scaled) for name in ideas.SELECT_RECORDINGS])
    marked = read_raven(folder / f"{RIGHT_WHALES}.selections.txt")
    whales = match(ideas.calls(ideas.recording(model, folder / f"{RIGHT_WHALES}.wav", scaled), threshold), marked)
    others = sorted(path for path in folder.glob("*.flac") if path.name not in ideas.SELECT_RECORDINGS)
    false = {path.name: len(ideas.calls(ideas.recording(model, path, scaled), threshold)) for path in others}
    metrics = card.training.metrics
    shifted = metrics.get("report_shifted/roc_auc")  # the baseline has no time shifts
    return {
        "seed": str(card.training.seed),
        "epochs": str(card.training.epochs),
        "precision": card.precision,
        "select_auc": f"{metrics['select/roc_auc']:.4f}",
        "report_auc": f"{metrics['report/roc_auc']:.4f}",
        "report_shifted_auc": f"{shifted:.4f}" if shifted else "",
        "threshold": f"{threshold:.3f}",
        "nopp6_found": f"{len(whales.found)}",
        "nopp6_of": f"{len(marked)}",
        "nopp6_false": f"{len(whales.false)}",
        "nopp6_duplicates": f"{len(whales.duplicates)}",
        "report_recordings_false": f"{sum(false.values())}",
        "report_recordings_hours": f"{sum(soundfile.info(path).duration for path in others) / 3600:.3f}",
        "false_by_recording": " ".join(f"{name.split('.')[0]}:{count}" for name, count in false.items() if count),
        "created_utc": card.created_utc,
    }


def threshold_by_rule(sea: Sequence[ideas.Scored]) -> float:
    """See above; in steps of 0.001."""
    ends = np.array([least_threshold(sea, allowed) for allowed in ALLOWED])
    return round(float(1 / (1 + np.exp(-np.log(ends / (1 - ends)).mean()))), 3)


def least_threshold(sea: Sequence[ideas.Scored], allowed: int) -> float:
    """The least threshold at and above which these recordings hold no more than so many detections."""
    for step in range(999, 0, -1):
        if sum(len(ideas.calls(scored, step / 1000)) for scored in sea) > allowed:
            return min(0.999, (step + 1) / 1000)
    return 0.001


def _append(table: Path, row: dict[str, str]) -> None:
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
