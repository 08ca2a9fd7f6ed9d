"""`pamd calibrate`: the threshold that a site's noise allows, and its place in the site's configuration."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from evaluating import PAMD, await_open, pamd
from fakes import toy_model
from hypothesis import given
from hypothesis import strategies as st

from pam_daemon.analysis.detect import Threshold
from pam_daemon.analysis.stream import Analysis
from pam_daemon.analysis.windows import Place
from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources.file import Recording, SoundFile
from pam_daemon.config import Flood
from pam_daemon.errors import ConfigError, SourceError
from pam_daemon.records import ModelName
from pam_daemon.settings import commented_yaml, load_config
from pam_daemon.tools.calibrate import calibrate, false_at
from pam_daemon.tools.evaluate.figures import poisson_upper
from pam_daemon.tools.evaluate.recordings import Channel
from pam_daemon.tools.site import set_values, with_values
from pam_daemon.tools.tables import Selection, write_raven

RATE_HZ = 2000
SHA256 = "0123456789" * 6 + "0123"  # digits alone: bare, YAML would take it for a number
VALUES = {"threshold": 0.914, "sha256": SHA256}


# The threshold.


def heard(scores: Sequence[float], hours: float) -> Channel:
    """A channel that was heard so long, with a window far from the others for each of the scores."""
    places = [Place(10_000 * k, 10_000 * k, 10_000 * k, 10_000 * k, None) for k in range(len(scores))]
    recording = Recording((SoundFile(Path("noise.wav"), RATE_HZ, 1, 1, None),), None)
    segment: list[tuple[Place, Sequence[float]]] = [(p, [s]) for p, s in zip(places, scores, strict=True)]
    return Channel(recording, 1, [segment], round(hours * 3600 * RATE_HZ))


def analysis(labels: int = 1) -> Analysis:
    names = tuple(f"label{number}" for number in range(labels))
    threshold = Threshold(0.5, "model")
    return Analysis(
        "pamd", "replay", ModelName("toy", SHA256), names, RATE_HZ, 4000, 1000, threshold, 1.5, -90, Flood()
    )


def test_the_threshold_is_the_least_that_the_upper_bound_allows() -> None:
    """In 10 h at 1/h four may be seen: 9.15 might then be expected, with five 10.51."""
    scores = [0.95, 0.9, 0.85, 0.8, 0.7504, 0.7, 0.3, 0.2]
    found = calibrate([heard(scores, 10)], analysis(), 1.0)
    assert (found.threshold, found.false) == (0.751, 4)
    assert found.per_hour == 0.4 and found.upper_per_hour == pytest.approx(0.915, abs=0.001)


def test_channels_and_labels_share_the_budget() -> None:
    two = heard([0.9, 0.8], 5)
    two.segments = [[(place, [score, score - 0.45]) for place, (score,) in two.segments[0]]]
    assert false_at([two], analysis(2), 0.35) == 4
    found = calibrate([two, two], analysis(2), 1.0)
    assert (found.hours, found.false, found.threshold) == (10, 4, 0.451)


def test_three_expected_events_are_enough_when_none_is_seen_and_less_are_not() -> None:
    found = calibrate([heard([0.9, 0.5], 3)], analysis(), 1.0)
    assert (found.threshold, found.false) == (0.901, 0)
    assert found.upper_per_hour == pytest.approx(1, abs=0.002)
    with pytest.raises(SourceError, match=r"2\.90 h.*at least 3\.00 h"):
        calibrate([heard([0.9], 2.9)], analysis(), 1.0)
    with pytest.raises(SourceError, match=r"3\.00 h.*0\.5 false/h.*at least 6\.00 h"):
        calibrate([heard([0.9], 3)], analysis(), 0.5)


def test_a_model_that_is_sure_of_what_is_not_there_cannot_be_calibrated() -> None:
    with pytest.raises(SourceError, match="even threshold 1 gives 2"):
        calibrate([heard([1.0, 1.0], 3)], analysis(), 1.0)


@given(st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=1, max_size=60), st.integers(3, 40))
def test_one_step_lower_would_be_too_many(scores: list[float], hours: int) -> None:
    channels = [heard(scores, hours)]
    try:
        found = calibrate(channels, analysis(), 1.0)
    except SourceError:
        assert scores.count(1.0) > 0
        return
    assert false_at(channels, analysis(), found.threshold) == found.false
    assert found.upper_per_hour <= 1
    if found.threshold > 0:
        lower = (round(found.threshold * 1000) - 1) / 1000
        assert poisson_upper(false_at(channels, analysis(), lower)) > hours


# The configuration.

LAYOUTS = {
    "": f'model:\n  threshold: 0.914\n  sha256: "{SHA256}"\n',
    "# mine\n": f'# mine\nmodel:\n  threshold: 0.914\n  sha256: "{SHA256}"\n',
    "station: {name: x}  # here": (f'station: {{name: x}}  # here\nmodel:\n  threshold: 0.914\n  sha256: "{SHA256}"\n'),
    "model:\n    batch: 8 # few\n    threshold: 0.4   # old\n    # its own\n    sha256: 'ab'\nflood: {count: 3}\n": (
        "model:\n    batch: 8 # few\n    threshold: 0.914   # old\n    # its own\n"
        f'    sha256: "{SHA256}"\nflood: {{count: 3}}\n'
    ),
    "model:\n  # which\n  batch: 8\n": (f'model:\n  # which\n  threshold: 0.914\n  sha256: "{SHA256}"\n  batch: 8\n'),
    "model: {threshold: 0.4, batch: 8}\n": f'model: {{sha256: "{SHA256}", threshold: 0.914, batch: 8}}\n',
    "model: {}\nflood: {count: 3}\n": f'model: {{threshold: 0.914, sha256: "{SHA256}"}}\nflood: {{count: 3}}\n',
    "model:\nflood: {count: 3}\n": (f'model:\n  threshold: 0.914\n  sha256: "{SHA256}"\nflood: {{count: 3}}\n'),
    "model: null  # the shipped one\n": (f'model: \n  threshold: 0.914\n  sha256: "{SHA256}"  # the shipped one\n'),
    "model:\n  threshold:   # none yet\n  sha256: null\n": (
        f'model:\n  threshold: 0.914   # none yet\n  sha256: "{SHA256}"\n'
    ),
    "{station: {name: x}}\n": f'{{model: {{threshold: 0.914, sha256: "{SHA256}"}}, station: {{name: x}}}}\n',
    "station: {name: x}\r\nmodel:\r\n  batch: 8\r\n": (
        f'station: {{name: x}}\r\nmodel:\r\n  threshold: 0.914\r\n  sha256: "{SHA256}"\r\n  batch: 8\r\n'
    ),
}


@pytest.mark.parametrize("before", LAYOUTS, ids=range(len(LAYOUTS)))
def test_the_values_come_into_their_places_and_all_else_stays(before: str) -> None:
    assert with_values(before, "model", VALUES) == LAYOUTS[before]
    assert yaml.safe_load(LAYOUTS[before])["model"]["sha256"] == SHA256


@pytest.mark.parametrize("text", ["&a ", "null\n", "3", "- model\n"])
def test_what_has_no_sections_is_not_edited(text: str) -> None:
    assert with_values(text, "model", VALUES) is None


def test_the_whole_configuration_changes_in_two_lines() -> None:
    before = commented_yaml()
    after = with_values(before, "model", VALUES)
    assert after is not None
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.split("  #")[0] for line in changed] == ["  threshold: 0.914", f'  sha256: "{SHA256}"']
    assert [line.split("  #")[1] for line in changed] == [
        " null: the model's own; else give sha256 too",
        " the model that threshold and hop_s were found for; with another they are refused",
    ]


@pytest.mark.parametrize(
    "before",
    [
        "x: &m {batch: 8}\nmodel: *m\n",
        "base: &base\n  threshold: 0.4\nmodel:\n  <<: *base\n  batch: 8\nother: *base\n",
        "model: 3\n",
        "- model\n",
        "model:\n  threshold: 0.1\nmodel:\n  threshold: 0.2\n",
    ],
)
def test_what_is_not_safe_to_edit_is_left_alone_or_right(before: str, tmp_path: Path) -> None:
    """With anchors and keys twice: either these values alone change, or nothing, and the line says what to set."""
    path = tmp_path / "site.yaml"
    path.write_text(before)
    try:
        set_values(path, "model", VALUES)
    except ConfigError as error:
        assert path.read_text() == before
        assert f'threshold: 0.914, sha256: "{SHA256}"' in str(error)
    else:
        expected = yaml.safe_load(before)
        expected["model"] |= VALUES
        assert yaml.safe_load(path.read_text()) == expected


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text("ab c#:'\"\n", max_size=6))
TREES = st.dictionaries(
    st.sampled_from(["model", "flood", "a", "b"]),
    st.one_of(PLAIN, st.dictionaries(st.sampled_from(["threshold", "sha256", "batch"]), PLAIN), st.lists(PLAIN)),
)


@given(TREES, st.sampled_from([None, True, False]))
def test_whatever_the_file_nothing_else_changes(tree: dict[str, Any], flow: bool | None) -> None:
    before = yaml.safe_dump(tree, default_flow_style=flow)
    after = with_values(before, "model", VALUES)
    if after is None:
        assert tree.get("model") and not isinstance(tree["model"], dict)
    else:
        assert yaml.safe_load(after) == {**tree, "model": {**(tree.get("model") or {}), **VALUES}}


# The command.


def noise(seconds: float, bursts_s: Sequence[float]) -> FloatArray:
    """Quiet noise with bursts of a second, each a little louder than the one before."""
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ)) * 0.003
    for number, begin_s in enumerate(bursts_s):
        at = round(begin_s * RATE_HZ)
        samples[at : at + RATE_HZ] *= 15 + number
    result: FloatArray = samples.astype(np.float32)
    return result


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with five loud bursts in six minutes, and a configuration with comments that names the model."""
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "night.wav", noise(360, [20, 90, 150, 220, 300]), RATE_HZ)
    toy_model(tmp_path / "toy.onnx")
    path = tmp_path / "site.yaml"
    path.write_text(f"# the harbour\nstation:\n  name: harbour\nmodel:\n  path: {tmp_path / 'toy.onnx'}  # ours\n")
    path.chmod(0o640)
    return path


