"""At sea: devices that fail and work that does not keep up, for real, while a recording with known calls plays."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fakes import toy_model
from live import (
    CALLS_S,
    EITHER_WAY_S,
    FINE,
    PAMD,
    Station,
    all_heard,
    heard,
    identity_holds,
    in_place,
    last_effort_is_whole,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from sound import DEVICE, SoundServer, sound_server


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
        station.await_source("absent", "busy", "failed")
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
            stopped_s = time.monotonic()
            time.sleep(13)
            daemon.send_signal(signal.SIGCONT)
            held_s = time.monotonic() - stopped_s
            player.until(call=player.over + 3)
            over = player.over
    (gap,) = station.of("gap")
    assert (gap["term"], gap["reason"], gap["estimated"]) == ("gap", "overrun", False)
    assert held_s - 5 - 2 < gap["duration_s"] < held_s - 5 + 1
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
            stopped_s = time.monotonic()
            time.sleep(5)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            held_s = time.monotonic() - stopped_s
            player.until(call=player.over + 4)
            over = player.over
    gaps = station.of("gap")
    assert {gap["reason"] for gap in gaps} <= {"overflow", "short_segment"}
    assert all(gap["estimated"] and gap["uncertainty_s"] > 0 for gap in gaps if gap["reason"] == "overflow")
    assert sum(gap["duration_s"] for gap in gaps) <= held_s + 0.2
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
            player.until(call=player.over + 1)
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
