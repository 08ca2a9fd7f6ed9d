"""The wire contract: heads, numbers, topics, instants, and ids that anyone can compute again."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from fakes import event
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.clock import SampleClock, rfc3339, utc_ns_of
from pam_daemon.records import Gap, Numbers, Record, record_id, topic

SHA = "ab" * 32


def by_hand(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def test_ids_are_the_digest_of_their_parts_by_lines() -> None:
    assert record_id("detection", "pamd", "ch1", SHA, 1234, "cd" * 32, "upcall") == by_hand(
        f"detection\npamd\nch1\n{SHA}\n1234\n{'cd' * 32}\nupcall"
    )
    assert record_id("gap", "pamd", "ch2", SHA, 0, "truncated") == by_hand(f"gap\npamd\nch2\n{SHA}\n0\ntruncated")
    assert record_id("effort", "pamd", "ch1", SHA, 0, 96_000) == by_hand(f"effort\npamd\nch1\n{SHA}\n0\n96000")


def test_null_parts_are_empty_and_zero_is_not() -> None:
    when = "2026-01-01T00:00:00.000000Z"
    assert record_id("event", "pamd", "_", None, None, "reload", when) == by_hand(f"event\npamd\n_\n\n\nreload\n{when}")
    assert record_id("gap", "pamd", "ch1", None, 0, "x") == by_hand("gap\npamd\nch1\n\n0\nx")


def test_a_known_id_stays_what_it_is() -> None:
    """Printed once with another program: `printf 'gap\\npamd\\nch1\\nkey\\n0\\ntruncated' | sha256sum`."""
    assert record_id("gap", "pamd", "ch1", "key", 0, "truncated") == "d4b0916083df63d25ed6fd45f720dd99"


def test_a_record_on_the_wire() -> None:
    body = Gap("gap", 10, 20, None, 0.01, "overflow", True, 0.5)
    record = Record("gap", "buoy-1", "ch1", "live", "0" * 32, "2026-01-01T00:00:00.000000Z", body)
    assert record.wire(Numbers("log", 7, 5, True)) == {
        "schema": "pamd/1",
        "kind": "gap",
        "station": "buoy-1",
        "stream": "ch1",
        "mode": "live",
        "id": "0" * 32,
        "time_utc": "2026-01-01T00:00:00.000000Z",
        "log": "log",
        "seq": 7,
        "prev_seq": 5,
        "durable": True,
        "term": "gap",
        "start_sample": 10,
        "samples": 20,
        "start_utc": None,
        "duration_s": 0.01,
        "reason": "overflow",
        "estimated": True,
        "uncertainty_s": 0.5,
    }
    assert topic(record.wire()) == b"gap/buoy-1/ch1"


def test_without_a_journal_the_four_numbers_are_null() -> None:
    wire = event(1).wire()
    assert [wire[name] for name in ("log", "seq", "prev_seq", "durable")] == [None] * 4
    assert msgspec.json.decode(msgspec.json.encode(wire)) == wire


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2009, 3, 29, 17, 15, tzinfo=UTC), "2009-03-29T17:15:00.000000Z"),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "1969-12-31T23:59:59.999999Z"),
        (datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-5))), "2024-02-29T06:02:03.000004Z"),
    ],
)
def test_instants_are_rfc_3339_with_microseconds(instant: datetime, text: str) -> None:
    assert rfc3339(utc_ns_of(instant)) == text
    assert datetime.fromisoformat(text) == instant


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from([2000, 44_100, 48_000, 384_000]))
def test_utc_follows_the_sample_number_without_drift(sample: int, more: int, rate_hz: int) -> None:
    """Years of samples later the clock is still exact to the nanosecond, and it never runs backwards."""
    clock = SampleClock(rate_hz, 1_238_346_900_000_000_000)
    utc_ns = clock.utc_ns(sample)
    later_ns = clock.utc_ns(sample + more)
    assert utc_ns is not None
    assert later_ns is not None
    assert 0 <= sample * 10**9 - (utc_ns - 1_238_346_900_000_000_000) * rate_hz < rate_hz
    assert later_ns >= utc_ns


def test_a_clock_without_a_start_knows_seconds_only() -> None:
    clock = SampleClock(2000, None)
    assert (clock.seconds(3000), clock.utc_ns(3000), clock.utc(3000)) == (1.5, None, None)
