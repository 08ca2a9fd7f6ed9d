"""`pamd train`, `report` and `export`: their options alone. torch is imported only when a command runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pam_daemon.errors import DependencyError

_REMEDY = 'pip install "pamd[train]"'
_RUN = click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path(path_type=Path))
_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder with the clips; may be repeated. Without it, where the run found them.",
)


@contextmanager
def _training_packages(command: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise DependencyError(f"pamd {command} needs {error.name}, which is not installed; {_REMEDY}") from error


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="YAML file.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder with train.csv and audio/, a folder a class, or recordings with or without selection tables; may be "
    "repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory to make.")
@click.option("--weights", help="First weights of the backbone: a file of timm's, or `none` to train from scratch.")
@click.option("--resume", is_flag=True, help="Carry on a run that was stopped.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key; may be repeated.")
@click.option(
    "--report-ledger",
    "ledger",
    type=click.Path(path_type=Path),
    help="Score the frozen model on the report clips, once, and append it to this CSV file of all that ever were.",
)
@click.pass_context
def train(
    ctx: click.Context,
    config_path: Path,
    data: tuple[Path, ...],
    out: Path,
    weights: str | None,
    resume: bool,
    overrides: tuple[str, ...],
    ledger: Path | None,
) -> None:
    """Train a model on labelled clips and export it to OUT/model.onnx."""
    with _training_packages("train"):
        from rich.console import Console

        from export import train as training
        from export.checkpoint import CONFIG
        from export.job import Job
        from export.settings import load
    console = Console(stderr=True, highlight=False, markup=False)
    config, text, warnings = load(config_path, overrides)
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    command = _command(config_path, data, out, weights, overrides)
    job = Job(config, text, data, out, weights, resume, ledger, command)
    try:
        model = training.train(job, console)
    except KeyboardInterrupt:
        words = shlex.join(["--report-ledger", str(ledger), "--resume"] if ledger else ["--resume"])
        begun = (out / CONFIG).exists()
        hint = f"stopped; carry on with `{command} {words}`" if begun else "stopped before the run began"
        console.print(hint, soft_wrap=True)
        ctx.exit(130)
    if model:
        text = f"{model}: see it with `pamd model {model}`"
    else:
        text = f"{out}: no model file, as training.build_scoring_pipelines is false; --resume with true makes it"
    console.print(text, soft_wrap=True)


@click.command()
@_RUN
@_DATA
def report(run: Path, data: tuple[Path, ...]) -> None:
    """Draw RUN/report.html again, from what the run left."""
    with _training_packages("report"):
        from rich.console import Console

        from export import report as reports
        from export.run import open_run
    trained, history, job = open_run(run, data, Console(stderr=True, highlight=False, markup=False))
    click.echo(reports.draw(trained, history, job, anew=False))


@click.command()
@_RUN
@_DATA
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["float32", "float16", "int8"]),
    multiple=True,
    help="May be repeated; without it, all three.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for model.PRECISION.onnx, by default the run's; with one precision, a file that ends in .onnx.",
)
@click.option("--force", is_flag=True, help="Write also what loses more than the configuration allows.")
def export(run: Path, data: tuple[Path, ...], precisions: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Export a run's network in several precisions, and show size, AUC and speed side by side."""
    with _training_packages("export"):
        from rich.console import Console

        from export import offer, variants
        from export.run import open_run
    console = Console(stderr=True, highlight=False, markup=False)
    trained, _, job = open_run(run, data, console)
    wanted = [precision for precision in variants.PRECISIONS if precision in (precisions or variants.PRECISIONS)]
    offered = offer.offer(trained, job, wanted, output or job.out, force, console)
    Console().print(offer.table(offered))
    offer.refuse(offered, force)


def _command(config: Path, data: tuple[Path, ...], out: Path, weights: str | None, overrides: tuple[str, ...]) -> str:
    """The command that makes this model, for the card: without --resume, which changes nothing in it."""
    words = ["pamd", "train", "--config", str(config)]
    for folder in data:
        words += ["--data", str(folder)]
    words += ["--out", str(out)]
    if weights:
        words += ["--weights", weights]
    for override in overrides:
        words += ["--set", override]
    return shlex.join(words)
