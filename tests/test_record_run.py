"""`pamd run --record` on a real PortAudio device: what was recorded replays to what was heard."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound import DEVICE, RATE_HZ, SoundServer
from test_recorder import small_disk
from test_sea import (  # the fixtures are found by their import
    PAMD,
    Station,
    burst,
    identity_holds,
    server_fixture,  # noqa: F401
    station_fixture,  # noqa: F401
    status,
)

from pam_daemon.clock import parse_rfc3339, utc_ns_of
from pam_daemon.records import Wire
from pam_daemon.sources.filenames import start_of

HOP_S = 0.5


@pytest.fixture(name="options")
def options_fixture(tmp_path: Path) -> tuple[str, ...]:
    """At the sink's own rate."""
    (tmp_path / "pamd.yaml").write_text(f"devices: [{{device: {DEVICE}, sample_rate_hz: {RATE_HZ}}}]\n")
    burst(tmp_path / "burst.wav")
    return ("--config", str(tmp_path / "pamd.yaml"), "--station", "harbour")


def stream_of(station: Station) -> Wire:
    answer: Wire = status(station, "harbour")["status"]["streams"]["ch1"]
    return answer


def test_a_recording_replays_to_what_was_heard_and_the_clip_holds_the_call(
    server: SoundServer, station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """SIGTERM ends the files; equal calls in the same places of the same sample clock; nothing is lost."""
    with station.running(*options, "--record", str(tmp_path / "sound")):
        station.await_logged("device opened")
        time.sleep(4)
        assert server.play(tmp_path / "burst.wav").wait() == 0
        time.sleep(4)
        assert stream_of(station)["recorder"]["lost_samples"] == 0
    (call,) = station.of("detection")
    assert station.of("gap") == []
    done = subprocess.run(
        [*PAMD, "replay", str(tmp_path / "sound"), "--model", str(tmp_path / "toy.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    replayed = [json.loads(line) for line in done.stdout.splitlines()]
    (again,) = (record for record in replayed if record["kind"] == "detection")
    assert abs(again["peak_s"] - call["peak_s"]) <= HOP_S
    assert abs(parse_rfc3339(again["peak_utc"]) - parse_rfc3339(call["peak_utc"])) <= HOP_S * 1e9
    assert replayed[-1]["elapsed_samples"] == station.of("effort")[-1]["elapsed_samples"]

    clip, rate_hz = soundfile.read(tmp_path / "sound" / call["clip"], dtype="float32")
    assert rate_hz == RATE_HZ
    assert len(clip) == call["end_sample"] - call["start_sample"] + 4 * RATE_HZ
    named = start_of(call["clip"])
    assert named is not None
    begin_s = (utc_ns_of(named.utc) - parse_rfc3339(call["start_utc"])) / 1e9
    assert abs(begin_s + 2.0) < 0.05
    loud = np.flatnonzero(np.abs(clip) > 0.1)
    assert abs((loud[-1] - loud[0]) / RATE_HZ - 0.5) < 0.05
    sample = call["start_sample"] - 2 * RATE_HZ
    (recorded,) = (tmp_path / "sound").glob("harbour.ch1.*.flac")
    np.testing.assert_array_equal(soundfile.read(recorded, dtype="float32")[0][sample : sample + len(clip)], clip)


def test_what_a_killed_daemon_had_recorded_is_kept(station: Station, options: tuple[str, ...], tmp_path: Path) -> None:
    """kill -9: the file that was open is ended at the next start, with all but its last moment."""
    with station.running(*options, "--record", str(tmp_path)) as daemon:
        station.await_logged("device opened")
        time.sleep(6)
        daemon.kill()
        daemon.wait()
    (part,) = tmp_path.glob("*.part")
    with station.running(*options, "--record", str(tmp_path)):
        station.await_logged("recording rescued")
    assert soundfile.info(part.with_suffix("")).duration > 4


def test_a_full_disk_costs_recordings_and_no_detection(
    server: SoundServer, station: Station, options: tuple[str, ...], tmp_path: Path
) -> None:
    """The status tells how much was lost; it is said once, and the process goes on."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "full").write_bytes(bytes(1 << 16))
        with station.running(*options, "--record", str(disk), "--set", "record.min_free_gb=0"):
            station.await_logged("device opened")
            time.sleep(3)
            assert server.play(tmp_path / "burst.wav").wait() == 0
            time.sleep(4)
            stream = stream_of(station)
        assert list(disk.iterdir()) == [disk / "clips", disk / "full"]
    assert 0 < stream["elapsed_samples"] - stream["recorder"]["lost_samples"] < 2 * RATE_HZ
    assert stream["recorder"]["clips_lost"] == 1
    assert (stream["skipped_samples"], stream["gap_samples"]) == (0, 0)
    (call,) = station.of("detection")
    assert [event["what"] for event in station.of("event") if event["what"].startswith(("rec", "clip"))] == [
        "recording_stopped",
        "clip_lost",
    ]
    assert call["clip"] == station.of("event")[-1]["data"]["clip"]
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
