"""What a station is before it listens: the model loaded and tested, threshold, hop and rules settled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pam_daemon.alerts.rules import resolve
from pam_daemon.alerts.tally import Rule
from pam_daemon.analysis.detect import Threshold
from pam_daemon.analysis.model import Model, shipped_model
from pam_daemon.analysis.stream import Analysis
from pam_daemon.clock import Clock
from pam_daemon.config import Config, ModelChoice
from pam_daemon.errors import ConfigError
from pam_daemon.records import Mode, Position


@dataclass(frozen=True, slots=True)
class Setup:
    """What a station is, before it listens to anything."""

    config: Config
    model: Model
    analysis: Analysis
    clock: Clock
    threshold: float | None  # the command's
    rules: tuple[Rule, ...]


def set_up(
    config: Config,
    mode: Mode,
    clock: Clock,
    *,
    threshold: float | None = None,
    hop_s: float | None = None,
    spin: bool = False,
) -> Setup:
    """Load and test the model, and settle threshold and hop: the command's, else the site's, else the model's.

    Raises:
        ModelError: see `Model`.
        ConfigError: a threshold or hop for another model, a hop that is no part of a window, a rule that cannot be.
    """
    choice = config.model
    path = Path(choice.path) if choice.path else shipped_model()
    model = Model(path, choice.provider, choice.threads, spin=spin)
    card = model.card
    settled = settle_threshold(choice, model, threshold)
    hop_s = next((v for v in (hop_s, choice.hop_s) if v is not None), card.hop_samples / card.sample_rate_hz)
    hop_samples = round(hop_s * card.sample_rate_hz) if math.isfinite(hop_s) else 0
    if not 1 <= hop_samples <= card.window_samples:
        window_s = card.window_samples / card.sample_rate_hz
        raise ConfigError(
            f"hop {hop_s:g} s: windows cannot follow so; give one above 0 and at most a window ({window_s:g} s)"
        )
    station = config.station
    position = None
    if station.latitude_deg is not None and station.longitude_deg is not None:
        position = Position(station.latitude_deg, station.longitude_deg)
    analysis = Analysis(
        station=station.name,
        mode=mode,
        model=model.name,
        labels=tuple(card.labels),
        model_rate_hz=card.sample_rate_hz,
        window_samples=card.window_samples,
        hop_samples=hop_samples,
        threshold=settled,
        min_separation_s=config.detect.min_separation_s,
        floor_dbfs=config.capture.floor_dbfs,
        flood=config.flood,
        position=position,
    )
    rules = resolve(config.alerts, analysis.labels, position)
    return Setup(config, model, analysis, clock, threshold, rules)


def settle_threshold(choice: ModelChoice, model: Model, command: float | None) -> Threshold:
    """The command's, else the site's, else the model's."""
    if choice.sha256 is not None and choice.sha256 != model.name.sha256:
        raise ConfigError(
            f"model.sha256: {choice.sha256}: threshold and hop_s were found for another model than {model.path} "
            f"({model.name.sha256}); find them anew, or remove them"
        )
    if command is not None:
        return Threshold(command, "command")
    return Threshold(model.card.threshold, "model") if choice.threshold is None else Threshold(choice.threshold, "site")
