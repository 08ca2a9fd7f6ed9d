"""The cases of every kind that `targets` reads: valid examples, damaged; some are noise altogether."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import yaml
from fuzz import examples
from fuzz.child import Case
from fuzz.mutations import mutated, mutated_protobuf, mutated_tree, odd_values
from hypothesis import strategies as st
from test_filenames import EXAMPLES

from pam_daemon.capture.sources.child import Block, Failed, Lost, Opened
from pam_daemon.capture.sources.file import SUFFIXES

_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_YAML_WORDS = [
    *b"&a |*a|<<: *a|&a [*a]|- |? |: |[|{|= |!!binary |!!int |!!timestamp |!!set |!!python/name:os.system".split(b"|"),
    *b"---\n|%YAML 9.9\n|2026-13-45|1:99:99|.inf|.nan|~|\t|\r|\n  |{[]: 1}|{{}: 1}|\xef\xbb\xbf|\xff\xfe".split(b"|"),
    *(b"|", b"|\n"),
]
_JSON_WORDS = [*rb'NaN null 1e999 "\ud800" "\u0000" -'.split(), b"\xff", b"[" * 5000, b'{"a":' * 2000, b"9" * 400]
_TABLE_WORDS = [*"nan inf 1e999 1_0 ٣ Channel".encode().split(), b"\t", b"\r\n", b"\n", b"\0", b"\x85", b"\xff\xfe"]
_CSV_WORDS = [b",", b'"', b'""', b"\r", b"\n", b"\0", b"\xff\xfe", b"clip_name,", b"x" * 140_000]
_REQUESTS = [
    {"op": "since", "log": "0" * 36, "seq": 3, "kinds": ["event", "gap"], "streams": ["ch1"], "limit": 10},
    {"op": "status"},
]
_FILLED = """\
station: {name: reef, latitude_deg: 41.5, longitude_deg: -70.1}
devices:
  - {device: "hw:1", name: south, channels: [1, 2], sample_rate_hz: 48000}
  - &a {device: "hw:2"}
