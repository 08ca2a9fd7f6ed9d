"""The daemon as a process: signals, restarts, a clock that is set, systemd, and what it says of itself."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from fakes import wrong_alone
from live import (
    CALLS_S,
    EITHER_WAY_S,
    FINE,
    PAMD,
    PATIENCE_S,
    Station,
    heard,
    identity_holds,
    in_place,
    last_effort_is_whole,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from sound import DEVICE, SoundServer


def test_sigterm_in_the_middle_of_a_call_still_reports_it(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """What was captured is analysed to its last sample; the call says that it may go on."""
    with station.running(*FINE) as daemon, playing(server, tmp_path) as player:
        station.await_source(DEVICE)
        end_s = next(s for s in (player.began_s + call_s for call_s in CALLS_S) if s > time.time() + 3)
        time.sleep(end_s + EITHER_WAY_S - time.time())
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0
    last = station.of("detection")[-1]
    assert last["truncated"]
    assert abs(unix_s(last["end_utc"]) - end_s) < 2 * EITHER_WAY_S
    assert last_effort_is_whole(station)


def test_kill_9_and_a_restart_double_no_call_and_leave_the_time_between_as_a_gap(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The gap reaches from the last place kept to the new stream's begin; calls on both sides are in their places."""
    with station.running(*FINE) as daemon:
        station.await_source(DEVICE)
        time.sleep(8)
        with playing(server, tmp_path) as player:
            player.until(call=3)
            daemon.kill()
            daemon.wait()
            died_s = time.time()
            with station.running(*FINE):
                station.await_logged("device opened", 2)
                player.until(call=player.over + 3)
                over = player.over
    first, second = station.events("stream_began")
    assert first["id"] != second["id"]
    (gap,) = (gap for gap in station.of("gap") if gap["reason"] == "not_running")
    assert gap["start_sample"] + gap["samples"] == 0
    start_s = unix_s(gap["start_utc"])
    assert died_s - gap["uncertainty_s"] - 2 * EITHER_WAY_S - 2 < start_s < died_s
    assert abs(start_s + gap["duration_s"] - unix_s(second["data"]["start_utc"])) < 0.001
    late_s = heard(station.of("detection"), player)
    assert {0, over - 1} <= late_s.keys() and in_place(late_s)
    assert last_effort_is_whole(station)


def test_utc_that_is_set_while_pamd_listens_is_an_event_and_moves_what_comes_after(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """libfaketime steps the daemon's UTC by an hour: calls before keep their time, calls after have the new one."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    assert library, "install faketime: `make test` does"
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faketime = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",  # while one thread reads the file, others may get the machine's time
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with station.running(*FINE, env=faketime):
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            player.until(call=2)
            time.sleep(1)
            offset.write_text("+3600")
            player.until(call=player.over + 2)
            over = player.over
    steps_s = [step["data"]["step_s"] for step in station.events("clock_step")]
    assert steps_s == [pytest.approx(3600, abs=0.1)]
    late_s = [unix_s(call["peak_utc"]) - player.began_s - CALLS_S[n] for n, call in enumerate(station.of("detection"))]
    assert over <= len(late_s) <= over + 1
    moved = [round(late / 3600) for late in late_s]
    assert moved == sorted(moved) and set(moved) == {0, 1}
    assert in_place({n: late - 3600 * hours for n, (late, hours) in enumerate(zip(late_s, moved, strict=True))})
    assert last_effort_is_whole(station)


def test_digital_silence_is_told_by_the_status_and_an_event(station: Station) -> None:
    """A null sink that nobody plays to gives zeros: a device that hears nothing is not a quiet sea."""
    with station.running(*FINE):
        station.await_source("silent")
    (event,) = station.events("signal")
    assert (event["severity"], event["data"]) == ("warning", {"state": "silent"})


def test_sighup_takes_on_a_threshold_and_says_what_needs_a_restart(station: Station, tmp_path: Path) -> None:
    """A configuration that is wrong changes nothing; a threshold is bound to the model's sha256."""
    config = tmp_path / "pamd.yaml"
    config.write_text(f"devices: [{{device: {DEVICE}}}]\n")
    with station.running("--config", str(config)) as daemon:
        station.await_source(DEVICE)
        sha256 = station.status()["status"]["model"]["sha256"]
        for number, text in enumerate(
            [
                "model: {threshold: 0.7}\n",
                f"model: {{threshold: 0.7, sha256: {sha256}}}\n",
                f"model: {{threshold: 0.7, sha256: {sha256}}}\nstation: {{name: elsewhere}}\n",
            ]
        ):
            config.write_text(f"devices: [{{device: {DEVICE}}}]\n{text}")
            daemon.send_signal(signal.SIGHUP)
            end_s = time.monotonic() + PATIENCE_S
            while len(station.events("reload") + station.events("reload_refused")) <= number:
                assert time.monotonic() < end_s
                time.sleep(0.1)
    (refused,) = station.events("reload_refused")
    assert "model.threshold holds for one model only" in refused["text"]
    taken, restart = station.events("reload")
    assert taken["data"]["changed"] == {"model.sha256": [None, sha256], "model.threshold": [None, 0.7]}
    assert (taken["severity"], taken["data"]["restart_needed"]) == ("info", [])
    assert (restart["severity"], restart["data"]["restart_needed"]) == ("warning", ["station.name"])


def test_systemd_hears_ready_then_a_watchdog_while_all_stages_move_then_stopping(station: Station) -> None:
    """READY, WATCHDOG again and again, RELOADING and READY on SIGHUP, STOPPING at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = str(station.directory / "notify")
        notify.bind(address)
        notify.settimeout(PATIENCE_S)
        station.env |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        with station.running("--device", DEVICE) as daemon:
            assert notify.recv(1000).startswith(b"READY=1")
            assert [notify.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            daemon.send_signal(signal.SIGHUP)
            while (told := notify.recv(1000)) == b"WATCHDOG=1":
                pass
            assert told.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert notify.recv(1000) == b"READY=1"
        while (told := notify.recv(1000)) == b"WATCHDOG=1":
            pass
        assert told == b"STOPPING=1"


def test_a_model_that_begins_to_score_wrong_ends_the_process(station: Station) -> None:
    """Its self-test passed, its canary does not: silence from here on would be taken for absence."""
    wrong_alone(station.directory / "toy.onnx")
    command = [*PAMD, "run", *FINE, "--model", str(station.directory / "toy.onnx"), "--set", "model.canary_s=2"]
    directory = {"STATE_DIRECTORY": str(station.directory)}
    done = subprocess.run(
        command, env=station.env | directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1 and '"listening"' in done.stderr, done.stderr
    assert "golden self-test failed on cpu: window 0 scored" in done.stderr.splitlines()[-1]


def test_the_canonical_line_says_what_the_status_says(station: Station) -> None:
    """Once a minute, the same fields."""
    with station.running("--device", DEVICE):
        station.await_source(DEVICE)
        station.await_logged("status", patience_s=2 * PATIENCE_S)
        asked = station.status()["status"]
    (line,) = (line for line in station.log_lines() if line["event"] == "status")
    assert asked.keys() <= line.keys()
    assert identity_holds(line["streams"]["ch1"]) and line["streams"].keys() == asked["streams"].keys()
