"""How a configuration is written: defaults, then YAML, then `--set section.key=value`; checked once, and printed."""

from __future__ import annotations

import ipaddress
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import msgspec
import yaml

from pam_daemon.config import AlertRule, BridgeChoice, Config, Device, Mqtt, Pgalm, Webhook
from pam_daemon.errors import ConfigError

# What there may be several of: what it is, and an example of each kind.
_LISTS: Mapping[str, tuple[str, Mapping[type[msgspec.Struct], Mapping[str, str]]]] = {
    "devices": ((Device.__doc__ or ""), {Device: {"device": "hw:1"}}),
    "alerts": ((AlertRule.__doc__ or ""), {AlertRule: {"name": "whales"}}),
    "bridges": (
        "Where records are handed on; what waits for the other side is in the journal.",
        {
            Mqtt: {"kind": "mqtt", "name": "broker", "host": "broker.example"},
            Webhook: {"kind": "webhook", "name": "office", "url": "https://office.example/whales"},
            Pgalm: {"kind": "pgalm", "name": "bridge", "host": "192.0.2.1"},
        },
    ),
}


def load_config(
    path: Path | None, settings: Sequence[str] = (), given: Mapping[str, str | bool] | None = None
) -> Config:
    """Defaults, then the file, then `section.key=value` settings, then values by `section.key` as they are.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, or a value that does not fit, with its place.
    """
    place = str(path) if path else "--set"
    values = _read(path) if path else {}
    for setting in settings:
        _apply(values, setting)
    for name, value in (given or {}).items():
        _put(values, name, value)
    try:
        config = msgspec.convert(values, Config)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigError(f"{place}: {_explain(str(error), values)}; `pamd config` prints every key") from error
    _check(config, place)
    return config


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The keys, `section.key`, whose values differ, with both."""
    found: dict[str, tuple[Any, Any]] = {}
    for section in (field.name for field in msgspec.structs.fields(Config)):
        before, after = (msgspec.to_builtins(getattr(config, section)) for config in (old, new))
        if not isinstance(before, dict):
            before, after = {"": before}, {"": after}
        differ = (key for key in before if before[key] != after[key])
        found |= {f"{section}.{key}".rstrip("."): (before[key], after[key]) for key in differ}
    return found


def _check(config: Config, place: str) -> None:
    choice, station = config.model, config.station
    if choice.sha256 is None:
        for key in ("threshold", "hop_s"):
            if getattr(choice, key) is not None:
                raise ConfigError(
                    f"{place}: model.{key} holds for one model only; add model.sha256, which `pamd model` prints"
                )
    if (station.latitude_deg is None) != (station.longitude_deg is None):
        raise ConfigError(f"{place}: station: give both latitude_deg and longitude_deg, or neither")
    for section, listed in (("alerts", config.alerts), ("bridges", config.bridges)):
        names = [one.name for one in listed]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{place}: {section}: two are called {name}; give each a name of its own")
    for bridge in config.bridges:
        _check_bridge(bridge, f"{place}: bridge {bridge.name}")


def _check_bridge(bridge: BridgeChoice, place: str) -> None:
    match bridge:
        case Pgalm():
            if others := sorted(set(bridge.filter.kinds) - {"alert", "detection"}):
                raise ConfigError(f"{place}: filter.kinds: {others[0]}: a $PGALM tells alerts and detections alone")
            return
        case Mqtt():
            plain, host = not bridge.tls, bridge.host
            if (bridge.user is None) != (bridge.password_file is None):
                raise ConfigError(f"{place}: give both user and password_file, or neither")
        case Webhook():
            plain, host = bridge.url.startswith("http:"), _host(bridge.url, place)
    if plain and not bridge.insecure and not _is_loopback(host):
        raise ConfigError(f"{place}: {host} would be sent to in the clear; encrypt it, or set insecure: true")
    if plain and bridge.ca_file is not None:
        raise ConfigError(f"{place}: ca_file: nothing is encrypted that it could be for; remove it, or encrypt")


def _host(url: str, place: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        pass
    raise ConfigError(f"{place}: url: {url!r}: no host, or no port; write https://HOST:PORT/PATH")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {error}; `pamd config` prints an example") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: sections with keys are expected; `pamd config` prints an example")
    return values


class _Loader(yaml.SafeLoader):
    """YAML's keys may be numbers and truths (`on:`); ours are text, so that a wrong one can be named."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def _parse(text: str) -> Any:
    """Raises: ValueError: the text is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML lets out whatever its constructors meet: 2026-13-45, !!int ""
        raise ValueError(" ".join(str(error).split())) from error


def _apply(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals or not name.rpartition(".")[2]:
        raise ConfigError(f"--set {setting}: SECTION.KEY=VALUE is expected")
    try:
        value = _parse(text)
    except ValueError as error:
        raise ConfigError(f"--set {setting}: the value is not YAML") from error
    _put(values, name, value)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {name}: {section} has no keys of its own")
    values[key] = value


def _explain(error: str, values: dict[str, Any]) -> str:
    """msgspec's message, with the key spelled as the user wrote it and its value."""
    message, _, where = error.partition(" - at ")
    value: Any = values
    keys = re.findall(r"\.?([^.\[\]`$]+)", where)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value.get(key)
    if unknown := re.match(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return f"unknown key {'.'.join([*keys, unknown[1]])}"
    if "matching regex" in message:
        message = f"expected {_description(keys)}"
    return f"{'.'.join(keys) or 'top level'}: {_short(value)}: {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    """In full where that has an end: YAML's anchors make lists of lists that are endless when written out."""
    return repr(value) if isinstance(value, str) else reprlib.repr(value)


def _description(keys: Sequence[str]) -> str:
    section, *_, key = keys
    structs = _LISTS[section][1] if section in _LISTS else [type(getattr(Config(), section))]
    return next(texts[key] for texts in map(_descriptions, structs) if key in texts)


def commented_yaml() -> str:
    """Every key at its default, with its description."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# pamd's configuration: every key at its default. What is not set here keeps it."
    for field in msgspec.structs.fields(Config):
        text, examples = _LISTS.get(field.name, (type(field.default).__doc__ or "", {}))
        yield ""
        yield f"# {text.strip()}"
        if examples:
            yield f"{field.name}: []"
        else:
            yield f"{field.name}:"
            yield from (f"  {line}" for line in _keys(type(field.default), {}))
        for section, example in examples.items():
            first, *rest = _keys(section, example)
            yield f"#  - {first}"
            yield from (f"#    {line}" for line in rest)


def _keys(section: type[msgspec.Struct], example: Mapping[str, str]) -> Iterator[str]:
    """A line a key: those of the example with its values, the others with their defaults."""
    texts = {"kind": (section.__doc__ or "").strip(), **_descriptions(section)}
    yield from (f"{key}: {value}  # {texts[key]}" for key, value in example.items())
    for field in msgspec.structs.fields(section):
        if field.name not in example:
            value = yaml.safe_dump(msgspec.to_builtins(field.default), default_flow_style=True, sort_keys=False)
            value = value.removesuffix("...\n").strip()
            yield f"{field.name}: {value}  # {texts[field.name]}"


def _descriptions(section: type[msgspec.Struct]) -> dict[str, str]:
    hints = get_type_hints(section, include_extras=True)
    return {
        name: next(meta.description for meta in reversed(hint.__metadata__) if meta.description)
        for name, hint in hints.items()
    }
