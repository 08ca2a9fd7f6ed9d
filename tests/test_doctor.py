"""`pamd doctor` as a process on a real sound device: what is wrong is named, with its remedy, and stops no check."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from fakes import FakeClock
from live import server_fixture  # noqa: F401 - pytest finds the fixture by its import
from numpy.typing import NDArray
from servers import Broker, Udp, Web, every_side
from sound import DEVICE, RATE_HZ, SoundServer

from pam_daemon.clock import Sync
from pam_daemon.control import Control
from pam_daemon.tools.doctor.machine import check_clock, check_systemd
from pam_daemon.tools.doctor.sound import judge_level
from pam_daemon.tools.doctor.sounding import mains_hum, true_rate
from pam_daemon.wire.keys import allow, new_pair

PAMD = [sys.executable, "-m", "pam_daemon"]
EXIT_CODES = {"ok": 0, "warning": 3, "failure": 1}
SECONDS = 4
Results = dict[str, list[dict[str, str]]]  # by check


def doctor(*options: object, env: dict[str, str] | None = None) -> Results:
    """Its results; the exit code is that of the worst, and nothing else is said."""
    command = [*PAMD, "doctor", "--json", "--seconds", str(SECONDS), *map(str, options)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    results: Results = defaultdict(list)
    for line in done.stdout.splitlines():
        result = json.loads(line)
        assert (result["remedy"] is None) == (result["verdict"] == "ok"), result
        results[result["check"]].append(result)
    verdicts = {result["verdict"] for same in results.values() for result in same}
    assert done.returncode == next(code for v, code in reversed(EXIT_CODES.items()) if v in verdicts)
    return results


def sine(hz: float, amplitude: float, seconds: float = 30.0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(seconds * rate_hz) / rate_hz)).astype(np.float32)


def noise(rms: float, seconds: float = 30.0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(0, rms, round(seconds * rate_hz)).astype(np.float32)


def hear(server: SoundServer, tmp_path: Path, sound: NDArray[np.float32], *options: object) -> Results:
    """What it says while a sound is played into the device."""
    soundfile.write(tmp_path / "sound.wav", sound, RATE_HZ, subtype="FLOAT")
    player = server.play(tmp_path / "sound.wav")
    time.sleep(1)  # PulseAudio's player may lose its first tenth of a second
    try:
        return doctor("--device", DEVICE, "--journal", tmp_path / "journal", *options, env=server.env)
    finally:
        player.kill()
        player.wait()


def test_a_healthy_station_is_told_what_it_hears(server: SoundServer, toy: Path, tmp_path: Path) -> None:
    """A tone of a known level; every check is made, none fails, and nothing is left behind."""
    results = hear(server, tmp_path, sine(150, 0.1) + noise(0.001), "--model", toy)
    assert list(results) == [
        *("PortAudio", "device", "level", "hum", "rate", "clock", "disk", "writes"),
        *("model", "provider", "speed", "systemd"),
    ]
    verdicts = {check: result["verdict"] for check, (result,) in results.items()}
    depends_on_the_machine = {"rate", "clock", "disk", "writes", "systemd"}
    assert {verdicts[check] for check in verdicts.keys() - depends_on_the_machine} == {"ok"}
    assert "failure" not in {verdicts[check] for check in depends_on_the_machine - {"disk"}}
    level = re.match(rf"{DEVICE} ch1: (\S+) dBFS, peak (\S+) dBFS, nothing clipped", results["level"][0]["found"])
    assert level, results["level"]
    assert float(level[1]) == pytest.approx(-23.0, abs=0.5)  # half a dB: the player may falter once
    assert float(level[2]) == pytest.approx(-20.0, abs=0.5)
    assert "ppm" in results["rate"][0]["found"]
    assert [path.name for path in tmp_path.iterdir()] == ["sound.wav"]


@pytest.mark.parametrize(
    "sound, check, verdict, found, remedy",
    [
        (sine(50, 0.01) + noise(0.003), "hum", "warning", "50 Hz +", "ground loop"),
        (np.zeros(30 * RATE_HZ, np.float32), "level", "failure", "digital silence", "cable"),
        (np.clip(sine(150, 3.0), -1, 1), "level", "failure", "overdriven", "gain"),
    ],
    ids=["hum", "silence", "clipping"],
)
def test_what_is_wrong_with_the_sound_is_named(
    server: SoundServer,
    toy: Path,
    tmp_path: Path,
    sound: NDArray[np.float32],
    check: str,
    verdict: str,
    found: str,
    remedy: str,
) -> None:
    (result,) = hear(server, tmp_path, sound, "--model", toy)[check]
    assert result["verdict"] == verdict
    assert found in result["found"]
    assert remedy in result["remedy"]


def test_each_device_and_each_channel_has_its_line(server: SoundServer, toy: Path, tmp_path: Path) -> None:
    """A device that is not there stops none that is; the configuration names them as for `run`."""
    path = tmp_path / "pamd.yaml"
    path.write_text(
        f"devices: [{{device: somewhere else}}, {{device: {DEVICE}, channels: [1, 2], sample_rate_hz: 48000}}]"
    )
    results = doctor("--config", path, "--model", toy, "--journal", tmp_path / "journal", env=server.env)
    absent, present = results["device"]
    assert (absent["verdict"], present["verdict"]) == ("failure", "ok")
    assert "somewhere else" in absent["found"] and "pamd devices" in absent["remedy"]
    assert "opened at 48000 Hz" in present["found"]
    assert [result["found"].partition(":")[0] for result in results["level"]] == [f"{DEVICE} ch1", f"{DEVICE} ch2"]
    assert "3 wanted" in results["speed"][0]["found"]


def test_what_cannot_be_used_is_a_line_with_its_remedy_and_the_rest_is_examined(tmp_path: Path) -> None:
    """No model, a directory in which nothing can be written, a wrong hop: never a traceback."""
    results = doctor("--model", tmp_path / "none.onnx", "--journal", "/sys/journal")
    assert "none.onnx" in results["model"][0]["found"] and "--model" in results["model"][0]["remedy"]
    room, refused = results["disk"]
    assert room["found"] == "/sys: 0.0 GB free"
    assert refused["verdict"] == "failure" and "/sys/" in refused["found"]
    assert {"clock", "systemd"} < results.keys()
    assert "none is named" in results["device"][0]["found"] and "--device" in results["device"][0]["remedy"]

    results = doctor("--hop", 3, "--journal", tmp_path / "no folder" / "journal")
    assert results["model"][0]["verdict"] == "ok"
    assert "hop 3 s" in results["settings"][0]["found"]
    assert "no folder" in results["disk"][0]["found"]


def test_where_the_sound_is_to_be_kept_is_examined_too(tmp_path: Path, toy: Path) -> None:
    """A directory that is not there yet is made by `run` alone; one that never can be is a failure."""
    options = ["--model", toy, "--journal", tmp_path / "journal", "--record"]
    journal, sound = doctor(*options, tmp_path / "sound" / "2026")["writes"]
    assert journal["found"].startswith(f"{tmp_path}: ") and sound["found"].startswith(f"{tmp_path}: ")
    assert list(tmp_path.iterdir()) == []
    results = doctor(*options, "/sys/sound")
    assert [result["verdict"] for result in results["disk"][1:]] == ["failure", "failure"]
    assert "--record" in results["disk"][1]["remedy"]


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, toy: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("not a database, but somebody's notes\n" * 100)
    (result,) = doctor("--model", toy, "--journal", path)["disk"]
    assert result["verdict"] == "failure" and str(path) in result["found"]
    assert path.read_text().startswith("not a database")


def test_cuda_that_is_not_to_be_had_is_a_failure(toy: Path) -> None:
    """The model itself is well, on the CPU."""
    results = doctor("--model", toy, "--set", "model.provider=cuda", env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert results["model"][0]["verdict"] == "ok"
    assert results["provider"][0]["verdict"] == "failure"
    assert "CPUExecutionProvider" in results["provider"][0]["found"]
    assert "speed" not in results


def test_more_windows_than_the_machine_can_score_are_a_failure() -> None:
    """The shipped model, 2000 windows a second on the CPU and one core."""
    results = doctor("--hop", 0.0005, "--set", "model.provider=cpu", "--set", "model.threads=1")
    assert results["speed"][0]["verdict"] == "failure"
    assert "carries 0 streams at a 0.0005 s hop, 1 wanted" in results["speed"][0]["found"]


@pytest.mark.parametrize("moment", ["from the start", "while it is listened to"])
def test_a_device_that_hangs_is_told_in_the_end(server: SoundServer, toy: Path, tmp_path: Path, moment: str) -> None:
    """The sound server is stopped: what waits for it is killed."""
    options = ["--json", "--device", DEVICE, "--model", str(toy), "--journal", str(tmp_path / "journal")]
    if moment == "from the start":
        server.process.send_signal(signal.SIGSTOP)
    with subprocess.Popen([*PAMD, "doctor", *options], env=server.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        if moment == "from the start":
            assert (first["check"], first["verdict"]) == ("PortAudio", "failure")
            assert "hangs" in first["found"]
        else:
            assert json.loads(process.stdout.readline())["check"] == "device"
            server.process.send_signal(signal.SIGSTOP)
        results = [json.loads(line) for line in process.stdout]
    assert process.returncode == 1
    assert (results[0]["check"], results[0]["verdict"]) == ("device", "failure")
    assert DEVICE in results[0]["found"]
    assert results[-1]["check"] == "systemd"


@pytest.mark.parametrize("heard, verdict", [("hw:1", "warning"), ("absent", "failure")])
def test_a_device_that_the_running_daemon_listens_to_is_no_fault(
    toy: Path, tmp_path: Path, heard: str, verdict: str
) -> None:
    """PortAudio does not list a device that another process has: the daemon is asked; here its socket answers."""
    status = {"status": {"streams": {"ch1": {"source": heard}}}}
    stop = threading.Event()
    server = threading.Thread(target=Control(tmp_path / "harbour.sock", lambda: status).run, args=(stop,))
    server.start()
    options = ["--device", "hw:1", "--station", "harbour", "--model", toy, "--journal", tmp_path / "journal"]
    results = doctor(*options, env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)})
    stop.set()
    server.join()
    assert results["device"][0]["verdict"] == verdict
    assert ("`pamd status`" in results["device"][0]["remedy"]) == (verdict == "warning")


def test_in_a_pipe_a_check_is_a_line_on_a_terminal_it_is_coloured(toy: Path, tmp_path: Path) -> None:
    command = [*PAMD, "doctor", "--model", str(toy), "--journal", str(tmp_path / "journal")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stderr) == (1, "")
    lines = plain.stdout.splitlines()
    assert all(line[:7].strip() in EXIT_CODES and line[7:9] == "  " for line in lines)
    assert lines[1] == (
        "failure  device     none is named; give --device, or devices in the configuration; `pamd devices` lists them"
    )
    assert "\x1b" not in plain.stdout

    ours, theirs = pty.openpty()
    with subprocess.Popen(command, env={**os.environ, "TERM": "xterm"}, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    assert process.returncode == 1
    assert b"\x1b[1;31mfailure" in shown
    assert "→ give --device".encode() in shown
    assert re.search(rb"\d+ ok, \d+ to look at, 2 failed", shown)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_a_wrong_number_of_seconds_is_usage() -> None:
    done = subprocess.run([*PAMD, "doctor", "--seconds", "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# Level, mains hum and the true rate, from exact signals.


@pytest.mark.parametrize(
    "sound, verdict, found",
    [
        (sine(150, 0.1, 2), "ok", "d: -23.0 dBFS, peak -20.0 dBFS, nothing clipped"),
        (np.append(sine(150, 0.1, 2), 1.0), "warning", "d: -23.0 dBFS, peak 0.0 dBFS, 0.00104 % clipped"),
        (np.sign(sine(150, 1.0, 2) + 1e-6), "failure", "d: 0.0 dBFS, peak 0.0 dBFS, 100 % clipped: the converter"),
        (np.zeros(96_000), "failure", "d: every sample is 0: digital silence"),
        (np.full(96_000, np.nan), "failure", "d: samples that are no numbers"),
        (np.full(96_000, -0.25), "failure", "d: -0.25 of full scale: direct current and no sound"),
        (sine(150, 4e-5, 2), "failure", "d: -91.0 dBFS, peak -88.0 dBFS, nothing clipped: quieter than the sea can be"),
    ],
    ids=["tone", "knock", "square", "silence", "no numbers", "direct current", "quiet"],
)
def test_the_level_is_exact(sound: NDArray[np.float32], verdict: str, found: str) -> None:
    """20 log10 rms, a full-scale square wave is 0."""
    result = judge_level("d", sound.astype(np.float32), -90.0)
    assert result.verdict == verdict
    assert result.found.startswith(found)


@pytest.mark.parametrize("mains_hz", [50, 60])
@pytest.mark.parametrize("rate_hz", [2000, 48_000])
def test_a_line_stands_out_of_noise_as_far_as_it_should(mains_hz: int, rate_hz: int) -> None:
    """By the taper's noise bandwidth: amplitude^2 / 4 over variance, times sum^2 over sum of squares of the taper."""
    amplitude, rms = 0.01, 0.004
    taper = np.hanning(2 * rate_hz)
    expected_db = 10 * np.log10((amplitude / 2 * taper.sum()) ** 2 / (rms**2 * np.square(taper).sum()))
    sound = sine(mains_hz, amplitude, 10, rate_hz) + noise(rms, 10, rate_hz)
    hum = mains_hum(sound, rate_hz)
    assert hum is not None
    assert (hum.mains_hz, list(hum.lines_db)) == (mains_hz, [mains_hz])
    assert hum.lines_db[mains_hz] == pytest.approx(expected_db, abs=1.0)


