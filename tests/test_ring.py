"""The ring: sample numbers without holes, every sample read once or counted as skipped, writers that wait or do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_daemon.capture.ring import FloatArray, Heard, Ring, Unheard


def ramp(start: int, count: int) -> FloatArray:
    """Samples that say their own number."""
    return (np.arange(start, start + count) / 4096).astype(np.float32)


def drain(ring: Ring, limit: int = 1000) -> Iterator[Heard | Unheard]:
    cursor = ring.cursor()
    cursor.position = 0
    while (piece := cursor.read(limit)) is not None:
        yield piece


WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("audio"), st.integers(1, 40)),
        st.tuples(st.just("gap"), st.integers(1, 40)),
        st.tuples(st.just("bad"), st.integers(1, 5)),  # not-a-number inside the next audio
        st.tuples(st.just("read 0"), st.integers(1, 25)),
        st.tuples(st.just("read 1"), st.integers(1, 60)),
    ),
    max_size=40,
)


@given(
    writes=st.lists(st.tuples(st.sampled_from(["audio", "gap", "read"]), st.integers(1, 40)), max_size=30),
    asked=st.lists(st.tuples(st.integers(-5, 400), st.integers(1, 200)), min_size=1, max_size=10),
)
def test_stored_audio_is_given_by_its_sample_numbers(
    writes: list[tuple[str, int]], asked: list[tuple[int, int]]
) -> None:
    """Up to the next gap, as long as it is stored, read or not; and where the audio that holds a sample began."""
    capacity = 50
    ring = Ring(capacity)
    cursor = ring.cursor()
    begins: list[int | None] = []  # of each sample, where its audio began; None in a gap
    for what, count in writes:
        start = ring.elapsed_samples
        if what == "read":
            cursor.read(count)
        elif what == "gap":
            ring.gap(count, "overflow")
            begins += count * [None]
        else:
            ring.write(ramp(start, count))
            begins += count * [begins[-1] if begins and begins[-1] is not None else start]
    audio = [number for number, begin in enumerate(begins) if begin is not None]
    for start, count in asked:
        begin = begins[start] if 0 <= start < len(begins) else None
        assert ring.heard_since(start) == begin
        samples = ring.audio(start, start + count)
        if begin is None or start not in audio[-capacity:]:
            assert samples is None
        else:
            end = next((n for n in range(start, min(start + count, len(begins))) if begins[n] is None), start + count)
            np.testing.assert_array_equal(samples, ramp(start, min(end, len(begins)) - start))
    lost_samples = cursor.lost_samples
    while cursor.read(1000) is not None:
        pass
    assert lost_samples == cursor.skipped_samples, "what is overwritten is lost before it is read as such"


Told = tuple[str, int]  # a sample number's kind, and which sample it says it is


class Reader:
    """A cursor, and what it was told of each sample number."""

    def __init__(self, ring: Ring) -> None:
        self.cursor = ring.cursor()
        self.told: list[Told] = []

    def read(self, limit: int, truth: list[Told], capacity: int) -> bool:
        piece = self.cursor.read(limit)
        if piece is None:
            return False
        assert piece.start == len(self.told)
        audio_since = sum(kind == "audio" for kind, _ in truth[piece.start :])
        if isinstance(piece, Heard):
            assert 1 <= len(piece.samples) <= limit
            assert audio_since <= capacity
            self.told += [("audio", round(float(sample) * 4096)) for sample in piece.samples]
            return True
        if piece.term == "skipped":
            assert piece.reason == "overrun"
            assert audio_since - piece.samples >= capacity, "what the ring still holds was not skipped"
        self.told += [(piece.reason, number) for number in range(piece.start, piece.end)]
        return True

    def counts(self) -> tuple[int, int]:
        """Heard, and skipped."""
        kinds = [kind for kind, _ in self.told]
        return kinds.count("audio"), kinds.count("overrun")


def write(ring: Ring, what: str, count: int) -> list[Told]:
    """One write, and the truth about it."""
    numbers = range(ring.elapsed_samples, ring.elapsed_samples + count)
    if what == "gap":
        ring.gap(count, "overflow")
        return [("overflow", number) for number in numbers]
    samples = ramp(ring.elapsed_samples, count)
    if what == "bad":
        samples[::2] = np.nan
    ring.write(samples)
    kinds = ["audio" if finite else "invalid" for finite in np.isfinite(samples)]
    return list(zip(kinds, numbers, strict=True))


@settings(max_examples=200, deadline=None)
@given(WRITES, st.integers(1, 50))
def test_every_sample_is_read_once_or_skipped_once(steps: list[tuple[str, int]], capacity: int) -> None:
    """Two cursors at their own pace, and the writer waits for neither: checked after each step."""
    ring = Ring(capacity)
    readers = [Reader(ring), Reader(ring)]
    truth: list[Told] = []
    for what, count in steps:
        if what.startswith("read"):
            readers[int(what[-1])].read(count, truth, capacity)
        else:
            truth += write(ring, what, count)
        assert ring.elapsed_samples == len(truth)
        assert ring.gap_samples == sum(kind != "audio" for kind, _ in truth)
        for reader in readers:
            heard, skipped = reader.counts()
            cursor = reader.cursor
            assert cursor.skipped_samples == skipped
            assert ring.elapsed_samples == heard + ring.gap_samples + skipped + cursor.pending_samples
    for reader in readers:
        while reader.read(1000, truth, capacity):
            pass
        assert reader.cursor.pending_samples == 0
        for told, (kind, number) in zip(reader.told, truth, strict=True):
            assert told in [(kind, number)] + [("overrun", number)] * (kind == "audio")


def test_what_is_overwritten_is_skipped_and_no_more() -> None:
    ring = Ring(10)
    cursor = ring.cursor()
    ring.write(ramp(0, 25))
    overrun = cursor.read(3)
    assert overrun == Unheard(0, 15, "skipped", "overrun")
    rest = cursor.read(100)
    assert isinstance(rest, Heard)
    np.testing.assert_array_equal(rest.samples, ramp(15, 10))
    assert (cursor.skipped_samples, cursor.pending_samples, cursor.read(1)) == (15, 0, None)


def test_samples_that_are_no_numbers_are_a_gap() -> None:
    ring = Ring(100)
    samples = ramp(0, 10)
    samples[[0, 4, 5, 9]] = [np.nan, np.inf, -np.inf, np.nan]
    ring.write(samples)
    pieces = [(p.start, p.reason if isinstance(p, Unheard) else len(p.samples)) for p in drain(ring)]
    assert pieces == [(0, "invalid"), (1, 3), (4, "invalid"), (6, 3), (9, "invalid")]
    assert ring.gap_samples == 4


def test_a_gap_takes_no_room() -> None:
    ring = Ring(10)
    ring.write(ramp(0, 5))
    ring.gap(10**9, "unplugged", estimated=True, uncertainty_s=0.5)
    ring.write(ramp(0, 5))
    heard, gap, again = drain(ring)
    assert isinstance(heard, Heard)
    assert gap == Unheard(5, 10**9, "gap", "unplugged", True, 0.5)
    assert isinstance(again, Heard)
    assert again.start == 10**9 + 5


def test_a_writer_that_waits_loses_nothing() -> None:
    """Written in pieces larger than the ring, read in small ones, on two threads."""
    ring = Ring(64, wait=True)
    cursor = ring.cursor()
    rng = np.random.default_rng(1)

    def work() -> None:
        begin = 0
        while begin < 20_000:
            count = int(rng.integers(1, 300))
            ring.write(ramp(begin, count))
            begin += count
        ring.close()

    writer = threading.Thread(target=work)
    writer.start()
    position = 0
    while not cursor.exhausted:
        with ring.changed:
            ring.changed.wait_for(lambda: ring.closed or cursor.pending_samples, timeout=60)
        piece = cursor.read(50)
        if piece is None:
            break
        assert isinstance(piece, Heard)
        np.testing.assert_array_equal(piece.samples, ramp(position, len(piece.samples)))
        position += len(piece.samples)
    writer.join()
    assert position == ring.elapsed_samples >= 20_000
    assert cursor.skipped_samples == 0


def test_a_writer_that_waits_gives_up_when_the_ring_is_closed() -> None:
    ring = Ring(10, wait=True)
    ring.cursor()
    writer = threading.Thread(target=ring.write, args=(ramp(0, 30),))
    writer.start()
    with ring.changed:
        assert ring.changed.wait_for(lambda: ring.elapsed_samples == 10, timeout=60)
    ring.close()
    writer.join(timeout=60)
    assert not writer.is_alive()
    assert ring.elapsed_samples == 10


def test_a_cursor_begins_where_the_writer_is() -> None:
    ring = Ring(100)
    ring.write(ramp(0, 10))
    cursor = ring.cursor()
    ring.write(ramp(10, 5))
    piece = cursor.read(100)
    assert isinstance(piece, Heard)
    assert piece.start == 10
    np.testing.assert_array_equal(piece.samples, ramp(10, 5))


def test_exhausted_only_when_closed_and_read_to_the_end() -> None:
    ring = Ring(100)
    cursor = ring.cursor()
    ring.write(ramp(0, 10))
    assert not cursor.exhausted
    ring.close()
    assert not cursor.exhausted
    cursor.read(100)
    assert cursor.exhausted


def test_full_scale_is_counted() -> None:
    ring = Ring(100)
    ring.write(np.array([0.0, 1.0, -1.0, 32767 / 32768, 32766 / 32768, np.nan, 2.0], np.float32))
    assert ring.clipped_samples == 4


def test_when_a_sample_was_captured_follows_from_the_newest() -> None:
    ring = Ring(100)
    assert ring.captured_ns(0, 1000) is None
    ring.write(ramp(0, 10), monotonic_ns=5_000_000_000)
    ring.gap(10, "overflow")
    assert ring.captured_ns(10, 1000) == 5_000_000_000, "a gap moves no sample"
    ring.write(ramp(20, 10), monotonic_ns=5_020_000_000)
    assert ring.captured_ns(30, 1000) == 5_020_000_000
    assert ring.captured_ns(0, 1000) == 4_990_000_000