model: {path: m.onnx, provider: cpu, threads: 1, batch: 8, threshold: 0.5, hop_s: 0.5, sha256: %s}
detect: {min_separation_s: 1.5}
capture: {ring_s: 60}
journal: {path: j}
publish: {endpoint: "tcp://*:5556", every_s: 10}
""" % ("0" * 64)  # fmt: skip


def _one(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[Case]:
    return st.one_of(*[strategy] * 9, st.binary(max_size=300)).map(lambda content: [content])


def audio() -> st.SearchStrategy[Case]:
    content = st.one_of(
        *[mutated(examples.sounds(), [b"RIFF", b"data", b"fmt ", b"LIST", b"INFO", b"SSND", b"COMM"])] * 9,
        st.binary(max_size=300),
    )
    suffixes = st.sampled_from([suffix.encode() for suffix in (*SUFFIXES, "", ".sd2", ".raw", ".gsm", ".vox")])
    return st.tuples(suffixes, content).map(list)


clip = audio


def model() -> st.SearchStrategy[Case]:
    models = examples.models()
    trees = mutated_tree(examples.cards()).map(examples.as_json)
    card = st.one_of(trees, mutated([examples.as_json(examples.cards()[0])], _JSON_WORDS))
    recarded = card.map(lambda text: examples.with_card_text(models[0], text))
    return _one(st.one_of(mutated(models), mutated_protobuf(models), mutated_protobuf(models), recarded))


def configuration() -> st.SearchStrategy[Case]:
    texts = [(_CONFIGS / "pamd.yaml").read_bytes(), _FILLED.encode()]
    return _configurations(texts)


def training() -> st.SearchStrategy[Case]:
    return _configurations([(_CONFIGS / name).read_bytes() for name in ("narw.yaml", "whale_detection.yaml")])


def _configurations(texts: list[bytes]) -> st.SearchStrategy[Case]:
    trees = [yaml.safe_load(text) for text in texts]
    content = st.one_of(
        mutated(texts, _YAML_WORDS), mutated_tree(trees).map(_as_yaml), st.sampled_from(texts), st.binary(max_size=100)
    )
    keys = [
        f"{section}.{key}"
        for tree in trees
        for section, inner in tree.items()
        if isinstance(inner, dict)
        for key in inner
    ]
    setting = st.builds("{}={}".format, st.sampled_from(keys), odd_values).map(_encoded)
    settings = st.lists(st.one_of(setting, mutated([b"publish.every_s=3"], _YAML_WORDS)), max_size=2)
    return st.tuples(content, settings).map(lambda case: [case[0], *case[1]])


def requests() -> st.SearchStrategy[Case]:
    words = [*_JSON_WORDS, b'"x",' * 16_000, b'"seq":-1', b'"limit":0']
    good = [examples.as_json(request) for request in _REQUESTS]
    request = st.one_of(mutated(good, words), mutated_tree(_REQUESTS).map(examples.as_json), st.binary(max_size=200))
    frames = st.one_of(
        st.tuples(request), st.lists(st.one_of(request, st.just(b""), st.just(b"\x01")), min_size=1, max_size=5)
    )
    greeting = (
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
    )
    raw = mutated([greeting, b"GET / HTTP/1.1\r\n\r\n", b"\x00\x05hello"])
    sockets = [b"recovery", b"recovery", b"recovery", b"records"]
    return st.one_of(
        *[st.tuples(st.sampled_from(sockets), frames)] * 4,
        st.tuples(st.sampled_from([b"raw recovery", b"raw records"]), st.tuples(raw)),
    ).map(lambda case: [case[0], *case[1]])


def names() -> st.SearchStrategy[Case]:
    known = [name.rpartition("/")[2].encode() for name, *_ in EXAMPLES]
    words = [
        b"[",
        b"]",
        b"*",
        b"**",
        b"?",
        b"..",
        b"_UTCm99",
        b"_EST_",
        b"Z",
        b"+1400",
        b"99991231_235959",
        b"\xff",
        "é".encode(),
    ]
    text = st.text(max_size=40).map(_encoded)
    return _one(st.one_of(mutated(known, words), mutated(known, words), text))


def tables() -> st.SearchStrategy[Case]:
    return _one(mutated(examples.tables(), _TABLE_WORDS))


marks = tables


def clips() -> st.SearchStrategy[Case]:
    return _one(
        mutated([b"clip_name,label\r\na.aif,1\r\nb.aif,0\r\n", b'label,"clip_name",split\n0,"a",select\n'], _CSV_WORDS)
    )


def journal() -> st.SearchStrategy[Case]:
    return _one(mutated([examples.journal()], [b"text", b"create table", b'{"kind":']))


def control() -> st.SearchStrategy[Case]:
    stream = {"source": "hw:1", "sample_rate_hz": 48000, "lag_s": 0.1, "level_dbfs": -30.0}
    status = {
        "station": "reef", "version": "1", "started_utc": "2026-01-01T00:00:00Z", "provider": "cpu",
        "model": {"name": "narw"}, "streams": {"ch1": stream},
    }  # fmt: skip
    state = {
        "status": status, "missed_today_s": {"absent": 3.0}, "coverage_today": 0.9, "disk_free_bytes": 10**9,
        "last_detection": examples.records()[1],
    }  # fmt: skip
    return _one(st.one_of(mutated_tree([state]).map(examples.as_json), mutated([examples.as_json(state)], _JSON_WORDS)))


def messages() -> st.SearchStrategy[Case]:
    said = [Opened("hw:1", 48000), Block(bytes(32), 5), Lost(5, "overflow", False, 0.0), Failed("failed", "gone")]
    payloads = [msgspec.msgpack.encode(message) for message in said]
    stream = b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)
    return st.lists(
        st.one_of(mutated([stream]), mutated(payloads).map(lambda p: len(p).to_bytes(4, "little") + p)), max_size=3
    )


def publications() -> st.SearchStrategy[Case]:
    records = examples.records()
    later = [record | {"seq": record["seq"] + 100, "prev_seq": record["seq"] + 50} for record in records]
    reply = {"log": records[0]["log"], "oldest_seq": 1, "last_seq": 4, "records": records}
    frame = st.one_of(
        mutated_tree([*records, *later]).map(examples.as_json),
        st.sampled_from(later).map(examples.as_json),
        mutated([examples.as_json(record) for record in records], _JSON_WORDS),
        st.binary(max_size=50),
    )
    answers = st.lists(
        st.one_of(mutated_tree([reply]).map(examples.as_json), mutated([examples.as_json(reply)], _JSON_WORDS)),
        max_size=2,
    )
    frames = st.one_of(frame.map(lambda content: [b"event/pamd/ch1", content]), st.lists(frame, max_size=4))
    return st.tuples(answers, frames).map(lambda case: [bytes([len(case[0])]), *case[0], *case[1]])


def _as_yaml(tree: object) -> bytes:
    return yaml.dump(tree, allow_unicode=True).encode(errors="surrogatepass")


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@cache
def cases(kind: str) -> st.SearchStrategy[Case]:
    """By the names of `targets.TARGETS`."""
    made: Callable[[], st.SearchStrategy[Case]] = globals()[kind]
    return made()
