"""A real PortAudio device for tests: a private PulseAudio server whose null sink a process can record, in real time.

Nothing global is touched: the server, its socket and ALSA's configuration live in a temporary directory, and only
processes given `env` see the device `hydrophone`. What is played at the sink's rate is captured bit for bit at that
rate. PortAudio calls 44.1 kHz the native rate of every ALSA plug-in, so a process that does not ask for 48 kHz gets
it resampled by the server.

A recorder that has just begun shortens the server's latency, and a player that begins in that moment can lose its
first tenth of a second: let what you play begin with a second of silence, or wait until the recorder has had data.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEVICE = "hydrophone"
RATE_HZ = 48_000
_SINK = "hydro"
_START_S = 20.0
_ASOUNDRC = f"""
</usr/share/alsa/alsa.conf>
pcm.{DEVICE} {{
    type pulse
    device "{_SINK}.monitor"
    hint {{ show on description "{DEVICE}" }}
}}
"""


@dataclass(frozen=True, slots=True)
class SoundServer:
    """A running server with one null sink."""

    env: dict[str, str]
    """The environment of processes that are to see the device."""
    process: subprocess.Popen[bytes]

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        """Begin to play a sound file into the sink; wait for the process to know that it is over."""
        return subprocess.Popen(["paplay", f"--device={_SINK}", str(path)], env=self.env)


@contextmanager
def sound_server(directory: Path, channels: int = 1) -> Iterator[SoundServer]:
    """Run a server in the directory, whose path must be short: it holds a Unix socket."""
    socket = directory / "native"
    (directory / "asoundrc").write_text(_ASOUNDRC)
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
        *("-L", f"module-null-sink sink_name={_SINK} rate={RATE_HZ} format=float32le channels={channels}"),
    ]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        server = SoundServer({**env, "PULSE_SERVER": f"unix:{socket}"}, process)
        _wait_until_ready(server, directory / "server.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(server: SoundServer, log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and server.process.poll() is None:
        answer = subprocess.run(
            ["pactl", "list", "short", "sources"], env=server.env, capture_output=True, text=True, check=False
        )
        if f"{_SINK}.monitor" in answer.stdout:
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
