"""The command line: words into calls; no logic. Errors become one line and an exit code here alone."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version

import click
import structlog

from pam_daemon.cli import evaluation, keys, listen, station, tools
from pam_daemon.errors import DependencyError, PamdError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pamd"), prog_name="pamd")
def cli() -> None:
    """Listens to the sea for whales and warns ships."""


for command in (
    *(station.run, station.replay, station.doctor, station.status),
    *(listen.listen, keys.keys),
    *(evaluation.evaluate, evaluation.calibrate),
    *(tools.devices, tools.config, tools.model, tools.simulate, tools.picture, tools.demo),
):
    cli.add_command(command)


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


def _loaded(entry: EntryPoint) -> click.Command:
    """Another package's command; what is wrong with it is told by it alone, and stops no daemon."""
    try:
        command: click.Command = entry.load()
        return command
    except (ImportError, AttributeError) as error:
        text = f"{entry.name} cannot be loaded from {entry.value} ({error}); install its package anew"

    def refuse(_: tuple[str, ...]) -> None:
        raise DependencyError(text)

    words = click.Argument(["_"], nargs=-1, type=click.UNPROCESSED)
    settings = {"ignore_unknown_options": True}
    return click.Command(entry.name, settings, refuse, [words], help="Cannot be loaded.")


def main() -> None:
    """The entry point: everything that a user can cause or cure ends as one line on stderr."""
    _set_up_logging()
    for entry in entry_points(group="pamd.commands"):
        cli.add_command(_loaded(entry))
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
