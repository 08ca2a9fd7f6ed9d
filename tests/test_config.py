"""The configuration: every key printed at its default, one line about what cannot be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from conftest import REPOSITORY

from pam_daemon.config import AlertRule, Config, Device, Mqtt, Pgalm, Webhook
from pam_daemon.errors import ConfigError
from pam_daemon.settings import commented_yaml, load_config

SHIPPED = REPOSITORY / "configs" / "pamd.yaml"
SHA = "0" * 64
BRIDGES = (Mqtt, Webhook, Pgalm)
# Lists of ten of the list before: a billion words, written out.
LAUGHS = ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 10)}]" for n in range(9))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, *settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def keys(section: Any, prefix: str = "") -> set[str]:
    names = set()
    for field in msgspec.structs.fields(section):
        value = field.default
        if isinstance(value, msgspec.Struct):
            names |= keys(type(value), f"{prefix}{field.name}.")
        else:
            names.add(prefix + field.name)
    return names


def test_the_file_in_configs_is_what_pamd_config_prints() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == commented_yaml(), "run: pamd config > configs/pamd.yaml"


def test_every_key_is_printed_with_a_description_and_loads_as_its_default() -> None:
    printed = yaml.safe_load(commented_yaml())
    named = {
        f"{section}.{key}" if isinstance(values, dict) else section
        for section, values in printed.items()
        for key in (values or [""])
    }
    assert named == keys(Config)
    assert load_config(SHIPPED) == Config() == load_config(None)
    lines = [line for line in commented_yaml().splitlines() if re.match(r"#? +(- )?\w+:", line)]
    listed = sum(len(msgspec.structs.fields(section)) for section in (Device, AlertRule))
    listed += sum(1 + len(msgspec.structs.fields(kind)) for kind in BRIDGES)
    assert len(lines) == len(keys(Config) - {"devices", "alerts", "bridges"}) + listed
    assert [line for line in lines if not re.search(r"# \w", line)] == []


def test_each_default_can_be_set_to_itself() -> None:
    """What `pamd config` prints of a key is what --set takes."""
    for section, values in yaml.safe_load(commented_yaml()).items():
        for key, value in (values or {}).items():
            if value is not None:
                assert load_config(None, [f"{section}.{key}={value}"]) == Config()


def test_the_example_of_a_device_works_without_its_comment_signs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", uncommented("devices")))
    assert config.devices == (Device("hw:1"),)


def test_the_example_of_a_rule_works_without_its_comment_signs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", uncommented("alerts")))
    assert config.alerts == (AlertRule("whales"),)


def test_the_examples_of_bridges_work_without_their_comment_signs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "c.yaml", uncommented("bridges")))
    assert [type(bridge) for bridge in config.bridges] == list(BRIDGES)
    assert config.bridges[0] == Mqtt("broker", "broker.example")


def uncommented(section: str) -> str:
    """The printed configuration with the examples of a section in it."""
    before, head, after = commented_yaml().partition(f"{section}: []\n")
    examples, gap, rest = after.partition("\n\n")
    lines = [line.removeprefix("#") for line in examples.splitlines()]
    return before + head.replace(" []", "") + "\n".join(lines) + gap + rest


def test_settings_come_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "station: {name: reef}\npublish: {every_s: 3}\n")
    config = load_config(path, ["publish.every_s=4", "model.batch=2", "model.batch=3"])
    assert (config.station.name, config.publish.every_s, config.model.batch) == ("reef", 4.0, 3)
    assert config.detect == Config().detect


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "station: {}"])
def test_a_file_may_say_nothing(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path / "c.yaml", text)) == Config()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("staton.name=a", ["unknown key staton"]),
        ("station.nmae=a", ["unknown key station.nmae"]),
        ("devices=[{device: a, chanels: [1]}]", ["unknown key devices.0.chanels"]),
        ("station.name='two words'", ["station.name", "'two words'", "letters, digits"]),
        ("station.name=null", ["station.name", "None"]),
        (f"station.name={'x' * 33}", ["station.name", "at most 32"]),
        ("station.latitude_deg=42", ["latitude_deg", "longitude_deg", "both"]),
        ("station={latitude_deg: 91, longitude_deg: 0}", ["station.latitude_deg", "91", "90"]),
        ("station={latitude_deg: 0, longitude_deg: -181}", ["station.longitude_deg", "-181", "-180"]),
        ("model.threshold=1.5", ["model.threshold", "1.5", "1.0"]),
        ("model.threshold=-0.1", ["model.threshold", "-0.1"]),
        ("model.threshold=.nan", ["model.threshold", "nan"]),
        ("model.threshold=high", ["model.threshold", "'high'", "float"]),
        ("model.threshold=0.4", ["model.threshold", "model.sha256"]),
        ("model.hop_s=0.4", ["model.hop_s", "model.sha256"]),
        ("model.hop_s=0", ["model.hop_s", "0", "> 0"]),
        ("model.sha256=abc", ["model.sha256", "'abc'"]),
        ("model.batch=0", ["model.batch", "0", ">= 1"]),
        ("model.batch=1.5", ["model.batch", "1.5"]),
        ("model.provider=tpu", ["model.provider", "'tpu'"]),
        ("model=shipped", ["model", "'shipped'"]),
        ("devices=[{channels: [1]}]", ["devices.0", "`device`"]),
        ("devices=[{device: a, channels: []}]", ["devices.0.channels"]),
        ("devices=[{device: a, channels: [1, 0]}]", ["devices.0.channels.1", "0"]),
        ("detect.min_separation_s=0", ["detect.min_separation_s"]),
        ("detect.min_separation_s=.inf", ["detect.min_separation_s", "inf"]),
        ("capture.ring_s=1", ["capture.ring_s", "1", ">= 5"]),
        ("capture.ring_s=1e15", ["capture.ring_s"]),
        ("publish.every_s=-1", ["publish.every_s", "-1"]),
        ("flood.count=-1", ["flood.count", "-1"]),
        ("alerts=[{preset: tally-15min}]", ["alerts.0", "`name`"]),
        ("alerts=[{name: two words}]", ["alerts.0.name", "'two words'", "ids"]),
        ("alerts=[{name: a, preset: tally}]", ["alerts.0.preset", "'tally'"]),
        ("alerts=[{name: a, count: 0}]", ["alerts.0.count", "0", ">= 1"]),
        ("alerts=[{name: a, window_s: .nan}]", ["alerts.0.window_s", "nan"]),
        ("alerts=[{name: a, hold: 3}]", ["unknown key alerts.0.hold"]),
        ("alerts=[{name: a}, {name: a}]", ["alerts", "two are called a"]),
        ("publish.endpoint=localhost:5556", ["publish.endpoint", "'localhost:5556'", "tcp://HOST:PORT"]),
    ],
)
def test_what_does_not_fit_is_named(setting: str, named: list[str]) -> None:
    message = refusal(None, setting)
    assert [part for part in ["--set", *named] if part not in message] == []


@pytest.mark.parametrize("setting", ["station.name", "=a", "name.=a", "", "station.name=[", "station.name.x.y=1", "."])
def test_settings_that_are_none(setting: str) -> None:
    assert "--set" in refusal(None, setting)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("station: [", "not YAML"),
        ("- a\n- b\n", "sections"),
        ("just text\n", "sections"),
        ("station:\n  name: a\n  colour: blue\n", "unknown key station.colour"),
        ("1: 2\n", "unknown key 1"),
        ("station: {1: 2}\n", "unknown key station.1"),
        ("model: {path: 3}\n", "model.path"),
        ("station: {name: 2026-13-45}\n", "month must be in 1..12"),
        ("station: {name: !!int ''}\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("station: &a {name: *a}\n", "station.name"),
        (f"station: [{LAUGHS}]\n", "station: [['ha', "),
        ('station: {"a\\nb": 1}\n', "unknown key station.a\\nb"),
        ('journal: {path: "a\\0b"}\n', "journal.path"),
        ("model: {threads: 99999999999}\n", "model.threads"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert named in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.yaml")
    assert "directory" in refusal(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    assert str(binary) in refusal(binary)


def test_a_sites_threshold_is_bound_to_its_model() -> None:
    config = load_config(None, ["model.threshold=0.4", "model.hop_s=0.25", f"model.sha256='{SHA}'"])
    assert (config.model.threshold, config.model.hop_s, config.model.sha256) == (0.4, 0.25, SHA)
