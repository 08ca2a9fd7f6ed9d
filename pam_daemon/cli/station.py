"""A station's commands: `run`, `replay`, `doctor`, `status`."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from pam_daemon.cli.options import PATH, Told, live_options, station_options
from pam_daemon.clock import SystemClock
from pam_daemon.errors import ConfigError, SourceError


@click.command()
@live_options
@click.option(
    "--drill",
    metavar="FILE|simulated",
    help="Play this in place of the devices, with everything marked `drill` and a journal of its own.",
)
def run(told: Told, drill: str | None) -> None:
    """Listen to hydrophones until SIGTERM or SIGINT."""
    from pam_daemon.daemon import hydrophones, journal_path, log_record
    from pam_daemon.daemon import run as run_devices
    from pam_daemon.setup import set_up
    from pam_daemon.station import Station

    config = told.load()
    choices = told.chosen_devices(config)
    if drill is not None:
        from pam_daemon.drill import rehearse

        path = journal_path(config, told.journal)
        rehearse(drill, choices, told.load, path, threshold=told.threshold, hop_s=told.hop_s)
        return
    if not choices:
        raise ConfigError("no device: give --device, or devices in the configuration; `pamd devices` lists them")
    clock, stop = SystemClock(), threading.Event()
    with hydrophones(choices, stop, clock, config.capture.ring_s, required=bool(told.devices)) as found:
        setup = set_up(config, "live", clock, threshold=told.threshold, hop_s=told.hop_s)
        path = journal_path(config, told.journal)
        with Station(setup, path, config.publish.endpoint, log_record, linger_s=0.0, stop=stop) as house:
            run_devices(house, found, config, told.load)


@click.command()
@click.argument("files", nargs=-1, required=True)
@station_options
@click.option("--start", help="UTC of the first sample, 2009-03-29T17:15:00Z, instead of the file name's.")
@click.option("--speed", default="max", show_default=True, help="max, realtime, or a factor.")
@click.option("--raven", type=PATH, help="Write a Raven selection table of the detections.")
@click.option(
    "--linger",
    "linger_s",
    type=click.FloatRange(0, 86_400),
    default=5.0,
    show_default=True,
    help="Seconds to answer recovery.",
)
def replay(
    told: Told, files: tuple[str, ...], start: str | None, speed: str, raven: Path | None, linger_s: float
) -> None:
    """Analyse recordings: FILE, DIR or GLOB. Records go to stdout, one JSON object a line, unless it is a terminal."""
    from pam_daemon.capture.sources.file import find_files, recordings
    from pam_daemon.daemon import replay as replay_recordings
    from pam_daemon.setup import set_up
    from pam_daemon.station import Station
    from pam_daemon.tools import console

    config = told.load()
    pace = _speed(speed)
    setup = set_up(config, "replay", SystemClock(), threshold=told.threshold, hop_s=told.hop_s, spin=pace is None)
    found = recordings(
        find_files(files), min_rate_hz=setup.model.card.sample_rate_hz, start=None if start is None else _instant(start)
    )
    if raven is not None:
        console.check_writable(raven)
    view = console.ReplayView(keep=raven is not None)
    endpoint = config.publish.endpoint if "publish.endpoint" in told.keys else None
    with Station(setup, told.journal, endpoint, view.show, linger_s) as house:
        for recording in found:
            console.say_start(recording)
        with view:
            done = replay_recordings(house, found, speed=pace, on_tick=view.tick, on_recording=view.begin)
    view.finish(done)
    if raven is not None:
        console.write_selections(raven, view, found)
    for recording in found:
        if recording.truncated:
            raise SourceError(f"{recording.name}: truncated: analysed what could be read, a gap record says the rest")
    if done.heard_s < done.total_s:
        raise SourceError(f"interrupted after {done.heard_s:.1f} s of {done.total_s:.1f} s of sound")


@click.command()
@live_options
@click.option(
    "--seconds",
    type=click.FloatRange(3, 60),
    default=10.0,
    show_default=True,
    help="To listen to each device.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(told: Told, seconds: float, as_json: bool) -> None:
    """Examine what `run` would use, with the same options: a line a check, and the remedy for what is wrong.

    Exit code 0: all is well; 3: there are warnings; 1: something has failed.
    """
    from pam_daemon.daemon import journal_path
    from pam_daemon.tools import console
    from pam_daemon.tools.doctor.case import Case
    from pam_daemon.tools.doctor.examination import examine

    config = told.load()
    place = partial(journal_path, config, told.journal)
    with console.silenced(), console.busy(as_json) as (screen, doing):
        found = told.chosen_devices(config)
        case = Case(config, found, place, told.threshold, told.hop_s, SystemClock(), seconds, doing)
        worst = console.show_results(examine(case), screen, as_json=as_json)
    raise click.exceptions.Exit({"ok": 0, "warning": 3, "failure": 1}[worst])


@click.command()
@click.option("--station", default="pamd", show_default=True, help="Which, where several run on this machine.")
@click.option("--drill", is_flag=True, help="Ask its drill.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(station: str, drill: bool, as_json: bool) -> None:
    """Ask a running daemon how it is."""
    from pam_daemon.control import ask, running_socket_path
    from pam_daemon.tools.console import print_json, state_lines

    answer = ask(running_socket_path(station, "drill" if drill else "live"))
    if as_json:
        print_json(answer)
    else:
        for line in state_lines(answer):
            click.echo(line)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if not 1900 <= instant.year < 2200:  # the calendar's ends are no place for a recording
            raise ValueError(f"year {instant.year}")
    except ValueError as error:
        raise ConfigError(f"--start {text}: no date and time; write 2009-03-29T17:15:00Z") from error
    if instant.tzinfo is None:
        click.echo(f"--start {text}: no time zone, UTC assumed", err=True)
        return instant.replace(tzinfo=UTC)
    return instant


def _speed(text: str) -> float | None:
    if text in ("max", "realtime"):
        return None if text == "max" else 1.0
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise ConfigError(f"--speed {text}: max, realtime or a factor above 0 is expected")
    return speed
