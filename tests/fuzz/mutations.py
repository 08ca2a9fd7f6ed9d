"""Hypothesis strategies that damage what is valid: bytes, trees of values, and protocol buffers.

Each damage is drawn by itself, so that a case that fails shrinks to the few that matter.
"""

from __future__ import annotations

import copy
import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Path = tuple[Any, ...]  # keys and indices from a tree's root to one of its values

_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 1024, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, -1)
_FLOATS = (0.0, -0.0, 1e-40, 1e30, math.inf, -math.inf, math.nan)


def _chunks() -> list[bytes]:
    """Bytes that parsers trip over: sizes and values in both orders, long runs, text that is none."""
    chunks = {bytes([number & 255]) for number in _NUMBERS}
    for order, (kind, bits), number in itertools.product("<>", (("H", 16), ("I", 32), ("Q", 64)), _NUMBERS):
        chunks.add(struct.pack(order + kind, number & (2**bits - 1)))
    for order, number in itertools.product("<>", _FLOATS):
        chunks |= {struct.pack(order + kind, number) for kind in "fd"}
    longest_rate = b"\x7f\xff" + b"\xff" * 8  # an AIFF's 80-bit float
    return sorted({*chunks, b"\0" * 64, b"\xff" * 64, longest_rate, b"%s%n", b"\xed\xa0\x80", "é\u2028\u202e".encode()})


_CHUNKS = _chunks()
_LIMIT_BYTES = 1 << 18  # what grows by being copied stops here
_REPEATED_BYTES = 1 << 14

odd_values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*_NUMBERS, *_FLOATS, 1e308, -(2**63), 2**63, 2**64, 10**400, None, True, False]),
    st.sampled_from(
        ["", "\0", "\ud800", "\n", "a\nb", "~", "no", "2026-13-45", "../..", "1e999", "x" * 40, "9" * 5000]
    ),
    st.sampled_from([[], {}, [[]], {"": 1}, {"a\nb": 1}, [None] * 17, {"a": {"b": {"c": []}}}]),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
).map(copy.deepcopy)


@st.composite
def mutated(draw: st.DrawFn, examples: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the examples after some damages; `tokens` are words of its language."""
    data = draw(st.sampled_from(examples))
    chunks = st.one_of(
        st.sampled_from([*tokens, *_CHUNKS]), *([st.sampled_from(tokens)] if tokens else []), st.binary(max_size=8)
    )
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3, 6]))):
        # Headers are near the beginning.
        at = draw(st.one_of(st.integers(0, min(len(data), 100)), st.integers(0, len(data))))
        match draw(st.sampled_from(["flip", "write", "insert", "delete", "cut", "copy", "splice"])):
            case "flip":
                data = (
                    data[:at]
                    + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
                    + data[at + 1 :]
                )
            case "write":
                chunk = draw(chunks)
                data = data[:at] + chunk + data[at + len(chunk) :]
            case "insert":
                chunk, times = draw(chunks), draw(st.sampled_from([1, 1, 1, 2, 100, 5000]))
                data = data[:at] + chunk * min(times, 1 + _REPEATED_BYTES // (len(chunk) + 1)) + data[at:]
            case "delete":
                data = data[:at] + data[at + draw(st.integers(1, 64)) :]
            case "cut":
                data = data[:at]
            case "copy":
                to = draw(st.integers(0, len(data)))
                data = data[:to] + data[at : at + draw(st.integers(1, 256))] + data[to:]
            case "splice":
                other = draw(st.sampled_from(examples))
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
        data = data[:_LIMIT_BYTES]
    return data


def paths(tree: Any) -> list[Path]:
    """Of every value below the root."""

    def walk(value: Any, path: Path) -> Iterator[Path]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*path, key)
            yield from walk(inner, (*path, key))

    return list(walk(tree, ()))


@st.composite
def mutated_tree(draw: st.DrawFn, trees: Sequence[Any]) -> Any:
    """A tree of dicts, lists and values of which up to three are replaced, removed, renamed, copied or nested."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, 3))):
        places = paths(tree)
        if not places:
            break
        *way, key = draw(st.sampled_from(places))
        parent = tree
        for step in way:
            parent = parent[step]
        value = parent[key]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "nest", "graft"])):
            case "replace":
                parent[key] = draw(odd_values)
            case "remove":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.one_of(st.sampled_from(["", "a\nb", "\ud800"]), st.text(max_size=8)))] = parent.pop(key)
            case "nest":
                for _ in range(draw(st.sampled_from([1, 2, 60]))):
                    value = [value]
                parent[key] = value
            case _:
                parent[key] = copy.deepcopy(draw(st.sampled_from([_at(tree, place) for place in places])))
    return tree


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree[step]
    return tree


