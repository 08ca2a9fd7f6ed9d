"""`pamd run --record` on a real PortAudio device: what was recorded replays to what was heard."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from live import (
    PAMD,
    Station,
    identity_holds,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from sound import DEVICE, RATE_HZ, SoundServer
from test_recorder import small_disk

from pam_daemon.capture.sources.filenames import start_of
from pam_daemon.clock import NS_PER_S, utc_ns_of

HOP_S = 0.5
MARGIN = 2 * RATE_HZ


@pytest.fixture(name="options")
def options_fixture(tmp_path: Path) -> tuple[str, ...]:
    """At the sink's own rate."""
    (tmp_path / "pamd.yaml").write_text(f"devices: [{{device: {DEVICE}, sample_rate_hz: {RATE_HZ}}}]\n")
    return ("--config", str(tmp_path / "pamd.yaml"), "--hop", str(HOP_S))


def test_a_recording_replays_to_what_was_heard_and_clips_hold_the_calls(
    server: SoundServer, station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """SIGTERM ends the files; equal calls in the same places of the same sample clock; nothing is lost."""
    sound = tmp_path / "sound"
    with station.running(*options, "--record", str(sound)):
        station.await_heard()
        with playing(server, tmp_path) as player:
            player.until(call=3)
        assert station.status()["status"]["streams"]["ch1"]["recorder"]["lost_samples"] == 0
    done = subprocess.run(
        [*PAMD, "replay", str(sound), "--model", str(tmp_path / "toy.onnx"), "--hop", str(HOP_S)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    calls, again = station.of("detection"), [record for record in replayed if record["kind"] == "detection"]
    assert len(again) == len(calls) >= 3
    for ours, theirs in zip(again, calls, strict=True):
        assert abs(ours["peak_s"] - theirs["peak_s"]) <= HOP_S
        assert abs(unix_s(ours["peak_utc"]) - unix_s(theirs["peak_utc"])) <= HOP_S + 0.05
    assert replayed[-1]["elapsed_samples"] == station.of("effort")[-1]["elapsed_samples"]

    recorded = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(sound.glob("*.flac"))])
    for call in calls:
        clip, rate_hz = soundfile.read(sound / call["clip"], dtype="float32")
        begin, end = max(0, call["start_sample"] - MARGIN), min(len(recorded), call["end_sample"] + MARGIN)
        assert rate_hz == RATE_HZ
        np.testing.assert_array_equal(clip, recorded[begin:end])
        assert np.abs(clip).max() > 0.09
        named = start_of(call["clip"])
        assert named is not None
        before_s = (call["start_sample"] - begin) / RATE_HZ
        assert abs(unix_s(call["start_utc"]) - before_s - utc_ns_of(named.utc) / NS_PER_S) < 0.05


def test_what_a_killed_daemon_had_recorded_is_kept(
    server: SoundServer, station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """kill -9: the file that was open is ended at the next start, with all but its last moment."""
    with station.running(*options, "--record", str(tmp_path)) as daemon:
        station.await_heard()
        with playing(server, tmp_path) as player:
            player.until(call=1)
            daemon.kill()
            daemon.wait()
    (part,) = tmp_path.glob("*.part")
    with station.running(*options, "--record", str(tmp_path)):
        station.await_logged("recording rescued")
    samples, _ = soundfile.read(part.with_suffix(""), dtype="float32")
    assert np.abs(samples).max() > 0.09, "the call that was over is in it"


def test_a_full_disk_costs_recordings_and_no_detection(
    server: SoundServer, station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """The status tells how much was lost; it is said once, and the process goes on."""
    with small_disk(tmp_path / "disk", "256k") as disk:
        with station.running(*options, "--record", str(disk), "--set", "record.min_free_gb=0"):
            station.await_heard()
            with playing(server, tmp_path) as player:
                player.until(call=3)
            stream = station.status()["status"]["streams"]["ch1"]
        assert list(disk.glob("**/*.part")) == []
        kept = sum(soundfile.info(path).frames for path in disk.glob("*.flac"))
    recorder = stream["recorder"]
    assert 0 <= stream["elapsed_samples"] - kept - recorder["lost_samples"] < 2 * RATE_HZ, "0.5 s wait for the recorder"
    assert recorder["lost_samples"] > 4 * RATE_HZ
    assert recorder["clips_lost"] > 0
    assert (stream["skipped_samples"], stream["gap_samples"]) == (0, 0)
    assert len(station.of("detection")) >= 3
    assert len(station.events("recording_stopped")) == 1
    assert len(station.events("clip_lost")) >= recorder["clips_lost"]
    assert identity_holds(station.of("effort")[-1])


def test_a_directory_that_cannot_be_written_is_refused(
    station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """One line and exit code 1, before anything is heard."""
    done = subprocess.run(
        [*PAMD, "run", *options, "--model", str(tmp_path / "toy.onnx"), "--record", str(tmp_path / "toy.onnx")],
        env={**station.env, "STATE_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "toy.onnx: cannot be written" in done.stderr.splitlines()[-1]
