"""docs/training-keys.md has every key of the code and of Hydrogen Torch's file, no other, with default and tests."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml
from clips import HYDROGEN_TORCH, REPOSITORY

from export.config import TrainConfig

TABLE = REPOSITORY / "docs" / "training-keys.md"
ROW = re.compile(r"^\| `(?P<key>[\w.]+)` \| (?P<default>.*?) \| (?P<meaning>.+?) \| (?P<tests>.+?) \|$", re.MULTILINE)


def keys(tree: dict[str, object]) -> dict[str, object]:
    """A configuration as `section.key` and values."""
    found: dict[str, object] = {}
    for name, branch in tree.items():
        found |= (
            {f"{name}.{key}": value for key, value in branch.items()} if isinstance(branch, dict) else {name: branch}
        )
    return found


def rows() -> list[re.Match[str]]:
    return list(ROW.finditer(TABLE.read_text("utf-8")))


def test_the_table_has_every_key_once_and_no_other() -> None:
    known = keys(msgspec.to_builtins(TrainConfig()))
    theirs = keys(yaml.safe_load(HYDROGEN_TORCH.read_text("utf-8")))
    listed = [row["key"] for row in rows()]
    assert sorted(listed) == sorted(known)
    assert set(theirs) <= set(listed)


def test_the_table_has_the_defaults() -> None:
    known = keys(msgspec.json.decode(msgspec.json.encode(TrainConfig())))
    for row in rows():
        default = yaml.safe_load(row["default"])
        assert (None if default == "None" else default) == known[row["key"]], row["key"]


def test_the_tests_that_the_table_names_exist() -> None:
    for row in rows():
        for name in row["tests"].split():
            file, _, test = name.partition("::")
            source = (Path(__file__).parent / file).read_text("utf-8")
            assert f"def {test}(" in source, name
