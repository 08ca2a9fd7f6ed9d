"""Windows: the grid, the last one aligned to the end, none over a gap, the same whatever pieces the samples came in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_daemon.analysis.windows import Grid, Item, SegmentEnd, Window, Windower
from pam_daemon.capture.ring import FloatArray, Heard, Unheard

RATES_HZ = [2000, 8000, 44100, 48000]
WINDOW = 4000

Piece = Heard | Unheard


def noise(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def cut(pieces: Sequence[Piece], grid: Grid) -> list[Item]:
    windower = Windower(grid)
    return [*itertools.chain.from_iterable(windower.feed(piece) for piece in pieces), *windower.close()]


def in_blocks(pieces: Sequence[Piece], sizes: Sequence[int]) -> list[Piece]:
    """The same samples in blocks of these sizes, again and again."""
    blocks: list[Piece] = []
    turn = itertools.cycle(sizes)
    for piece in pieces:
        if isinstance(piece, Unheard):
            blocks.append(piece)
            continue
        at = 0
        while at < len(piece.samples):
            size = next(turn)
            blocks.append(Heard(piece.start + at, piece.samples[at : at + size]))
            at += size
    return blocks


def comparable(item: Item) -> object:
    return (item.place, item.samples.tobytes()) if isinstance(item, Window) else item


def split(items: Sequence[Item]) -> list[list[Window]]:
    """The windows by segment."""
    segments: list[list[Window]] = [[]]
    for item in items:
        if isinstance(item, Window):
            segments[-1].append(item)
        elif isinstance(item, SegmentEnd):
            segments.append([])
    assert segments.pop() == [], "every segment with windows ends"
    return segments


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[Piece], Grid]:
    """Segments around a window's length with gaps between, and how to cut them."""
    rate_hz = draw(st.sampled_from(RATES_HZ))
    grid = Grid(rate_hz, 2000, WINDOW, draw(st.sampled_from([500, 1000, 1001, 3999, 4000])))
    window = grid.source_samples(WINDOW)
    length = st.integers(-30, 30).map(lambda n: window + n) | st.integers(1, 3 * window)
    pieces: list[Piece] = []
    position = 0
    for number, count in enumerate(draw(st.lists(length, min_size=1, max_size=3))):
        if number:
            gap = Unheard(position, draw(st.integers(1, 70 * rate_hz)), "gap", draw(st.sampled_from(["a", "b"])))
            pieces.append(gap)
            position = gap.end
        pieces.append(Heard(position, noise(count, seed=number)))
        position += count
    return pieces, grid


@settings(max_examples=60, deadline=None)
@given(recordings(), st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_the_sizes_of_the_blocks_change_nothing(recording: tuple[list[Piece], Grid], sizes: list[int]) -> None:
    pieces, grid = recording
    whole, blocks = cut(pieces, grid), cut(in_blocks(pieces, [*sizes, 5000]), grid)
    assert [comparable(item) for item in blocks] == [comparable(item) for item in whole]


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_no_window_spans_a_gap_and_every_sample_has_its_place(recording: tuple[list[Piece], Grid]) -> None:
    pieces, grid = recording
    items = cut(pieces, grid)
    heard = [piece for piece in pieces if isinstance(piece, Heard)]
    rounding = grid.source_rate_hz // grid.model_rate_hz + 1

    # Every sample number is in one segment with windows or in one unheard stretch.
    bounds = [(i.start, i.end) for i in items if isinstance(i, Unheard)]
    segments = split(items)
    for windows in segments:
        home = next(p for p in heard if p.start <= windows[0].place.source_start < p.start + len(p.samples))
        end = home.start + len(home.samples)
        bounds.append((home.start, end))
        assert windows[0].place.source_start == home.start
        assert all(home.start <= w.place.source_start < w.place.source_end <= end for w in windows)
        assert end - windows[-1].place.source_end <= rounding
    bounds.sort()
    assert bounds[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert bounds[-1][1] == sum(p.samples if isinstance(p, Unheard) else len(p.samples) for p in pieces)

    # What windows and segment ends freshly cover is each heard sample once; short segments are told as skipped.
    fresh = sum(item.fresh_samples for item in items if not isinstance(item, Unheard))
    skipped = sum(item.samples for item in items if isinstance(item, Unheard) and item.term == "skipped")
    assert all(item.fresh_samples >= 0 for item in items if not isinstance(item, Unheard))
    assert fresh + skipped == sum(len(piece.samples) for piece in heard)


@settings(max_examples=60, deadline=None)
@given(recordings())
def test_the_grid_and_the_last_window(recording: tuple[list[Piece], Grid]) -> None:
    """Window k starts at model sample k * hop of what soxr gives for the whole segment; the last ends with it."""
    pieces, grid = recording
    segments = iter(split(cut(pieces, grid)))
    for piece in pieces:
        if isinstance(piece, Unheard):
            continue
        model = piece.samples
        if grid.source_rate_hz != grid.model_rate_hz:
            model = soxr.resample(piece.samples, grid.source_rate_hz, grid.model_rate_hz, quality="HQ")
        if len(model) < WINDOW:
            continue
        last = len(model) - WINDOW
        starts = [*range(0, last + 1, grid.hop_samples)]
        starts += [last] if starts[-1] != last else []
        windows = next(segments)
        assert [window.place.centre - WINDOW // 2 for window in windows] == starts
        for window, start in zip(windows, starts, strict=True):
            np.testing.assert_array_equal(window.samples, model[start : start + WINDOW])
            at = (piece.start * grid.model_rate_hz + start * grid.source_rate_hz) / grid.model_rate_hz
            assert abs(window.place.source_start - at) <= 0.5
    assert next(segments, None) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 150_000), st.sampled_from(["a", "b", "guess"])), min_size=1, max_size=6),
    st.sampled_from([1000, 2000]),
)
def test_a_gap_comes_out_in_abutting_pieces_of_at_most_a_minute(gaps: list[tuple[int, str]], rate_hz: int) -> None:
    pieces: list[Piece] = []
    position = 0
    for samples, reason in gaps:
        estimated = reason == "guess"
        pieces.append(Unheard(position, samples, "gap", reason, estimated, 0.5 if estimated else 0.0))
        position += samples
    out = cut(pieces, Grid(rate_hz, 1000, 2000, 500))
    stretches = [item for item in out if isinstance(item, Unheard)]
    assert len(stretches) == len(out)
    assert stretches[0].start == 0
    assert stretches[-1].end == position
    assert all(before.end == after.start for before, after in itertools.pairwise(stretches))
    assert all(1 <= stretch.samples <= 60 * rate_hz for stretch in stretches)
    # Each sample keeps its reason, each outage its uncertainty, once; what abuts and is alike is one stretch.
    for samples, reason in {(p.samples, p.reason) for p in pieces if isinstance(p, Unheard)}:
        assert sum(s.samples for s in stretches if s.reason == reason) >= samples
    outages = [reason for reason, _ in itertools.groupby(reason for _, reason in gaps) if reason == "guess"]
    assert sum(s.uncertainty_s for s in stretches) == 0.5 * len(outages)
    for before, after in itertools.pairwise(stretches):
        if before.reason == after.reason:
            assert before.samples == 60 * rate_hz, "cut only where a minute is full"