def test_a_rectifiers_hum_is_known_by_its_harmonics_and_a_grid_may_be_off_a_little() -> None:
    sound = noise(0.001, 10) + sum(sine(harmonic * 50.1, 0.01, 10) for harmonic in (2, 4, 6))
    hum = mains_hum(sound, RATE_HZ)
    assert hum is not None
    assert (hum.mains_hz, list(hum.lines_db)) == (50, [100, 200, 300])


@pytest.mark.parametrize("hz", [47.0, 52.0, 55.0, 150.0, 240.0, 300.0])
def test_other_tones_are_no_hum(hz: float) -> None:
    """Nor is a single harmonic: a ship may sing there."""
    assert mains_hum(sine(hz, 0.1, 10) + noise(0.001, 10), RATE_HZ) is None


def test_noise_and_silence_and_too_little_sound_are_no_hum() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        assert mains_hum(rng.normal(0, 0.1, 20_000).astype(np.float32), 2000) is None
    assert mains_hum(np.zeros(20_000, np.float32), 2000) is None
    assert mains_hum(sine(50, 0.1, 1.9, 2000), 2000) is None


@pytest.mark.parametrize("ppm", [-30.0, 0.0, 800.0, 88_435.0])
def test_the_true_rate_is_found_within_its_uncertainty(ppm: float) -> None:
    """Blocks of 0.1 s in bursts of half a second, each up to 5 ms late; 88,435 ppm is 48 kHz called 44.1 kHz."""
    rate_hz, rng = 44_100, np.random.default_rng(3)
    full_s = 0.5 * np.arange(1, 21) / (1 + ppm * 1e-6)
    burst_s = np.repeat(full_s + rng.uniform(0, 0.005, 20), 5)
    rate = true_rate([(1000 + at_s, 4410 * (n + 1)) for n, at_s in enumerate(burst_s)], rate_hz)
    assert rate is not None
    assert abs(rate.ppm - ppm) < rate.uncertainty_ppm < 20_000
    assert true_rate([(1000 + at_s, 4410 * (n + 1)) for n, at_s in enumerate(burst_s[:20])], rate_hz) is None


