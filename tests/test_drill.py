"""`pamd run --drill` as a process: the whole chain hears it, marked, and who does not ask does not act on it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from live import (
    PAMD,
    PATIENCE_S,
    Station,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from servers import Broker, Web, await_true, free_port
from sound import DEVICE
from test_run import compared

from pam_daemon.analysis.model import shipped_model
from pam_daemon.capture.sources import Audio
from pam_daemon.capture.sources.player import Player
from pam_daemon.clock import SystemClock
from pam_daemon.config import Filter, Mqtt, Webhook
from pam_daemon.drill import SimulatedSea
from pam_daemon.journal import Journal
from pam_daemon.records import Wire, record_id
from pam_daemon.tools.simulate import Sea
from pam_daemon.wire.sockets import free_endpoint

RATE_HZ = 2000
ASKS = ("live", "drill")


def write_calls(path: Path, calls_s: Sequence[float], seconds: float, channels: int = 1) -> Path:
    """Noise with tones that the toy model hears, three seconds each, around these instants; on the first channel."""
    samples = np.random.default_rng(3).normal(0, 1e-3, (round(seconds * RATE_HZ), channels)).astype(np.float32)
    at_s = np.arange(3 * RATE_HZ) / RATE_HZ
    call = 0.1 * np.sin(np.pi * at_s / 3) ** 2 * np.sin(2 * np.pi * 150 * at_s)
    for call_s in calls_s:
        samples[round((call_s - 1.5) * RATE_HZ) :][: len(call), 0] += call
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


@dataclass
class Site:
    """Where a station is, and its drills."""

    directory: Path
    toy: Path
    env: dict[str, str]
    endpoint: str = field(default_factory=free_endpoint)

    @contextmanager
    def drilling(self, what: object, *options: object) -> Iterator[subprocess.Popen[str]]:
        common = ["--model", str(self.toy), "--journal", str(self.directory / "journal"), "--endpoint", self.endpoint]
        command = [*PAMD, "run", "--drill", str(what), *common, *map(str, options)]
        with subprocess.Popen(command, env=self.env, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def drill(self, what: object, *options: object) -> tuple[int, list[str]]:
        """To its end: the exit code, and what it logs."""
        with self.drilling(what, *options) as process:
            said = process.communicate(timeout=PATIENCE_S)[1]
        return process.returncode, said.splitlines()

    @property
    def journals(self) -> list[list[Wire]]:
        """What each drill so far has journalled."""
        found = []
        for path in sorted(self.directory.glob("journal.drill-????????T??????Z")):
            with closing(Journal(path)) as journal:
                found.append(journal.since(0, limit=10_000))
        return found

    def status(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PAMD, "status", *options], env=self.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )


@pytest.fixture(name="site")
def site_fixture(tmp_path: Path, toy: Path) -> Site:
    return Site(tmp_path, toy, {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)})


def of(records: Sequence[Wire], kind: str) -> list[Wire]:
    return [record for record in records if record["kind"] == kind]


def listen(site: Site, exits: ExitStack, name: str, *options: str) -> Callable[[], int]:
    """Starts a `pamd listen` that recovers all, with a place of its own. Returns: what ends it."""
    command = [*PAMD, "listen", site.endpoint, "--from", "beginning", "--state", str(site.directory / f"{name}.place")]
    process = exits.enter_context(subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL))
    exits.callback(process.kill)

    def end() -> int:
        process.terminate()
        return process.wait(PATIENCE_S)

    return end


@contextmanager
def on_a_terminal(command: Sequence[str]) -> Iterator[bytearray]:
    """What a program shows there, as it comes."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 65_536):
                shown.extend(part)
        except OSError:  # how Linux says that the other end is closed
            pass

    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield shown
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            reader.join()
            os.close(ours)


