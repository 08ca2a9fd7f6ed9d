"""CurveZMQ over real sockets: who is let in, who is turned away and learns it, and what a withdrawn key ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from fakes import event, toy_model
from house import (
    ANY_PORT,
    PATIENCE_MS,
    House,
    bare_context,
    context_fixture,  # noqa: F401 - pytest finds the fixture by its import
    numbers,
    publisher,
    take,
)
from live import PATIENCE_S, Station
from zmq.utils.monitor import recv_monitor_message

from pam_daemon.errors import EndpointError, KeyFileError
from pam_daemon.journal import Bell
from pam_daemon.records import Wire
from pam_daemon.subscribe import Subscriber
from pam_daemon.wire import curve
from pam_daemon.wire.curve import Door
from pam_daemon.wire.keys import KeyPair, StationKeys, allow, new_pair, revoke, station_keys

PAMD = [sys.executable, "-m", "pam_daemon"]


class Harbour:
    """A directory with a station's keys and those of two subscribers, both allowed, and of a stranger."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public = new_pair(directory, "harbour").public
        for name in ("ferry", "bridge", "stranger"):
            pair = new_pair(directory, name)
            if name != "stranger":
                allow(directory, name, pair.public)

    def secret(self, name: str) -> Path:
        return self.directory / f"{name}.secret"

    def keys(self) -> StationKeys:
        return station_keys(self.directory, "harbour")

    def subscriber(self, house: House, name: str, server_key: str | None = None, **options: Any) -> Subscriber:
        keys = {"key": self.secret(name), "server_key": server_key or self.public}
        return Subscriber(house.publisher.endpoint, **keys, **options)


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    return Harbour(tmp_path / "keys")


@pytest.fixture
def house(tmp_path: Path, exits: ExitStack, harbour: Harbour) -> House:
    return House(tmp_path / "journal", exits, keys=harbour.keys())


def subscribed(subscriber: Subscriber, exits: ExitStack) -> Subscriber:
    """As the status shows that a newcomer gets at once."""
    exits.enter_context(subscriber)
    assert next(subscriber.records(timeout_s=60))["kind"] == "status"
    return subscriber


def refusal(subscriber: Subscriber) -> str:
    """What somebody learns who is not let in; not a single record comes first."""
    received: list[Wire] = []
    with subscriber, pytest.raises(EndpointError) as caught:
        for wire in subscriber.records(timeout_s=PATIENCE_S):
            received.append(wire)  # noqa: PERF402 - it raises in the middle
    assert received == []
    message = str(caught.value)
    assert "\n" not in message
    return message


# The truth table.


def test_an_allowed_key_is_let_in_and_recovers(house: House, harbour: Harbour, exits: ExitStack) -> None:
    """Records and recovery both: what was sent before somebody came, and a hole, are had from the other socket."""
    subscriber = subscribed(harbour.subscriber(house, "ferry"), exits)
    house.journal.append([event(1), event(2)])
    assert numbers(take(subscriber, 2)) == [1, 2]
    late = exits.enter_context(harbour.subscriber(house, "ferry", from_beginning=True))
    assert numbers(take(late, 2)) == [1, 2]
    assert late.recovered_records == 2


def test_a_strangers_key_is_turned_away_and_told_what_to_do(house: House, harbour: Harbour) -> None:
    message = refusal(harbour.subscriber(house, "stranger"))
    assert "does not know the key" in message
    assert "pamd keys allow" in message


def test_nobody_comes_without_a_key(house: House) -> None:
    assert "give --key and --server-key" in refusal(Subscriber(house.publisher.endpoint))


def test_nobody_is_fooled_by_another_server(house: House, harbour: Harbour) -> None:
    """An allowed key that expects another station's: neither side goes on."""
    other = zmq.curve_keypair()[0].decode()
    assert "is --server-key that of the station" in refusal(harbour.subscriber(house, "ferry", other))


def test_an_open_station_is_no_station_with_keys(tmp_path: Path, harbour: Harbour, exits: ExitStack) -> None:
    """Who expects a key takes nothing unencrypted."""
    house = House(tmp_path / "open", exits)
    assert "does it use keys?" in refusal(harbour.subscriber(house, "ferry"))


