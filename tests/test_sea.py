"""At sea: what goes wrong there, done for real to a daemon that listens to a recording with known calls."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from fakes import toy_model, wrong_alone
from live import (
    CALLS_S,
    EITHER_WAY_S,
    PAMD,
    PATIENCE_S,
    Station,
    all_heard,
    heard,
    identity_holds,
    in_place,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from sound import DEVICE, RATE_HZ, SoundServer, sound_server

FINE = ("--device", DEVICE, "--hop", "0.1")


def children(daemon: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(daemon.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


@contextmanager
def held_back(daemon: subprocess.Popen[str], share: float) -> Iterator[None]:
    """The daemon gets this share of the time."""
    released = threading.Event()

    def hold() -> None:
        while not released.wait(share):
            daemon.send_signal(signal.SIGSTOP)
            released.wait(1 - share)
            daemon.send_signal(signal.SIGCONT)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        released.set()
        holding.join()


def last_effort_is_whole(station: Station) -> bool:
    effort = station.of("effort")[-1]
    return identity_holds(effort) and effort["pending_samples"] == 0


def test_a_sound_server_that_dies_leaves_a_gap_and_what_comes_after_it_is_heard(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The device fails, is opened again though it has another number now, and calls after the gap have their places."""
    with station.running(*FINE):
        station.await_source(DEVICE)
        with playing(server, tmp_path) as before:
            before.until(call=2)
            server.process.kill()
            server.process.wait()
        died_s = time.time()
        station.await_logged("device lost")
        with sound_server(Path(server.env["HOME"]), devices=("another", DEVICE)) as again:
            station.await_logged("device opened", 2)
            back_s = time.time()
            time.sleep(1)
            with playing(again, tmp_path) as after:
                after.until(call=3)
    gaps = station.of("gap")
    assert [gap["reason"] for gap in gaps] == ["failed"] and gaps[0]["estimated"]
    assert abs(gaps[0]["duration_s"] - (back_s - died_s)) < 2 * EITHER_WAY_S
    calls = station.of("detection")
    assert 5 <= len(calls) <= 6
    for found, player in ((calls[:2], before), (calls[2:], after)):  # another server has another latency
        assert in_place(heard(found, player))
    assert last_effort_is_whole(station)
    assert station.of("effort")[-1]["gap_samples"] == gaps[0]["samples"]