def test_who_asks_for_drills_acts_on_them_and_nobody_else(site: Site, tmp_path: Path, exits: ExitStack) -> None:
    """Two streams hear one file; its alerts are raised, cleared, lapse, reach commands, web servers and a broker."""
    deaf, asking, broker = Web(), Web(), Broker(tmp_path)
    for side in (deaf, asking, broker):
        exits.callback(side.close)
        side.start()
    mqtt = Mqtt("broker", "localhost", broker.port, filter=Filter(modes=ASKS), tls=False, retain=True)
    hooks = [
        Webhook(name, f"http://localhost:{web.port}/", filter=Filter(modes=modes))
        for name, web, modes in (("deaf", deaf, ("live",)), ("asking", asking, ASKS))
    ]
    rule = {"name": "pair", "count": 2, "streams": 2, "window_s": 5.0, "hold_s": 14.0}
    config = tmp_path / "pamd.yaml"
    values = {
        "devices": [{"device": "nowhere", "name": "north"}, {"device": "elsewhere", "name": "south"}],
        "alerts": [rule],
        "bridges": [msgspec.to_builtins(bridge) for bridge in (mqtt, *hooks)],
        "metrics": {"port": free_port()},
    }
    config.write_text(msgspec.yaml.encode(values).decode())
    taken, untaken = tmp_path / "taken", tmp_path / "untaken"
    ends = [
        listen(site, exits, "without", "--exec", f"sh -c 'cat >>{untaken}'"),
        listen(site, exits, "with", "--exec", f"sh -c 'cat >>{taken}'", "--mode", "live", "--mode", "drill"),
    ]
    calls = write_calls(tmp_path / "calls.wav", (4.0, 7.0, 24.0), 26.5)
    sound = tmp_path / "sound"
    with (
        on_a_terminal([*PAMD, "listen", site.endpoint, "--from", "beginning"]) as shown,
        site.drilling(calls, "--config", config, "--record", sound) as process,
    ):
        await_true(asking.taken)
        with ThreadPoolExecutor() as pool:  # while the alert stands
            told, unasked, whole = pool.map(lambda words: site.status(*words), (["--drill"], [], ["--drill", "--json"]))
        with urllib.request.urlopen(f"http://127.0.0.1:{values['metrics']['port']}/metrics") as scraped:
            metrics = scraped.read().decode()
        said = process.communicate(timeout=PATIENCE_S)[1].splitlines()
        await_true(lambda: all(_passed(site, name) for name in ("with", "without")))
    assert process.returncode == 0, said
    assert [end() for end in ends] == [0, 0]

    assert told.stdout.startswith("DRILL pamd: ")
    assert "DRILL ALERT pair: detected loud" in told.stdout
    assert unasked.returncode == 1, "no station listens"
    status = json.loads(whole.stdout)["status"]
    (records,) = site.journals
    assert {record["mode"] for record in records} == {"drill"}
    alerts = of(records, "alert")
    assert [alert["state"] for alert in alerts] == ["raised", "extended", "extended", "cleared", "raised", "lapsed"]
    assert alerts[0]["streams"] == ["north-ch1", "south-ch1"]
    assert (status["mode"], sorted(status["bridges"])) == ("drill", ["asking", "broker"])
    (standing,) = status["alerts"]
    assert (standing["alert"], standing["rule"], standing["level"]) == (alerts[0]["id"], "pair", "detected")
    assert 'pamd_alert_standing{label="loud",level="detected",mode="drill",rule="pair"} 1.0' in metrics
    assert 'mode="drill"' in next(line for line in metrics.splitlines() if line.startswith("pamd_build_info"))
    _ids_are_those_of_the_contract(records)

    # Who asked.
    assert [json.loads(line) for line in taken.read_text().splitlines()] == alerts
    assert asking.taken() == [alert["id"] for alert in alerts]
    published = [json.loads(payload) for topic, payload, _ in broker.seen if topic == "pamd/alert/pamd/_"]
    assert published == alerts
    # Who did not.
    assert not untaken.exists()
    assert deaf.posts == []
    assert {topic for topic, *_ in broker.seen} == {"pamd/alert/pamd/_", "pamd/status/pamd.drill"}
    newcomer = Broker(tmp_path, port=broker.port)
    newcomer._watch = newcomer._watcher()
    exits.callback(newcomer.close)
    await_true(lambda: newcomer.seen)
    assert [topic for topic, *_ in newcomer.seen] == ["pamd/status/pamd.drill"], "no alert of a drill is retained"

    lines = shown.decode().splitlines()
    assert len(lines) == len(records)
    assert all(line.split()[1] == "DRILL" for line in lines)
    events = [json.loads(line) for line in said if line.startswith("{")]
    begins, over = (
        next(event for event in events if event["event"] == what) for what in ("drill begins", "drill over")
    )
    assert "journal.drill-" in begins["journal"] and begins["bridges"] == ["broker", "asking"]
    assert "its sound is over after 26.5 s" in over["text"]
    raised = [event for event in events if event["event"] == "alert raised"]
    assert {(event["mode"], event["alert_level"]) for event in raised} == {("drill", "detected")}
    # Sound and clips are apart from what a station keeps, and its journal has not even been made.
    assert [path.name for path in sound.iterdir()] == ["drill"]
    clips = {detection["clip"] for detection in of(records, "detection")}
    assert {f"clips/{path.name}" for path in (sound / "drill" / "clips").iterdir()} == clips
    assert not (tmp_path / "journal").exists()