@pytest.mark.parametrize("who", ["stranger", "nobody", "another server's friend"])
def test_recovery_answers_no_stranger(
    house: House, harbour: Harbour, context: zmq.Context[zmq.Socket[bytes]], exits: ExitStack, who: str
) -> None:
    """A plain DEALER gets nothing there; one with an allowed key does."""
    public, secret = (half.decode() for half in zmq.curve_keypair())
    ferry = curve_pair(harbour, "ferry")
    stranger, allowed = (exits.enter_context(context.socket(zmq.DEALER)) for _ in range(2))
    if who != "nobody":
        key = KeyPair(public, secret) if who == "stranger" else ferry
        curve.present(stranger, key, harbour.public if who == "stranger" else public)
    curve.present(allowed, ferry, harbour.public)
    for socket in (stranger, allowed):
        socket.connect(f"tcp://127.0.0.1:{house.publisher.recovery_port}")
        with suppress(zmq.Again):  # who has been turned away already has nobody to send to, and would wait for ever
            socket.send(b'{"op": "status"}', zmq.DONTWAIT)
    assert allowed.poll(PATIENCE_MS)
    assert msgspec.json.decode(allowed.recv())["kind"] == "status"
    assert not stranger.poll(500)


def curve_pair(harbour: Harbour, name: str) -> KeyPair:
    return station_keys(harbour.directory, name).own


def test_a_key_and_the_stations_go_together(harbour: Harbour) -> None:
    with pytest.raises(KeyFileError, match="both --key and --server-key"):
        Subscriber(ANY_PORT, key=harbour.secret("ferry"))
    with pytest.raises(KeyFileError, match="both --key and --server-key"):
        Subscriber(ANY_PORT, server_key=harbour.public)


# Keys that change while the station serves.


def test_a_revoked_key_ends_a_standing_connection_and_costs_the_others_nothing(
    house: House, harbour: Harbour, exits: ExitStack
) -> None:
    """Records go on through it: the other comes back, recovers, and has every one, once, in order; nothing is lost."""
    ferry = subscribed(harbour.subscriber(house, "ferry"), exits)
    bridge = subscribed(harbour.subscriber(house, "bridge"), exits)
    house.journal.append([event(n) for n in range(500)])
    assert len(take(ferry, 500)) == len(take(bridge, 500)) == 500
    revoke(harbour.directory, "ferry")
    house.publisher.take_on(harbour.keys())
    house.journal.append([event(n) for n in range(500, 1000)])  # while nobody is connected
    with pytest.raises(EndpointError, match="does not know the key"):
        list(ferry.records(timeout_s=PATIENCE_S))
    received, end = [], 1000
    while not received:  # what comes next shows what was missed
        house.journal.append([event(end)])
        end += 1
        received += [wire for wire in bridge.records(timeout_s=0.1) if wire["kind"] != "status"]
    received += take(bridge, end - 500 - len(received))
    assert numbers(received) == list(range(501, end + 1))
    assert bridge.lost_records == 0
    refusal(harbour.subscriber(house, "ferry"))


