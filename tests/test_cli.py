"""The command line as real processes: bad input is one line and an exit code, damaged recordings are told as gaps."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import toy_model

from pam_daemon.analysis.model import Model
from pam_daemon.capture.ring import FloatArray
from pam_daemon.card import Golden
from pam_daemon.journal import Journal
from pam_daemon.records import Wire

PAMD = [sys.executable, "-m", "pam_daemon"]
ANY_PORT = "tcp://127.0.0.1:*"
RATE_HZ = 8000
ANY = "tcp://0.0.0.0:*"
NAME = "20240101_120000"  # an AudioMoth's: UTC is assumed, and said


def pamd(*arguments: object, code: int = 0) -> tuple[list[Wire], list[str]]:
    """Run to the end: the records on stdout and the lines on stderr."""
    command = [*PAMD, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    errors = done.stderr.decode()
    assert "Traceback" not in errors
    assert done.returncode == code, errors
    return [json.loads(line) for line in done.stdout.splitlines()] if code != 2 else [], errors.splitlines()


def sound(total_s: float, bursts_s: Sequence[float]) -> FloatArray:
    """Quiet noise, and at these seconds half a second of loud noise."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(round(total_s * RATE_HZ)) * 0.003
    for begin_s in bursts_s:
        at = round(begin_s * RATE_HZ)
        samples[at : at + RATE_HZ // 2] *= 70
    result: FloatArray = samples.astype(np.float32)
    return result


def write(path: Path, samples: FloatArray, **options: Any) -> Path:
    soundfile.write(path, samples, RATE_HZ, **options)
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s with calls around 5.25 s and 14.25 s."""
    return write(tmp_path_factory.mktemp("sound") / f"{NAME}.wav", sound(20.0, [5.0, 14.0]))


def of(records: Sequence[Wire], kind: str) -> list[Wire]:
    return [record for record in records if record["kind"] == kind]


def peaks_at(calls: Sequence[Wire], *begins_s: float) -> bool:
    """One call a burst: its window holds the burst."""
    return len(calls) == len(begins_s) and all(
        call["peak_s"] - 1 <= begin_s and begin_s + 0.5 <= call["peak_s"] + 1
        for call, begin_s in zip(calls, begins_s, strict=True)
    )


def balanced(effort: Wire) -> bool:
    terms = sum(effort[f"{term}_samples"] for term in ("analysed", "gap", "skipped", "pending"))
    return bool(effort["elapsed_samples"] == terms and effort["pending_samples"] == 0)


# Bad input: arguments made in an empty folder, the exit code, and what the one line names.


def text_as_wav(folder: Path, toy: Path) -> list[object]:
    (folder / "notes.wav").write_text("heard a whale today\n")
    return ["replay", folder / "notes.wav", "--model", toy]


def empty_file(folder: Path, toy: Path) -> list[object]:
    (folder / "empty.wav").touch()
    return ["replay", folder / "empty.wav", "--model", toy]


def header_only(folder: Path, toy: Path) -> list[object]:
    return ["replay", write(folder / "header.wav", sound(0.0, [])), "--model", toy]


def low_rate(folder: Path, toy: Path) -> list[object]:
    soundfile.write(folder / "low.wav", np.zeros(4000, np.float32), 1000)
    return ["replay", folder / "low.wav", "--model", toy]


def missing_file(folder: Path, toy: Path) -> list[object]:
    return ["replay", folder / "none.wav", "--model", toy]


def wrong_model(folder: Path, toy: Path) -> list[object]:
    (folder / "model.onnx").write_text("not a model\n" * 100)
    return ["model", folder / "model.onnx"]


def truncated_model(folder: Path, toy: Path) -> list[object]:
    (folder / "model.onnx").write_bytes(toy.read_bytes()[:-1000])
    return ["model", folder / "model.onnx"]


def golden_fails(folder: Path, toy: Path) -> list[object]:
    golden = Model(toy, "cpu").card.golden
    scores = [[golden.scores[0][0] + 0.001], *golden.scores[1:]]
    return ["model", toy_model(folder / "model.onnx", card={"golden": Golden(golden.windows, scores)})]


def site_of_another_model(folder: Path, toy: Path) -> list[object]:
    (folder / "site.yaml").write_text(f"model: {{threshold: 0.4, sha256: '{'0' * 64}'}}\n")
    return ["replay", folder / "none.wav", "--model", toy, "--config", folder / "site.yaml"]


def unknown_key(folder: Path, toy: Path) -> list[object]:
    (folder / "site.yaml").write_text("station:\n  colour: blue\n")
    return ["replay", folder / "none.wav", "--config", folder / "site.yaml"]


def no_journal_there(folder: Path, toy: Path) -> list[object]:
    sounds = write(folder / "untimed.wav", sound(3.0, []))
    return ["replay", sounds, "--model", toy, "--journal", folder / "no folder" / "journal"]


def text_as_journal(folder: Path, toy: Path) -> list[object]:
    sounds = write(folder / "untimed.wav", sound(3.0, []))
    (folder / "journal.txt").write_text("heard a whale today\n" * 100)
    return ["replay", sounds, "--model", toy, "--journal", folder / "journal.txt"]


def no_table_there(folder: Path, toy: Path) -> list[object]:
    sounds = write(folder / "untimed.wav", sound(3.0, []))
    return ["replay", sounds, "--model", toy, "--raven", folder / "no folder" / "table.txt"]


def plain(*arguments: str) -> Callable[[Path, Path], list[object]]:
    def make(folder: Path, toy: Path) -> list[object]:
        sounds = folder / "untimed.wav"
        write(sounds, sound(3.0, []))
        given = {"SOUND": sounds, "TOY": toy}
        return [given.get(word, word) for word in arguments]

    return make


BAD: list[tuple[str, Callable[[Path, Path], list[object]], int, str]] = [
    ("missing file", missing_file, 1, "none.wav"),
    ("empty file", empty_file, 1, "empty.wav"),
    ("header only", header_only, 1, "header.wav"),
    ("text file named .wav", text_as_wav, 1, "notes.wav"),
    ("rate below the model's", low_rate, 1, "1000 Hz"),
    ("wrong model", wrong_model, 1, "model.onnx"),
    ("truncated model", truncated_model, 1, "model.onnx"),
    ("golden scores fail", golden_fails, 1, "golden self-test failed"),
    ("site of another model", site_of_another_model, 1, "model.sha256"),
    ("missing model", plain("replay", "SOUND", "--model", "none.onnx"), 1, "none.onnx"),
    ("unknown key", unknown_key, 1, "unknown key station.colour"),
    ("missing configuration", plain("replay", "SOUND", "--config", "none.yaml"), 1, "none.yaml"),
    ("journal in no folder", no_journal_there, 1, "no folder"),
    ("text file as journal", text_as_journal, 1, "journal.txt"),
    ("table in no folder", no_table_there, 1, "no folder"),
    ("unknown device", plain("run", "--device", "no such hydrophone", "--model", "TOY"), 1, "no such hydrophone"),
    ("no device", plain("run"), 1, "--device"),
    ("channel 0", plain("run", "--device", "any", "--channels", "1,0"), 1, "--channels 1,0"),
    ("channel twice", plain("run", "--device", "any", "--channels", "1,1"), 1, "--channels 1,1"),
    ("start before time", plain("replay", "SOUND", "--model", "TOY", "--start", "0001-01-01T00:00Z"), 1, "--start"),
    ("start at its end", plain("replay", "SOUND", "--model", "TOY", "--start", "9999-12-31T23:59:59Z"), 1, "--start"),
    ("threshold above 1", plain("replay", "SOUND", "--threshold", "1.01"), 1, "--threshold 1.01"),
    ("threshold no number", plain("replay", "SOUND", "--threshold", "nan"), 1, "--threshold nan"),
    ("hop 0", plain("replay", "SOUND", "--model", "TOY", "--hop", "0"), 1, "hop 0 s"),
    ("hop above a window", plain("replay", "SOUND", "--model", "TOY", "--hop", "2.1"), 1, "hop 2.1 s"),
    ("hop no number", plain("replay", "SOUND", "--model", "TOY", "--hop", "inf"), 1, "hop inf s"),
    ("speed 0", plain("replay", "SOUND", "--model", "TOY", "--speed", "0"), 1, "--speed 0"),
    ("speed a word", plain("replay", "SOUND", "--model", "TOY", "--speed", "fast"), 1, "--speed fast"),
    ("start no time", plain("replay", "SOUND", "--model", "TOY", "--start", "noon"), 1, "--start noon"),
    ("station's name", plain("replay", "SOUND", "--station", "two words"), 1, "station.name"),
    ("endpoint no port", plain("replay", "SOUND", "--endpoint", "localhost"), 1, "publish.endpoint"),
    ("listen to nothing", plain("listen", "localhost:5556"), 1, "tcp://HOST:PORT"),
    ("key without the station's", plain("listen", "--key", "none.secret"), 1, "both --key and --server-key"),
    ("missing key", plain("listen", "--key", "none.secret", "--server-key", "0" * 40), 1, "none.secret"),
    ("no station's keys", plain("replay", "SOUND", "--model", "TOY", "--endpoint", ANY, "--keys", "none"), 1, "none"),
    ("open to the network", plain("replay", "SOUND", "--model", "TOY", "--endpoint", ANY), 1, "--insecure"),
    ("no arguments", plain("replay"), 2, "FILES"),
    ("unknown command", plain("rpelay"), 2, "rpelay"),
    ("unknown option", plain("replay", "SOUND", "--treshold", "1"), 2, "--treshold"),
    ("no number", plain("replay", "SOUND", "--hop", "long"), 2, "--hop"),
    ("negative linger", plain("replay", "SOUND", "--linger", "-1"), 2, "--linger"),
]


@pytest.mark.parametrize(("make", "code", "named"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_one_line(
    tmp_path: Path, toy: Path, make: Callable[[Path, Path], list[object]], code: int, named: str
) -> None:
    records, errors = pamd(*make(tmp_path, toy), code=code)
    assert records == []
    assert len(errors) == 1, errors
    assert errors[0].startswith("pamd: ")
    assert named in errors[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_one_line(recording: Path, toy: Path, taken_port: int) -> None:
    endpoint = f"tcp://127.0.0.1:{taken_port}"
    records, (error,) = pamd("replay", recording, "--model", toy, "--endpoint", endpoint, code=1)
    assert records == []
    assert endpoint in error
    assert "in use" in error


# Recordings that are whole, damaged, or go on in another file.


def test_a_recording_gives_its_calls_and_its_effort(recording: Path, toy: Path) -> None:
    records, errors = pamd("replay", recording, "--model", toy)
    calls = of(records, "detection")
    assert peaks_at(calls, 5.0, 14.0)
    assert [call["peak_utc"] for call in calls] == [f"2024-01-01T12:00:{c['peak_s']:09.6f}Z" for c in calls]
    digest = hashlib.sha256(recording.read_bytes()).hexdigest()
    model = hashlib.sha256(toy.read_bytes()).hexdigest()
    for call in calls:
        text = f"detection\npamd\nch1\n{digest}\n{call['start_sample']}\n{model}\nloud"
        assert call["id"] == hashlib.sha256(text.encode()).hexdigest()[:32]
        assert [call[name] for name in ("log", "seq", "prev_seq", "durable")] == [None] * 4
        assert (call["mode"], call["threshold"], call["threshold_source"]) == ("replay", 0.5, "model")
    (effort,) = of(records, "effort")
    assert records[-1] == effort
    assert (effort["elapsed_samples"], effort["analysed_samples"]) == (20 * RATE_HZ, 20 * RATE_HZ)
    assert balanced(effort)
    assert "UTC assumed" in errors[0]


def timeless(records: Sequence[Wire]) -> list[Wire]:
    return [{name: value for name, value in record.items() if name != "time_utc"} for record in records]


def test_speed_batch_and_threads_change_nothing(recording: Path, toy: Path) -> None:
    expected, _ = pamd("replay", recording, "--model", toy)
    for options in (["--speed", 20], ["--set", "model.batch=1", "--set", "model.threads=1"]):
        records, _ = pamd("replay", recording, "--model", toy, *options)
        assert timeless(records) == timeless(expected)


def test_threshold_and_hop_of_the_command(recording: Path, toy: Path) -> None:
    records, _ = pamd("replay", recording, "--model", toy, "--threshold", "0.000001", "--hop", "2")
    calls = of(records, "detection")
    assert {(call["threshold"], call["threshold_source"]) for call in calls} == {(0.000001, "command")}
    assert [call["peak_s"] for call in calls] == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0]


def test_two_channels_are_two_streams(tmp_path: Path, toy: Path) -> None:
    both = np.stack([sound(12.0, [3.0]), sound(12.0, [8.0])], axis=1)
    records, _ = pamd("replay", write(tmp_path / "two.flac", both), "--model", toy, "--station", "reef")
    calls = sorted(of(records, "detection"), key=itemgetter("stream"))  # which comes first is the threads' affair
    assert [(call["station"], call["stream"]) for call in calls] == [("reef", "ch1"), ("reef", "ch2")]
    assert peaks_at(calls, 3.0, 8.0)
    assert [(e["stream"], balanced(e)) for e in of(records, "effort")] == [("ch1", True), ("ch2", True)]


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac"])
def test_of_a_truncated_recording_what_is_there_is_analysed(tmp_path: Path, toy: Path, suffix: str) -> None:
    """Cut in its middle, between its two calls: the first is found, the rest is a gap, and the exit code says so."""
    whole = write(tmp_path / f"{NAME}.{suffix}", sound(20.0, [5.0, 14.0]), subtype="PCM_16")
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    records, errors = pamd("replay", whole, "--model", toy, code=1)
    assert peaks_at(of(records, "detection"), 5.0)
    (gap,) = of(records, "gap")
    assert (gap["term"], gap["reason"], gap["estimated"]) == ("gap", "truncated", False)
    assert gap["start_sample"] + gap["samples"] == 20 * RATE_HZ
    assert 8 * RATE_HZ < gap["start_sample"] < 12 * RATE_HZ
    (effort,) = of(records, "effort")
    assert (effort["elapsed_samples"], effort["gap_samples"]) == (20 * RATE_HZ, gap["samples"])
    assert balanced(effort)
    assert errors[-1].startswith("pamd: ")
    assert "truncated" in errors[-1]


def test_samples_that_are_no_numbers_are_a_gap_and_the_rest_is_analysed(tmp_path: Path, toy: Path) -> None:
    samples = sound(20.0, [5.0, 14.0])
    samples[80_000:80_003] = [np.nan, np.inf, -np.inf]
    samples[90_000] = np.nan
    path = write(tmp_path / "float.wav", samples, subtype="FLOAT")
    records, errors = pamd("replay", path, "--model", toy)
    assert [(gap["reason"], gap["term"], gap["start_sample"], gap["samples"]) for gap in of(records, "gap")] == [
        ("invalid", "gap", 80_000, 3),
        ("short_segment", "skipped", 80_003, 9997),
        ("invalid", "gap", 90_000, 1),
    ]
    assert peaks_at(of(records, "detection"), 5.0, 14.0)
    (effort,) = of(records, "effort")
    assert (effort["gap_samples"], effort["skipped_samples"]) == (4, 9997)
    assert balanced(effort)
    assert all(
        record[name] is None for record in records for name in record if name.endswith("_utc") and name != "time_utc"
    )
    assert "no start time" in errors[0]


def test_recordings_that_meet_are_one_segment(tmp_path: Path, toy: Path) -> None:
    """One call lies over the seam: found once, its id keyed by the file that holds its first sample."""
    samples = sound(30.0, [9.75, 20.0])
    first = write(tmp_path / "20240101_120000.WAV", samples[: 10 * RATE_HZ])
    second = write(tmp_path / "20240101_120010.WAV", samples[10 * RATE_HZ :])
    records, _ = pamd("replay", tmp_path, "--model", toy)
    assert of(records, "gap") == []
    over, later = of(records, "detection")
    assert peaks_at((over, later), 9.75, 20.0)
    assert over["start_sample"] < 10 * RATE_HZ < over["end_sample"]
    model = hashlib.sha256(toy.read_bytes()).hexdigest()
    for call, file, begin in ((over, first, 0), (later, second, 10 * RATE_HZ)):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        text = f"detection\npamd\nch1\n{digest}\n{call['start_sample'] - begin}\n{model}\nloud"
        assert call["id"] == hashlib.sha256(text.encode()).hexdigest()[:32]
    (effort,) = of(records, "effort")
    assert (effort["elapsed_samples"], effort["analysed_samples"]) == (30 * RATE_HZ, 30 * RATE_HZ)

    # The second file alone, listened to on the same grid: the same call with the same id.
    alone, _ = pamd("replay", second, "--model", toy)
    assert of(alone, "detection")[-1]["id"] == later["id"]


def test_recordings_that_do_not_meet_are_two(tmp_path: Path, toy: Path) -> None:
    samples = sound(10.0, [5.0])
    write(tmp_path / "20240101_120000.WAV", samples)
    write(tmp_path / "20240101_120011.WAV", samples)
    records, _ = pamd("replay", tmp_path, "--model", toy)
    assert of(records, "gap") == []
    assert [effort["elapsed_samples"] for effort in of(records, "effort")] == [10 * RATE_HZ] * 2
    first, second = of(records, "detection")
    assert first["start_sample"] == second["start_sample"]
    begins = [datetime.fromisoformat(call["start_utc"]) for call in (first, second)]
    assert begins[1] - begins[0] == timedelta(seconds=11)


def test_names_that_are_not_text_go_through(tmp_path: Path, toy: Path) -> None:
    """A recorder's file system need not know UTF-8: the file is replayed, published, and found again by the table."""
    path = write(tmp_path / "summer.wav", sound(10.0, [5.0])).rename(tmp_path / os.fsdecode(b"\xe9t\xe9.wav"))
    model = tmp_path / os.fsdecode(b"mod\xe8le.onnx")
    model.write_bytes(toy.read_bytes())
    table = tmp_path / "t.txt"
    records, _ = pamd("replay", path, "--model", model, "--raven", table, "--endpoint", ANY_PORT, "--linger", 0)
    assert len(of(records, "detection")) == 1
    assert os.fsencode(path) in table.read_bytes()


def test_the_same_file_again_appends_nothing_and_says_the_stored_numbers(
    recording: Path, toy: Path, tmp_path: Path
) -> None:
    command = ["replay", recording, "--model", toy, "--journal", tmp_path / "journal"]
    first, _ = pamd(*command)
    again, _ = pamd(*command)
    assert again == first
    assert [record["seq"] for record in first] == list(range(1, len(first) + 1))
    assert all(record["durable"] for record in first)
    with closing(Journal(tmp_path / "journal")) as journal:
        assert journal.since(0) == first
    other, _ = pamd(*command, "--station", "reef")
    assert [record["seq"] for record in other] == list(range(len(first) + 1, 2 * len(first) + 1))


def test_pamd_model_prints_the_card_and_the_self_test(toy: Path) -> None:
    done = subprocess.run([*PAMD, "model", str(toy)], capture_output=True, text=True, check=True)
    assert hashlib.sha256(toy.read_bytes()).hexdigest() in done.stdout
    assert "golden self-test passed on cpu: 16 windows" in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_another_packages_command_that_is_broken_stops_no_other(tmp_path: Path) -> None:
    """A daemon must begin whatever else is installed on its machine."""
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pamd.commands]\nbroken = nowhere.to_be_found:command\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def said(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "pam_daemon", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    code, printed, errors = said("config")
    assert (code, errors) == (0, "") and printed.startswith("# pamd's configuration")
    assert "broken" in said("--help")[1]
    code, printed, errors = said("broken", "--anything", "else")
    assert (code, printed) == (1, "") and errors.count("\n") == 1
    assert errors.startswith(
        "pamd: broken cannot be loaded from nowhere.to_be_found:command (No module named 'nowhere')"
    )