def _passed(site: Site, name: str) -> bool:
    """Whether a listener has all that the drill has journalled behind it."""
    (records,) = site.journals
    place = json.loads((site.directory / f"{name}.place").read_bytes())["places"]
    return bool(place == {records[-1]["log"]: records[-1]["seq"]})


def _ids_are_those_of_the_contract(records: Sequence[Wire]) -> None:
    """Of detections: the key is the UTC at which the stream began."""
    began = {r["stream"]: r["data"]["start_utc"] for r in of(records, "event") if r["what"] == "stream_began"}
    detections = of(records, "detection")
    assert {detection["stream"] for detection in detections} == began.keys()
    for wire in detections:
        key, model = began[wire["stream"]], wire["model"]["sha256"]
        made_of = (wire["station"], wire["stream"], key, wire["start_sample"], model, wire["label"])
        assert wire["id"] == record_id("detection", *made_of)


def test_a_drill_hears_what_a_replay_hears(site: Site, tmp_path: Path) -> None:
    """Field by field; a stream a channel, where no device is named."""
    calls = write_calls(tmp_path / "calls.wav", (3.0, 5.5), 8.0, channels=2)
    code, said = site.drill(calls)
    assert code == 0, said
    command = [*PAMD, "replay", str(calls), "--model", str(site.toy)]
    replayed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    again = [json.loads(line) for line in replayed.splitlines()]
    (records,) = site.journals
    for kind in ("detection", "gap", "effort"):
        assert [compared(record) for record in of(records, kind)] == [compared(record) for record in of(again, kind)]
    assert len(of(records, "detection")) == 2
    assert {record["stream"] for record in of(records, "effort")} == {"ch1", "ch2"}
    assert all(0 < wire["latency_ms"]["total_ms"] < 60_000 for wire in of(records, "detection"))


def test_each_drill_begins_anew(site: Site, tmp_path: Path) -> None:
    """What stood in one that was killed raises again in the next; the time between them is no gap."""
    calls = write_calls(tmp_path / "calls.wav", (3.0,), 7.0)
    rule = ("--set", "alerts=[{name: whales, count: 1, window_s: 5, hold_s: 3600}]")
    with site.drilling(calls, *rule) as process:
        await_true(lambda: site.journals and of(site.journals[0], "alert"))
        process.send_signal(signal.SIGKILL)
    code, said = site.drill(calls, *rule)
    assert code == 0, said
    killed, whole = (of(records, "alert") for records in site.journals)
    assert [alert["state"] for alert in killed] == ["raised"]
    assert [alert["state"] for alert in whole] == ["raised", "lapsed"]
    assert killed[0]["id"] != whole[0]["id"]
    assert of(site.journals[1], "gap") == []