# The clock and systemd.


class KernelClock(FakeClock):
    """A clock of which the kernel says this."""

    def __init__(self, sync: Sync) -> None:
        super().__init__()
        self._sync = sync

    def sync(self) -> Sync:
        return self._sync


@pytest.mark.parametrize(
    "sync, verdict, found",
    [
        (Sync("synchronised", 0.012), "ok", "within 0.012 s"),
        (Sync("synchronised", 2.5), "warning", "not corrected for long"),
        (Sync("unsynchronised", 16.0), "warning", "not synchronised"),
        (Sync("unknown"), "warning", "the kernel does not say"),
    ],
)
def test_the_clock_is_as_good_as_the_kernel_says(sync: Sync, verdict: str, found: str) -> None:
    result = check_clock(KernelClock(sync))
    assert result.verdict == verdict
    assert found in result.found
    assert (result.remedy is None) == (verdict == "ok")


@pytest.mark.parametrize(
    "state, verdict, remedy",
    [
        ("loaded enabled active running 0", "ok", None),
        ("loaded disabled active running 0", "warning", "systemctl enable pamd@harbour.service"),
        ("loaded enabled inactive dead 0", "warning", "systemctl start pamd@harbour.service"),
        ("loaded enabled failed failed 3", "failure", "journalctl -u pamd@harbour.service"),
        ("loaded enabled activating auto-restart 17", "failure", "journalctl -u pamd@harbour.service"),
        ("not-found - inactive dead 0", "warning", "make install-systemd"),
        (None, "warning", "docs/deploying.md"),
    ],
)
def test_the_unit_is_judged_by_what_systemctl_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, verdict: str, remedy: str | None
) -> None:
    """A stand-in for systemctl answers in its form; without one, nothing restarts pamd."""
    if state is not None:
        names = ("LoadState", "UnitFileState", "ActiveState", "SubState", "NRestarts")
        values = [value.removesuffix("-") for value in state.split(" ")]
        lines = "\n".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        program = tmp_path / "systemctl"
        program.write_text(f'#!/bin/sh\n[ "$1 $2" = "show pamd@harbour.service" ] && cat <<END\n{lines}\nEND\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if state else str(tmp_path))
    result = check_systemd("harbour")
    assert result.verdict == verdict
    assert remedy is None or remedy in (result.remedy or "")
    assert (result.remedy is None) == (verdict == "ok")


# Who may listen, and whom records are handed on to.


def test_keys_are_looked_at_as_the_daemon_will(toy: Path, tmp_path: Path) -> None:
    """None yet, one whose mode is wrong, and a pair with somebody allowed."""
    directory, common = tmp_path / "keys", ("--station", "harbour", "--model", toy, "--journal", tmp_path / "journal")
    (missing,) = doctor(*common, "--keys", directory)["keys"]
    assert missing["verdict"] == "failure" and "harbour.secret" in missing["found"]
    assert "pamd keys new" in missing["remedy"]
    new_pair(directory, "harbour")
    own, nobody = doctor(*common, "--keys", directory)["keys"]
    assert (own["verdict"], nobody["verdict"]) == ("ok", "warning") and "pamd keys allow" in nobody["remedy"]
    allow(directory, "ferry", new_pair(tmp_path / "ferrys", "ferry").public)
    assert [result["verdict"] for result in doctor(*common, "--keys", directory)["keys"]] == ["ok", "ok"]
    (directory / "harbour.secret").chmod(0o644)
    (known,) = doctor(*common, "--keys", directory)["keys"]
    assert known["verdict"] == "failure" and "readable by others" in known["found"]


def test_each_bridge_is_looked_for_and_gets_no_record(toy: Path, tmp_path: Path) -> None:
    """Down, up, and one whose secret cannot be read; the station's own place at the broker is left to it."""
    common = ("--model", toy, "--journal", tmp_path / "journal", "--config", tmp_path / "pamd.yaml")
    with every_side(tmp_path) as sides:
        bridges = [msgspec.to_builtins(side.choice) for side in sides.values()]
        secret = {"kind": "webhook", "name": "secret", "url": "https://localhost/", "token_file": "/nowhere/token"}
        (tmp_path / "pamd.yaml").write_text(json.dumps({"bridges": [*bridges, secret]}))
        results = doctor(*common)
        down = results["bridge"]
        assert [result["verdict"] for result in down] == ["warning", "warning", "ok"], "UDP tells nothing"
        assert all("refused" in result["found"] for result in down[:2])
        assert results["settings"][0]["found"].startswith("bridge secret: token_file: /nowhere/token: cannot be read")
        for side in sides.values():
            side.start()
        assert [result["verdict"] for result in doctor(*common)["bridge"]] == ["ok", "ok", "ok"]
        mqtt, web, udp = sides.values()
        assert isinstance(mqtt, Broker) and isinstance(web, Web) and isinstance(udp, Udp)
        assert (mqtt.seen, web.posts, udp.heard) == ([], [], [])
