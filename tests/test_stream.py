"""Streams and the worker: every sample accounted for at every moment, and the same records whatever the timing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from fakes import BEGAN_UTC_NS, TOY_RATE_HZ, TOY_WINDOW, FakeClock, FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_daemon.clock import NS_PER_S, SampleClock, parse_rfc3339
from pam_daemon.config import Flood
from pam_daemon.detect import Threshold
from pam_daemon.fill import fill
from pam_daemon.live_clock import LiveClock
from pam_daemon.model import Model
from pam_daemon.records import Mode, ModelName, Record, Wire, record_id
from pam_daemon.ring import FloatArray, Ring
from pam_daemon.sources import Audio, Missing
from pam_daemon.stream import Analysis, Origin, Stream, Timing
from pam_daemon.worker import Worker

RATES_HZ = [2000, 8000, 44100, 48000]
MODEL = ModelName("toy", "0" * 64)
KEY = "f" * 64
NOW = Timing(0, 0)


def analysis(hop: int = 1000, mode: Mode = "replay", flood: Flood | None = None) -> Analysis:
    return Analysis(
        station="pamd",
        mode=mode,
        model=MODEL,
        labels=("loud",),
        model_rate_hz=TOY_RATE_HZ,
        window_samples=TOY_WINDOW,
        hop_samples=hop,
        threshold=Threshold(0.5, "model"),
        min_separation_s=1.5,
        floor_dbfs=-90.0,
        flood=flood or Flood(),
    )


def file_origin(rate_hz: int) -> Origin:
    return Origin(SampleClock(rate_hz, BEGAN_UTC_NS), lambda sample: (KEY, sample))


def loudness(windows: Sequence[FloatArray]) -> FloatArray:
    """Scores (windows, 1) of windows (samples,), each from its own samples alone."""
    scores = [[min(1.0, 40 * float(np.mean(np.square(window, dtype=np.float64))))] for window in windows]
    result: FloatArray = np.array(scores, np.float32).reshape(-1, 1)
    return result


def noise(rng: np.random.Generator, count: int) -> FloatArray:
    """Quiet, and loud in some stretches."""
    level = rng.choice([0.02, 0.02, 0.3], size=count // 4000 + 1).repeat(4000)[:count]
    samples: FloatArray = (rng.standard_normal(count) * level).astype(np.float32)
    return samples


@dataclass
class Bench:
    """One stream under test, and what became of it."""

    stream: Stream
    rng: np.random.Generator
    records: list[Record] = field(default_factory=list)

    def round(self, limit: int) -> None:
        taken = self.stream.take(limit)
        self.check()
        assert len(taken) <= limit
        assert all(window.shape == (TOY_WINDOW,) and np.isfinite(window).all() for window in taken)
        self.records += self.stream.settle(loudness(taken), NOW, FakeClock())

    def write(self, what: str, seconds: float) -> None:
        count = max(1, round(seconds * self.stream.sample_rate_hz))
        if what == "gap":
            self.stream.ring.gap(count, "overflow", estimated=count % 2 == 0, uncertainty_s=0.1)
            return
        samples = noise(self.rng, count)
        if what == "bad":
            samples[self.rng.integers(0, count, size=3)] = [np.nan, np.inf, -np.inf]
        self.stream.ring.write(samples)

    def check(self) -> None:
        """The identity, with each term as it is published."""
        status = self.stream.status(None)
        terms = (status.analysed_samples, status.gap_samples, status.skipped_samples, status.pending_samples)
        assert min(terms) >= 0
        assert status.elapsed_samples == sum(terms)

    def wires(self, kind: str) -> list[Wire]:
        return [record.wire() for record in self.records if record.kind == kind]


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


def run_one(samples: FloatArray, rate_hz: int, *, hop: int = 1000, mode: Mode = "replay") -> list[Record]:
    stream = Stream("ch1", FakeSource((), rate_hz), Ring(len(samples)), analysis(hop, mode))
    stream.origin = file_origin(rate_hz) if mode == "replay" else Origin.live(LiveClock(rate_hz, FakeClock(), 0, 0))
    bench = Bench(stream, np.random.default_rng(0))
    stream.ring.write(samples)
    stream.ring.close()
    while not stream.settled:
        bench.round(5)
    return [*bench.records, stream.effort(FakeClock())]


def burst_at(seconds: float, total_s: float, rate_hz: int) -> FloatArray:
    samples = np.full(round(total_s * rate_hz), 0.001, np.float32)
    begin = round(seconds * rate_hz)
    samples[begin : begin + rate_hz // 4] = 0.9
    return samples


def test_a_detection_says_where_it_lies_in_samples_seconds_and_utc() -> None:
    """A burst at 6.0-6.25 s: windows that begin at 4.5, 5, 5.5 and 6 s hold it wholly; of those four equal ones, cut
    into a piece of three (less than 1.5 s apart) and one of one, the second is the place."""
    records = run_one(burst_at(6.0, 12.0, 48_000), 48_000)
    (call,) = [record.wire() for record in records if record.kind == "detection"]
    score = call["score"]
    assert (call["start_s"], call["peak_s"], call["end_s"]) == (4.5, 6.0, 8.0)
    assert (call["start_sample"], call["end_sample"]) == (216_000, 384_000)
    assert call["start_utc"] == "2009-03-29T17:15:04.500000Z"
    assert call["peak_utc"] == "2009-03-29T17:15:06.000000Z"
    assert call["end_utc"] == "2009-03-29T17:15:08.000000Z"
    assert (call["windows"], call["continuing"], call["truncated"]) == (4, False, False)
    assert 0.5 <= score <= 1
    assert call["latency_ms"] == {
        "audio_ms": 1500.0,
        "read_ms": None,
        "score_ms": None,
        "decide_ms": None,
        "total_ms": None,
    }


def test_ids_are_the_contracts() -> None:
    samples = burst_at(6.0, 12.0, 8000)
    samples[:100] = np.nan
    by_kind: dict[str, Any] = {record.kind: record.wire() for record in run_one(samples, 8000)}
    call, gap, effort = by_kind["detection"], by_kind["gap"], by_kind["effort"]
    head = ("pamd", "ch1", KEY)
    assert call["id"] == record_id("detection", *head, call["start_sample"], "0" * 64, "loud")
    assert gap["id"] == record_id("gap", *head, 0, "invalid")
    assert effort["id"] == record_id("effort", *head, 0, 96_000)


def test_a_live_stream_says_when_it_began_and_its_ids_carry_that() -> None:
    records = run_one(burst_at(6.0, 12.0, 2000), 2000, mode="live")
    event, call, effort = (record.wire() for record in records)
    began = "2009-03-29T17:15:00.000000Z"
    head = ("pamd", "ch1", began)
    assert (event["what"], event["data"]["start_utc"], event["mode"]) == ("stream_began", began, "live")
    assert event["id"] == record_id("event", *head, 0, "stream_began", event["time_utc"])
    assert call["id"] == record_id("detection", *head, call["start_sample"], "0" * 64, "loud")
    assert effort["start_utc"] == began


def test_without_a_start_every_utc_is_null_but_the_time_of_making() -> None:
    stream = Stream("ch1", FakeSource((), 2000), Ring(40_000), analysis())
    stream.origin = Origin(SampleClock(2000, None), lambda sample: (KEY, sample))
    stream.ring.write(burst_at(6.0, 12.0, 2000))
    stream.ring.gap(10, "truncated")
    stream.ring.close()
    bench = Bench(stream, np.random.default_rng(0))
    while not stream.settled:
        bench.round(5)
    for record in [*bench.records, stream.effort(FakeClock())]:
        wire = record.wire()
        assert all(wire[name] is None for name in wire if name.endswith("_utc") and name != "time_utc")
        assert wire["time_utc"] == "2009-03-29T17:15:00.000000Z"
    assert {record.kind for record in bench.records} == {"detection", "gap"}


def test_latency_counts_from_the_last_sample_of_the_peaks_window() -> None:
    """Every half second of sound comes half a second later; scoring takes 7 ms, and 20 ms pass before it begins."""
    clock = FakeClock()
    stream = Stream("ch1", FakeSource((), 2000), Ring(40_000), analysis(mode="live"))
    stream.origin = Origin.live(LiveClock(2000, FakeClock(), 0, 0))
    samples = burst_at(6.0, 12.0, 2000)
    records: list[Record] = []
    for at in range(0, len(samples), 1000):
        clock.now_ns = (at + 1000) * NS_PER_S // 2000
        stream.ring.write(samples[at : at + 1000], clock.now_ns)
        clock.now_ns += 20_000_000
        taken = stream.take(10)
        read_ns = clock.now_ns
        clock.now_ns += 7_000_000
        records += stream.settle(loudness(taken), Timing(read_ns, clock.now_ns), clock)
    (call,) = [record.wire() for record in records if record.kind == "detection"]
    assert call["peak_s"] == 6.0
    assert call["latency_ms"] == {
        "audio_ms": 1500.0,
        "read_ms": 20.0,
        "score_ms": 7.0,
        "decide_ms": 0.0,
        "total_ms": 1527.0,
    }


def test_a_call_at_the_very_end_is_truncated_and_told() -> None:
    calls = [r.wire() for r in run_one(burst_at(11.0, 12.0, 8000), 8000) if r.kind == "detection"]
    assert [(call["truncated"], call["end_sample"]) for call in calls] == [(True, 96_000)]


def test_a_segment_is_decided_as_if_it_were_alone() -> None:
    """Loud up to a gap of one sample and on behind it: no run, no nearness and no plateau reaches over the gap."""
    samples = np.full(12_001, 0.5, np.float32)
    samples[6000] = np.nan
    calls = [record.wire() for record in run_one(samples, 2000) if record.kind == "detection"]
    told = ("start_sample", "end_sample", "windows", "continuing", "truncated")
    assert [[call[name] for name in told] for call in calls] == [
        [0, 6000, 3, False, True],
        [6001, 12_001, 3, False, True],
    ]


def test_effort_counts_the_same_as_the_status() -> None:
    stream = Stream("ch1", FakeSource((), 8000), Ring(100_000), analysis())
    stream.origin = file_origin(8000)
    bench = Bench(stream, np.random.default_rng(0))
    for what, seconds in (("audio", 5.0), ("gap", 2.0), ("audio", 3.3)):
        bench.write(what, seconds)
    bench.round(2)
    effort, status = stream.effort(FakeClock()).wire(), stream.status(0.5)
    for term in ("elapsed", "analysed", "gap", "skipped", "pending"):
        assert effort[f"{term}_samples"] == getattr(status, f"{term}_samples")
    assert effort["analysed_samples"] == 20_000  # 2 windows of 2 s, half a second apart
    assert (effort["gap_samples"], effort["pending_samples"]) == (16_000, 46_400)
    assert effort["end_sample"] == 82_400
    assert effort["end_utc"] == "2009-03-29T17:15:10.300000Z"
    assert status.lag_s == 5.8


@pytest.mark.parametrize("quality, gaps_s", [("synchronised", [100.0]), ("unsynchronised", [100.0, 3600.0])])
def test_after_a_boot_without_a_clock_the_time_not_running_is_told_once_utc_is_set(
    quality: Literal["synchronised", "unsynchronised"], gaps_s: list[float]
) -> None:
    """UTC was an hour slow at the start: what was not listened to before it ends an hour later than it seemed."""
    clock = FakeClock()
    clock.quality = quality
    stopped_ns = BEGAN_UTC_NS - 100 * NS_PER_S
    stream = Stream("ch1", FakeSource((), 2000), Ring(40_000), analysis(mode="live"), heard_until_utc_ns=stopped_ns)

    def blocks() -> Iterator[Audio]:
        for second in range(1, 11):
            clock.now_ns = second * NS_PER_S
            clock.began_utc_ns += 3600 * NS_PER_S * (second == 5)
            yield Audio(np.full((1, 2000), 0.01, np.float32), clock.now_ns)

    fill(blocks(), [stream], [0], clock, lambda: None)
    records: list[Record] = []
    while not stream.settled:
        records += stream.settle(loudness(stream.take(5)), NOW, clock)
    gaps = [record.wire() for record in records if record.kind == "gap"]
    assert [gap["duration_s"] for gap in gaps] == gaps_s
    assert {gap["reason"] for gap in gaps} == {"not_running"}
    ends = [parse_rfc3339(gap["start_utc"]) + round(gap["duration_s"] * NS_PER_S) for gap in gaps]
    assert parse_rfc3339(gaps[0]["start_utc"]) == stopped_ns and ends[0] == BEGAN_UTC_NS
    assert [parse_rfc3339(gap["start_utc"]) for gap in gaps[1:]] == ends[:-1]
    assert stream.status(None).gap_samples == 0


@pytest.mark.parametrize("mode", ["live", "replay"])
def test_a_flood_is_marked_from_its_last_necessary_call_on_and_told_at_both_ends(mode: Mode) -> None:
    """Ten bursts, four seconds apart; three in less than 20 s are a flood, which is over 20 s after the last. A replay
    has no events of it: its records are the same each time."""
    stream = Stream(
        "ch1", FakeSource((), 2000), Ring(200_000), analysis(mode=mode, flood=Flood(count=3, window_s=20.0))
    )
    stream.origin = file_origin(2000)
    samples = np.full(2000 * 70, 0.001, np.float32)
    for burst in range(10):
        samples[2000 * (4 + 4 * burst) :][:500] = 0.9
    stream.ring.write(samples)
    stream.ring.close()
    bench = Bench(stream, np.random.default_rng(0))
    while not stream.settled:
        bench.round(5)
    wires = [record.wire() for record in bench.records]
    assert [wire["flood"] for wire in wires if wire["kind"] == "detection"] == [False] * 2 + [True] * 8
    assert stream.status(None).flood_detections == 8
    told = [wire for wire in wires if wire["kind"] == "detection" or wire["what"] != "stream_began"]
    if mode == "replay":
        assert {wire["kind"] for wire in told} == {"detection"}
        return
    assert [wire["kind"] for wire in told][1:4] == ["detection", "event", "detection"]
    began, over = (wire for wire in told if wire["kind"] == "event")
    assert (began["what"], began["data"]) == ("flood", {"label": "loud"})
    assert (over["what"], over["data"]) == ("flood_over", {"label": "loud", "detections": 8})
