"""What the records of a stream say: places, times, ids, latencies, what is left out and what is marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from fakes import BEGAN_UTC_NS, FakeClock, FakeSource
from streams import KEY, NOW, Bench, analysis, file_origin, loudness

from pam_daemon.analysis.reports import Origin
from pam_daemon.analysis.stream import Stream, Timing
from pam_daemon.capture.live_clock import LiveClock
from pam_daemon.capture.ring import FloatArray, Ring
from pam_daemon.capture.sources import Audio
from pam_daemon.clock import NS_PER_S, SampleClock, parse_rfc3339
from pam_daemon.config import Flood
from pam_daemon.fill import fill
from pam_daemon.records import Mode, Record, record_id


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
