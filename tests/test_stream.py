"""Streams and the worker: every sample accounted for at every moment, and the same records whatever the timing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import BEGAN_UTC_NS, FakeClock, FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import Bench, analysis, file_origin, noise

from pam_daemon.analysis.model import Model
from pam_daemon.analysis.stream import Stream
from pam_daemon.capture.ring import Ring
from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.clock import SampleClock
from pam_daemon.fill import fill
from pam_daemon.records import Record, Wire
from pam_daemon.worker import Worker

RATES_HZ = [2000, 8000, 44100, 48000]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which stream
        st.sampled_from(["audio", "audio", "audio", "gap", "bad", "round", "round"]),
        st.sampled_from([0.0, 0.0101, 0.3, 1.0, 1.999, 2.0, 2.5, 3.21, 7.7]) | st.just(65.0),
        st.integers(1, 9),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    STEPS,
    st.lists(st.sampled_from(RATES_HZ), min_size=1, max_size=3),
    st.sampled_from([250, 1000, 1001, 4000]),
    st.sampled_from([1.0, 2.5, 6.0]),
)
def test_elapsed_is_analysed_and_gap_and_skipped_and_pending_at_every_moment(
    steps: list[tuple[int, str, float, int]], rates_hz: list[int], hop: int, ring_s: float
) -> None:
    """Streams of one station, written, overrun and read in any order; at the end nothing is pending, and the gap
    records tell exactly what was not analysed."""
    benches = []
    for number, rate_hz in enumerate(rates_hz):
        ring = Ring(round(ring_s * rate_hz))
        stream = Stream(f"ch{number + 1}", FakeSource((), rate_hz), ring, analysis(hop))
        stream.origin = file_origin(rate_hz)
        benches.append(Bench(stream, np.random.default_rng(number)))
    for which, what, seconds, limit in steps:
        bench = benches[which % len(benches)]
        if what == "round":
            bench.round(limit)
        else:
            bench.write(what, seconds if what == "gap" else min(seconds, 7.7))
        for every in benches:
            every.check()
    for bench in benches:
        bench.stream.ring.close()
        while not bench.stream.settled:
            bench.round(3)
            bench.check()
        check_told(bench)


def check_told(bench: Bench) -> None:
    """What the gap records of a stream that is over say, against its counts and its detections."""
    status = bench.stream.status(None)
    assert status.pending_samples == 0
    gaps = bench.wires("gap")
    for term, count in (("gap", status.gap_samples), ("skipped", status.skipped_samples)):
        assert sum(gap["samples"] for gap in gaps if gap["term"] == term) == count
    stretches = sorted((gap["start_sample"], gap["start_sample"] + gap["samples"]) for gap in gaps)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(stretches))
    assert all(0 < end - start <= 60 * status.sample_rate_hz for start, end in stretches)
    for call in bench.wires("detection"):
        start, end = call["start_sample"], call["end_sample"]
        assert 0 <= start < end <= status.elapsed_samples
        assert not any(first < end and start < last for first, last in stretches), "a call reaches into a gap"
        assert call["start_s"] <= call["peak_s"] <= call["end_s"]
    ids = [record.id for record in bench.records]
    assert len(set(ids)) == len(ids)


def script(rng: np.random.Generator, rate_hz: int) -> list[Audio | Missing]:
    """Two channels: some half minute with a gap, a short segment and bad samples in one channel."""
    first, second, third = (
        np.stack([noise(rng, round(seconds * rate_hz)) for _ in range(2)]) for seconds in (13.013, 1.5, 16.7)
    )
    third[1, 6 * rate_hz : 6 * rate_hz + 7] = np.nan
    return [
        Audio(first, None),
        Missing(rate_hz // 3, "overflow"),
        Audio(second, None),
        Missing(61 * rate_hz, "absent", estimated=True, uncertainty_s=0.2),
        Audio(third, None),
    ]


def in_blocks(pieces: Sequence[Audio | Missing], sizes: Sequence[int]) -> list[Audio | Missing]:
    blocks: list[Audio | Missing] = []
    turn = itertools.cycle(sizes)
    for piece in pieces:
        if isinstance(piece, Missing):
            blocks.append(piece)
            continue
        at = 0
        while at < piece.samples.shape[1]:
            size = next(turn)
            blocks.append(Audio(piece.samples[:, at : at + size], None))
            at += size
    return blocks


def analyse(
    pieces: Sequence[Audio | Missing],
    rate_hz: int,
    model: Model,
    *,
    batch: int = 8,
    ring_s: float = 20.0,
    hop: int = 1000,
) -> dict[str, list[Wire]]:
    """The records of two channels, by stream, through a worker with a real capture thread."""
    changed = threading.Condition()
    streams = [
        Stream(name, FakeSource((), rate_hz), Ring(round(ring_s * rate_hz), wait=True, changed=changed), analysis(hop))
        for name in ("ch1", "ch2")
    ]
    for stream in streams:
        stream.origin = file_origin(rate_hz)
    records: list[Record] = []
    clock = FakeClock()
    source = FakeSource(pieces, rate_hz, channels=2)
    capture = threading.Thread(target=fill, args=(source.blocks(), streams, range(2), clock, lambda: None))
    capture.start()
    try:
        Worker(model, batch, changed, list, records.extend, clock, lambda: None).run(streams)
    finally:
        for stream in streams:
            stream.ring.close()
        capture.join()
    records += [stream.effort(clock) for stream in streams]
    wires = [record.wire() for record in records]
    return {stream.name: [wire for wire in wires if wire["stream"] == stream.name] for stream in streams}


@pytest.fixture(scope="module")
def model(toy: Path) -> Model:
    return Model(toy, "cpu", 1)


@pytest.fixture(scope="module")
def expected(model: Model) -> dict[int, dict[str, list[Wire]]]:
    """By rate, analysed in one piece a stretch."""
    return {rate_hz: analyse(script(np.random.default_rng(7), rate_hz), rate_hz, model) for rate_hz in (2000, 44100)}


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([2000, 44100]),
    st.lists(st.integers(1, 60_000), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from([0.05, 1.0, 20.0]),
)
def test_blocks_batches_and_the_rings_size_change_no_record(
    model: Model, expected: dict[int, dict[str, list[Wire]]], rate_hz: int, sizes: list[int], batch: int, ring_s: float
) -> None:
    pieces = in_blocks(script(np.random.default_rng(7), rate_hz), [*sizes, 20_000])
    assert analyse(pieces, rate_hz, model, batch=batch, ring_s=ring_s) == expected[rate_hz]


@pytest.mark.parametrize("threads", [0, 2, 3])
def test_the_models_threads_change_no_record(
    toy: Path, expected: dict[int, dict[str, list[Wire]]], threads: int
) -> None:
    pieces = script(np.random.default_rng(7), 2000)
    assert analyse(pieces, 2000, Model(toy, "cpu", threads)) == expected[2000]


def test_the_script_is_worth_comparing(expected: dict[int, dict[str, list[Wire]]]) -> None:
    """Every kind that a recording can give is there, in both streams, and the streams differ."""
    for streams in expected.values():
        for name, wires in streams.items():
            kinds = [wire["kind"] for wire in wires]
            assert kinds.count("detection") >= 3
            assert kinds[-1] == "effort"
            reasons = [wire["reason"] for wire in wires if wire["kind"] == "gap"]
            cut_in_two = ["absent", "absent"]  # 61 s
            assert reasons == ["overflow", "short_segment", *cut_in_two, *(["invalid"] if name == "ch2" else [])]
        first, second = ([wire.get("peak_s") for wire in wires] for wires in streams.values())
        assert first != second


def moved(call: Wire, samples: int, clock: SampleClock) -> Wire:
    """A detection so many samples later; its id, which hangs on its place, left out."""
    places = {
        "start": call["start_sample"] + samples,
        "peak": round(call["peak_s"] * clock.sample_rate_hz) + samples,
        "end": call["end_sample"] + samples,
    }
    later = call | {"start_sample": places["start"], "end_sample": places["end"], "id": None}
    later |= {f"{name}_s": clock.seconds(sample) for name, sample in places.items()}
    return later | {f"{name}_utc": clock.utc(sample) for name, sample in places.items()}


def test_sample_numbers_go_on_past_two_to_the_31(model: Model) -> None:
    """A stream whose first sound lies 60 s before: the same calls before, across and after it, moved to the sample."""
    rate_hz = 48_000
    first = 2**31 - 60 * rate_hz
    rng = np.random.default_rng(3)
    sound = (rng.standard_normal((2, 80 * rate_hz)) * 0.01).astype(np.float32)
    for begin_s in (7.3, 31.0, 59.9, 66.2, 74.0):
        sound[:, round(begin_s * rate_hz) :][:, : rate_hz // 4] *= 50
    blocks = in_blocks([Audio(sound, None)], [4801, 30_000])
    expected = analyse(blocks, rate_hz, model)
    far = analyse([Missing(first, "absent"), *blocks], rate_hz, model)
    clock = SampleClock(rate_hz, BEGAN_UTC_NS)
    for name, wires in far.items():
        calls, before = ([w for w in some if w["kind"] == "detection"] for some in (wires, expected[name]))
        assert [call | {"id": None} for call in calls] == [moved(call, first, clock) for call in before]
        spans = [(call["start_sample"] < 2**31, call["end_sample"] > 2**31) for call in calls]
        assert spans == [(True, False), (True, False), (True, True), (False, True), (False, True)]
        gaps = [wire for wire in wires if wire["kind"] == "gap"]
        assert sum(gap["samples"] for gap in gaps) == first
        terms = ("elapsed_samples", "analysed_samples", "gap_samples", "skipped_samples", "pending_samples")
        analysed = sound.shape[1]
        assert [wires[-1][term] for term in terms] == [first + analysed, analysed, first, 0, 0]
