"""The command line: words into calls; no logic. Errors become one line and an exit code here alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
import structlog

from pam_daemon.clock import SystemClock
from pam_daemon.config import DEFAULT_ENDPOINT, Config, Device, Provider
from pam_daemon.errors import ConfigError, PamdError, SourceError
from pam_daemon.records import Kind, Mode
from pam_daemon.settings import commented_yaml, load_config

if TYPE_CHECKING:
    from pam_daemon.sources.file import Recording
    from pam_daemon.station import Setup
    from pam_daemon.tools.evaluate.recordings import Channel

PATH = click.Path(path_type=Path)
DEAF_CODE = 4  # of `listen --fail-when-deaf`


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pamd"), prog_name="pamd")
def cli() -> None:
    """Listens to the sea for whales and warns ships."""


def station_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `run`, `doctor` and `replay` have in common."""
    for option in (
        click.option("--config", "config_path", type=PATH, help="YAML; `pamd config` prints one."),
        click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Over the configuration."),
        click.option("--model", type=PATH, help="An ONNX file with a pamd card, instead of the shipped one."),
        click.option("--threshold", type=float, help="Of the score, 0 to 1, instead of the model's own."),
        click.option("--hop", "hop_s", type=float, help="Seconds between windows, instead of the model's own."),
        click.option("--station", help="Name in topics and ids."),
        click.option("--endpoint", help="Publish at tcp://HOST:PORT; recovery at PORT + 1."),
        click.option("--keys", type=PATH, help="Encrypt, and admit whom this directory of `pamd keys` allows."),
        click.option("--insecure", is_flag=True, help="Let anybody who reaches the endpoint in, wherever it is."),
        click.option("--journal", type=PATH, help="Keep the records in this file."),
    ):
        command = option(command)
    return command


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `run` and `doctor` listen to, and where they keep it."""
    for option in (
        click.option("--device", "devices", multiple=True, help="As `pamd devices` prints it; may be repeated."),
        click.option("--channels", default="1", show_default=True, help="Of each --device, from 1, with commas."),
        click.option(
            "--record", type=PATH, help="Keep the sound in this directory, as FLAC, with clips of detections."
        ),
    ):
        command = option(command)
    return command


def _devices(names: tuple[str, ...], channels: str, config: Config) -> Sequence[Device]:
    """Those of the command, else the configured ones."""
    numbers = _numbers(channels)
    return [msgspec.convert({"device": name, "channels": numbers}, Device) for name in names] or config.devices


def _load(
    config_path: Path | None,
    settings: tuple[str, ...],
    model: Path | None,
    station: str | None,
    endpoint: str | None,
    threshold: float | None,
    keys: Path | None,
    insecure: bool,
    record: Path | None = None,
) -> Config:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold {threshold:g}: a score lies between 0 and 1")
    given = {
        "model.path": model,
        "station.name": station,
        "publish.endpoint": endpoint,
        "publish.keys": keys,
        "record.directory": record,
    }
    settings = (*settings, *(["publish.insecure=true"] if insecure else []))
    return load_config(config_path, settings, {key: str(value) for key, value in given.items() if value is not None})


@cli.command()
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
    files: tuple[str, ...],
    config_path: Path | None,
    settings: tuple[str, ...],
    model: Path | None,
    threshold: float | None,
    hop_s: float | None,
    station: str | None,
    endpoint: str | None,
    keys: Path | None,
    insecure: bool,
    journal: Path | None,
    start: str | None,
    speed: str,
    raven: Path | None,
    linger_s: float,
) -> None:
    """Analyse recordings: FILE, DIR or GLOB. Records go to stdout, one JSON object a line, unless it is a terminal."""
    from pam_daemon.daemon import replay as replay_recordings
    from pam_daemon.sources.file import find_files, recordings
    from pam_daemon.station import Station, set_up
    from pam_daemon.tools import console

    config = _load(config_path, settings, model, station, endpoint, threshold, keys, insecure)
    pace = _speed(speed)
    setup = set_up(config, "replay", SystemClock(), threshold=threshold, hop_s=hop_s, spin=pace is None)
    found = recordings(
        find_files(files), min_rate_hz=setup.model.card.sample_rate_hz, start=None if start is None else _instant(start)
    )
    if raven is not None:
        console.check_writable(raven)
    view = console.ReplayView(keep=raven is not None)
    endpoint = config.publish.endpoint if endpoint is not None else None
    with Station(setup, journal, endpoint, view.show, linger_s) as house:
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


@cli.command()
@device_options
@station_options
@click.option(
    "--drill",
    metavar="FILE|simulated",
    help="Play this in place of the devices, with everything marked `drill` and a journal of its own.",
)
def run(
    devices: tuple[str, ...],
    channels: str,
    config_path: Path | None,
    settings: tuple[str, ...],
    model: Path | None,
    threshold: float | None,
    hop_s: float | None,
    station: str | None,
    endpoint: str | None,
    keys: Path | None,
    insecure: bool,
    journal: Path | None,
    record: Path | None,
    drill: str | None,
) -> None:
    """Listen to hydrophones until SIGTERM or SIGINT."""
    from pam_daemon.daemon import hydrophones, journal_path, log_record
    from pam_daemon.daemon import run as run_devices
    from pam_daemon.station import Station, set_up

    load = partial(_load, config_path, settings, model, station, endpoint, threshold, keys, insecure, record)
    config = load()
    choices = _devices(devices, channels, config)
    if drill is not None:
        from pam_daemon.drill import rehearse

        rehearse(drill, choices, load, journal_path(config, journal), threshold=threshold, hop_s=hop_s)
        return
    if not choices:
        raise ConfigError("no device: give --device, or devices in the configuration; `pamd devices` lists them")
    clock, stop = SystemClock(), threading.Event()
    with hydrophones(choices, stop, clock, config.capture.ring_s, required=bool(devices)) as found:
        setup = set_up(config, "live", clock, threshold=threshold, hop_s=hop_s)
        path = journal_path(config, journal)
        with Station(setup, path, config.publish.endpoint, log_record, linger_s=0.0, stop=stop) as house:
            run_devices(house, found, config, load)


@cli.command()
@device_options
@station_options
@click.option(
    "--seconds",
    type=click.FloatRange(3, 60),
    default=10.0,
    show_default=True,
    help="To listen to each device.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(
    devices: tuple[str, ...],
    channels: str,
    record: Path | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    model: Path | None,
    threshold: float | None,
    hop_s: float | None,
    station: str | None,
    endpoint: str | None,
    keys: Path | None,
    insecure: bool,
    journal: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Examine what `run` would use, with the same options: a line a check, and the remedy for what is wrong.

    Exit code 0: all is well; 3: there are warnings; 1: something has failed.
    """
    from pam_daemon.daemon import journal_path
    from pam_daemon.tools import console
    from pam_daemon.tools.doctor.case import Case
    from pam_daemon.tools.doctor.examination import examine

    config = _load(config_path, settings, model, station, endpoint, threshold, keys, insecure, record)
    place = partial(journal_path, config, journal)
    with console.silenced(), console.busy(as_json) as (screen, doing):
        case = Case(config, _devices(devices, channels, config), place, threshold, hop_s, SystemClock(), seconds, doing)
        worst = console.show_results(examine(case), screen, as_json=as_json)
    raise click.exceptions.Exit({"ok": 0, "warning": 3, "failure": 1}[worst])


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def devices(as_json: bool) -> None:
    """List what can be captured from, with the names that --device takes."""
    from pam_daemon.sources.device import list_devices

    for device in list_devices():
        line = f"{device.full_name}\t{device.channels} channels\t{device.sample_rate_hz} Hz"
        click.echo(msgspec.json.encode(device) if as_json else line)


