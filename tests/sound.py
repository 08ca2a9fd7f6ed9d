"""Real PortAudio devices for tests: a private PulseAudio server whose null sinks a process can record, in real time.

Nothing global is touched: the server, its socket and ALSA's configuration live in a temporary directory, and only
processes given `env` see its devices, of which `hydrophone` is the usual one. What is played at a sink's rate is
captured bit for bit at that rate. PortAudio calls 44.1 kHz the native rate of every ALSA plug-in, so a process that
does not ask for 48 kHz gets it resampled by the server.

A recorder that has just begun shortens the server's latency, and a player that begins in that moment can lose its
first tenth of a second: let what you play begin with a second of silence, or wait until the recorder has had data.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEVICE = "hydrophone"
RATE_HZ = 48_000
_START_S = 20.0
_PCM = """
pcm.{device} {{
    type pulse
    server "{server}"
    device "{device}.monitor"
    hint {{ show on description "{device}" }}
}}
"""


@dataclass(frozen=True, slots=True)
class SoundServer:
    """A running server with a null sink a device."""

    env: dict[str, str]
    """The environment of processes that are to see the devices."""
    process: subprocess.Popen[bytes]

    def play(self, path: Path, device: str = DEVICE) -> subprocess.Popen[bytes]:
        """Begin to play a sound file into a device's sink; wait for the process to know that it is over."""
        command = ["paplay", f"--device={device}", str(path)]
        return subprocess.Popen(command, env=self.env, start_new_session=True)

    def play_now(self, path: Path, device: str = DEVICE) -> tuple[subprocess.Popen[bytes], float]:
        """The same, and the UTC of the file's first sample: a busy machine is slow to start a player."""
        command = ["paplay", "--verbose", f"--device={device}", str(path)]
        said = path.with_suffix(".paplay")
        with said.open("wb") as log:
            player = subprocess.Popen(command, env=self.env, stderr=log, start_new_session=True)
        end_s = time.monotonic() + _START_S
        while not (played_s := re.findall(r"Time: (\d+\.\d+) sec", said.read_text())):
            assert time.monotonic() < end_s and player.poll() is None, said.read_text()
            time.sleep(0.01)
        return player, time.time() - float(played_s[-1])


@contextmanager
def sound_server(directory: Path, channels: int = 1, devices: Sequence[str] = (DEVICE,)) -> Iterator[SoundServer]:
    """Run a server in the directory, whose path must be short: it holds a Unix socket. Ctrl-C does not reach it."""
    socket = directory / "native"
    pcms = "".join(_PCM.format(device=device, server=f"unix:{socket}") for device in devices)
    (directory / "asoundrc").write_text(f"</usr/share/alsa/alsa.conf>\n{pcms}")
    # Other sessions' servers, cookies and buses must not be found.
    foreign = ("PULSE_", "ALSA_", "DBUS_", "XDG_", "DISPLAY", "WAYLAND_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
        "ALSA_CONFIG_PATH": str(directory / "asoundrc"),
    }
    command = [
        *("pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes"),
        *("--resample-method=soxr-vhq", "--log-level=warning"),
        *("-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"),
    ]
    for device in devices:
        command += ["-L", f"module-null-sink sink_name={device} rate={RATE_HZ} format=float32le channels={channels}"]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        server = SoundServer({**env, "PULSE_SERVER": f"unix:{socket}"}, process)
        _wait_until_ready(server, devices, directory / "server.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(server: SoundServer, devices: Sequence[str], log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and server.process.poll() is None:
        answer = subprocess.run(
            ["pactl", "list", "short", "sources"], env=server.env, capture_output=True, text=True, check=False
        )
        if all(f"{device}.monitor" in answer.stdout for device in devices):
            return
        time.sleep(0.1)
    raise AssertionError(f"PulseAudio does not run: {log.read_text()}")


@pytest.fixture(name="hydrophone")
def hydrophone_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    """The device of this name, for processes started with `hydrophone.env`.

    A test module takes it with `from sound import hydrophone_fixture`.
    """
    assert shutil.which("pulseaudio"), "install pulseaudio, pulseaudio-utils and libasound2-plugins: `make test` does"
    with sound_server(tmp_path_factory.mktemp("snd")) as server:
        yield server
