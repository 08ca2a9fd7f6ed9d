"""The unit at work: a machine with systemd is booted, and `pamd@test` listens on it in its sandbox to a real device."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import toy_model
from live import playing
from machine import Machine, machine
from sound import DEVICE, SoundServer, sound_server

from pam_daemon.clock import SystemClock
from pam_daemon.records import Wire

pytestmark = pytest.mark.xdist_group("machine")  # one is booted for all of them

UNIT = "pamd@test"
WATCHDOG_S = 8
CONFIG = f"""
devices: [{{device: {DEVICE}, sample_rate_hz: 48000}}]
model: {{path: /etc/pamd/toy.onnx}}
record: {{directory: /var/lib/pamd/sound}}
metrics: {{port: 9556}}
"""
KEYED = """
devices: [{device: nowhere, sample_rate_hz: 48000}]
model: {path: /etc/pamd/toy.onnx}
publish: {endpoint: "tcp://0.0.0.0:5566", keys: /etc/pamd/keys}
"""
# What a test adds to the unit: where the sound comes from, a watchdog that is soon at its end, and the attempts.
DROP_IN = f"""
[Service]
Environment=PULSE_SERVER=unix:/srv/sound/native ALSA_CONFIG_PATH=/srv/sound/asoundrc
WatchdogSec={WATCHDOG_S}
RestartSec=1
WorkingDirectory=/var/lib/pamd
ExecStartPost=/bin/sh -c '/opt/pamd/bin/python /srv/tests/attempts.py >$RUNTIME_DIRECTORY/attempts'
"""
# Privileges aside, the attempts could be made: the letter may be read by all, the devices too.
ENVIRONMENT = """
mkdir -p /home/keeper
echo secret >/home/keeper/letter
mknod -m 666 /dev/tun c 10 200
mknod -m 666 /dev/kmsg c 1 11
mknod -m 660 /dev/snd c 116 255
chgrp audio /dev/snd
"""
REFUSED = {
    "memory written and executable": "EPERM",
    "memory made executable": "EPERM",
    "write /etc": "EROFS",
    "write /usr": "EROFS",
    "write /opt": "EROFS",
    "write /var": "EROFS",
    "read /home": "EACCES",
    "read /proc/1": "ENOENT",
    "open a device": "EPERM",
    "read the kernel's log": "EACCES",
    "set the clock": "EPERM",
    "raw packets": "EAFNOSUPPORT",
    "setuid file": "EPERM",
    "user namespace": "EPERM",
    "real-time priority": "EPERM",
    "become root": "EPERM",
}
# Read on the machine: SQLite does not follow the way into it from here.
READ_JOURNAL = """
import json
from pathlib import Path
from pam_daemon.journal import Journal
print(json.dumps(Journal(Path("/var/lib/pamd/test.journal")).since(0)))
"""


@pytest.fixture(name="server", scope="module")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    directory = tmp_path_factory.mktemp("snd")
    with sound_server(directory) as server:
        directory.chmod(0o755)  # pamd's own user connects
        pcm = directory / "asoundrc"
        pcm.write_text(pcm.read_text().replace(str(directory), "/srv/sound"))  # where the machine sees the server
        yield server


@pytest.fixture(name="booted", scope="module")
def booted_fixture(server: SoundServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The station on it has started; what the tests do to it, they do one after the other."""
    shared = {Path(server.env["HOME"]): "/srv/sound", Path(__file__).parent: "/srv/tests"}
    with machine(tmp_path_factory.mktemp("machine"), shared) as booted:
        booted.run("sh", "-euc", ENVIRONMENT)
        booted.run("systemctl", "start", "dbus.socket")
        booted.write("/etc/pamd/test.yaml", CONFIG)
        toy_model(booted.path("/etc/pamd/toy.onnx"))
        booted.write("/etc/systemd/system/pamd@.service.d/test.conf", DROP_IN)
        booted.run("systemctl", "daemon-reload")
        booted.run("systemctl", "start", UNIT)
        yield booted


def status(booted: Machine) -> Wire:
    answer: Wire = json.loads(booted.run("/opt/pamd/bin/pamd", "status", "--station", "test", "--json"))
    return answer


def records(booted: Machine, kind: str) -> list[Wire]:
    read: list[Wire] = json.loads(booted.run("/opt/pamd/bin/python", "-c", READ_JOURNAL))
    return [record for record in read if record["kind"] == kind]


def test_it_hears_in_its_sandbox(booted: Machine, server: SoundServer, tmp_path: Path) -> None:
    """READY makes it active; sound goes through PortAudio, soxr, onnxruntime and libsndfile to journal and clip."""
    assert booted.show(UNIT, "ActiveState") == "active"
    assert booted.show(UNIT, "User") == "pamd"
    booted.await_true(lambda: status(booted)["status"]["streams"]["ch1"]["analysed_samples"] > 0)
    with playing(server, tmp_path):
        booted.await_true(lambda: records(booted, "detection"))
    assert status(booted)["status"]["streams"]["ch1"]["detections"] >= 1
    detection, *_ = records(booted, "detection")
    booted.await_true(lambda: booted.path(f"/var/lib/pamd/sound/{detection['clip']}").exists())
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9556/metrics').read().decode())"
    assert 'pamd_detections_total{stream="ch1"} ' in booted.run("/opt/pamd/bin/python", "-c", fetch)