def test_the_site_s_threshold_is_written_used_and_bound_to_the_model(site: Path) -> None:
    model, recordings = site.parent / "toy.onnx", site.parent / "noise"
    before = site.read_text()
    text, errors = pamd("calibrate", model, "--recordings", recordings, "--false-per-hour", "70", "--config", site)
    assert errors == [] and "before: threshold 0.5, the model's: 5 false" in text
    after = site.read_text()
    assert [line for line in after.splitlines() if line not in before.splitlines()] == after.splitlines()[4:6]
    choice = load_config(site).model
    assert choice.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert site.stat().st_mode & 0o777 == 0o640
    records, _ = pamd("replay", recordings, "--config", site)
    calls = [wire for wire in map(json.loads, records.splitlines()) if wire["kind"] == "detection"]
    assert {(call["threshold"], call["threshold_source"]) for call in calls} == {(choice.threshold, "site")}
    assert len(calls) == 2, "7 might be expected in these six minutes: with two seen, no more than 6.3"
    again, _ = pamd("calibrate", model, "--recordings", recordings, "--false-per-hour", "70", "--config", site)
    assert f"before: threshold {choice.threshold:g}, the site's: 2 false" in again and site.read_text() == after


def test_a_configuration_of_another_model_is_calibrated_anew_and_a_hop_goes_with_the_threshold(site: Path) -> None:
    """The old threshold is said; the hop is written, as it is not the model's own."""
    link = site.parent / "link.yaml"
    link.symlink_to(site.name)
    site.write_text(site.read_text() + f"  threshold: 0.1\n  sha256: '{SHA256}'\n")
    options = ["--recordings", site.parent / "noise", "--false-per-hour", "70", "--config", link]
    text, _ = pamd("calibrate", site.parent / "toy.onnx", *options, "--hop", "1")
    assert "before: threshold 0.1, the site's: of another model" in text
    assert link.is_symlink()
    choice = load_config(site).model
    assert choice.hop_s == 1.0 and choice.threshold not in (None, 0.1) and choice.sha256 != SHA256