def test_a_new_key_is_let_in_and_disturbs_nobody(
    house: House, harbour: Harbour, exits: ExitStack, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """The connections that stand are not cut for it."""
    with context.socket(zmq.SUB) as ferry:
        ferry.subscribe(b"")
        curve.present(ferry, curve_pair(harbour, "ferry"), harbour.public)
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        monitor = exits.enter_context(ferry.get_monitor_socket(events))
        ferry.connect(house.publisher.endpoint)
        assert monitor.poll(PATIENCE_MS)
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        allow(harbour.directory, "tug", curve_pair(harbour, "stranger").public)
        house.publisher.take_on(harbour.keys())
        subscribed(harbour.subscriber(house, "stranger"), exits)
        assert not monitor.poll(300)
        ferry.disable_monitor()


def test_a_station_changes_its_own_key(house: House, harbour: Harbour, exits: ExitStack) -> None:
    """Who expects the old one is let in no more; with the new one they are."""
    subscribed(harbour.subscriber(house, "ferry"), exits)
    harbour.secret("harbour").rename(harbour.directory / "old")
    renewed = new_pair(harbour.directory, "harbour").public
    house.publisher.take_on(harbour.keys())
    subscribed(harbour.subscriber(house, "bridge", renewed), exits)
    assert "is --server-key" in refusal(harbour.subscriber(house, "bridge"))


# The proof at the start.


@pytest.fixture
def server(
    context: zmq.Context[zmq.Socket[bytes]], exits: ExitStack, harbour: Harbour
) -> tuple[Door, zmq.Socket[bytes]]:
    """A door, and a socket with the station's keys that does not ask there yet."""
    keys, socket = harbour.keys(), exits.enter_context(context.socket(zmq.XPUB))
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.own.public.encode(), keys.own.secret.encode()
    door = Door(context, keys)
    exits.enter_context(door.socket)
    return door, socket


def bound(socket: zmq.Socket[bytes]) -> str:
    socket.bind(ANY_PORT)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def test_the_proof_passes_only_where_strangers_are_turned_away(server: tuple[Door, zmq.Socket[bytes]]) -> None:
    door, socket = server
    door.guard(socket)
    door.prove(bound(socket), zmq.SUB)


def test_a_server_that_asks_nobody_fails_the_proof(server: tuple[Door, zmq.Socket[bytes]], exits: ExitStack) -> None:
    """Encrypted, and open to the whole world: libzmq finds no handler in the socket's context, and no domain."""
    door, keys = server[0], server[0].keys.own
    socket = exits.enter_context(exits.enter_context(bare_context()).socket(zmq.XPUB))
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
    with pytest.raises(EndpointError, match="not turned away but let in"):
        door.prove(bound(socket), zmq.SUB)


class OpenHouse(dict[str, str]):
    """Subscribers among whom everybody is."""

    def values(self) -> Everybody:  # type: ignore[override]
        return Everybody()


class Everybody:
    def __contains__(self, _: object) -> bool:
        return True


def test_a_handler_that_knows_everybody_fails_the_proof(server: tuple[Door, zmq.Socket[bytes]]) -> None:
    door, socket = server
    door.keys = StationKeys(door.keys.own, OpenHouse())
    door.guard(socket)
    with pytest.raises(EndpointError, match="not turned away but let in"):
        door.prove(bound(socket), zmq.SUB)


def test_a_proof_that_nobody_answers_fails_in_time(
    server: tuple[Door, zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an open socket is, and where none is."""
    door, socket = server
    socket.curve_server = False
    monkeypatch.setattr(curve, "_PROOF_TIMEOUT_S", 5.0)
    endpoint = bound(socket)
    with pytest.raises(EndpointError, match=r"not turned away but (not understood|failed)"):
        door.prove(endpoint, zmq.SUB)
    socket.close()
    monkeypatch.setattr(curve, "_PROOF_TIMEOUT_S", 0.5)
    with pytest.raises(EndpointError, match="not turned away but not answered"):
        door.prove("tcp://127.0.0.1:1", zmq.SUB)


# Where a station may be reached from, and how much a subscriber may leave unread.


@pytest.mark.parametrize(
    ("host", "secured", "insecure", "outcome"),
    [
        ("127.0.0.1", False, False, "bound"),
        ("127.0.0.2", False, False, "bound"),
        ("localhost", False, False, "bound"),
        ("0.0.0.0", False, False, "refused"),
        ("*", False, False, "refused"),
        ("192.0.2.1", False, False, "refused"),
        ("lo", False, False, "refused"),
        ("0.0.0.0", False, True, "exposed"),
        ("0.0.0.0", True, False, "bound"),
        ("*", True, False, "bound"),
        ("127.0.0.1", True, False, "bound"),
    ],
)
def test_without_keys_a_station_answers_this_machine_alone(
    tmp_path: Path, harbour: Harbour, host: str, secured: bool, insecure: bool, outcome: str
) -> None:
    """Unless it is told that it may be insecure; with keys it may be reached from anywhere."""
    stopped = threading.Event()
    stopped.set()
    with closing(Bell()) as bell:
        keys = harbour.keys() if secured else None
        make = partial(publisher, f"tcp://{host}:*", tmp_path / "unused", bell, keys, insecure=insecure)
        if outcome == "refused":
            with pytest.raises(EndpointError, match="--insecure"):
                make()
            return
        made = make()
        made.run(stopped)
        assert made.exposed == (outcome == "exposed")


def test_who_asks_and_does_not_read_is_answered_no_more(
    house: House, context: zmq.Context[zmq.Socket[bytes]], harbour: Harbour, exits: ExitStack
) -> None:
    """The replies that a station holds for one subscriber are few; others are answered as before."""
    house.journal.append([event(n) for n in range(1000)])
    idle, other = (exits.enter_context(context.socket(zmq.DEALER)) for _ in range(2))
    idle.setsockopt(zmq.RCVHWM, 1)
    for socket, name in ((idle, "bridge"), (other, "ferry")):
        curve.present(socket, curve_pair(harbour, name), harbour.public)
        socket.connect(f"tcp://127.0.0.1:{house.publisher.recovery_port}")
    asked = 200  # replies of more than 300 kB
    for _ in range(asked):
        idle.send(b'{"op": "since"}')
    for _ in range(2 * asked):  # the publisher takes turns: by then it has come to all of the idle one's
        other.send(b'{"op": "status"}')
        assert other.poll(PATIENCE_MS)
        assert msgspec.json.decode(other.recv())["kind"] == "status"
    answered = 0
    while idle.poll(1000):
        idle.recv()
        answered += 1
    assert 0 < answered < asked // 2


# A daemon, and who listens to it.


@pytest.fixture
def station(tmp_path: Path, harbour: Harbour) -> Station:
    """Its device is absent: it needs no sound."""
    toy_model(tmp_path / "toy.onnx")
    (tmp_path / "pamd.yaml").write_text(
        f"devices: [{{device: nowhere, sample_rate_hz: 48000}}]\npublish: {{keys: {harbour.directory}}}\n"
    )
    return Station(tmp_path, {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)})


def options(station: Station) -> list[str]:
    return ["--config", str(station.directory / "pamd.yaml"), "--station", "harbour"]


@contextmanager
def listening(endpoint: str, harbour: Harbour, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [*PAMD, "listen", endpoint, "--key", str(harbour.secret(name)), "--server-key", harbour.public]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listener:
        try:
            yield listener
        finally:
            listener.terminate()


def test_a_daemon_lets_go_of_a_revoked_subscriber_at_a_reload(station: Station, harbour: Harbour) -> None:
    """Its `pamd listen` ends with exit code 1 and a line; the other goes on; the journal says who was revoked."""
    with station.running(*options(station)) as daemon:
        station.await_logged("listening")
        endpoint = next(line["endpoint"] for line in station.log_lines() if line["event"] == "publishing")
        with listening(endpoint, harbour, "ferry") as ferry, listening(endpoint, harbour, "bridge") as bridge:
            for listener in (ferry, bridge):
                assert listener.stdout is not None
                status = json.loads(listener.stdout.readline())
                assert status["kind"] == "status"
            revoke(harbour.directory, "ferry")
            daemon.send_signal(signal.SIGHUP)
            _, said = ferry.communicate(timeout=PATIENCE_S)
            assert ferry.returncode == 1
            assert "turned away" in said.splitlines()[-1]
            assert bridge.stdout is not None
            while json.loads(bridge.stdout.readline()).get("last_seq") == status["last_seq"]:
                pass  # until something has come that was not there before
        (reload,) = station.events("reload")
        assert (reload["data"]["allowed"], reload["data"]["revoked"]) == (["bridge"], ["ferry"])
        harbour.secret("harbour").chmod(0o644)
        daemon.send_signal(signal.SIGHUP)
        station.await_logged("reload_refused")
        with listening(endpoint, harbour, "bridge") as bridge:
            assert bridge.stdout is not None
            assert json.loads(bridge.stdout.readline())["kind"] == "status"


def refused(station: Station, *words: str) -> str:
    done = subprocess.run(
        [*PAMD, "run", *options(station), "--model", str(station.directory / "toy.onnx"), *words],
        env=station.env | {"STATE_DIRECTORY": str(station.directory)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_daemon_does_not_start_where_it_would_not_be_safe(station: Station, harbour: Harbour) -> None:
    """An open endpoint without keys; a secret that others may read, or that is not there."""
    everywhere = ["--endpoint", "tcp://0.0.0.0:*"]
    assert "open to the network" in refused(station, *everywhere, "--set", "publish.keys=null")
    assert "buoy.secret" in refused(station, "--station", "buoy")
    harbour.secret("harbour").chmod(0o640)
    assert "mode 640" in refused(station)


def test_an_insecure_daemon_says_so(station: Station) -> None:
    """In the log, and in the journal, where everybody who listens reads it."""
    with station.running(
        *options(station), "--set", "publish.keys=null", "--endpoint", "tcp://0.0.0.0:*", "--insecure"
    ):
        station.await_logged("insecure", 2)
    (said,) = station.events("insecure")
    assert said["severity"] == "warning"
    assert said["data"]["endpoint"].startswith("tcp://0.0.0.0:")
