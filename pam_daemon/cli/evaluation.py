"""How good a model is, and where its threshold belongs: `evaluate` and `calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pam_daemon.cli.options import PATH, Told, evaluation_options, threshold_option
from pam_daemon.clock import SystemClock

if TYPE_CHECKING:
    from pam_daemon.capture.sources.file import Recording
    from pam_daemon.setup import Setup
    from pam_daemon.tools.evaluate.recordings import Channel


@click.command()
@evaluation_options
@click.option("--clips", type=PATH, help="A folder with train.csv or clips.csv and audio/, or a folder for each class.")
@click.option("--recordings", multiple=True, help="FILE, DIR or GLOB, selection tables beside them; may be repeated.")
@click.option("--split", help="Of the clips, those whose column `split` in clips.csv says so.")
@click.option("--label", help="Of the model, where it has several.")
@click.option("--marked", multiple=True, help="What the label is called in the data; may be repeated.")
@threshold_option
@click.option("--output", type=PATH, help="Write figures.json, scores.csv and, of recordings, curve.png here.")
def evaluate(
    told: Told,
    as_json: bool,
    clips: Path | None,
    recordings: tuple[str, ...],
    split: str | None,
    label: str | None,
    marked: tuple[str, ...],
    output: Path | None,
) -> None:
    """Say how good MODEL (the shipped one) is: on labelled clips, or on recordings as a replay hears them."""
    from pam_daemon.setup import set_up
    from pam_daemon.tools import console
    from pam_daemon.tools.evaluate import curve, report
    from pam_daemon.tools.evaluate.clips import find_clips, load
    from pam_daemon.tools.evaluate.recordings import Sea, read_marks
    from pam_daemon.tools.files import check_directory

    if (clips is None) == (not recordings):
        raise click.UsageError("give either --clips or --recordings")
    if clips is None and split is not None:
        raise click.UsageError("--split is of --clips")
    config = told.load()
    silent = msgspec.structs.replace(config, alerts=())
    setup = set_up(silent, "replay", SystemClock(), threshold=told.threshold, hop_s=told.hop_s, spin=True)
    chosen = report.chosen_label(setup.analysis.labels, label)
    if output is not None:
        check_directory(output)
    data = " ".join(recordings) if clips is None else f"{clips} {split or ''}".rstrip()
    subject = report.Subject(setup.analysis, setup.analysis.labels[chosen], data)
    with console.interruptible(), console.progress() as progress:
        if clips is not None:
            found = find_clips(clips, split, marked or (subject.label,))
            loaded = load(found, setup.model, progress("reading"))
            scores = loaded.scores(setup.model, chosen, config.model.batch, progress("scoring"))
            wire, rows = report.clips_wire(subject, loaded, scores), report.clip_rows(loaded, scores)
        else:
            files = _recordings(setup, recordings)
            marks = read_marks(files, marked)
            sea = Sea.of(_listen(setup, files, progress("listening")), marks, setup.analysis, chosen)
            points = sea.sweep(setup.analysis.threshold.score, progress("judging"))
            wire, rows = report.recordings_wire(subject, sea, points, files), report.window_rows(sea)
        if output is not None:
            report.write_files(output, wire, rows)
            if clips is None:
                curve.draw_curve(points, subject.analysis.threshold.score, output / report.PICTURE, report.title(wire))
    if as_json:
        console.print_json(wire)
    elif clips is not None:
        report.show_clips(wire)
    else:
        report.show_recordings(wire, points)


@click.command()
@evaluation_options
@click.option("--recordings", multiple=True, required=True, help="FILE, DIR or GLOB without the species.")
@click.option(
    "--false-per-hour", "budget", type=click.FloatRange(min=0, min_open=True), required=True, help="At most so many."
)
def calibrate(told: Told, as_json: bool, recordings: tuple[str, ...], budget: float) -> None:
    """Find the least threshold that keeps MODEL's false detections under a budget on a site's own noise.

    It is written into --config, for this model alone; without --config it is printed.
    """
    from pam_daemon.setup import set_up
    from pam_daemon.tools import calibrate as calibration
    from pam_daemon.tools import console
    from pam_daemon.tools.evaluate.recordings import read_marks

    config = told.load()
    anew = msgspec.structs.replace(config.model, threshold=None, sha256=None)
    silent = msgspec.structs.replace(config, model=anew, alerts=())
    setup = set_up(silent, "replay", SystemClock(), hop_s=told.hop_s, spin=True)
    if told.config_path is not None:
        calibration.check_site(told.config_path, setup.model.name.sha256)
    with console.interruptible(), console.progress() as progress:
        files = _recordings(setup, recordings)
        calibration.check(files, read_marks(files, ()), budget)
        channels = _listen(setup, files, progress("listening"))
        found = calibration.calibrate(channels, setup.analysis, budget)
        wire = calibration.wire(found, setup, config.model, channels, files)
        if told.config_path is not None:
            calibration.write(told.config_path, found, setup, config.model)
    if as_json:
        console.print_json(wire)
    else:
        calibration.show(wire, told.config_path)


def _recordings(setup: Setup, patterns: tuple[str, ...]) -> list[Recording]:
    from pam_daemon.capture.sources.file import find_files, recordings

    return recordings(find_files(patterns), min_rate_hz=setup.model.card.sample_rate_hz)


def _listen(setup: Setup, files: list[Recording], progress: Callable[[float, float], None]) -> list[Channel]:
    """A replay that nobody hears of, and what it scored."""
    from pam_daemon.daemon import replay as replay_recordings
    from pam_daemon.station import Station
    from pam_daemon.tools.evaluate.recordings import Scores

    scores = Scores()
    with Station(setup, None, None, lambda wire, new: None, linger_s=0.0) as house:
        house.tap = scores.take
        done = replay_recordings(
            house,
            files,
            speed=None,
            on_tick=lambda done: progress(done.heard_s, done.total_s),
            on_recording=scores.begin,
        )
    if done.heard_s < done.total_s:
        raise KeyboardInterrupt
    return scores.heard()
