"""`pamd listen`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click

from pam_daemon.cli.options import PATH
from pam_daemon.clock import SystemClock
from pam_daemon.config import DEFAULT_ENDPOINT
from pam_daemon.records import Kind, Mode

DEAF_CODE = 4  # of --fail-when-deaf


@click.command()
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
    from pam_daemon.subscribe.vigil import Vigil
    from pam_daemon.tools.listen import Choice, Command, printed
    from pam_daemon.tools.listen import listen as hand_on_records

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
