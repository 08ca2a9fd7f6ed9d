"""A station's configuration file, changed in single values: all else in it, comments too, stays as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pam_daemon.errors import ConfigError, RecordError
from pam_daemon.tools.files import replace_file

_INDENT = "  "
Edit = tuple[int, int, str]  # what stands from one character to another becomes this text


def set_values(path: Path, section: str, values: Mapping[str, float | str]) -> None:
    """Set `section.key` in a YAML file to each of the values; the file is replaced as a whole.

    Raises:
        ConfigError: a file that cannot be read or written, or is laid out so that the values would not be all that
            changes (an anchor, a key twice): then nothing is written.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        edited = with_values(text, section, values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}); write it anew from `pamd config`") from error
    if edited is None:
        by_hand = ", ".join(f"{key}: {_written(value)}" for key, value in values.items())
        raise ConfigError(f"{path}: section {section} is laid out so that it is not safe to edit; set in it {by_hand}")
    try:
        replace_file(path.resolve(), edited.encode("utf-8"))  # where it is a link, what it leads to
    except RecordError as error:
        raise ConfigError(str(error)) from error


def with_values(text: str, section: str, values: Mapping[str, float | str]) -> str | None:
    """The text with the values in their places; None where more than these would change."""
    newline = "\r\n" if "\r\n" in text else "\n"
    root, wanted = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text) or {}
    if not isinstance(root, yaml.MappingNode | None) or not isinstance(wanted.get(section) or {}, dict):
        return None
    wanted[section] = {**(wanted.get(section) or {}), **values}
    for begin, end, new in sorted(_edits(text, root, section, values, newline), reverse=True):
        text = text[:begin] + new + text[end:]
    try:
        return text if yaml.safe_load(text) == wanted else None
    except yaml.YAMLError:
        return None


def _edits(text: str, root: Any, section: str, values: Mapping[str, float | str], newline: str) -> list[Edit]:
    written = {key: _written(value) for key, value in values.items()}
    lines = [f"{key}: {value}" for key, value in written.items()]
    if root is None:
        return [(len(text), len(text), _block(section, lines, newline, after=text))]
    own = next((value for key, value in _pairs(root) if key.value == section), None)
    if own is None and root.flow_style:
        return [_inserted(root, [f"{section}: {{{', '.join(lines)}}}"], newline)]
    if own is None:
        end = root.end_mark.index
        return [(end, end, _block(section, lines, newline, after=text[:end]))]
    if not isinstance(own, yaml.MappingNode):  # `model:` or `model: null`
        block = newline + newline.join(_INDENT + line for line in lines)
        return [(own.start_mark.index, own.end_mark.index, f" {{{', '.join(lines)}}}" if root.flow_style else block)]
    there = {key.value: (value.start_mark.index, value.end_mark.index) for key, value in _pairs(own)}
    edits = [
        (begin, end, written[key] if begin < end else f" {written[key]}")  # `threshold:` has none yet
        for key, (begin, end) in there.items()
        if key in written
    ]
    missing = [line for key, line in zip(written, lines, strict=True) if key not in there]
    return [*edits, _inserted(own, missing, newline)] if missing else edits


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    return list(node.value) if isinstance(node, yaml.MappingNode) else []


def _inserted(mapping: Any, lines: list[str], newline: str) -> Edit:
    """Keys before the mapping's first one."""
    if not mapping.value:  # {}
        index = mapping.start_mark.index + 1
        return index, index, ", ".join(lines)
    first = mapping.value[0][0].start_mark
    joint = ", " if mapping.flow_style else newline + " " * first.column
    return first.index, first.index, "".join(line + joint for line in lines)


def _block(section: str, lines: list[str], newline: str, after: str) -> str:
    """A section of its own at the end."""
    before = newline if after and not after.endswith("\n") else ""
    return before + f"{section}:{newline}" + "".join(f"{_INDENT}{line}{newline}" for line in lines)


def _written(value: float | str) -> str:
    """A number bare, text in quotes: digits of a digest may look like a number."""
    return f'"{value}"' if isinstance(value, str) else repr(value)
