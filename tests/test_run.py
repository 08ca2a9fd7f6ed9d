"""`pamd run` on a real PortAudio device: a recording with known calls is played into it, and its calls are heard."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.signal import correlate
from sound import DEVICE, RATE_HZ, SoundServer, hydrophone_fixture  # noqa: F401 - pytest finds the fixture by its import

from pam_daemon.analysis.model import Model, shipped_model
from pam_daemon.journal import Journal
from pam_daemon.records import Wire
from pam_daemon.tools.tables import read_raven

RECORDING = "NOPP6_EST_20090329_121500"
EXCERPT_S = 120
LEAD_S = 3  # of silence, while the sound server settles
MARGIN = 0.1  # over the threshold: what resampling twice may change
SEPARATION_S = 1.5  # within which calls are one
PIECE_S = 10  # long enough to be found by its sound, short enough to show where something is missing
TRIES = 3  # a sound server that is held up for long loses sound by itself
# These may differ between live and replay, and every UTC with them.
NOT_COMPARED = {"seq", "log", "prev_seq", "durable", "id", "mode", "latency_ms", "clip", "threshold_source"}


def excerpt(data_dir: Path) -> tuple[NDArray[np.float32], int]:
    """The two minutes with most marked calls, at the recording's rate, and how many are wholly inside."""
    marks = read_raven(data_dir / "recordings" / f"{RECORDING}.selections.txt")
    samples, rate_hz = soundfile.read(data_dir / "recordings" / f"{RECORDING}.wav", dtype="float32")

    def inside(begin_s: int) -> int:
        return sum(begin_s + 2 < mark.begin_s and mark.end_s < begin_s + EXCERPT_S - 2 for mark in marks)

    begin_s = max(range(len(samples) // rate_hz - EXCERPT_S), key=inside)
    return samples[begin_s * rate_hz : (begin_s + EXCERPT_S) * rate_hz], inside(begin_s)


def run_while_playing(played: Path, directory: Path, server: SoundServer) -> tuple[list[Wire], int]:
    """The journal of a run during which a file was played, and the device's rate."""
    journal = directory / "journal"
    options = ["--device", DEVICE, "--journal", str(journal), "--endpoint", "tcp://127.0.0.1:*"]
    tee = {"PYTHONPATH": str(Path(__file__).parent / "tee"), "PAMD_TEE": str(directory / "frames")}
    with subprocess.Popen(
        [sys.executable, "-m", "pam_daemon", "run", *options],
        env={**server.env, **tee},
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        assert daemon.stderr is not None
        opened: dict[str, Any] = {}
        while opened.get("event") != "device opened":
            opened = json.loads(daemon.stderr.readline())
        assert server.play(played).wait(timeout=2 * EXCERPT_S) == 0
        daemon.send_signal(signal.SIGTERM)
        rest = daemon.communicate(timeout=60)[1]
    assert daemon.returncode == 0, rest
    return Journal(journal).since(0, limit=10_000), int(opened["sample_rate_hz"])


def replay(path: Path) -> list[Wire]:
    done = subprocess.run(
        [sys.executable, "-m", "pam_daemon", "replay", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def detections(records: Sequence[Wire]) -> list[Wire]:
    return [record for record in records if record["kind"] == "detection"]


def compared(record: Wire) -> Wire:
    return {key: value for key, value in record.items() if key not in NOT_COMPARED and not key.endswith("_utc")}


def place(samples: NDArray[np.float32], captured: NDArray[np.float32]) -> int:
    """Where it lies in what was captured, by cross-correlation."""
    return int(np.argmax(correlate(captured, samples, "valid")))


def whole(samples: NDArray[np.float32], captured: NDArray[np.float32], rate_hz: int) -> bool:
    """Whether the sound server passed everything on: no piece has a better place than where all of it lies."""
    first, size, near = place(samples, captured), PIECE_S * rate_hz, LEAD_S * rate_hz // 2
    shifts = []
    for begin in range(0, len(samples) - size + 1, size):
        around = captured[first + begin - near : first + begin + size + near]
        shifts.append(place(samples[begin : begin + size], around) - near)
    return max(map(abs, shifts)) <= 1


def aligned(samples: NDArray[np.float32], captured: NDArray[np.float32]) -> NDArray[np.float32]:
    """What was played, in silence as long as what was captured, at its place there."""
    begin = place(samples, captured)
    silence = np.zeros_like(captured)
    silence[begin : begin + len(samples)] = samples
    return silence


def test_run_hears_what_replay_hears(data_dir: Path, tmp_path: Path, hydrophone: SoundServer) -> None:
    """Calls played into the device are found where they were played; what was captured replays to equal records."""
    samples, marked = excerpt(data_dir)
    assert marked >= 8
    model = Model(shipped_model(), "cpu")
    rate_hz = model.card.sample_rate_hz
    loud = soxr.resample(samples / np.abs(samples).max() / 2, rate_hz, RATE_HZ)
    silence = np.zeros(LEAD_S * RATE_HZ, np.float32)
    soundfile.write(tmp_path / "played.wav", np.concatenate([silence, loud, silence]), RATE_HZ, subtype="FLOAT")

    for attempt in range(TRIES):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        live, device_rate_hz = run_while_playing(tmp_path / "played.wav", directory, hydrophone)
        frames = np.fromfile(directory / "frames", np.float32)
        captured = soxr.resample(frames, device_rate_hz, rate_hz)
        if whole(samples, captured, rate_hz):
            break
    else:
        raise AssertionError("the sound server lost sound each time")
    soundfile.write(tmp_path / "captured.wav", frames, device_rate_hz, subtype="FLOAT")

    # The same samples on the same window grid give the same detections and gaps, field by field.
    again = replay(tmp_path / "captured.wav")
    kinds = ("detection", "gap", "effort")
    assert [compared(r) for r in again if r["kind"] in kinds] == [compared(r) for r in live if r["kind"] in kinds]
    effort = live[-1]
    assert effort["kind"] == "effort"
    assert effort["elapsed_samples"] == effort["analysed_samples"] == len(frames)

    # What stands out of the threshold is found at its place on both sides. Of two calls that overlap, the lower one may
    # be the end of its run or a call of its own, whichever window's score is higher by a hair.
    soundfile.write(tmp_path / "aligned.wav", aligned(samples, captured), rate_hz, subtype="FLOAT")
    heard, expected = detections(live), detections(replay(tmp_path / "aligned.wav"))
    clear = model.card.threshold + MARGIN
    assert sum(call["score"] >= clear for call in expected) >= 8
    for ours, theirs in ((expected, heard), (heard, expected)):
        for call in ours:
            if call["score"] >= clear:
                near = min(abs(other["peak_s"] - call["peak_s"]) for other in theirs)
                assert near <= SEPARATION_S, (call["peak_s"], call["score"], [other["peak_s"] for other in theirs])
