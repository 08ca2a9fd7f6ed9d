"""Devices: found by name, recorded in real time, their losses measured; the real PortAudio in child processes."""

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sound import DEVICE, SoundServer, hydrophone_fixture  # noqa: F401 - pytest finds the fixture by its import

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.capture import Pace, capture
from pam_daemon.capture.sources.child import Lost, split
from pam_daemon.capture.sources.child import write as write_message
from pam_daemon.capture.sources.device import Device, DeviceInfo, choose_device
from pam_daemon.errors import SourceError

RATE_HZ = 1000


@dataclass
class SeaTime:
    """The monotonic clock and the stop event of a simulation: waiting is what makes time pass."""

    end_s: float
    now_s: float = 0.0
    sleeps: dict[float, float] = field(default_factory=dict)
    """At which time the whole process is stopped, and for how long."""

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def wait(self, timeout: float) -> bool:
        self.now_s += timeout + 1e-4
        for at_s in [at_s for at_s in self.sleeps if at_s <= self.now_s]:
            self.now_s += self.sleeps.pop(at_s)
        return self.now_s >= self.end_s


@dataclass
class SimulatedDevice:
    """A sound card in simulated time that delivers in bursts; each sample's value is its number at sea."""

    sea: SeaTime
    burst_s: float = 0.5
    ppm: float = 0.0
    losses: dict[float, tuple[float, bool]] = field(default_factory=dict)
    """At which time the card loses how many seconds, and whether it says so."""
    dies_s: float = float("inf")
    captured: list[NDArray[np.float32]] = field(default_factory=list)
    heard: int = 0
    flag: bool = False

    def _deliver(self) -> None:
        now_s = min(self.sea.now_s, self.dies_s)
        heard = int(now_s // self.burst_s * self.burst_s * RATE_HZ * (1 + self.ppm * 1e-6))
        for at_s in [at_s for at_s in self.losses if at_s <= now_s]:
            seconds, flagged = self.losses.pop(at_s)
            self.heard += round(seconds * RATE_HZ)
            self.flag |= flagged
        if heard > self.heard:
            self.captured.append(np.arange(self.heard, heard, dtype=np.float32))
            self.heard = heard

    @property
    def read_available(self) -> int:
        self._deliver()
        return sum(len(part) for part in self.captured)

    def read(self, frames: int) -> tuple[NDArray[np.float32], bool]:
        samples = np.concatenate(self.captured)
        self.captured = [samples[frames:]]
        flag, self.flag = self.flag, False
        return samples[:frames, None], flag


def run(device: SimulatedDevice, no_data_s: float = 5.0) -> tuple[list[tuple[int, Audio]], list[tuple[int, Missing]]]:
    """What capture gives, each with its place in the stream."""
    audio: list[tuple[int, Audio]] = []
    missing: list[tuple[int, Missing]] = []
    at = 0
    items = capture(device, device.sea, Pace(RATE_HZ), no_data_s=no_data_s, monotonic_ns=device.sea.monotonic_ns)
    for item in items:
        if isinstance(item, Missing):
            missing.append((at, item))
            at += item.samples
        else:
            audio.append((at, item))
            at += item.samples.shape[1]
    return audio, missing


def worst_misplacement_s(audio: list[tuple[int, Audio]], after: int = 0) -> float:
    """How far, at most, a block that begins from a place on is from its place at sea."""
    return max(abs(at - float(item.samples[0, 0])) for at, item in audio if at >= after) / RATE_HZ


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0.005, 0.6), st.floats(-200, 200), st.lists(st.tuples(st.floats(5, 50), st.floats(0.01, 6)), max_size=3)
)
def test_nothing_is_missing_where_nothing_was_lost(
    burst_s: float, ppm: float, sleeps: list[tuple[float, float]]
) -> None:
    """Neither bursts nor a card that runs fast or slow nor a process that was stopped looks like a loss."""
    device = SimulatedDevice(SeaTime(60, sleeps=dict(sleeps)), burst_s, ppm)
    audio, missing = run(device)
    assert missing == []
    samples = np.concatenate([item.samples[0] for _, item in audio])
    np.testing.assert_array_equal(samples, np.arange(len(samples)))


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("lost_s", [0.15, 0.4, 4.0])
def test_a_loss_is_measured_and_stands_in_its_place(lost_s: float, flagged: bool) -> None:
    """With or without the device's flag: as long as it was, within its uncertainty, and nothing after it is moved."""
    audio, missing = run(SimulatedDevice(SeaTime(40), losses={20.2: (lost_s, flagged)}))
    ((at, gap),) = missing
    assert (gap.reason, gap.estimated, gap.uncertainty_s) == ("overflow", True, 0.1)
    assert gap.samples / RATE_HZ == pytest.approx(lost_s, abs=gap.uncertainty_s)
    assert at / RATE_HZ == pytest.approx(20, abs=0.01)  # the burst before it was delivered at 20.0
    assert worst_misplacement_s(audio) <= gap.uncertainty_s