def test_a_device_that_appears_later_is_heard_from_then_on(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The daemon stays up, says `absent`, and tells the time without the device as a gap; a --device must be there."""
    server.process.kill()
    server.process.wait()
    refused = subprocess.run(
        [*PAMD, "run", *FINE, "--model", str(tmp_path / "toy.onnx")],
        env={**station.env, "STATE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1 and "device 'hydrophone'" in refused.stderr, refused.stderr
    (tmp_path / "pamd.yaml").write_text(f"devices: [{{device: {DEVICE}, sample_rate_hz: 48000}}]\n")
    with station.running("--config", str(tmp_path / "pamd.yaml"), "--hop", "0.1"):
        station.await_logged("listening")
        began_s = time.time()
        time.sleep(2)
        assert station.status()["status"]["streams"]["ch1"]["source"] in ("absent", "busy", "failed")
        with sound_server(Path(server.env["HOME"])) as again:
            station.await_source(DEVICE)
            there_s = time.time()
            with playing(again, tmp_path) as player:
                player.until(call=3)
    late_s = heard(station.of("detection"), player)
    assert all_heard(late_s, 3) and in_place(late_s)
    missed_s = sum(gap["duration_s"] for gap in station.of("gap"))
    assert abs(missed_s - (there_s - began_s)) < 2.5
    assert last_effort_is_whole(station)


def test_a_device_that_is_unplugged_costs_the_other_nothing(tmp_path: Path) -> None:
    """One of two devices goes and comes back: its stream has a gap, the other's has none and hears every call."""
    toy_model(tmp_path / "toy.onnx")
    with ExitStack() as stack:
        homes = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snd", dir="/tmp"))) for _ in range(2)]
        bow = stack.enter_context(sound_server(homes[0], devices=["bow"]))
        stern = stack.enter_context(sound_server(homes[1], devices=["stern"]))
        with (homes[0] / "asoundrc").open("a") as both:
            both.write(f"<{homes[1] / 'asoundrc'}>\n")
        station = Station(tmp_path, {**bow.env, "RUNTIME_DIRECTORY": str(tmp_path)})
        stack.enter_context(station.running("--device", "bow", "--device", "stern", "--hop", "0.1"))
        for name in ("bow", "stern"):
            station.await_source(name, "silent", stream=f"{name}-ch1")
        player = stack.enter_context(playing(stern, tmp_path, device="stern"))
        player.until(call=1)
        bow.process.kill()
        station.await_source("absent", "failed", stream="bow-ch1")
        player.until(call=3)
        stack.enter_context(sound_server(homes[0], devices=["bow"]))
        station.await_source("bow", "silent", stream="bow-ch1")
        player.until(call=player.over + 2)
        over = player.over
    assert {gap["stream"] for gap in station.of("gap")} == {"bow-ch1"}
    late_s = heard(station.of("detection"), player)
    assert all_heard(late_s, over) and in_place(late_s)
    efforts = {effort["stream"]: effort for effort in station.of("effort")}
    assert all(identity_holds(effort) for effort in efforts.values())
    assert efforts["bow-ch1"]["gap_samples"] > 0 and efforts["stern-ch1"]["gap_samples"] == 0


def test_a_device_that_hangs_is_told_and_given_up_until_it_answers(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """A sound server that is stopped gives neither data nor an error."""
    with station.running(*FINE):
        station.await_source(DEVICE)
        time.sleep(2)
        server.process.send_signal(signal.SIGSTOP)
        stopped_s = time.time()
        station.await_source("hung")
        server.process.send_signal(signal.SIGCONT)
        station.await_source(DEVICE)
        back_s = time.time()
        with playing(server, tmp_path) as player:
            player.until(call=3)
    (gap,) = (gap for gap in station.of("gap") if gap["reason"] == "hung")
    assert abs(gap["duration_s"] - (back_s - stopped_s)) < 2.5
    late_s = heard(station.of("detection"), player)
    assert all_heard(late_s, 3) and in_place(late_s)
    assert last_effort_is_whole(station)


def test_a_daemon_that_is_stopped_loses_nothing_that_the_child_can_keep(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """Five seconds of SIGSTOP are bridged: no gap, and every call in its place."""
    with station.running(*FINE) as daemon:
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            player.until(call=1)
            daemon.send_signal(signal.SIGSTOP)
            time.sleep(5)
            daemon.send_signal(signal.SIGCONT)
            player.until(call=4)
            over = player.over
    assert station.of("gap") == []
    late_s = heard(station.of("detection"), player)
    assert all_heard(late_s, over) and in_place(late_s)
    assert last_effort_is_whole(station)


def test_a_daemon_stopped_for_longer_than_the_ring_says_exactly_what_it_lost(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """Of 13 s the child keeps 5: the rest is counted, not estimated, and the calls after it are in their places."""
    with station.running(*FINE, "--set", "capture.ring_s=5") as daemon:
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            player.until(call=2)
            daemon.send_signal(signal.SIGSTOP)
            time.sleep(13)
            daemon.send_signal(signal.SIGCONT)
            player.until(call=player.over + 3)
            over = player.over
    (gap,) = station.of("gap")
    assert (gap["term"], gap["reason"], gap["estimated"]) == ("gap", "overrun", False)
    assert 13 - 5 - 2 < gap["duration_s"] < 13 - 5 + 0.5
    late_s = heard(station.of("detection"), player)
    assert {0, 1, over - 1} <= late_s.keys() and in_place(late_s)
    lost_s = [unix_s(gap["start_utc"]), unix_s(gap["start_utc"]) + gap["duration_s"]]
    for call in set(range(over)) - late_s.keys():
        assert lost_s[0] - 1 < player.began_s + CALLS_S[call] < lost_s[1] + 1
    assert last_effort_is_whole(station)


def test_a_device_that_nobody_reads_is_found_to_have_lost_sound(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """Daemon and capture process stopped for 5 s, as a machine in trouble does it: the device's buffer overflows, the
    loss is measured with the clock, and the calls after it are in their places."""
    with station.running(*FINE) as daemon:
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            player.until(call=3)
            stopped = [daemon.pid, *children(daemon)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(5)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            player.until(call=player.over + 4)
            over = player.over
    gaps = station.of("gap")
    assert {gap["reason"] for gap in gaps} <= {"overflow", "short_segment"}
    assert all(gap["estimated"] and gap["uncertainty_s"] > 0 for gap in gaps if gap["reason"] == "overflow")
    assert sum(gap["duration_s"] for gap in gaps) <= 5.2
    late_s = heard(station.of("detection"), player)
    assert {0, 1, 2, over - 1} <= late_s.keys() and in_place(late_s)
    assert last_effort_is_whole(station)


def test_a_worker_that_cannot_keep_up_says_so_listens_less_often_and_recovers(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The daemon gets a tenth of the processor's time at a hop that needs more: nothing is lost, calls are found."""
    relief = ("--set", "overload.lag_s=5", "--set", "overload.hop_s=0.5", "--set", "model.batch=1")
    with station.running("--device", DEVICE, "--hop", "0.002", *relief) as daemon:
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            with held_back(daemon, share=0.1):
                station.await_logged("overload")
            station.await_logged("overload_over")
            time.sleep(2)
            over = player.over
    assert [event["what"] for event in station.of("event")] == ["stream_began", "overload", "overload_over"]
    assert station.events("overload")[0]["data"]["hop_s"] == 0.5
    assert station.of("gap") == []
    late_s = heard(station.of("detection"), player)
    assert all_heard(late_s, over)
    assert max(late_s.values()) - min(late_s.values()) < 0.8  # at the wider hop
    assert last_effort_is_whole(station)


def test_a_worker_without_a_wider_hop_skips_with_a_record_and_recovers(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """What the ring could not keep is told to the sample; what was not skipped is heard, and all after it."""
    short = ("--set", "overload.lag_s=5", "--set", "capture.ring_s=8", "--set", "model.batch=1")
    with station.running("--device", DEVICE, "--hop", "0.002", *short) as daemon:
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            with held_back(daemon, share=0.02):
                station.await_logged("overload")
                time.sleep(8)
            station.await_logged("overload_over")
            player.until(call=player.over + 2)
            over = player.over
    assert "will be skipped" in station.events("overload")[0]["text"]
    gaps = station.of("gap")
    skipped = [(unix_s(gap["start_utc"]), unix_s(gap["start_utc"]) + gap["duration_s"]) for gap in gaps]
    assert gaps and {(gap["term"], gap["estimated"]) for gap in gaps} <= {("skipped", False)}
    effort = station.of("effort")[-1]
    assert effort["skipped_samples"] == sum(gap["samples"] for gap in gaps) and effort["gap_samples"] == 0
    late_s = heard(station.of("detection"), player)
    for call in set(range(over)) - late_s.keys():
        place_s = player.began_s + CALLS_S[call]
        assert any(begin_s - 2 < place_s < end_s + 2 for begin_s, end_s in skipped), f"call {call} was not heard"
    assert over - 1 in late_s and last_effort_is_whole(station)


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
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faketime = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
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
    (step,) = station.events("clock_step")
    assert abs(step["data"]["step_s"] - 3600) < 0.1
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
        station.await_logged("status")
        asked = station.status()["status"]
    (line,) = (line for line in station.log_lines() if line["event"] == "status")
    assert asked.keys() <= line.keys()
    assert identity_holds(line["streams"]["ch1"]) and line["streams"].keys() == asked["streams"].keys()


@pytest.fixture(autouse=True)
def needs() -> None:
    assert shutil.which("paplay") and list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), (
        "install pulseaudio-utils and faketime: `make test` does"
    )
    assert RATE_HZ == 48_000