def test_a_gap_is_the_same_whatever_the_pieces_it_comes_in() -> None:
    grid = Grid(2000, 2000, WINDOW, 1000)
    whole = cut([Unheard(0, 1_000_001, "gap", "overflow")], grid)
    pieces = cut([Unheard(n, 1, "gap", "overflow") for n in range(1000)] + [
        Unheard(1000, 999_001, "gap", "overflow")
    ], grid)  # fmt: skip
    assert pieces == whole
    assert len(whole) == 9


def test_a_gap_that_lasts_is_told_while_it_lasts() -> None:
    windower = Windower(Grid(2000, 2000, WINDOW, 1000))
    told = [item for second in range(121) for item in windower.feed(Unheard(2000 * second, 2000, "gap", "unplugged"))]
    assert [(item.start, item.samples) for item in told if isinstance(item, Unheard)] == [
        (0, 120_000),
        (120_000, 120_000),
    ]


def test_a_segment_shorter_than_a_window_is_skipped() -> None:
    grid = Grid(48_000, 2000, WINDOW, 1000)
    windower = Windower(grid)
    pieces: list[Piece] = [
        Heard(0, noise(50_000)),
        Unheard(50_000, 10, "gap", "overflow"),
        Heard(50_010, noise(20_000)),
    ]
    items = [item for piece in pieces for item in windower.feed(piece)] + list(windower.close())
    assert items == [
        Unheard(0, 50_000, "skipped", "short_segment"),
        Unheard(50_000, 10, "gap", "overflow"),
        Unheard(50_010, 20_000, "skipped", "short_segment"),
    ]
    assert (windower.skipped_samples, windower.pending_samples) == (70_000, 0)


@pytest.mark.parametrize(
    ("samples", "level"),
    [
        (np.tile(np.array([1, -1], np.float32), 2000), 0.0),
        (np.sin(np.arange(4000) * np.pi / 10).astype(np.float32), -3.01),
        (np.full(4000, 0.1, np.float32), -20.0),
        (np.zeros(4000, np.float32), None),
    ],
)
def test_level_of_a_window(samples: FloatArray, level: float | None) -> None:
    window = cut([Heard(0, samples)], Grid(2000, 2000, WINDOW, 1000))[0]
    assert isinstance(window, Window)
    assert window.place.level_dbfs == level


def test_level_is_over_the_windows_own_source_samples() -> None:
    """The loud second is in the first window and not in the last one."""
    samples = np.concatenate([np.full(48_000, 0.5, np.float32), np.zeros(3 * 48_000, np.float32)])
    windows = split(cut([Heard(0, samples)], Grid(48_000, 2000, WINDOW, 1000)))[0]
    levels = [window.place.level_dbfs for window in windows]
    assert levels[:3] == [-9.03, -12.04, None]


@given(st.integers(4000, 30_000), st.sampled_from([2000, 6000]), st.sampled_from([250, 500, 1000]), st.data())
def test_a_wider_stride_scores_fewer_windows_of_the_same_grid_and_still_covers_every_sample(
    total: int, rate_hz: int, hop: int, data: st.DataObject
) -> None:
    """Whenever the stride changes: each window is one of the grid's, and the fresh samples add up to the segment."""
    grid = Grid(rate_hz, 2000, WINDOW, hop)
    samples = np.random.default_rng(total).normal(0, 0.1, total * rate_hz // 2000).astype(np.float32)
    every = {w.place: w.samples for w in cut([Heard(0, samples)], grid) if isinstance(w, Window)}
    windower = Windower(grid)
    items: list[Item] = []
    for at in range(0, len(samples), rate_hz):
        windower.stride = data.draw(st.integers(1, WINDOW // hop))
        items += windower.feed(Heard(at, samples[at : at + rate_hz]))
    items += windower.close()
    windows = [item for item in items if isinstance(item, Window)]
    assert len(windows) <= len(every)
    for window in windows:
        assert np.array_equal(window.samples, every[window.place])
    ends = [0, *(window.place.source_end for window in windows)]
    assert all(window.place.source_start <= end for window, end in zip(windows, ends, strict=False))
    assert sum(item.fresh_samples for item in items if not isinstance(item, Unheard)) == len(samples)