def test_a_flag_alone_is_a_loss_of_at_least_a_sample() -> None:
    """The device's word counts even where the clock cannot measure it."""
    _, missing = run(SimulatedDevice(SeaTime(30), burst_s=0.01, losses={10.0: (0.0, True)}))
    ((_, gap),) = missing
    assert 1 <= gap.samples <= 0.1 * RATE_HZ


def test_small_losses_add_up_until_they_are_found() -> None:
    """40 ms each ten seconds, never flagged, cannot shift the stream by more than the tolerance."""
    losses = {10.05 + 10 * n: (0.04, False) for n in range(20)}
    audio, missing = run(SimulatedDevice(SeaTime(230), burst_s=0.02, losses=losses))
    assert sum(gap.samples for _, gap in missing) / RATE_HZ == pytest.approx(0.8, abs=0.2)
    assert worst_misplacement_s(audio) <= 0.2


def test_a_loss_while_the_process_was_stopped_is_measured() -> None:
    """Stopped for longer than the buffer holds: what was kept, what was lost, what follows."""
    sea = SeaTime(40, sleeps={20.0: 5.0})
    audio, missing = run(SimulatedDevice(sea, losses={20.5: (3.0, True)}))
    assert [gap.samples / RATE_HZ for _, gap in missing] == [pytest.approx(3.0, abs=0.1)]
    assert worst_misplacement_s(audio) <= 0.1


def test_every_block_knows_when_it_was_captured() -> None:
    """The clock when the sample after the last was captured: within a poll of the truth, never before it."""
    audio, _ = run(SimulatedDevice(SeaTime(20), burst_s=0.5))
    late_s = [(item.monotonic_ns or 0) / 1e9 - (at + item.samples.shape[1]) / RATE_HZ for at, item in audio]
    assert min(late_s) >= -1e-6
    assert max(late_s) <= 0.05
    assert max(item.samples.shape[1] for _, item in audio) == 100


def test_at_the_end_all_that_was_delivered_is_given() -> None:
    """Also what was held back because of a suspicion, and what waits in the buffer."""
    device = SimulatedDevice(SeaTime(20.6), losses={19.9: (0.3, True)})
    audio, missing = run(device)
    assert device.read_available == 0
    assert audio[-1][1].samples[0, -1] == 20_499
    assert [gap.samples / RATE_HZ for _, gap in missing] == [pytest.approx(0.3, abs=0.1)]


