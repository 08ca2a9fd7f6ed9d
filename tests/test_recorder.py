"""The recorder: what it writes replays with the same sample clock, and no sample is lost uncounted."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import BEGAN_UTC_NS, TOY_RATE_HZ, FakeClock, FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import NOW, analysis, loudness

from pam_daemon.analysis.reports import Origin
from pam_daemon.analysis.stream import Stream
from pam_daemon.capture.ring import FloatArray, Ring
from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.capture.sources.filenames import start_of
from pam_daemon.clock import NS_PER_S, SampleClock, utc_ns_of
from pam_daemon.config import Record
from pam_daemon.errors import ConfigError, RecordError
from pam_daemon.outlets.flac import file_name
from pam_daemon.outlets.recorder import Recorder, next_file
from pam_daemon.records import Detection, Event
from pam_daemon.records import Record as WireRecord

GB = 1_000_000_000
NO_QUOTA = {"min_free_gb": 0.0}


def numbered(start: int, count: int) -> FloatArray:
    """Samples (count,) that say their own number, as 24 bits hold it."""
    return ((np.arange(start, start + count) % (1 << 23)) / (1 << 23)).astype(np.float32)


class Bench:
    """Live streams without a worker, and their recorder; what is written to a ring says its sample number."""

    def __init__(
        self,
        directory: Path,
        *,
        rate_hz: int = 1000,
        streams: tuple[str, ...] = ("ch1",),
        ring_s: float = 600.0,
        began_utc_ns: int = BEGAN_UTC_NS,
        **config: float | None,
    ) -> None:
        self.directory = directory
        self.rate_hz = rate_hz
        self.clock = FakeClock(began_utc_ns)
        self.origin_clock = SampleClock(rate_hz, began_utc_ns)
        self.streams = [
            Stream(name, FakeSource([], rate_hz), Ring(round(ring_s * rate_hz)), analysis(mode="live"))
            for name in streams
        ]
        for stream in self.streams:
            stream.origin = Origin(self.origin_clock, lambda sample: ("key", sample))
        self.recorder = Recorder(Record(str(directory), **{**NO_QUOTA, **config}), "pamd", self.streams, self.clock)  # type: ignore[arg-type]

    @property
    def ring(self) -> Ring:
        return self.streams[0].ring

    def write(self, seconds: float) -> None:
        for stream in self.streams:
            start = stream.ring.elapsed_samples
            stream.ring.write(numbered(start, round(seconds * self.rate_hz)), 0)
        self.clock.now_ns += int(seconds * NS_PER_S)

    def gap(self, seconds: float) -> None:
        for stream in self.streams:
            stream.ring.gap(round(seconds * self.rate_hz), "overflow")

    def end(self) -> None:
        for stream in self.streams:
            stream.ring.close()
        self.recorder.run(lambda: False)

    @property
    def lost_samples(self) -> int:
        status = self.streams[0].status(None).recorder
        assert status is not None
        return status.lost_samples

    def events(self) -> list[Event]:
        """What the stream was told, as the worker takes it; once."""
        records = self.streams[0].settle(loudness([]), NOW, self.clock)
        return [
            record.body for record in records if isinstance(record.body, Event) and record.body.what != "stream_began"
        ]

    def files(self, stream: str = "ch1") -> dict[int, FloatArray]:
        """The samples of each finished file by the sample number that its name tells."""
        found: dict[int, FloatArray] = {}
        for path in sorted(self.directory.glob(f"pamd.{stream}.*Z.flac")):
            named = start_of(path.name)
            assert named is not None and not named.assumed_utc
            since_ns = utc_ns_of(named.utc) - (self.origin_clock.start_utc_ns or 0)
            found[round(since_ns * self.rate_hz / NS_PER_S)] = soundfile.read(path, dtype="float32")[0]
        return found


@settings(max_examples=40)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["write", "gap", "round"]), st.integers(1, 700)), max_size=25),
    ring=st.sampled_from([300, 5000]),
    before_boundary_ns=st.integers(0, 60 * NS_PER_S),
)
def test_every_captured_sample_is_in_one_file_at_its_place_or_counted_as_lost(
    steps: list[tuple[str, int]], ring: int, before_boundary_ns: int
) -> None:
    """Whatever the blocks, gaps, overruns and boundaries; a file ends at one of these and nowhere else."""
    with tempfile.TemporaryDirectory() as directory:
        rate_hz, began_utc_ns = 10, BEGAN_UTC_NS - before_boundary_ns
        bench = Bench(
            Path(directory), rate_hz=rate_hz, ring_s=ring / rate_hz, began_utc_ns=began_utc_ns, file_minutes=1
        )
        captured: set[int] = set()
        for what, count in steps:
            start = bench.ring.elapsed_samples
            if what == "write":
                bench.write(count / rate_hz)
                captured.update(range(start, start + count))
            elif what == "gap":
                bench.gap(count / rate_hz)
            else:
                bench.recorder.round()
        bench.end()
        files = bench.files()
        for start, samples in files.items():
            np.testing.assert_array_equal(samples, numbered(start, len(samples)))
        written = [number for start, samples in files.items() for number in range(start, start + len(samples))]
        assert len(written) == len(set(written))
        assert len(captured) == len(written) + bench.lost_samples
        assert captured.issuperset(written)
        if ring == 5000 and sum(count for what, count in steps if what == "write") < ring:
            assert bench.lost_samples == 0
        ends = {start + len(samples): start for start, samples in files.items()}
        for start in files:
            if start in ends:
                boundary_ns = bench.origin_clock.utc_ns(start) or 0
                assert boundary_ns % (60 * NS_PER_S) < NS_PER_S / rate_hz, "the first sample of a minute"
        for end, start in ends.items():
            if end in captured and end not in files:
                assert bench.lost_samples
            assert end - start <= 61 * rate_hz


def test_a_file_ends_at_the_full_hour_to_the_sample() -> None:
    """At any rate and any fraction of a sample; one that would last less than a second goes on to the next hour."""
    hour_ns = 3600 * NS_PER_S
    for rate_hz, before_ns in itertools.product([1, 44_100, 655_350], [NS_PER_S, 5 * NS_PER_S + 12_345, hour_ns]):
        end = next_file(1000, 7 * hour_ns - before_ns, rate_hz, hour_ns)
        boundary_ns = hour_ns if before_ns == NS_PER_S else 0
        assert (end - 1 - 1000) * NS_PER_S < (before_ns + boundary_ns) * rate_hz <= (end - 1000) * NS_PER_S


def test_files_that_abut_replay_as_one_recording_and_a_gap_begins_another(tmp_path: Path) -> None:
    """Starts come back from the names within a sample, and the samples as they were captured."""
    began_utc_ns = BEGAN_UTC_NS + 58 * NS_PER_S + 123_456_789
    bench = Bench(tmp_path, rate_hz=48_000, began_utc_ns=began_utc_ns, file_minutes=1, streams=("ch1", "ch2"))
    bench.write(3)
    bench.recorder.round()
    bench.write(60.5)
    bench.gap(0.5)
    bench.write(1)
    bench.end()
    found = recordings(find_files([str(tmp_path)]), min_rate_hz=2000)
    assert [(len(recording.files), recording.samples) for recording in found] == 2 * [(3, 3_048_000), (1, 48_000)]
    for recording, start in zip(found, 2 * [0, 3_072_000], strict=True):
        assert recording.start_utc is not None and not recording.assumed_utc
        off_ns = utc_ns_of(recording.start_utc) - (bench.origin_clock.utc_ns(start) or 0)
        assert abs(off_ns) < NS_PER_S / bench.rate_hz
        samples = np.concatenate([piece.samples[0] for piece in recording.blocks()])  # type: ignore[union-attr]
        np.testing.assert_array_equal(samples, numbered(start, recording.samples))
    boundary = start_of(found[0].files[1].path.name)
    assert boundary is not None
    assert (boundary.utc.second, boundary.utc.microsecond < 21) == (0, True)


def test_the_oldest_files_of_this_station_go_and_nothing_else(tmp_path: Path) -> None:
    """`max_gb` deletes by the time in the names, over all streams: no clips, no other station's, no strangers'."""
    others = [
        file_name("pamd-2", "ch1", BEGAN_UTC_NS - 10**15),
        "pamd.notes.flac",
        "pamd.ch1.20090101.flac",
        "clips/" + file_name("pamd", "ch1", BEGAN_UTC_NS - 10**15, "0" * 32),
    ]
    (tmp_path / "clips").mkdir()
    for name in others:
        (tmp_path / name).write_bytes(bytes(5000))
    old = [file_name("pamd", stream, BEGAN_UTC_NS - ago * 10**12) for ago, stream in ((3, "ch2"), (2, "ch1"), (1, "a"))]
    for name in old:
        (tmp_path / name).write_bytes(bytes(10_000))
    bench = Bench(tmp_path, max_gb=15_000 / GB)
    bench.write(1)
    bench.recorder.round()
    assert {name for name in old if (tmp_path / name).exists()} == {old[2]}
    assert all((tmp_path / name).exists() for name in others)
    bench.end()
    assert len(bench.files()) == 1
    assert bench.lost_samples == 0


def test_a_disk_with_too_little_room_stops_the_recording_says_so_once_and_takes_it_up_again(tmp_path: Path) -> None:
    """Everything meanwhile is counted as lost."""
    bench = Bench(tmp_path, max_gb=100_000 / GB)
    large = tmp_path / (file_name("pamd", "ch9", BEGAN_UTC_NS) + ".part")  # being written: it cannot go
    large.write_bytes(bytes(100_001))
    for _ in range(10):
        bench.write(20)
        bench.recorder.round()
    stopped = bench.events()
    assert [event.what for event in stopped] == ["recording_stopped"]
    assert "record.max_gb" in stopped[0].text
    assert bench.lost_samples == bench.ring.elapsed_samples == 200_000
    large.unlink()
    for _ in range(5):
        bench.write(20)
        bench.recorder.round()
    assert [event.what for event in bench.events()] == ["recording_resumed"]
    bench.end()
    assert bench.ring.elapsed_samples == sum(map(len, bench.files().values())) + bench.lost_samples


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of this size, where this process may mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_what_a_full_disk_refuses_is_lost_to_the_sample_and_what_it_took_can_be_read(tmp_path: Path) -> None:
    """Also when the last frame finds no room, of which libsndfile says nothing."""
    rng = np.random.default_rng(0)
    with small_disk(tmp_path / "disk", "200k") as disk:
        (disk / "page").write_bytes(bytes(4096))
        bench = Bench(disk, clip_margin_s=0.0)
        noise = (rng.integers(-(1 << 23), 1 << 23, 200_000) / (1 << 23)).astype(np.float32)
        for part in np.split(noise, 200):
            bench.ring.write(part)
            bench.clock.now_ns += NS_PER_S
            bench.recorder.round()
        with suppress(OSError), (disk / "full").open("wb", buffering=0) as full:
            while True:
                full.write(bytes(1000))
        (disk / "page").unlink()  # room for a header
        assert bench.streams[0].recorder is not None
        for length in (3000, 30_000):  # one frame, written when the file is closed, and several
            assert bench.streams[0].recorder.order_clip(f"{length:032}", 100_000, 100_000 + length) is not None
        bench.end()
        files = bench.files()
        assert files
        for start, samples in files.items():
            np.testing.assert_array_equal(samples, noise[start : start + len(samples)])
        assert sum(map(len, files.values())) + bench.lost_samples == len(noise)
        assert bench.lost_samples > 100_000
        assert [event.what for event in bench.events()] == ["recording_stopped", "clip_lost", "clip_lost"]
        assert list(disk.glob("**/*.part")) == list((disk / "clips").iterdir()) == []


def test_a_killed_recorder_s_files_are_ended_at_the_next_start(tmp_path: Path) -> None:
    """With all whole frames, and their length; what holds no sound goes or stays, and the recorder runs on."""
    bench = Bench(tmp_path)
    bench.write(20)
    bench.end()
    (whole,) = tmp_path.glob("*.flac")
    data = bytearray(whole.read_bytes())
    data[21] &= 0xF0  # the length that a recorder fills in at the end
    data[22:26] = bytes(4)
    whole.unlink()
    names = [file_name("pamd", "ch1", BEGAN_UTC_NS - ago * 10**12) + ".part" for ago in range(4)]
    contents = (data[: len(data) * 3 // 4], data[:100], b"", b"no sound at all" * 100)
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
    rounds = iter(range(5))
    Bench(tmp_path).recorder.run(lambda: next(rounds, None) is not None)
    assert [path.name for path in tmp_path.glob("*.part")] == [names[3]]
    (rescued,) = tmp_path.glob("*.flac")
    assert rescued.name + ".part" == names[0]
    samples, _ = soundfile.read(rescued, dtype="float32")
    assert 10_000 < len(samples) < 20_000
    np.testing.assert_array_equal(samples, numbered(0, len(samples)))


def test_a_recorder_that_is_late_loses_its_own_samples_and_none_of_the_analysis(tmp_path: Path) -> None:
    """Those overwritten are lost in the status at once, not only when the recorder moves again."""
    bench = Bench(tmp_path, rate_hz=TOY_RATE_HZ, ring_s=10)
    stream = bench.streams[0]
    for _ in range(30):
        bench.write(1)
        stream.settle(loudness(stream.take(100)), NOW, bench.clock)
    status = stream.status(None)
    assert status.skipped_samples == 0
    assert status.recorder is not None
    assert status.recorder.lost_samples == bench.lost_samples == 20 * TOY_RATE_HZ
    bench.end()
    assert list(bench.files()) == [20 * TOY_RATE_HZ]
    assert bench.lost_samples == 20 * TOY_RATE_HZ


def loud(bench: Bench, seconds: float, tone_s: float) -> None:
    """Silence with half a second of noise at a time, into the ring and through the detector."""
    samples = np.zeros(round(seconds * bench.rate_hz), np.float32)
    begin = round(tone_s * bench.rate_hz)
    noise = np.random.default_rng(0).integers(-16000, 16000, bench.rate_hz // 2)
    samples[begin : begin + len(noise)] = noise / 32768
    bench.ring.write(samples, 0)


def detections(bench: Bench) -> list[WireRecord]:
    stream = bench.streams[0]
    records: list[WireRecord] = []
    while windows := stream.take(100):
        records += stream.settle(loudness(windows), NOW, bench.clock)
    records += stream.settle(loudness([]), NOW, bench.clock)
    return [record for record in records if record.kind == "detection"]


@pytest.mark.parametrize(
    ("tone_s", "gap", "end"),
    [(10.0, None, None), (0.5, None, None), (10.0, "before", None), (10.0, "after", None), (27.0, None, "end")],
)
def test_a_clip_holds_the_call_s_windows_and_a_margin_but_no_gap(
    tmp_path: Path, tone_s: float, gap: str | None, end: str | None
) -> None:
    """Its name is in the record before its end has come, and tells id and start; its samples are those captured."""
    bench = Bench(tmp_path, rate_hz=TOY_RATE_HZ, clip_margin_s=2.0)
    if gap == "before":
        bench.gap(3)
    first = bench.ring.elapsed_samples
    loud(bench, tone_s + (3.5 if gap == "after" else 20.0 if end is None else 2.5), tone_s)
    last = bench.ring.elapsed_samples
    if gap == "after":
        bench.gap(3)
        bench.write(10)
    if end:
        bench.ring.close()
    (record,) = detections(bench)
    body = record.body
    assert isinstance(body, Detection) and body.clip is not None and record.id is not None
    assert not (tmp_path / body.clip).exists()
    bench.recorder.round()
    assert record.id in body.clip
    begins, ends = max(body.start_sample - 4000, first), min(body.end_sample + 4000, last)
    named = start_of(body.clip)
    assert named is not None
    assert utc_ns_of(named.utc) == bench.origin_clock.utc_ns(begins)
    samples, rate_hz = soundfile.read(tmp_path / body.clip, dtype="float32")
    assert rate_hz == TOY_RATE_HZ
    assert len(samples) == ends - begins
    np.testing.assert_array_equal(samples, bench.ring.audio(begins, ends))
    assert np.count_nonzero(samples) > 900
    status = bench.streams[0].status(None).recorder
    assert status is not None
    assert (status.clips, status.clips_lost) == (1, 0)


def test_a_clip_whose_sound_is_overwritten_is_counted_and_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rate_hz=TOY_RATE_HZ, ring_s=15)
    loud(bench, 14, 5.0)
    (record,) = detections(bench)
    bench.write(14)
    bench.recorder.round()
    (said,) = bench.events()
    assert isinstance(record.body, Detection)
    assert (said.what, said.data) == ("clip_lost", {"detection": record.id, "clip": record.body.clip})
    status = bench.streams[0].status(None).recorder
    assert status is not None
    assert (status.clips, status.clips_lost) == (0, 1)
    assert list((tmp_path / "clips").iterdir()) == []


def test_without_a_recorder_there_is_no_clip_and_none_in_the_status(tmp_path: Path) -> None:
    bench = Bench(tmp_path, rate_hz=TOY_RATE_HZ)
    bench.streams[0].recorder = None
    loud(bench, 20, 5.0)
    (record,) = detections(bench)
    assert isinstance(record.body, Detection)
    assert record.body.clip is None
    assert bench.streams[0].status(None).recorder is None


def a_file(tmp_path: Path) -> Bench:
    (tmp_path / "taken").write_text("a file")
    return Bench(tmp_path / "taken")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (a_file, RecordError, "record.directory .*taken: cannot be written: "),
        (lambda tmp_path: Bench(tmp_path, rate_hz=700_000), ConfigError, "ch1 has 700000 Hz; FLAC holds up to"),
        (lambda tmp_path: Bench(tmp_path, rate_hz=96_001), ConfigError, "ch1 has 96001 Hz; FLAC holds up to"),
        (lambda tmp_path: Bench(tmp_path, streams=("20200101T000000Z",)), ConfigError, "reads like a time"),
    ],
)
def test_what_cannot_be_recorded_is_refused_at_the_start(
    tmp_path: Path, make: Callable[[Path], Bench], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(tmp_path)


@given(
    station=st.from_regex(r"[A-Za-z_-][A-Za-z_-]{0,31}", fullmatch=True),
    stream=st.from_regex(r"[A-Za-z-]{0,27}ch[0-9]{1,3}", fullmatch=True),
    utc_ns=st.integers(0, 3 * 10**18),
)
def test_a_name_tells_its_start_to_the_microsecond(station: str, stream: str, utc_ns: int) -> None:
    named = start_of(file_name(station, stream, utc_ns))
    assert named is not None
    assert utc_ns_of(named.utc) == utc_ns // 1000 * 1000
    assert not named.assumed_utc