@dataclass
class Message:
    """A protocol buffer without its schema: fields by number, each an int, bytes of fixed size, bytes or a message."""

    fields: list[tuple[int, Any]] = field(default_factory=list)

    @staticmethod
    def parse(data: bytes) -> Message | None:
        """None where the bytes are no message."""
        message, at = Message(), 0
        try:
            while at < len(data):
                tag, at = _varint(data, at)
                number, wire_type = tag >> 3, tag & 7
                if number == 0:
                    return None
                if wire_type == 0:
                    value: Any
                    value, at = _varint(data, at)
                elif wire_type == 2:
                    size, at = _varint(data, at)
                    if at + size > len(data):
                        return None
                    content = data[at : at + size]
                    value = (Message.parse(content) if 1 < size < 1000 else None) or content
                    at += size
                elif wire_type in (1, 5):
                    size = 8 if wire_type == 1 else 4
                    if at + size > len(data):
                        return None
                    value = Fixed(data[at : at + size])
                    at += size
                else:
                    return None
                message.fields.append((number, value))
        except IndexError:
            return None
        return message

    def serialize(self) -> bytes:
        return b"".join(_field(number, value) for number, value in self.fields)

    def messages(self) -> Iterator[Message]:
        """This and all inside it that have fields."""
        if self.fields:
            yield self
        for _, value in self.fields:
            if isinstance(value, Message):
                yield from value.messages()


class Fixed(bytes):
    """Four or eight bytes as they stand."""


@st.composite
def mutated_protobuf(draw: st.DrawFn, examples: Sequence[bytes]) -> bytes:
    """Messages that parse, and of which up to four fields say something else."""
    root = Message.parse(draw(st.sampled_from(examples)))
    assert root is not None
    for _ in range(draw(st.integers(1, 4))):
        messages = list(root.messages())
        if not messages:
            break
        message = draw(st.sampled_from(messages))
        index = draw(st.integers(0, len(message.fields) - 1))
        number, value = message.fields[index]
        match draw(st.sampled_from(["value", "value", "value", "remove", "repeat", "number", "graft"])):
            case "value":
                message.fields[index] = (number, draw(_other(value)))
            case "remove":
                del message.fields[index]
            case "repeat":
                message.fields[index:index] = [(number, copy.deepcopy(value))] * draw(st.sampled_from([1, 2, 40]))
            case "number":
                message.fields[index] = (draw(st.integers(1, 22)), value)
            case _:
                others = [field for other in messages for field in other.fields]
                message.fields[index] = copy.deepcopy(draw(st.sampled_from(others)))
    return root.serialize()


def _other(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, int):
        return st.one_of(st.sampled_from([number & (2**64 - 1) for number in _NUMBERS]), st.integers(0, 30))
    if isinstance(value, Fixed):
        return st.binary(min_size=len(value), max_size=len(value)).map(Fixed)
    return st.one_of(st.binary(max_size=40), st.sampled_from(_CHUNKS), st.text(max_size=10).map(str.encode))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("no varint")


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _encoded(number << 3) + _encoded(value)
    if isinstance(value, Fixed):
        return _encoded(number << 3 | (1 if len(value) == 8 else 5)) + value
    content = value.serialize() if isinstance(value, Message) else value
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
