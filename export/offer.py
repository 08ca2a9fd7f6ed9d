"""`pamd export`: the network of a run in several precisions, side by side; what loses too much is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export import onnx, ship, variants
from export.job import Job
from export.variants import Precision, Trained, Variant
from pam_daemon.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Offered:
    """One precision, measured; `path` is None where it was refused."""

    variant: Variant
    path: Path | None
    size_bytes: int
    windows_per_s: float


def offer(
    trained: Trained, job: Job, precisions: Sequence[Precision], output: Path, force: bool, console: Console
) -> list[Offered]:
    """Write a model file a precision, each with its card and golden windows, each whole or not at all.

    float32 is measured in any case: the others are compared with it.

    Args:
        output: a folder for model.PRECISION.onnx, or with one precision a file that ends in .onnx.
        force: write also what `variants.make` refuses.

    Raises:
        ConfigError: one file for several precisions, or a place that cannot be written.
        ModelError: onnxruntime does not give torch's scores, or a written file not its golden scores.
    """
    single = output.suffix == ".onnx" and not output.is_dir()
    if single and len(precisions) > 1:
        raise ConfigError(f"--output {output}: one file, but {len(precisions)} precisions; name a folder")
    folder = output.parent if single else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with variants.basis(trained, folder) as base:
            scored = _scored_on_report(job.out)
            made: list[tuple[Variant, Path | None]] = []
            for precision in dict.fromkeys(("float32", *precisions)):
                console.print(f"{precision} ...")
                variant = variants.make(base, precision)
                wanted = precision in precisions and (force or not variant.refused)
                path = (output if single else folder / f"model.{precision}.onnx") if wanted else None
                if path:
                    ship.complete(variant, path, base, scored, job)
                made.append((variant, path))
            files = [path or variant.graph for variant, path in made]
            speeds = onnx.windows_per_s(files, trained.split.select.audio)
            sizes = [file.stat().st_size for file in files]
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); give another --output") from error
    return [Offered(*one, size, speed) for one, size, speed in zip(made, sizes, speeds, strict=True)]


def refuse(offered: Sequence[Offered], force: bool) -> None:
    """Raises: ModelError: there is a variant that was not written."""
    refused = [one.variant.refused for one in offered if one.variant.refused and not force]
    if refused:
        raise ModelError(
            f"{'; '.join(refused)}: not written; raise prediction.quantization_largest_loss or _megabytes in "
            "RUN/config.yaml, or use --force"
        )


def table(offered: Sequence[Offered]) -> Table:
    """Size, ROC AUC and speed of each, beside those of float32."""
    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    shown.add_column("precision")
    for column in ("MB", "ROC AUC", "change", "windows/s", "speed"):
        shown.add_column(column, justify="right")
    shown.add_column("file", overflow="fold")
    first = offered[0]
    for one in offered:
        shown.add_row(
            one.variant.precision,
            f"{one.size_bytes / 1e6:.1f}",
            f"{one.variant.roc_auc:.4f}",
            f"{one.variant.roc_auc - first.variant.roc_auc:+.4f}",
            f"{one.windows_per_s:.0f}",
            f"{one.windows_per_s / first.windows_per_s:.2f} x",
            one.path.name if one.path else ("refused" if one.variant.refused else "-"),
        )
    return shown


def _scored_on_report(out: Path) -> int:
    """How many models were ever scored on the report clips, as the run's own model file counts them."""
    model = out / ship.MODEL
    return ship.card_of(model).models_scored_on_report if model.exists() else 0
