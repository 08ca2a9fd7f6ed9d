"""From the configuration to alert rules: presets, zones, and what a rule can promise.

The presets follow what real systems do (README.md, docs/alerts.md); they are starting points, not legal compliance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pam_daemon.alerts.tally import Rule
from pam_daemon.config import AlertRule, Preset
from pam_daemon.errors import ConfigError
from pam_daemon.records import Position

_HOUR_S = 3600.0
PRESETS: dict[Preset, AlertRule] = {
    "tally-15min": AlertRule("", count=3, window_s=900.0, possible_count=1, extend_every_s=60.0),
    "three-in-60s": AlertRule("", count=3, window_s=60.0, hold_s=600.0, extend_every_s=60.0),
    "hold-24h": AlertRule("", count=3, window_s=900.0, hold_s=24 * _HOUR_S, extend_every_s=900.0),
    "slow-zone-15d": AlertRule(
        "", count=3, window_s=900.0, hold_s=15 * 24 * _HOUR_S, extend_every_s=_HOUR_S, zone_nm=20.0
    ),
}
_NEUTRAL = AlertRule("", possible_count=0, min_score=0.0, streams=1, cool_down_s=0.0, coverage=0.9, extend_every_s=0.0)

_EARTH_NM = 3440.065  # mean radius
_ZONE_CORNERS = 72


@dataclass(frozen=True, slots=True)
class Pace:
    """How calls can follow one another, and how soon they are known."""

    hop_s: float
    window_s: float
    min_separation_s: float

    @property
    def closest_s(self) -> float:
        """Two calls of a stream are at least so far apart: whole hops."""
        hops = math.ceil(self.min_separation_s / self.hop_s - 1e-9)
        return max(1, hops) * self.hop_s


def resolve(chosen: Sequence[AlertRule], labels: Sequence[str], position: Position | None) -> tuple[Rule, ...]:
    """The rules with nothing left open.

    Raises:
        ConfigError: what a rule needs and does not have, or has and cannot have.
    """
    return tuple(_resolve(rule, labels, position) for rule in chosen)


def promise(rule: Rule, pace: Pace, streams: int) -> tuple[float, float]:
    """Seconds of sound from the end of a rule's first call to `detected`, at best and at worst.

    The calls come as close as they can, or as far apart as the window allows; and the last is known as soon, or as
    late, as the detector knows it.

    Raises:
        ConfigError: so many calls cannot be told apart in so short a time, or not on so few streams.
    """
    place = f"alerts: rule {rule.name}"
    if rule.streams > streams:
        raise ConfigError(f"{place}: streams {rule.streams}: there are {streams}; ask for fewer")
    closest_s = (math.ceil(rule.count / streams) - 1) * pace.closest_s
    if closest_s >= rule.window_s:
        raise ConfigError(
            f"{place}: {rule.count} calls in {rule.window_s:g} s cannot be: at a hop of {pace.hop_s:g} s and at least "
            f"{pace.min_separation_s:g} s apart they take {closest_s:g} s; give it a longer window_s or a lower count"
        )
    return closest_s + pace.closest_s, rule.window_s + pace.closest_s + pace.window_s / 2


def _resolve(chosen: AlertRule, labels: Sequence[str], position: Position | None) -> Rule:
    place = f"alerts: rule {chosen.name}"
    given: dict[str, Any] = {}
    for layer in (_NEUTRAL, PRESETS[chosen.preset] if chosen.preset else _NEUTRAL, chosen):
        given |= {key: value for key, value in msgspec.structs.asdict(layer).items() if value is not None}
    for key in ("count", "window_s"):
        if key not in given:
            raise ConfigError(f"{place}: give it {key}, or a preset")
    given.setdefault("hold_s", given["window_s"])
    if given["hold_s"] < given["window_s"]:
        raise ConfigError(f"{place}: hold_s {given['hold_s']:g} is shorter than window_s {given['window_s']:g}")
    if given["possible_count"] >= given["count"]:
        raise ConfigError(f"{place}: possible_count {given['possible_count']} is not below count {given['count']}")
    given["label"] = _label(place, chosen.label, labels)
    given["zone"] = _zone(place, given.pop("zone_nm", None), position)
    given.pop("preset", None)
    return Rule(**given)


def _label(place: str, chosen: str | None, labels: Sequence[str]) -> str:
    if chosen in labels:
        return str(chosen)
    if chosen is None and len(labels) == 1:
        return labels[0]
    which = "no label" if chosen is None else f"label {chosen}"
    raise ConfigError(f"{place}: {which}: give one that the model has: {', '.join(labels)}")


def _zone(place: str, radius_nm: float | None, position: Position | None) -> dict[str, Any] | None:
    if radius_nm is None:
        return None
    if position is None:
        raise ConfigError(f"{place}: its zone needs station.latitude_deg and station.longitude_deg")
    if abs(position.latitude_deg) + math.degrees(radius_nm / _EARTH_NM) >= 90:
        raise ConfigError(f"{place}: a zone of {radius_nm:g} nautical miles round the station would hold a pole")
    return circle(position, radius_nm)


def circle(centre: Position, radius_nm: float) -> dict[str, Any]:
    """A GeoJSON polygon (RFC 7946) on the sphere; across the antimeridian its longitudes go on beyond 180 degrees."""
    latitude, angle = math.radians(centre.latitude_deg), radius_nm / _EARTH_NM
    ring = []
    for corner in range(_ZONE_CORNERS):
        bearing = -2 * math.pi * corner / _ZONE_CORNERS  # counterclockwise
        sine = math.sin(latitude) * math.cos(angle) + math.cos(latitude) * math.sin(angle) * math.cos(bearing)
        east = math.sin(bearing) * math.sin(angle) * math.cos(latitude)
        aside = math.degrees(math.atan2(east, math.cos(angle) - math.sin(latitude) * sine))
        ring.append([round(centre.longitude_deg + aside, 5), round(math.degrees(math.asin(sine)), 5)])
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
