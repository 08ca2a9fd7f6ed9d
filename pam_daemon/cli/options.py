"""What several commands are told in the same words: each option is said once, here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from pam_daemon.config import Config, Device
from pam_daemon.errors import ConfigError
from pam_daemon.settings import load_config

PATH = click.Path(path_type=Path)
_DOT = "__"  # a key's, in the name of a parameter

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


@dataclass(frozen=True, slots=True)
class Told:
    """What the common options say."""

    keys: Mapping[str, str | bool]
    """Those that are keys of the configuration, by `section.key`."""
    config_path: Path | None = None
    settings: tuple[str, ...] = ()
    threshold: float | None = None
    hop_s: float | None = None
    journal: Path | None = None
    devices: tuple[str, ...] = ()
    channels: str = "1"

    def load(self) -> Config:
        """The configuration, with the options over it.

        Raises:
            ConfigError: as `load_config`, or a threshold that is no score.
        """
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold:g}: a score lies between 0 and 1")
        return load_config(self.config_path, self.settings, self.keys)

    def chosen_devices(self, config: Config) -> Sequence[Device]:
        """Those of the command, else the configured ones.

        Raises:
            ConfigError: channels that are no numbers.
        """
        numbers = _numbers(self.channels)
        named = [msgspec.convert({"device": name, "channels": numbers}, Device) for name in self.devices]
        return named or config.devices


def told_by(*options: Decorator) -> Decorator:
    """A decorator: the command has these options, and gets what they say as one `Told`, beside its other arguments.

    Other options of the command, whose names are fields of `Told`, go there too.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_told(**values: Any) -> None:
            own = {field.name: values.pop(field.name) for field in fields(Told) if field.name in values}
            keys = {name: values.pop(name) for name in list(values) if _DOT in name}
            given = {
                name.replace(_DOT, "."): str(value) if isinstance(value, Path) else value
                for name, value in keys.items()
                if value is not None and value is not False  # a flag that is not given
            }
            command(told=Told(given, **own), **values)

        decorated: Command = with_told
        for option in options:
            decorated = option(decorated)
        return decorated

    return decorate


def key_option(key: str, word: str, **how: Any) -> Decorator:
    """An option that is this `section.key` of the configuration."""
    return click.option(word, _parameter(key), **how)


def _parameter(key: str) -> str:
    return key.replace(".", _DOT)


_CONFIGURATION = (
    click.option("--config", "config_path", type=PATH, help="YAML; `pamd config` prints one."),
    click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Over the configuration."),
)
_HOP = click.option("--hop", "hop_s", type=float, help="Seconds between windows, instead of the model's own.")
threshold_option = click.option("--threshold", type=float, help="Of the score, 0 to 1, instead of the model's own.")
_STATION = (
    *_CONFIGURATION,
    key_option("model.path", "--model", type=PATH, help="An ONNX file with a pamd card, instead of the shipped one."),
    threshold_option,
    _HOP,
    key_option("station.name", "--station", help="Name in topics and ids."),
    key_option("publish.endpoint", "--endpoint", help="Publish at tcp://HOST:PORT; recovery at PORT + 1."),
    key_option(
        "publish.keys", "--keys", type=PATH, help="Encrypt, and admit whom this directory of `pamd keys` allows."
    ),
    key_option(
        "publish.insecure", "--insecure", is_flag=True, help="Let anybody who reaches the endpoint in, wherever it is."
    ),
    click.option("--journal", type=PATH, help="Keep the records in this file."),
)
_DEVICES = (
    click.option("--device", "devices", multiple=True, help="As `pamd devices` prints it; may be repeated."),
    click.option("--channels", default="1", show_default=True, help="Of each --device, from 1, with commas."),
    key_option(
        "record.directory",
        "--record",
        type=PATH,
        help="Keep the sound in this directory, as FLAC, with clips of detections.",
    ),
)

station_options = told_by(*_STATION)
"""What `run`, `doctor` and `replay` have in common."""

live_options = told_by(*_STATION, *_DEVICES)
"""What `run` and `doctor` do: also what they listen to, and where they keep it."""

evaluation_options = told_by(
    click.argument(_parameter("model.path"), metavar="[MODEL]", type=PATH, required=False),
    *_CONFIGURATION,
    _HOP,
    click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table."),
)
"""What `evaluate` and `calibrate` have in common."""


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"--channels {text}: numbers from 1 with commas between, each once, are expected")
    return numbers