def test_what_the_unit_forbids_is_refused(booted: Machine) -> None:
    """What root may do on the same machine, a process in the unit's sandbox may not, but open a sound card."""
    free = json.loads(booted.run("sh", "-c", "cd /tmp && /opt/pamd/bin/python /srv/tests/attempts.py 'set the clock'"))
    bound = json.loads(booted.path("/run/pamd/test/attempts").read_text())
    # There is none, even where no driver is loaded when the unit starts: that is said, and not that it is forbidden.
    assert free.pop("sound card") == bound.pop("sound card")
    assert free == dict.fromkeys(REFUSED.keys() - {"set the clock"}, "done")
    assert bound == REFUSED


def test_it_knows_how_good_the_clock_is(booted: Machine) -> None:
    """What the kernel may not tell it in its sandbox, it has from systemd; where nobody tells it, it says so."""
    known = SystemClock().sync().quality
    assert known != "unknown"
    booted.await_true(lambda: status(booted)["status"]["streams"]["ch1"]["clock"]["quality"] == known)
    ask = "from pam_daemon.clock import SystemClock; print(SystemClock().sync().quality)"
    alone = ["-p", "SystemCallFilter=~@clock", "-p", "SystemCallErrorNumber=EPERM", "-p", "InaccessiblePaths=/run/dbus"]
    python = ["-E", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/pamd/bin/python"]
    assert booted.run("systemd-run", "--quiet", "--pipe", "--wait", *alone, *python, "-c", ask) == "unknown\n"


def test_reload_takes_on_a_threshold_and_refuses_nonsense(booted: Machine) -> None:
    """`systemctl reload` applies what is valid, journals it, and keeps listening."""
    pid = booted.show(UNIT, "MainPID")
    sha256 = status(booted)["status"]["model"]["sha256"]
    booted.write("/etc/pamd/test.yaml", CONFIG.replace("toy.onnx", f"toy.onnx, threshold: 0.9, sha256: {sha256}"))
    booted.run("systemctl", "reload", UNIT)
    booted.await_true(lambda: "reload" in [event["what"] for event in records(booted, "event")])
    booted.write("/etc/pamd/test.yaml", "nonsense: 1")
    booted.run("systemctl", "reload", UNIT)
    booted.await_true(lambda: "reload_refused" in [event["what"] for event in records(booted, "event")])
    booted.write("/etc/pamd/test.yaml", CONFIG)
    assert booted.show(UNIT, "MainPID") == pid


def test_keys_come_as_credentials(booted: Machine) -> None:
    """The drop-in as it is installed: root alone can read the secret, and the daemon serves with it nevertheless."""
    pamd = "/opt/pamd/bin/pamd"
    public = booted.run(pamd, "keys", "new", "keyed", "--dir", "/etc/pamd/keys").strip()
    booted.write("/etc/pamd/ferry.public", booted.run(pamd, "keys", "new", "ferry", "--dir", "/root/keys"))
    booted.run(pamd, "keys", "allow", "ferry", "/etc/pamd/ferry.public", "--dir", "/etc/pamd/keys")
    booted.write("/etc/pamd/keyed.yaml", KEYED)
    booted.run(
        "install", "-D", "/usr/share/doc/pamd/pamd-keys.conf", "/etc/systemd/system/pamd@keyed.service.d/keys.conf"
    )
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "start", "pamd@keyed")
    assert booted.path("/etc/pamd/keys/keyed.secret").stat().st_mode & 0o777 == 0o600
    listen = ["timeout", "--foreground", "--preserve-status", "10", pamd, "listen", "tcp://127.0.0.1:5566"]
    keys = ["--key", "/root/keys/ferry.secret", "--server-key", public]
    first = booted.run(*listen, *keys, "--json").splitlines()[0]
    assert (json.loads(first)["kind"], json.loads(first)["station"]) == ("status", "keyed")
    assert "give --key" in booted.attempt(*listen).stderr
    booted.run("systemctl", "stop", "pamd@keyed")


def test_a_daemon_that_hangs_is_killed_and_started_again(booted: Machine) -> None:
    """SIGSTOP for longer than the watchdog: systemd restarts it, and the time is a gap at the next start."""
    assert booted.show(UNIT, "NRestarts") == "0"
    pid = booted.show(UNIT, "MainPID")
    booted.run("sh", "-c", f"kill -STOP {pid}")
    booted.await_true(lambda: booted.show(UNIT, "NRestarts") == "1" and booted.show(UNIT, "ActiveState") == "active")
    assert booted.show(UNIT, "MainPID") != pid
    assert "Watchdog timeout" in booted.run("journalctl", "--no-pager", f"--unit={UNIT}")
    booted.await_true(lambda: "not_running" in [gap["reason"] for gap in records(booted, "gap")])


def test_it_ends_in_order(booted: Machine) -> None:
    """`systemctl stop`: exit code 0, the last effort is journalled, the runtime directory is gone."""
    booted.await_true(lambda: status(booted)["status"]["streams"]["ch1"]["analysed_samples"] > 0)
    booted.run("systemctl", "stop", UNIT)
    assert booted.show(UNIT, "Result") == "success"
    assert booted.show(UNIT, "ExecMainStatus") == "0"
    assert records(booted, "effort")[-1]["analysed_samples"] > 0
    assert not booted.path("/run/pamd/test").exists()