def test_a_station_that_listens_is_not_disturbed(station: Station, tmp_path: Path) -> None:
    """What is taken is one line with the remedy; beside it a drill runs, and leaves its journal and places alone."""
    port = free_port()
    site = Site(tmp_path, tmp_path / "toy.onnx", station.env)
    calls = write_calls(tmp_path / "calls.wav", (3.0,), 10.0)
    own = ("--endpoint", "tcp://127.0.0.1:*")
    live = ("--device", DEVICE, "--endpoint", site.endpoint, "--set", f"metrics.port={port}")
    with station.running(*live):
        station.await_heard()
        for options, named in (
            ((), f"pamd: {site.endpoint}: cannot bind: Address already in use"),
            ((*own, "--set", f"metrics.port={port}"), f"pamd: metrics.port: {port}: cannot bind: "),
        ):
            code, said = site.drill(calls, *options)
            assert code == 1
            assert said[-1].startswith(named)
        with site.drilling("simulated", *own) as process:
            await_true(lambda: site.status("--drill").returncode == 0)
            code, said = site.drill(calls, *own)
            assert (code, "drill.sock: another pamd answers here; end it" in said[-1]) == (1, True)
            assert station.status()["status"]["mode"] == "live"
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
    before = station.records
    assert {record["mode"] for record in before} == {"live"}
    assert of(before, "detection") == []
    with station.running(*live):
        station.await_logged("gap")
    (gap,) = [gap for gap in station.of("gap") if gap["reason"] == "not_running"]
    assert abs(unix_s(gap["start_utc"]) - unix_s(of(before, "effort")[-1]["end_utc"])) < 0.1


