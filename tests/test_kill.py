"""kill -9, of the daemon and of its subscriber, at random moments of a fast replay: the promises hold all the same.

A witness that keeps nothing, a bare SUB socket, tells what any subscriber may have received.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import zmq

from pam_daemon.journal import Journal
from pam_daemon.records import Wire
from pam_daemon.wire import sockets
from pam_daemon.wire.sockets import free_endpoint

PAMD = [sys.executable, "-m", "pam_daemon"]
CHANNELS, SECONDS, RATE_HZ, HOP_S = 8, 100, 2000, 0.1
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, every window of which the toy model takes for a call: ten records a second and channel."""
    path = tmp_path_factory.mktemp("loud") / "loud_20240101_120000.wav"
    noise = np.random.default_rng(0).standard_normal((SECONDS * RATE_HZ, CHANNELS)) * 0.06
    soundfile.write(path, noise.astype(np.float32), RATE_HZ, subtype="FLOAT")
    return path


def replay(loud: Path, toy: Path, journal: Path, *options: str) -> list[str]:
    rule = "alerts=[{name: any, count: 3, window_s: 10}]"
    settings = ["--set", f"detect.min_separation_s={HOP_S}", "--set", "publish.every_s=0.3", "--set", rule]
    words = ["replay", loud, "--model", toy, "--hop", HOP_S, "--journal", journal, *settings, *options]
    return [*PAMD, *map(str, words)]


class Siege:
    """A daemon, a subscriber with a state file, and a witness; the first two are killed and started again."""

    def __init__(self, daemon: Sequence[str], endpoint: str, journal: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.witnessed: list[Wire] = []
        self.outputs: list[Path] = []  # of each life of the subscriber
        self.journal = journal
        self._commands = {"daemon": daemon, "listener": [*PAMD, "listen", endpoint, "--state", str(self._place)]}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._context = sockets.open_context(linger_ms=0)
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.subscribe("")
        self._socket.connect(endpoint)

    @property
    def _place(self) -> Path:
        return self.journal.with_name("place")

    def __enter__(self) -> Siege:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.kill(name)
        sockets.end(self._context)

    def start(self, name: str) -> None:
        """Where it does not run."""
        if name in self._running and self._running[name].poll() is None:
            return
        out = self.journal.with_name(f"{name}{len(self.outputs)}")
        if name == "listener":
            self.outputs.append(out)
        with out.open("wb") as file, self.journal.with_name(f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(self._commands[name], stdout=file, stderr=log)

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running.pop(name).wait()

    def round(self, names: Sequence[str], longest_s: float) -> None:
        for name in names:
            self.start(name)
        self.witness(self.chance.uniform(0.0, longest_s))
        self.kill(self.chance.choice(names))
        self.witness(0.0)

    def witness(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while self._socket.poll(max(0, int(1000 * (until_s - time.monotonic())))):
            wire = json.loads(self._socket.recv_multipart()[1])
            if wire["kind"] != "status":
                self.witnessed.append(wire)

    def finish(self) -> None:
        """Let both come to the end."""
        for name in ("daemon", "listener"):
            self.start(name)
        until_s = time.monotonic() + PATIENCE_S
        while not self._finished():
            assert time.monotonic() < until_s, "the replay or its subscriber does not come to its end"
            self.witness(0.2)
        self._running["listener"].terminate()
        # It may have had nothing left to receive, and be asked to end before it hears of that.
        assert self._running.pop("listener").wait(PATIENCE_S) in (0, -signal.SIGTERM)

    def _finished(self) -> bool:
        with closing(Journal(self.journal)) as journal:
            efforts, last = len(journal.since(0, kinds=["effort"])), journal.ends()[1]
            return efforts == CHANNELS and json.loads(self._place.read_bytes())["places"].get(journal.log) == last


def whole(path: Path) -> list[Wire]:
    with closing(Journal(path)) as journal:
        return journal.since(0, limit=10**9)


def unkept(witnessed: Sequence[Wire], journal: Path) -> set[str]:
    """Ids of records that somebody received as durable, and that are not in the journal."""
    return {wire["id"] for wire in witnessed if wire["durable"]} - {wire["id"] for wire in whole(journal)}


def lives(outputs: Sequence[Path]) -> list[list[Wire]]:
    """What the subscriber wrote in each life; of a life that was killed the last line may be half a record."""
    texts = [path.read_bytes() for path in outputs]
    lines = [[json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")] for text in texts]
    return [[wire for wire in life if wire["kind"] != "status"] for life in lines]


def besiege(directory: Path, loud: Path, toy: Path, rounds: int, seed: int) -> None:
    endpoint = free_endpoint()
    path = directory / "journal"
    daemon = replay(loud, toy, path, "--endpoint", endpoint, "--linger", "600")
    with Siege(daemon, endpoint, path, seed) as siege:
        for _ in range(rounds):
            siege.round(["daemon", "listener"], longest_s=1.5)
        siege.finish()
    records = whole(path)
    assert len(records) > CHANNELS * SECONDS

    # Whatever was received as durable is in the journal, as it was received.
    by_id = {wire["id"]: wire for wire in records}
    assert siege.witnessed
    assert unkept(siege.witnessed, path) == set()
    assert all(by_id[wire["id"]] == wire for wire in siege.witnessed if wire["durable"])

    # Each life of the subscriber is a stretch of the journal, whole and in order; a death leaves nothing out.
    places = {wire["seq"]: place for place, wire in enumerate(records)}
    reached = 0
    for life in lives(siege.outputs):
        begin = places[life[0]["seq"]] if life else reached
        assert begin <= reached
        assert life == records[begin : begin + len(life)]
        reached = max(reached, begin + len(life))
    assert reached == len(records)

    # A replay that was killed so often has given the ids of one that was not, also of its alerts.
    assert "alert" in {wire["kind"] for wire in records}
    subprocess.run(replay(loud, toy, directory / "undisturbed"), check=True, capture_output=True)
    assert sorted(by_id) == sorted(wire["id"] for wire in whole(directory / "undisturbed"))


def test_twenty_kills(tmp_path: Path, loud: Path, toy: Path) -> None:
    """What any subscriber received as durable is journalled, one with a state file gets all, and ids are the same."""
    besiege(tmp_path, loud, toy, rounds=20, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_two_hundred_kills(tmp_path: Path, loud: Path, toy: Path, seed: int) -> None:
    """The same, ten times over."""
    besiege(tmp_path, loud, toy, rounds=20, seed=seed)


@pytest.mark.parametrize("order", ["committed first", "published first"])
def test_publication_before_the_commit_would_be_seen(tmp_path: Path, order: str) -> None:
    """The same siege of a daemon that publishes first finds records that nobody kept, and else none."""
    endpoint = free_endpoint()
    daemon = [sys.executable, str(Path(__file__).with_name("out_of_order.py")), order, endpoint]
    with Siege([*daemon, str(tmp_path / "journal")], endpoint, tmp_path / "journal", seed=1) as siege:
        found: set[str] = set()
        for _ in range(20 if order == "published first" else 5):
            siege.start("daemon")
            while not siege.witnessed:
                siege.witness(0.1)
            siege.round(["daemon"], longest_s=0.1)
            found |= unkept(siege.witnessed, tmp_path / "journal")
            siege.witnessed.clear()
            if found:
                break
    assert bool(found) == (order == "published first")
