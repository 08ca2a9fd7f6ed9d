"""What a stream's sound tells of its hydrophone: states of seconds, not of clicks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pam_daemon.capture.hearing import Hearing
from pam_daemon.records import Event

RATE_HZ = 2000
FLOOR_DBFS = -90.0
SOUND = np.random.default_rng(5).normal(0, 0.01, 60 * RATE_HZ).astype(np.float32)


def hear(hearing: Hearing, samples: NDArray[np.float32], block: int = 200) -> list[Event]:
    blocks = (samples[at : at + block] for at in range(0, len(samples), block))
    return [event for part in blocks if (event := hearing.feed(part))]


def spoilt(kind: str) -> NDArray[np.float32]:
    """Half a minute."""
    part = SOUND[: 30 * RATE_HZ]
    match kind:
        case "silent":
            return np.zeros_like(part)
        case "dc":
            return np.full_like(part, 0.3)
        case "quiet":
            return part * np.float32(1e-4)
        case _:
            return np.clip(part * 200, -1, 1)


@pytest.mark.parametrize("kind", ["silent", "dc", "quiet", "clipping"])
def test_a_spoilt_signal_is_a_state_after_ten_seconds_and_over_after_ten_of_sound(kind: str) -> None:
    hearing = Hearing(RATE_HZ, FLOOR_DBFS)
    assert hear(hearing, SOUND) == [] and hearing.state is None
    assert hear(hearing, spoilt(kind)[: 9 * RATE_HZ]) == [] and hearing.state is None
    (began,) = hear(hearing, spoilt(kind))
    assert (began.what, began.severity, began.data, hearing.state) == ("signal", "warning", {"state": kind}, kind)
    (over,) = hear(hearing, SOUND)
    assert (over.severity, over.data, hearing.state) == ("info", {"state": "heard"}, None)


def test_clicks_at_full_scale_and_short_silences_are_no_state() -> None:
    samples = SOUND.copy()
    samples[:: RATE_HZ // 2] = 1.0
    samples[10 * RATE_HZ : 15 * RATE_HZ] = 0
    hearing = Hearing(RATE_HZ, FLOOR_DBFS)
    assert hear(hearing, samples) == [] and hearing.state is None


@pytest.mark.parametrize("dbfs, state", [(-89.0, None), (-91.0, "quiet")])
def test_the_floor_is_where_it_was_set(dbfs: float, state: str | None) -> None:
    """Of sound without its mean: a small offset hides nothing and adds nothing."""
    hearing = Hearing(RATE_HZ, FLOOR_DBFS)
    tone = np.sqrt(2) * 10 ** (dbfs / 20) * np.sin(2 * np.pi * 100 * np.arange(60 * RATE_HZ) / RATE_HZ)
    hear(hearing, (tone + 1e-5).astype(np.float32))
    assert hearing.state == state


@pytest.mark.parametrize("block", [1, 77, 4096, 100_000])
def test_the_blocks_size_does_not_matter_much(block: int) -> None:
    hearing = Hearing(RATE_HZ, FLOOR_DBFS)
    samples = np.concatenate([SOUND, *[spoilt("silent")] * 60])
    events = hear(hearing, samples[: 200 * RATE_HZ] if block < 1000 else samples, block)
    assert [event.data["state"] for event in events] == ["silent"]
