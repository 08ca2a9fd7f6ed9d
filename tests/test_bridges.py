"""Bridges, each to a real server that is down for a while: everything arrives, in order, at least once."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bridges import (
    KINDS,
    Sea,
    assert_all_arrived,
    bridging,
    sea_fixture,  # noqa: F401 - pytest finds fixtures by their import
    sides_fixture,  # noqa: F401
)
from live import (
    PAMD,
    Station,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from servers import Broker, Udp, Web, await_true, free_port
from sound import DEVICE, SoundServer

from pam_daemon.config import Filter
from pam_daemon.errors import ConfigError
from pam_daemon.outlets.bridge import place_path


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_while_the_other_side_is_down_arrives_when_it_is_up(
    kind: str, sea: Sea, sides: dict[str, Broker | Web | Udp]
) -> None:
    """Down at the start, and again in the middle; both outages are told, and their ends."""
    side = sides[kind]
    with sea.bridged(side.choice) as bridges:
        for outage in (1, 2):
            sea.append(3)
            await_true(lambda outage=outage: len(sea.told("bridge_down")) == outage)
            down = bridges.status()[side.choice.name]
            assert (down.behind, down.down_since_utc is None, bool(down.error)) == (3, False, True)
            side.start()
            await_true(lambda outage=outage: len(sea.told("bridge_up")) == outage)
            sea.append(2)
            await_true(lambda: side.key(sea.wires()[-1]) in side.taken())
            await_true(lambda: bridges.status()[side.choice.name].behind == 0)
            assert bridges.status()[side.choice.name].error is None
            if outage == 1:
                side.stop()
    assert_all_arrived(side, sea.wires())
    assert [event.data["behind"] for event in sea.told("bridge_down")] == [3, 3]
    assert {event.severity for event in sea.events} == {"warning", "info"}


@pytest.mark.parametrize("kind", ["mqtt", "pgalm"])
def test_a_process_that_is_killed_goes_on_where_it_was(
    kind: str, sea: Sea, sides: dict[str, Broker | Web | Udp]
) -> None:
    """SIGKILL in the middle of handing over, again and again."""
    side = sides[kind]
    side.start()
    sea.append(1)
    for killed in range(2):
        before = len(side.taken())
        with subprocess.Popen(bridging(sea, side)) as process:
            await_true(place_path(sea.path, side.choice.name).exists)
            sea.append(3 + killed)
            await_true(lambda before=before: len(side.taken()) > before)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    with sea.bridged(side.choice):
        await_true(lambda: side.key(sea.wires()[-1]) in side.taken())
    assert_all_arrived(side, sea.wires()[1:])  # a bridge that is new begins with what comes


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed one of localhost, and its key."""
    paths = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    where = ["-days", "2", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command, *names, *where], check=True, capture_output=True)
    return paths


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho's, when a handshake fails
@pytest.mark.parametrize("kind", ["mqtt", "webhook"])
def test_whose_certificate_is_not_trusted_gets_nothing(kind: str, sea: Sea, tmp_path: Path) -> None:
    """The same server, with its certificate as ca_file, does; the broker with a user and a password, besides."""
    cert, key = certificate(tmp_path)
    trusted: dict[str, Any] = {"ca_file": str(cert)}
    side: Broker | Web
    if kind == "mqtt":
        password, hashed = tmp_path / "password", tmp_path / "passwords"
        for path in (password, hashed):
            path.touch(0o600)
        password.write_text("deep")
        hashed.write_text("pamd:deep\n")
        subprocess.run(["mosquitto_passwd", "-U", str(hashed)], check=True)
        side = Broker(tmp_path, f"certfile {cert}\nkeyfile {key}\nallow_anonymous false\npassword_file {hashed}")
        trusted |= {"user": "pamd", "password_file": str(password)}
    else:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(cert, key)
        side = Web(trust=trust)
    side.options = {**trusted, "ca_file": None}
    side.start()
    with closing(side):
        with sea.bridged(side.choice) as bridges:
            sea.append(1)
            await_true(lambda: sea.told("bridge_down"))
            assert "certificate" in str(bridges.status()[side.choice.name].error).lower()
        side.options = trusted
        with sea.bridged(side.choice) as bridges:
            sea.append(1)
            await_true(lambda: bridges.status()[side.choice.name].behind == 0)
            assert bridges.status()[side.choice.name].error is None
        if kind == "mqtt":
            password.write_text("shallow")
            with sea.bridged(side.choice):
                await_true(lambda: len(sea.told("bridge_down")) == 2)
            assert "Not authorized" in sea.told("bridge_down")[1].text