def test_without_a_configuration_the_lines_for_one_are_printed(site: Path, tmp_path: Path) -> None:
    options = ["--recordings", site.parent / "noise", "--false-per-hour", "70"]
    text, _ = pamd("calibrate", site.parent / "toy.onnx", *options)
    (tmp_path / "new.yaml").write_text(text[text.index("model:\n") :])
    wire = json.loads(pamd("calibrate", site.parent / "toy.onnx", *options, "--json")[0])
    choice = load_config(tmp_path / "new.yaml").model
    assert (choice.threshold, choice.sha256, choice.hop_s) == (
        wire["threshold"],
        wire["model"]["sha256"],
        wire["hop_s"],
    )
    assert wire["before"]["false"] == 5 and wire["false"] == 2


def too_short(site: Path) -> list[object]:
    return ["--recordings", site.parent / "noise", "--false-per-hour", "20"]


def marked(site: Path) -> list[object]:
    write_raven(site.parent / "noise" / "night.selections.txt", [Selection(20, 21)])
    return ["--recordings", site.parent / "noise", "--false-per-hour", "70"]


def no_recordings(site: Path) -> list[object]:
    return ["--recordings", site.parent / "none", "--false-per-hour", "70"]


def other_model(site: Path) -> list[object]:
    site.write_text("station:\n  name: harbour\n")
    return ["--recordings", site.parent / "noise", "--false-per-hour", "70", "--config", site]


