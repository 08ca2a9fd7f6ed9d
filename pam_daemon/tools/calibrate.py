"""The threshold that keeps false detections under a budget on a site's own noise, for the site's configuration.

Of a count as small as a site's noise gives, the rate seen says little: with 3 false detections in 3 h it is 1/h, and
with the same right might be 2.6/h. So the budget is held against the upper bound: with 95 % confidence (one-sided,
exact, Garwood 1936) the rate is no higher. With no false detection at all this bound is three in the time heard, so
recordings in which the budget does not allow three events cannot tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pam_daemon.analysis.model import shipped_model
from pam_daemon.analysis.stream import Analysis
from pam_daemon.capture.sources.file import Recording
from pam_daemon.config import ModelChoice
from pam_daemon.errors import ConfigError, SourceError, TableError
from pam_daemon.records import Wire
from pam_daemon.settings import load_config
from pam_daemon.setup import Setup
from pam_daemon.tools.evaluate.figures import poisson_upper
from pam_daemon.tools.evaluate.recordings import Channel, detections, notes
from pam_daemon.tools.site import set_values, with_values
from pam_daemon.tools.tables import Selection

LEAST_EXPECTED = 3.0  # false detections that the budget allows in the time heard
STEPS = 1000  # thresholds are multiples of 1 / STEPS


@dataclass(frozen=True)
class Calibration:
    """What was found; rates are of all labels together, on the time heard of all channels."""

    threshold: float
    false: int
    hours: float

    @property
    def per_hour(self) -> float:
        return self.false / self.hours

    @property
    def upper_per_hour(self) -> float:
        return poisson_upper(self.false) / self.hours


def check(recordings: Sequence[Recording], marks: Mapping[str, Sequence[Selection]], budget_per_hour: float) -> None:
    """Refuse what cannot be calibrated by, before anything is heard.

    Raises:
        TableError: a recording has marked calls, while all detections are taken for false.
        SourceError: recordings that are too short.
    """
    for name, own in marks.items():
        if own:
            raise TableError(
                f"{name}: calls are marked in it ({len(own)}); calibrate by recordings without the species"
            )
    _check_long_enough(sum(r.samples * r.channels / r.sample_rate_hz for r in recordings) / 3600, budget_per_hour)


def _check_long_enough(hours: float, budget_per_hour: float) -> None:
    needed = LEAST_EXPECTED / budget_per_hour
    if hours < needed:
        raise SourceError(
            f"{hours:.2f} h of recordings are too short to tell {budget_per_hour:g} false/h: at that rate fewer than "
            f"{LEAST_EXPECTED:g} detections would be in them; give at least {needed:.2f} h"
        )


def calibrate(channels: Sequence[Channel], analysis: Analysis, budget_per_hour: float) -> Calibration:
    """The least threshold, in steps of 1 / STEPS, at which the upper bound of the rate keeps to the budget.

    By bisection: a detection at a threshold is one at each lower threshold, so counts fall as thresholds rise.

    Raises:
        SourceError: recordings that are too short to tell, or in which no threshold is high enough.
    """
    hours = sum(channel.heard_h for channel in channels)
    _check_long_enough(hours, budget_per_hour)
    best = _at(1.0, channels, analysis)
    if best.upper_per_hour > budget_per_hour:
        raise SourceError(
            f"even threshold 1 gives {best.false} false detections in {hours:.2f} h, which may be "
            f"{best.upper_per_hour:.2f}/h; allow more an hour, or use another model"
        )
    low, high = -1, STEPS  # steps: one that gives too many, one that does not
    while high - low > 1:
        middle = (low + high) // 2
        tried = _at(middle / STEPS, channels, analysis)
        if tried.upper_per_hour <= budget_per_hour:
            high, best = middle, tried
        else:
            low = middle
    return best


def _at(threshold: float, channels: Sequence[Channel], analysis: Analysis) -> Calibration:
    hours = sum(channel.heard_h for channel in channels)
    return Calibration(threshold, false_at(channels, analysis, threshold), hours)


def false_at(channels: Sequence[Channel], analysis: Analysis, threshold: float) -> int:
    """How many detections a threshold gives, of all labels."""
    separation = round(analysis.min_separation_s * analysis.model_rate_hz)
    labels = range(len(analysis.labels))
    return sum(sum(1 for _ in detections(c, label, threshold, separation)) for c in channels for label in labels)


def check_site(place: Path, sha256: str) -> None:
    """A threshold is written only for the model that the site listens with.

    Raises:
        ConfigError: the configuration names another model, or one that cannot be read.
    """
    choice = load_config(place).model
    path = Path(choice.path) if choice.path else shipped_model()
    try:
        own = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{place}: model.path: {path}: cannot be read ({error.strerror}); correct it") from error
    if own != sha256:
        named = f"model.path {path}" if choice.path else "the shipped model, as there is no model.path,"
        raise ConfigError(f"{place}: {named} is another model than the calibrated one; name that one in it")


def write(place: Path, found: Calibration, setup: Setup, choice: ModelChoice) -> None:
    """Set the site's threshold, for this model alone; and the hop that it was found with, unless it is the model's own.

    Raises:
        ConfigError: the file cannot be edited; it is as it was.
    """
    analysis, card = setup.analysis, setup.model.card
    values: dict[str, float | str] = {"threshold": found.threshold, "sha256": setup.model.name.sha256}
    if analysis.hop_samples != card.hop_samples or choice.hop_s is not None:
        values["hop_s"] = analysis.hop_samples / analysis.model_rate_hz
    set_values(place, "model", values)


def wire(
    found: Calibration,
    setup: Setup,
    choice: ModelChoice,
    channels: Sequence[Channel],
    recordings: Sequence[Recording],
) -> Wire:
    """What was found and what was before; `choice` is the site's, as it was."""
    analysis, sha256 = setup.analysis, setup.model.name.sha256
    before, of = (
        (choice.threshold, choice.sha256) if choice.threshold is not None else (analysis.threshold.score, sha256)
    )
    counted = false_at(channels, analysis, before) if of == sha256 else None
    return {
        "model": {"name": analysis.model.name, "sha256": sha256},
        "hop_s": analysis.hop_samples / analysis.model_rate_hz,
        "hours": found.hours,
        "threshold": found.threshold,
        "false": found.false,
        "false_per_hour": found.per_hour,
        "false_per_hour_upper": found.upper_per_hour,
        "before": {
            "threshold": before,
            "threshold_source": "model" if choice.threshold is None else "site",
            "sha256": of,
            "false": counted,
        },
        "notes": notes(recordings, channels),
    }


def show(wire: Wire, place: Path | None) -> None:
    """Print it, and the lines for a configuration where it was not written into one."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    before, model = wire["before"], wire["model"]
    for note in wire["notes"]:
        console.print(note)
    seen = "of another model" if before["false"] is None else f"{before['false']} false"
    console.print(
        f"{wire['hours']:.2f} h heard, hop {wire['hop_s']:g} s; model {model['name']} ({model['sha256'][:12]})"
    )
    console.print(f"before: threshold {before['threshold']:g}, the {before['threshold_source']}'s: {seen}")
    console.print(
        f"now: threshold {wire['threshold']:g}: {wire['false']} false, {wire['false_per_hour']:.2f}/h, and with 95 % "
        f"confidence no more than {wire['false_per_hour_upper']:.2f}/h"
    )
    if place is not None:
        console.print(f"written into {place}; a running daemon takes it on with SIGHUP")
    else:
        console.print("for the site's configuration (--config FILE writes it):")
        values = {"threshold": wire["threshold"], "hop_s": wire["hop_s"], "sha256": model["sha256"]}
        console.print(with_values("", "model", values) or "", end="")