@pytest.mark.parametrize("dies_s", [0.0, 8.2])
def test_a_device_that_falls_silent_is_an_error_after_all_it_gave(dies_s: float) -> None:
    """No data for the seconds asked for, whether from the start or later; a hung device does not hang the daemon."""
    device = SimulatedDevice(SeaTime(1000), dies_s=dies_s)
    items = capture(device, device.sea, Pace(RATE_HZ), no_data_s=3.0, monotonic_ns=device.sea.monotonic_ns)
    given_samples = 0
    with pytest.raises(SourceError, match="no data for 3 s"):
        for item in items:
            assert isinstance(item, Audio)
            given_samples += item.samples.shape[1]
    assert given_samples == dies_s // 0.5 * 0.5 * RATE_HZ
    assert device.sea.now_s == pytest.approx(dies_s // 0.5 * 0.5 + 3, abs=0.6)


DEVICES = [
    DeviceInfo(0, "HDA Intel PCH: ALC257 Analog (hw:0,0)", "ALSA", 2, 44100),
    DeviceInfo(1, "USB Hydrophone: Audio (hw:1,0)", "ALSA", 2, 48000),
    DeviceInfo(2, "USB Hydrophone: Spare (hw:1,2)", "ALSA", 2, 48000),
    DeviceInfo(3, "sysdefault", "ALSA", 128, 44100),
    DeviceInfo(4, "default", "ALSA", 32, 44100),
    DeviceInfo(5, "Line", "MME", 2, 44100),
    DeviceInfo(6, "Line", "Windows WASAPI", 2, 48000),
]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("USB Hydrophone: Audio (hw:1,0)", 1),
        ("hw:1", 1),
        ("hw:1,2", 2),
        ("hw:0,0", 0),
        ("default", 4),  # exact before a part of `sysdefault`
        ("SPARE", 2),
        ("Line, MME", 5),
        ("wasapi", 6),
    ],
)
def test_a_device_is_found_by_name(name: str, index: int) -> None:
    """Exact, then ALSA's hw:N[,M], then a part that is unique."""
    assert choose_device(name, DEVICES).index == index


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("USB", r"'USB' is ambiguous: 'USB Hydrophone: Audio \(hw:1,0\), ALSA', 'USB Hydrophone: Spare"),
        ("Line", r"'Line' is ambiguous: 'Line, MME', 'Line, Windows WASAPI'"),
        ("hw:2", r"no device 'hw:2'; there is 'HDA.*'default, ALSA'"),
        ("hw:1,1", "no device"),
        ("sonobuoy", "no device 'sonobuoy'; there is"),
    ],
)
def test_an_unknown_or_ambiguous_name_lists_the_choice(name: str, message: str) -> None:
    """In one line."""
    with pytest.raises(SourceError, match=message) as caught:
        choose_device(name, DEVICES)
    assert "\n" not in str(caught.value)


def test_where_nothing_can_capture_that_is_said() -> None:
    """No empty list of candidates."""
    with pytest.raises(SourceError, match="there is no device that can capture"):
        choose_device("hw:1", [])


def test_more_channels_than_there_are_is_an_error() -> None:
    """Before the device is opened."""
    with pytest.raises(SourceError, match="has 2 channels, not 3"):
        Device(DEVICES[1], SeaTime(1), channels=3)


def child(script: str, env: dict[str, str] | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("hidden", "remedy"),
    [
        ("import ctypes.util; ctypes.util.find_library = lambda name: None", "libportaudio2"),
        ("import sys; sys.modules['sounddevice'] = None", "pip install sounddevice"),
    ],
)
def test_a_missing_library_is_one_line_and_only_when_needed(hidden: str, remedy: str) -> None:
    """Importing the module needs nothing; listing devices names the remedy."""
    result = child(
        f"{hidden}\n"
        "import sys\n"
        "from pam_daemon.errors import DependencyError\n"
        "from pam_daemon.capture.sources.device import list_devices\n"
        "assert sys.modules.get('sounddevice') is None\n"
        "try: list_devices()\n"
        "except DependencyError as error: print(error)\n"
    )
    assert result.stderr == ""
    assert remedy in result.stdout
    assert result.stdout.count("\n") == 1