@cli.command()
def config() -> None:
    """Print the whole configuration, commented."""
    click.echo(commented_yaml(), nl=False)


@cli.command()
@click.argument("file", type=PATH, required=False)
@click.option("--provider", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
def model(file: Path | None, provider: Provider) -> None:
    """Print a model's card (the shipped one's without FILE) and run its golden self-test."""
    from pam_daemon.model import Model, shipped_model
    from pam_daemon.tools.console import card_lines

    for line in card_lines(Model(file or shipped_model(), provider)):
        click.echo(line)


@cli.command()
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


@cli.command()
@click.argument("endpoint", default=DEFAULT_ENDPOINT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as where stdout is a pipe.")
@click.option("--state", type=PATH, help="Keep the place in this file: a restart carries on, and nothing is left out.")
@click.option(
    "--from",
    "begin",
    type=click.Choice(["now", "beginning"]),
    help="Where the first start begins: now, but with --state and no --exec at the beginning.",
)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(get_args(Kind)), help="These alone; may be repeated.")
@click.option("--station", "stations", multiple=True, help="These alone; may be repeated.")
@click.option("--label", "labels", multiple=True, help="Detections and alerts of this label; may be repeated.")
@click.option(
    "--mode", "modes", multiple=True, type=click.Choice(get_args(Mode)), help="These alone; with --exec live ones."
)
@click.option("--min-score", type=click.FloatRange(0, 1), help="Detections of this score at least, alerts with one.")
@click.option("--exec", "command", metavar="CMD", help="Run CMD for each alert (or --kind), the record on its stdin.")
@click.option("--exec-timeout", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, help="Seconds.")
@click.option("--fail-when-deaf", is_flag=True, help=f"End with exit code {DEAF_CODE} when the station is deaf.")
@click.option("--key", type=PATH, help="This subscriber's own, NAME.secret, for a station with keys.")
@click.option("--server-key", help="The station's public key, or a file with it.")
def listen(
    endpoint: str,
    as_json: bool,
    state: Path | None,
    begin: str | None,
    kinds: tuple[Kind, ...],
    stations: tuple[str, ...],
    labels: tuple[str, ...],
    modes: tuple[Mode, ...],
    min_score: float | None,
    command: str | None,
    exec_timeout: float,
    fail_when_deaf: bool,
    key: Path | None,
    server_key: str | None,
) -> None:
    """Print records as they come from ENDPOINT, or run a command with each, until SIGTERM or SIGINT."""
    from pam_daemon.subscribe import Subscriber
    from pam_daemon.tools.listen import Choice, Command, printed
    from pam_daemon.tools.listen import listen as hand_on_records
    from pam_daemon.vigil import Vigil

    clock = SystemClock()
    hand_on = printed(as_json=as_json or not sys.stdout.isatty())
    if command is not None:
        kinds, modes, begin = kinds or ("alert",), modes or ("live",), begin or "now"
        hand_on = Command(command, exec_timeout).run
    with Subscriber(
        endpoint,
        kinds=kinds or None,
        stations=stations or None,
        state=state,
        from_beginning=None if begin is None else begin == "beginning",
        save_every_s=0.5 if command is None else 0.0,
        clock=clock,
        key=key,
        server_key=server_key,
    ) as subscriber:
        choice = Choice(kinds, stations, labels, modes, min_score)
        deaf = hand_on_records(subscriber, choice, hand_on, Vigil(endpoint, clock), fail_when_deaf=fail_when_deaf)
    if deaf:
        raise click.exceptions.Exit(DEAF_CODE)


@cli.group()
def keys() -> None:
    """Make keys, and say whose are allowed: a station's and its subscribers', for CurveZMQ."""


def keys_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where keys are."""
    return click.option("--dir", "directory", type=PATH, help="Of the keys, instead of the user's own.")(command)


@keys.command()
@click.argument("name")
@keys_option
def new(name: str, directory: Path | None) -> None:
    """Make the key pair of a station or a subscriber; its public key goes to stdout."""
    from pam_daemon.keys import allow_command, default_directory, new_pair

    place = directory or default_directory()
    pair = new_pair(place, name)
    click.echo(pair.public)
    click.echo(f"{name}: the secret is in {place}; a subscriber is let in by this, said at the station:", err=True)
    click.echo(f"  {allow_command(name, pair)}", err=True)


@keys.command()
@click.argument("name")
@click.argument("public_key")
@keys_option
def allow(name: str, public_key: str, directory: Path | None) -> None:
    """Let the subscriber NAME in, whose PUBLIC_KEY is given as such or as a file with it."""
    from pam_daemon import keys as files

    files.allow(directory or files.default_directory(), name, files.public_key(public_key))
    click.echo(f"{name}: allowed, from the station's next start or reload", err=True)


@keys.command()
@click.argument("name")
@keys_option
def revoke(name: str, directory: Path | None) -> None:
    """Let the subscriber NAME in no more."""
    from pam_daemon import keys as files

    files.revoke(directory or files.default_directory(), name)
    click.echo(f"{name}: revoked; a reload of the station (SIGHUP) ends its connections", err=True)


@keys.command("list")
@keys_option
def list_keys(directory: Path | None) -> None:
    """List the public keys: one's own, and those that are allowed."""
    from pam_daemon.keys import default_directory, own_pairs, read_subscribers

    place = directory or default_directory()
    for name, pair in own_pairs(place).items():
        click.echo(f"own\t{name}\t{pair.public}")
    for name, key in read_subscribers(place).items():
        click.echo(f"allowed\t{name}\t{key}")


@cli.command()
@click.argument("path", type=PATH)
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--calls", type=int, default=30, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def simulate(path: Path, minutes: float, calls: int, seed: int) -> None:
    """Write a simulated sea with upcalls at known times, and its truth as a Raven table beside it."""
    from pam_daemon.tools.simulate import simulate as simulate_sea
    from pam_daemon.tools.simulate import truth_path

    simulate_sea(path, minutes=minutes, calls=calls, seed=seed)
    click.echo(f"{path}: a simulated sea, {minutes:g} min with {calls} upcalls; the truth is in {truth_path(path)}")


@cli.command()
@click.argument("clip", type=PATH)
@click.option("--out", type=PATH, help="The PNG, instead of CLIP.png beside it.")
@click.option("--model", type=PATH, help="Frequencies up to this model's mel range, instead of the shipped one's.")
@click.option("--channel", type=int, default=1, show_default=True)
def picture(clip: Path, out: Path | None, model: Path | None, channel: int) -> None:
    """Draw the spectrogram of a clip, or of any recording."""
    from pam_daemon.model import Model, shipped_model
    from pam_daemon.tools.picture import draw_clip

    features = Model(model or shipped_model(), "cpu").card.features
    click.echo(draw_clip(clip, out, 1.1 * features.max_hz, channel))


@cli.command()
@click.option("--dir", "directory", type=PATH, default=Path("demo"), show_default=True, help="Where the files go.")
def demo(directory: Path) -> None:
    """Simulate a sea, replay it while another process listens, and compare with the truth."""
    from pam_daemon.tools.demo import demonstrate

    demonstrate(directory)


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `evaluate` and `calibrate` have in common."""
    for option in (
        click.argument("model", type=PATH, required=False),
        click.option("--config", "config_path", type=PATH, help="The site's YAML."),
        click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Over the configuration."),
        click.option("--hop", "hop_s", type=float, help="Seconds between windows, instead of the model's own."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table."),
    ):
        command = option(command)
    return command


@cli.command()
@evaluation_options
@click.option("--clips", type=PATH, help="A folder with train.csv or clips.csv and audio/, or a folder for each class.")
@click.option("--recordings", multiple=True, help="FILE, DIR or GLOB, selection tables beside them; may be repeated.")
@click.option("--split", help="Of the clips, those whose column `split` in clips.csv says so.")
@click.option("--label", help="Of the model, where it has several.")
@click.option("--marked", multiple=True, help="What the label is called in the data; may be repeated.")
@click.option("--threshold", type=float, help="Of the score, 0 to 1, instead of the model's own.")
@click.option("--output", type=PATH, help="Write figures.json, scores.csv and, of recordings, curve.png here.")
def evaluate(
    model: Path | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    hop_s: float | None,
    as_json: bool,
    clips: Path | None,
    recordings: tuple[str, ...],
    split: str | None,
    label: str | None,
    marked: tuple[str, ...],
    threshold: float | None,
    output: Path | None,
) -> None:
    """Say how good MODEL (the shipped one) is: on labelled clips, or on recordings as a replay hears them."""
    from pam_daemon.station import set_up
    from pam_daemon.tools import console
    from pam_daemon.tools.evaluate import curve, report
    from pam_daemon.tools.evaluate.clips import find_clips, load
    from pam_daemon.tools.evaluate.recordings import Sea, read_marks
    from pam_daemon.tools.files import check_directory

    if (clips is None) == (not recordings):
        raise click.UsageError("give either --clips or --recordings")
    if clips is None and split is not None:
        raise click.UsageError("--split is of --clips")
    config = _load(config_path, settings, model, None, None, threshold, None, False)
    setup = set_up(
        msgspec.structs.replace(config, alerts=()), "replay", SystemClock(), threshold=threshold, hop_s=hop_s, spin=True
    )
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


@cli.command()
@evaluation_options
@click.option("--recordings", multiple=True, required=True, help="FILE, DIR or GLOB without the species.")
@click.option(
    "--false-per-hour", "budget", type=click.FloatRange(min=0, min_open=True), required=True, help="At most so many."
)
def calibrate(
    model: Path | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    hop_s: float | None,
    as_json: bool,
    recordings: tuple[str, ...],
    budget: float,
) -> None:
    """Find the least threshold that keeps MODEL's false detections under a budget on a site's own noise.

    It is written into --config, for this model alone; without --config it is printed.
    """
    from pam_daemon.station import set_up
    from pam_daemon.tools import calibrate as calibration
    from pam_daemon.tools import console
    from pam_daemon.tools.evaluate.recordings import read_marks

    config = _load(config_path, settings, model, None, None, None, None, False)
    anew = msgspec.structs.replace(config.model, threshold=None, sha256=None)
    setup = set_up(
        msgspec.structs.replace(config, model=anew, alerts=()), "replay", SystemClock(), hop_s=hop_s, spin=True
    )
    if config_path is not None:
        calibration.check_site(config_path, setup.model.name.sha256)
    with console.interruptible(), console.progress() as progress:
        files = _recordings(setup, recordings)
        calibration.check(files, read_marks(files, ()), budget)
        channels = _listen(setup, files, progress("listening"))
        found = calibration.calibrate(channels, setup.analysis, budget)
        wire = calibration.wire(found, setup, config.model, channels, files)
        if config_path is not None:
            calibration.write(config_path, found, setup, config.model)
    if as_json:
        console.print_json(wire)
    else:
        calibration.show(wire, config_path)


def _recordings(setup: Setup, patterns: tuple[str, ...]) -> list[Recording]:
    from pam_daemon.sources.file import find_files, recordings

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


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--channels {text}: numbers from 1 with commas between, each once, are expected")
    return numbers


def _set_up_logging() -> None:
    """To stderr: for people on a terminal, JSON elsewhere."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main() -> None:
    """The entry point: everything that a user can cause or cure ends as one line on stderr."""
    _set_up_logging()
    for command in entry_points(group="pamd.commands"):
        cli.add_command(command.load())
    try:
        code = cli.main(standalone_mode=False)
    except PamdError as error:
        click.echo(f"pamd: {error}", err=True)
        code = 1
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        click.echo(f"pamd: {error.format_message()}", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code)