def no_configuration(site: Path) -> list[object]:
    return ["--recordings", site.parent / "noise", "--false-per-hour", "70", "--config", site.parent / "none.yaml"]


BAD = [
    (too_short, "at least 0.15 h"),
    (marked, "night.wav: calls are marked"),
    (no_recordings, "none"),
    (other_model, "site.yaml: the shipped model"),
    (no_configuration, "none.yaml"),
]


@pytest.mark.parametrize(("make", "named"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_what_cannot_be_calibrated_is_one_line_and_changes_nothing(site: Path, make: Any, named: str) -> None:
    options = make(site)
    before = site.read_text()
    _, (error,) = pamd("calibrate", site.parent / "toy.onnx", *options, code=1)
    assert error.startswith("pamd: ") and named in error
    assert site.read_text() == before


def test_no_budget_is_no_calibration(site: Path) -> None:
    options = ["--recordings", site.parent / "noise", "--false-per-hour", "0"]
    assert "--false-per-hour" in pamd("calibrate", site.parent / "toy.onnx", *options, code=2)[1][-1]


def test_an_interruption_is_one_line_and_leaves_the_configuration(site: Path) -> None:
    soundfile.write(site.parent / "noise" / "long.wav", np.zeros(2000 * 3600 * 4, np.int16), 2000)
    before = site.read_text()
    options = ["--recordings", str(site.parent / "noise"), "--false-per-hour", "70", "--config", str(site)]
    command = [*PAMD, "calibrate", str(site.parent / "toy.onnx"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        await_open(process, "long.wav")
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    (error,) = errors.splitlines()
    assert error.startswith("pamd: interrupted") and text == ""
    assert site.read_text() == before
    assert [path.name for path in site.parent.iterdir() if path.name.startswith(".")] == []