LIST = """
import dataclasses, json
from pam_daemon.capture.sources.device import find_device, list_devices
print(json.dumps([dataclasses.asdict(device) for device in list_devices()]))
find_device("HYDROphone")
"""

RECORD = """
import json, sys, threading, time
import numpy as np
from pam_daemon.errors import SourceError
from pam_daemon.capture.sources import Audio
from pam_daemon.capture.sources.device import Device, find_device

out, seconds, rate_hz, channels = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) or None, int(sys.argv[4])
stop = threading.Event()
blocks, items, end_s, cpu_s = [], [], None, 0.0
try:
    with Device(find_device("hydrophone"), stop, sample_rate_hz=rate_hz, channels=channels) as device:
        print(device.sample_rate_hz, flush=True)
        for item in device.blocks():
            if isinstance(item, Audio):
                if end_s is None:
                    end_s, cpu_s = time.monotonic() + seconds, time.process_time()
                    print("first", flush=True)
                blocks.append(item.samples)
                items.append([item.samples.shape[1], item.monotonic_ns, None])
            else:
                items.append([item.samples, None, [item.reason, item.estimated, item.uncertainty_s]])
            if end_s and time.monotonic() > end_s:
                stop.set()
    cpu_s = time.process_time() - cpu_s
except SourceError as error:
    print(error, file=sys.stderr)
np.save(out + ".npy", np.concatenate(blocks, axis=1))
with open(out + ".json", "w") as file:
    json.dump({"items": items, "cpu_s": cpu_s}, file)
"""


@dataclass
class Recorder:
    """A child process that records the device, its output once it has ended."""

    server: SoundServer
    out: Path
    seconds: float
    rate_hz: int = 48_000
    channels: int = 1

    def __enter__(self) -> "Recorder":
        arguments = [str(self.out), str(self.seconds), str(self.rate_hz), str(self.channels)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORD, *arguments],
            env=self.server.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.actual_rate_hz = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == "first\n"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def result(self) -> tuple[NDArray[np.float32], list[list[object]], float, str]:
        """Samples (channels, samples), what came in order, processor time in seconds, and stderr."""
        _, errors = self.process.communicate(timeout=90)
        assert self.process.returncode == 0, errors
        described = json.loads(self.out.with_suffix(".json").read_text())
        return np.load(self.out.with_suffix(".npy")), described["items"], described["cpu_s"], errors


def test_portaudio_lists_the_device(hydrophone: SoundServer) -> None:
    """The name that `--device` takes, and a part of it in other case."""
    result = child(LIST, hydrophone.env)
    assert result.returncode == 0, result.stderr
    (device,) = [device for device in json.loads(result.stdout) if device["name"] == DEVICE]
    assert (device["host_api"], device["channels"] >= 1) == ("ALSA", True)


def test_what_is_played_is_recorded_exactly_and_in_real_time(hydrophone: SoundServer, tmp_path: Path) -> None:
    """Through a real PortAudio device: every sample of it, none between, at the clock's pace, at little cost."""
    values = np.random.default_rng(0).integers(-20000, 20000, 3 * 48_000)
    played = np.concatenate([np.zeros(48_000), values / 32768]).astype(np.float32)
    soundfile.write(tmp_path / "played.wav", played, 48_000, subtype="FLOAT")
    with Recorder(hydrophone, tmp_path / "out", seconds=8) as recorder:
        assert hydrophone.play(tmp_path / "played.wav").wait(timeout=30) == 0
        samples, items, cpu_s, errors = recorder.result()
    assert (recorder.actual_rate_hz, samples.shape[0], errors) == (48_000, 1, "")
    sounding = np.flatnonzero(samples[0])
    first_value = np.flatnonzero(played)[0]
    begin = sounding[0] - first_value
    np.testing.assert_array_equal(samples[0, begin : begin + len(played)], played)
    assert all(gap is None for _, _, gap in items)
    counted = np.cumsum([count for count, _, _ in items])
    clock_s = np.array([float(str(ns)) for _, ns, _ in items]) / 1e9
    pace = (counted[-1] - counted[0]) / (clock_s[-1] - clock_s[0])
    assert pace == pytest.approx(48_000, rel=0.02)
    assert cpu_s < 0.1 * 8  # 0.01 s a second here; a loop that spins takes 1