def test_a_reload_starts_bridges_that_ask_for_drills_and_no_others(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "pamd.yaml"
    config.write_text("")
    nobody = f"http://localhost:{free_port()}/"
    hooks = [Webhook(name, nobody, filter=Filter(modes=modes)) for name, modes in (("live", ("live",)), ("both", ASKS))]
    with site.drilling("simulated", "--config", config) as process:
        await_true(lambda: site.status("--drill").returncode == 0)
        config.write_text(msgspec.yaml.encode({"bridges": [msgspec.to_builtins(hook) for hook in hooks]}).decode())
        process.send_signal(signal.SIGHUP)
        await_true(lambda: len(of(site.journals[0], "event")) == 2)
        bridges = json.loads(site.status("--drill", "--json").stdout)["status"]["bridges"]
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    _, reload = of(site.journals[0], "event")
    assert reload["data"]["changed"] == {"bridges": [[], ["both"]]}
    assert list(bridges) == ["both"]


def test_a_simulated_sea_plays_until_it_is_ended(site: Site) -> None:
    with site.drilling("simulated") as process:
        await_true(lambda: site.status("--drill").returncode == 0)
        await_true(
            lambda: json.loads(site.status("--drill", "--json").stdout)["status"]["streams"]["ch1"]["analysed_samples"]
        )
        source = json.loads(site.status("--drill", "--json").stdout)["status"]["streams"]["ch1"]["source"]
        process.terminate()
        said = process.communicate(timeout=PATIENCE_S)[1].splitlines()
    assert (process.returncode, source) == (0, "a simulated sea")
    assert "it was ended after" in json.loads(said[-1])["text"]
    (records,) = site.journals
    effort = of(records, "effort")[-1]
    assert effort["elapsed_samples"] == effort["analysed_samples"] > 0


def test_the_simulated_sea_begins_as_that_of_pamd_simulate() -> None:
    blocks = SimulatedSea(RATE_HZ).blocks(300)
    first = np.concatenate([piece.samples[0] for piece, _ in zip(blocks, range(100), strict=False)])
    sea = np.concatenate([Sea(minutes=10, calls=30, seed=1).block(number) for number in range(4)])
    assert np.array_equal(first, sea[: len(first)]) and len(first) > 29_000


@pytest.mark.long
def test_an_alert_of_the_simulated_sea_is_raised_extended_and_cleared(tmp_path: Path) -> None:
    """By the shipped model and the preset that the documentation names; half an hour, replayed."""
    path = tmp_path / "sea_20240101_120000.wav"
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "FLOAT") as file:
        for piece in SimulatedSea(RATE_HZ).blocks():
            assert isinstance(piece, Audio)
            file.write(piece.samples[0])
    command = [*PAMD, "replay", str(path), "--model", str(shipped_model())]
    command += ["--set", "alerts=[{name: whales, preset: tally-15min}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    states = [alert["state"] for alert in of([json.loads(line) for line in done.stdout.splitlines()], "alert")]
    assert (states[0], states[1], states[-1]) == ("raised", "extended", "cleared")


def test_a_file_that_is_cut_short_is_told_at_its_end(site: Site, tmp_path: Path) -> None:
    """All before has been played, and what was found is in the journal; the exit code is not that of a good end."""
    path = write_calls(tmp_path / "calls.wav", (2.0,), 8.0)
    path.write_bytes(path.read_bytes()[: RATE_HZ * 4 * 5])
    code, said = site.drill(path)
    assert code == 1
    assert said[-1] == f"pamd: {path}: cut short, and so was what was played; give a whole recording"
    (records,) = site.journals
    assert len(of(records, "detection")) == 1
    assert 4.9 * RATE_HZ < of(records, "effort")[-1]["analysed_samples"] < 5 * RATE_HZ


@pytest.mark.parametrize(
    ("what", "options", "named"),
    [
        ("nothing.wav", [], "nothing.wav: No such file"),
        (".", [], ": Is a directory"),
        ("text.wav", [], "text.wav: libsndfile cannot read it"),
        ("calls.wav", ["--set", "alerts=[{name: pair, count: 2, window_s: 9, streams: 2}]"], "streams 2: there are 1"),
    ],
)
def test_what_cannot_be_played_is_one_line(
    what: str, options: Sequence[str], named: str, site: Site, tmp_path: Path
) -> None:
    write_calls(tmp_path / "calls.wav", (), 3.0)
    (tmp_path / "text.wav").write_text("a song of the sea\n" * 9)
    code, said = site.drill(tmp_path / what, *options)
    assert code == 1
    assert said[-1].startswith("pamd: ") and named in said[-1]
    assert not [line for line in said if line.startswith("Traceback")]


def test_a_player_gives_a_sound_as_its_device_would() -> None:
    """In real time, each block with the instant of its end; more channels than the sound has take them by turns."""

    class Ramp:
        name, sample_rate_hz, channels = "ramp", 1000, 2

        def blocks(self, block_samples: int | None = None) -> Iterator[Audio]:
            size = block_samples or 1
            for number in range(5):
                first = np.arange(number * size, (number + 1) * size, dtype=np.float32)
                yield Audio(np.stack([first, -first]), None)

    clock, stop = SystemClock(), threading.Event()
    began_ns = clock.monotonic_ns()
    pieces = []
    for piece in Player(Ramp(), 3, stop, clock).blocks():
        assert isinstance(piece, Audio) and piece.monotonic_ns is not None
        assert clock.monotonic_ns() >= piece.monotonic_ns
        pieces.append(piece)
    samples = np.concatenate([piece.samples for piece in pieces], axis=1)
    assert np.array_equal(samples, [np.arange(500), -np.arange(500), np.arange(500)])
    ends_ns = [piece.monotonic_ns or 0 for piece in pieces]
    assert np.diff(ends_ns).tolist() == [100_000_000] * 4
    assert ends_ns[0] >= began_ns + 100_000_000


def test_a_player_stops_when_it_is_asked_to() -> None:
    stop = threading.Event()
    blocks = Player(SimulatedSea(RATE_HZ), 1, stop, SystemClock()).blocks()
    next(blocks)
    stop.set()
    assert list(blocks) == []
