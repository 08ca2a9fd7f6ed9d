"""What every check is given and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pam_daemon.clock import Clock
from pam_daemon.config import Config, Device
from pam_daemon.errors import ConfigError, PamdError

Verdict = Literal["ok", "warning", "failure"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # the worst last


@dataclass(frozen=True, slots=True)
class Result:
    """One line."""

    check: str
    verdict: Verdict
    found: str
    remedy: str | None = None
    """What to do about it; None where all is well."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is examined: what `run` would be given."""

    config: Config
    devices: Sequence[Device]
    journal_path: Callable[[], Path]
    threshold: float | None
    hop_s: float | None
    clock: Clock
    seconds: float
    """How long to listen to each device."""
    doing: Callable[[str], object]
    """Told what takes a while."""


def guarded(check: str, results: Iterator[Result]) -> Iterator[Result]:
    """What stops one check is its result."""
    try:
        yield from results
    except PamdError as error:
        yield refusal(check, error)
    except OSError as error:
        yield Result(check, "failure", str(error), "make room, get the right to it, or give another path")


def refusal(check: str, error: PamdError) -> Result:
    """Our errors say what is wrong and, after the last semicolon, the remedy; a wrong setting is a check of its own."""
    found, _, remedy = str(error).rpartition("; ")
    name = "settings" if isinstance(error, ConfigError) else check
    return Result(name, "failure", found, remedy) if found else Result(name, "failure", remedy)