def test_a_bridge_that_changes_begins_where_it_ended_and_others_go_on(sea: Sea) -> None:
    """Nothing is lost or sent twice to either; one that is no longer named ends, and a wrong one changes nothing."""
    first, second = Web(), Web()
    with closing(first), closing(second):
        first.start()
        second.start()
        with sea.bridged(first.choice, msgspec.structs.replace(second.choice, name="other")) as bridges:
            sea.append(2)
            await_true(lambda: len(first.taken()) == len(second.taken()) == 2)
            missing = msgspec.structs.replace(first.choice, token_file="/nowhere/token")
            with pytest.raises(ConfigError, match="bridge web: token_file: /nowhere/token: cannot be read: No such"):
                bridges.prepare([missing])
            sea.append(1)
            await_true(lambda: len(first.taken()) == len(second.taken()) == 3)
            bridges.prepare([msgspec.structs.replace(second.choice, name="web")])()
            sea.append(2)
            await_true(lambda: len(second.taken()) == 5)
            assert list(bridges.status()) == ["web"]
            assert sum(thread.is_alive() for thread in sea.threads) == 1
        assert second.taken() == [wire["id"] for wire in sea.wires()]
        assert first.taken() == second.taken()[:3]


def test_a_daemon_hands_on_its_calls_across_outages_and_its_own_death(
    station: Station, server: SoundServer, sides: dict[str, Broker | Web | Udp], tmp_path: Path
) -> None:
    """Real sound: the broker is down at the start, the daemon is killed, the web server goes; all have all calls."""
    config = tmp_path / "pamd.yaml"
    config.write_text(
        msgspec.yaml.encode(
            {"devices": [{"device": DEVICE}], "bridges": [msgspec.to_builtins(side.choice) for side in sides.values()]}
        ).decode()
    )
    sides["webhook"].start()
    sides["pgalm"].start()
    with playing(server, tmp_path):
        with station.running("--config", str(config)) as daemon:
            await_true(lambda: sides["webhook"].taken())
            bridges = station.status()["status"]["bridges"]
            assert bridges["web"]["error"] is None
            assert "refused" in bridges["broker"]["error"]
            daemon.kill()
            daemon.wait()
        sides["mqtt"].start()
        sides["webhook"].stop()
        with station.running("--config", str(config)) as daemon:
            await_true(lambda: len(sides["pgalm"].taken()) >= 2)
            sides["webhook"].start()
            await_true(lambda: all(len(side.taken()) >= 3 for side in sides.values()))
    calls = station.of("detection")
    assert len(calls) >= 3
    for side in sides.values():
        assert_all_arrived(side, calls)


def test_sighup_takes_on_bridges_and_a_wrong_one_changes_nothing(tmp_path: Path, toy: Path) -> None:
    """A station whose device is absent hands on its events; what the reload says of bridges holds no address."""
    web = Web()
    web.start()
    config = tmp_path / "pamd.yaml"
    head = "devices: [{device: nowhere, sample_rate_hz: 48000}]\n"
    config.write_text(head)
    (tmp_path / "toy.onnx").write_bytes(toy.read_bytes())
    station = Station(tmp_path, {"PATH": "/usr/bin:/bin", "RUNTIME_DIRECTORY": str(tmp_path)})
    port = free_port()
    choice = msgspec.to_builtins(msgspec.structs.replace(web.choice, filter=Filter(kinds=("event",))))
    with closing(web), station.running("--config", str(config), "--set", f"metrics.port={port}") as daemon:
        station.await_logged("listening")
        for token, told in ((None, "reload"), ("/nowhere", "reload_refused")):
            config.write_text(head + json.dumps({"bridges": [choice | {"token_file": token}]})[1:-1])
            daemon.send_signal(signal.SIGHUP)
            await_true(lambda told=told: station.events(told))
            await_true(lambda told=told: station.events(told)[0]["id"] in web.taken())
        well = {"behind": 0, "down_since_utc": None, "error": None, "refused": 0}
        assert station.status()["status"]["bridges"] == {"web": well}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as scraped:
            metrics = scraped.read().decode().splitlines()
        assert {'pamd_bridge_up{bridge="web"} 1.0', 'pamd_bridge_behind{bridge="web"} 0.0'} <= set(metrics)
        said = subprocess.run([*PAMD, "status"], env=station.env, capture_output=True, text=True, check=True).stdout
        assert "bridge web: well; 0 records wait, 0 refused\n" in said
    (taken,) = station.events("reload")
    assert taken["data"]["changed"] == {"bridges": [[], ["web"]]}
    assert taken["data"]["restart_needed"] == []
