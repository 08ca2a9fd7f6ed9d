"""Who is deaf, told from heartbeats and their absence, on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeClock

from pam_daemon.clock import NS_PER_S
from pam_daemon.errors import EndpointError
from pam_daemon.records import Wire
from pam_daemon.subscribe.vigil import Vigil

BEGAN = "2009-03-29T17:15:00Z"


def status(elapsed: int = 0, *, mode: str = "live", began: str = BEGAN, **stream: Any) -> Wire:
    state = {"elapsed_samples": elapsed, "lag_s": 0.1, "trouble": None} | stream
    head = {"kind": "status", "station": "north", "stream": "_", "mode": mode, "every_s": 10.0, "started_utc": began}
    return head | {"streams": {"ch1": state}}


class Watch:
    """Looks once a second, as who waits for records does."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.vigil = Vigil("tcp://north:5556", self.clock)

    def wait(self, seconds: int) -> list[str]:
        lines = []
        for _ in range(seconds):
            self.clock.now_ns += NS_PER_S
            lines += self.vigil.changes()
        return lines

    def hear(self, wire: Wire) -> list[str]:
        self.vigil.hear(wire)
        return self.vigil.changes()


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_station_that_was_never_heard(watch: Watch) -> None:
    assert watch.wait(30) == []
    assert watch.wait(1) == [f"tcp://north:5556: DEAF: no heartbeat, since {BEGAN}"]
    assert watch.vigil.deaf
    assert watch.hear(status()) == ["tcp://north:5556: hears again, after 31 s"]
    assert not watch.vigil.deaf


def test_three_heartbeats_missed(watch: Watch) -> None:
    """Said once, and when it is over; a heartbeat in time says nothing."""
    lines = watch.wait(5)
    for n in range(10):
        lines += watch.hear(status(n)) + watch.wait(29)
    assert lines == []
    assert watch.wait(2) == ["north: DEAF: no heartbeat, since 2009-03-29T17:19:26Z"]
    assert watch.wait(100) == []
    assert watch.hear(status(99)) == ["north: hears again, after 131 s"]


def test_any_record_shows_that_its_station_is_there(watch: Watch) -> None:
    watch.hear(status())
    for _ in range(10):
        assert watch.wait(20) == []
        assert watch.hear({"kind": "detection", "station": "north"}) == []


def test_what_was_not_looked_at_has_not_been_missed(watch: Watch) -> None:
    """A program that was stopped, or busy, for a minute waits anew."""
    watch.hear(status())
    watch.clock.now_ns += 60 * NS_PER_S
    assert watch.vigil.changes() == []
    assert watch.wait(30) == []
    assert len(watch.wait(1)) == 1


def test_a_stream_in_trouble(watch: Watch) -> None:
    """Each trouble is a line; silence of the whole station does not end it."""
    assert watch.hear(status()) == []
    assert watch.hear(status(1, trouble="absent")) == [f"north/ch1: DEAF: absent, since {BEGAN}"]
    watch.wait(10)
    assert watch.hear(status(1, trouble="absent")) == []
    assert watch.hear(status(2, trouble="busy")) == [f"north/ch1: DEAF: busy, since {BEGAN}"]
    assert watch.wait(31) == ["north: DEAF: no heartbeat, since 2009-03-29T17:15:10Z"]
    assert sorted(watch.hear(status(3))) == ["north/ch1: hears again, after 41 s", "north: hears again, after 31 s"]


def test_a_live_stream_whose_samples_do_not_go_on(watch: Watch) -> None:
    """Over more than three heartbeats; several at once, as when a subscriber comes, prove nothing."""
    lines = watch.hear(status(500)) + watch.hear(status(500))
    for _ in range(3):
        lines += watch.wait(10) + watch.hear(status(500))
    assert lines == []
    assert watch.wait(10) + watch.hear(status(500)) == [f"north/ch1: DEAF: no sound comes, since {BEGAN}"]
    assert watch.hear(status(501)) == ["north/ch1: hears again, after 40 s"]


def test_a_station_that_started_anew_has_not_stood_still(watch: Watch) -> None:
    watch.hear(status(0))
    watch.wait(20)
    watch.wait(20)
    assert watch.hear(status(0, began="2009-03-29T17:15:39Z")) == ["north: hears again, after 40 s"]


def test_a_live_stream_far_behind(watch: Watch) -> None:
    assert watch.hear(status(1, lag_s=59.0)) == []
    assert watch.hear(status(2, lag_s=61.0)) == [f"north/ch1: DEAF: more than 60 s behind, since {BEGAN}"]
    assert watch.hear(status(3, lag_s=1e9)) == []
    assert watch.hear(status(4, lag_s=3.0)) == ["north/ch1: hears again, after 0 s"]


def test_a_replay_reads_ahead_and_ends(watch: Watch) -> None:
    for _ in range(10):
        assert watch.hear(status(500, mode="replay", lag_s=3600.0)) + watch.wait(10) == []


def test_recovery_that_does_not_answer(watch: Watch) -> None:
    """While records wait for it, that is deafness too."""
    lines = []
    for n in range(4):
        watch.vigil.recovery(True)
        lines += watch.hear(status(n)) + watch.wait(10)
    assert lines == ["north: DEAF: recovery does not answer, and records wait for it, since 2009-03-29T17:15:00Z"]
    watch.vigil.recovery(False)
    assert watch.vigil.changes() == ["north: hears again, after 40 s"]


@pytest.mark.parametrize("field", [{"streams": 3}, {"streams": {"ch1": {}}}, {"every_s": "ten"}])
def test_a_status_that_is_none_is_one_line(watch: Watch, field: Wire) -> None:
    with pytest.raises(EndpointError, match="no status of pamd"):
        watch.vigil.hear(status() | field)