def test_without_a_rate_the_native_one_is_taken(hydrophone: SoundServer, tmp_path: Path) -> None:
    """PortAudio's default for the device."""
    with Recorder(hydrophone, tmp_path / "out", seconds=1, rate_hz=0) as recorder:
        samples, _, _, _ = recorder.result()
    (native,) = [d for d in json.loads(child(LIST, hydrophone.env).stdout) if d["name"] == DEVICE]
    assert recorder.actual_rate_hz == native["sample_rate_hz"]
    assert samples.shape[1] > 0.9 * recorder.actual_rate_hz


REFUSED = """
import sys
import threading
from pam_daemon.capture.sources import Outage
from pam_daemon.capture.sources.device import Device, find_device
try:
    with Device(find_device("hydrophone"), threading.Event(), sample_rate_hz=int(sys.argv[1])):
        print("opened")
except Outage as outage:
    print(outage.reason, outage)
"""


def test_a_rate_that_the_device_does_not_have_is_told(hydrophone: SoundServer) -> None:
    """PortAudio's own refusal: PulseAudio ends at 384 kHz."""
    assert child(REFUSED, hydrophone.env, "48000").stdout.split() == ["opened"]
    assert child(REFUSED, hydrophone.env, "400000").stdout.startswith("wrong_rate device 'hydrophone' cannot be opened")


def test_what_the_device_lost_is_missing(hydrophone: SoundServer, tmp_path: Path) -> None:
    """Stopped for longer than the server keeps 32 channels: audio and gap make up the time that passed."""
    with Recorder(hydrophone, tmp_path / "out", seconds=10, channels=32) as recorder:
        time.sleep(2)
        recorder.process.send_signal(signal.SIGSTOP)
        time.sleep(5)
        recorder.process.send_signal(signal.SIGCONT)
        _, items, _, _ = recorder.result()
    gaps = [(count, gap) for count, _, gap in items if gap]
    assert gaps, "the server kept it all: nothing was lost, so nothing was tested"
    assert all(gap == ["overflow", True, 0.1] for _, gap in gaps)
    counted = np.cumsum([count for count, _, _ in items]) / 48_000
    clock_s = {index: float(str(ns)) / 1e9 for index, (_, ns, gap) in enumerate(items) if not gap}
    first, last = min(clock_s), max(clock_s)
    passed_s = clock_s[last] - clock_s[first]
    assert counted[last] - counted[first] == pytest.approx(passed_s, abs=0.3)


def test_a_server_that_dies_is_one_line(hydrophone: SoundServer, tmp_path: Path) -> None:
    """What had come is given first; then the error names the device. PortAudio and ALSA print lines of their own."""
    with Recorder(hydrophone, tmp_path / "out", seconds=30) as recorder:
        time.sleep(1)
        hydrophone.process.kill()
        samples, _, _, errors = recorder.result()
    assert samples.shape[1] > 0
    assert errors.splitlines()[-1].startswith("device 'hydrophone' has")


def test_what_is_no_message_of_the_devices_process_is_an_error() -> None:
    """Not after gigabytes were waited for, either."""
    whole = io.BytesIO()
    write_message(whole, Lost(5, "overflow", False, 0.0))
    assert split(bytearray(whole.getvalue())) == [Lost(5, "overflow", False, 0.0)]
    for garbled in (b"\0\0\0\0", b"\x01\0\0\0\xc1", b"\xff\xff\xff\xff", b"ALSA lib pcm.c: underrun"):
        with pytest.raises(SourceError, match="no message from the device's process"):
            split(bytearray(whole.getvalue() + garbled))
