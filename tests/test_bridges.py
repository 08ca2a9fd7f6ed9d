"""Bridges, each to a real server that is down for a while: everything arrives, in order, at least once."""

from __future__ import annotations

import itertools
import json
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import BEGAN_UTC_NS, event
from live import (
    PAMD,
    Station,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from servers import Broker, Side, Udp, Web, await_true, every_side, free_port
from sound import DEVICE, SoundServer

from pam_daemon.clock import NS_PER_S, SystemClock, rfc3339
from pam_daemon.config import BridgeChoice, Filter, Webhook
from pam_daemon.errors import ConfigError
from pam_daemon.held import Held
from pam_daemon.journal import Gong, Journal
from pam_daemon.outlets.bridge import Feed, passes, place_path
from pam_daemon.outlets.bridges import Bridges
from pam_daemon.outlets.pgalm import sentence
from pam_daemon.records import Detection, Event, Kind, Latency, Mode, ModelName, Record, Wire, record_id
from pam_daemon.settings import load_config

KINDS = ("mqtt", "webhook", "pgalm")


def detection(number: int, *, mode: Mode = "live", score: float = 0.9, **fields: Any) -> Record:
    """A made-up one; the same number gives the same id and times."""
    utc = rfc3339(BEGAN_UTC_NS + number * NS_PER_S)
    body = Detection(
        *(utc, utc, utc, 0.0, 1.0, 0.5, 0, 2000, "upcall", score, 0.5, "model", 1, False, False),
        ModelName("toy", "0" * 64),
        -20.0,
        Latency(0.0, None, None, None, None),
    )
    identity = record_id("detection", "pamd", "ch1", "key", number, "0" * 64, "upcall")
    return Record("detection", "pamd", "ch1", mode, identity, utc, msgspec.structs.replace(body, **fields))


@dataclass
class Sea:
    """A journal, and a station's bridges on it."""

    path: Path
    events: list[Event] = field(default_factory=list)
    appended: Gong = field(default_factory=Gong)
    held: Held = field(default_factory=Held)
    threads: list[threading.Thread] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def open_journal(self) -> Journal:
        return Journal(self.path, held=self.held)

    def append(self, count: int) -> None:
        self.journal(*(detection(next(self.numbers)) for _ in range(count)))

    def journal(self, *records: Record) -> None:
        with closing(Journal(self.path, [self.appended], self.held)) as journal:
            journal.append(records)

    def wires(self) -> list[Wire]:
        with closing(self.open_journal()) as journal:
            return journal.since(0, kinds=["detection"], limit=10_000)

    def told(self, what: str) -> list[Event]:
        return [event for event in self.events if event.what == what]

    @contextmanager
    def bridged(self, *choices: BridgeChoice, retry_s: float = 0.05) -> Iterator[Bridges]:
        """While the block lasts; an exception on one of its threads would be pytest's."""
        feed = Feed(self.open_journal, self.appended, self.events.append, SystemClock(), retry_s)
        bridges = Bridges("pamd", feed, self._start)
        bridges.prepare(choices)()
        try:
            yield bridges
        finally:
            bridges.stop()
            for thread in self.threads:
                thread.join()

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        self.threads.append(threading.Thread(target=work, name=name))
        self.threads[-1].start()
        return self.threads[-1]


@pytest.fixture(name="sea")
def sea_fixture(tmp_path: Path) -> Sea:
    return Sea(tmp_path / "journal")


@pytest.fixture(name="sides")
def sides_fixture(tmp_path: Path) -> Iterator[dict[str, Broker | Web | Udp]]:
    with every_side(tmp_path) as sides:
        yield sides


def assert_all_arrived(side: Side, wires: Sequence[Wire]) -> None:
    """Every record, in order, and one that comes again comes before what follows it."""
    keys = [side.key(wire) for wire in wires]
    taken = side.taken()
    assert list(dict.fromkeys(taken)) == keys
    places = [keys.index(key) for key in taken]
    assert all(after in (before, before + 1) for before, after in itertools.pairwise(places))


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


def test_a_record_that_was_taken_when_the_process_died_comes_again(sea: Sea) -> None:
    """The server kills its client between the record and the answer: once more is better than never."""

    def answer(post: Any) -> int:
        if post.id == detection(1).id and process.poll() is None:
            process.kill()
            process.wait()
        return 204

    web = Web(answer)
    with closing(web):
        with subprocess.Popen(bridging(sea, web)) as process:
            await_true(place_path(sea.path, "web").exists)
            web.start()
            sea.append(3)
        await_true(lambda: len(web.taken()) == 2)
        with sea.bridged(web.choice):
            await_true(lambda: len(web.taken()) == 4)
    first, second, third = (wire["id"] for wire in sea.wires())
    assert web.taken() == [first, second, second, third]


def bridging(sea: Sea, side: Side) -> list[str]:
    """The command of a process with this bridge and nothing else."""
    program = str(Path(__file__).parent / "bridging.py")
    return [sys.executable, program, str(sea.path), json.dumps([msgspec.to_builtins(side.choice)])]


def test_a_server_that_hangs_holds_up_nobody_but_its_bridge(sea: Sea) -> None:
    """Sixty records are committed, and another bridge has them, while one POST waits for its answer."""
    released = threading.Event()

    def hang(_: object) -> int:
        released.wait()
        return 204

    slow, quick = Web(hang), Web()
    slow.start()
    quick.start()
    with closing(slow), closing(quick):
        others = msgspec.structs.replace(quick.choice, name="other")
        with sea.bridged(slow.choice, others) as bridges:
            sea.append(1)
            await_true(lambda: bridges.status()["web"].behind)
            sea.append(60)
            await_true(lambda: len(quick.taken()) == 61)
            assert slow.taken() == []
            released.set()
            await_true(lambda: len(slow.taken()) == 61)
        assert_all_arrived(slow, sea.wires())


def test_a_record_that_is_refused_is_put_aside_and_told(sea: Sea) -> None:
    """It is offered three times; those after it arrive, and an event names it."""
    bad = detection(1).id

    def answer(post: Any) -> int:
        return 422 if post.id == bad else 204

    web = Web(answer)
    web.start()
    with closing(web), sea.bridged(web.choice) as bridges:
        sea.append(4)
        await_true(lambda: len(web.taken()) == 3)
        assert bridges.status()["web"].refused == 1
    assert web.taken() == [wire["id"] for wire in sea.wires() if wire["id"] != bad]
    assert [post.id for post, status in web.posts if status == 422] == [bad] * 3
    (told,) = sea.told("bridge_refused")
    assert (told.severity, told.data["id"]) == ("error", bad)
    assert "HTTP 422" in told.text and "not that!" in told.text and "\n" not in told.text
    assert sea.told("bridge_down") == []


@pytest.mark.parametrize("status", [301, 308, 401, 403, 404, 408, 409, 429, 500, 503])
def test_a_status_that_says_nothing_of_the_record_is_an_outage(status: int, sea: Sea) -> None:
    """Nothing is put aside, no redirection followed."""
    statuses = itertools.chain([status] * 5, itertools.repeat(204))
    web = Web(lambda _: next(statuses))
    web.start()
    with closing(web), sea.bridged(web.choice, retry_s=0.01) as bridges:
        sea.append(2)
        await_true(lambda: len(web.taken()) == 2)
        assert bridges.status()["web"].refused == 0
    assert_all_arrived(web, sea.wires())
    (down,) = sea.told("bridge_down")
    assert f"HTTP {status}" in down.text and "whales" not in down.text, "an address may be a secret"
    assert {post.path for post, _ in web.posts} == {"/whales?a=1"}


def test_a_post_is_the_record_with_its_id_as_key_and_a_token_that_may_change(sea: Sea, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("first\n")
    web = Web(options={"token_file": str(token)})
    web.start()
    with closing(web), sea.bridged(web.choice):
        sea.append(1)
        await_true(lambda: len(web.taken()) == 1)
        token.write_text("second\n")
        sea.append(1)
        await_true(lambda: len(web.taken()) == 2)
    for (post, _), wire, secret in zip(web.posts, sea.wires(), ("first", "second"), strict=True):
        assert json.loads(post.body) == wire
        assert post.headers["Idempotency-Key"] == wire["id"]
        assert post.headers["Content-Type"] == "application/json"
        assert post.headers["Authorization"] == f"Bearer {secret}"


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


def test_the_broker_knows_whether_the_station_is_online_and_keeps_what_it_should(sea: Sea, tmp_path: Path) -> None:
    """Online while connected, offline when it ends and, by its last will, when it is killed."""
    broker = Broker(tmp_path, options={"tls": False, "prefix": "sea/whales", "retain": True, "version": 3})
    broker.start()

    def last_status() -> bytes | None:
        said = [payload for topic, payload, _ in list(broker.seen) if topic == "sea/whales/status/pamd"]
        return said[-1] if said else None

    with closing(broker):
        with sea.bridged(broker.choice):
            await_true(lambda: last_status() == b"online")
            sea.append(1)
            await_true(lambda: broker.taken())
        await_true(lambda: last_status() == b"offline")
        with subprocess.Popen(bridging(sea, broker)) as process:
            await_true(lambda: last_status() == b"online")
            process.kill()
        await_true(lambda: last_status() == b"offline")
        assert "sea/whales/detection/pamd/ch1" in {topic for topic, _, _ in broker.seen}
        newcomer = Broker(tmp_path, port=broker.port)
        newcomer._watch = newcomer._watcher()
        await_true(lambda: len(newcomer.seen) == 2)
        newcomer.close()
    assert {(topic, retained) for topic, _, retained in newcomer.seen} == {
        ("sea/whales/detection/pamd/ch1", True),
        ("sea/whales/status/pamd", True),
    }


def test_a_broker_that_forbids_the_topic_is_an_outage(sea: Sea, tmp_path: Path) -> None:
    """MQTT 5 says so; nothing is lost, and it arrives once it is allowed."""
    rights = tmp_path / "rights"
    rights.write_text("topic read #\ntopic readwrite pamd/status/#\n")
    broker = Broker(tmp_path, f"allow_anonymous true\nacl_file {rights}")
    broker.start()
    with closing(broker), sea.bridged(broker.choice):
        sea.append(1)
        await_true(lambda: sea.told("bridge_down"))
        assert "Not authorized" in sea.told("bridge_down")[0].text
        rights.write_text("topic readwrite #\n")
        broker.reload()
        await_true(lambda: broker.taken())


def test_the_alarm_sentence_is_pamguards() -> None:
    """Fields, their forms and the checksum as PAMGuard writes them, reckoned by hand."""
    alert: Wire = {
        "kind": "alert",
        "mode": "live",
        "station": "reef",
        "rule": "tally-15min",
        "level": "detected",
        "state": "raised",
        "count": 3,
        "last_utc": "2009-03-29T17:05:09.876543Z",
        "time_utc": "2009-03-29T17:05:11.000000Z",
    }
    assert sentence(alert) == "$PGALM,reef-tally-15min,20090329,170509,2,3.0,0*67\r\n"
    assert ",1,3.0,0*" in sentence(alert | {"level": "possible", "state": "extended"})
    assert ",0,3.0,0*" in sentence(alert | {"state": "cleared"})
    assert ",0,3.0,0*" in sentence(alert | {"state": "lapsed"})
    assert ",20090329,170511," in sentence(alert | {"last_utc": None})
    assert sentence(alert | {"mode": "drill"}).startswith("$PGALM,DRILL reef-tally-15min,20090329,")
    wire = detection(1, label="up*call, $x", score=0.96).wire()
    assert sentence(wire).startswith("$PGALM,pamd-up_call_ _x,20090329,171501,1,1.0,0*")


def test_a_place_is_kept_and_what_another_log_says_is_not_believed(sea: Sea) -> None:
    """Without a place, from what comes; in a new journal, or with a damaged place, from the beginning."""
    web = Web()
    web.start()
    sea.append(2)
    place = place_path(sea.path, "web")
    with closing(web):
        for arrived in (3, 4):
            with sea.bridged(web.choice):
                sea.append(1)
                await_true(lambda arrived=arrived: len(web.taken()) == arrived - 2)
        assert web.taken() == [wire["id"] for wire in sea.wires()[2:]]
        place.write_text("{")
        with sea.bridged(web.choice):
            await_true(lambda: len(web.taken()) == 6)
        assert web.taken()[2:] == [wire["id"] for wire in sea.wires()]
        for path in sea.path.parent.glob("journal*"):
            if path != place:
                path.unlink()
        sea.held = Held()
        sea.append(1)
        with sea.bridged(web.choice):
            await_true(lambda: web.taken()[-1:] == [sea.wires()[0]["id"]])


def test_what_waits_on_a_disk_that_cannot_be_read_is_not_passed_over(sea: Sea, tmp_path: Path) -> None:
    """The journal's file is away when the bridge begins, and comes back."""
    web = Web()
    with closing(web):
        with sea.bridged(web.choice):
            sea.append(2)
            await_true(lambda: sea.told("bridge_down"))
        away = tmp_path / "away"
        away.mkdir()
        files = [path for path in sea.path.parent.glob("journal*") if path.suffix != ".place"]
        for path in files:
            path.rename(away / path.name)
        web.start()
        with sea.bridged(web.choice) as bridges:
            await_true(lambda: bridges.status()["web"].error == "the journal's disk cannot be read")
            for path in files:
                (away / path.name).rename(path)
            await_true(lambda: len(web.taken()) == 2)
            sea.append(1)
    assert web.taken() == [wire["id"] for wire in sea.wires()]


def test_what_comes_while_others_are_handed_over_comes_once_and_what_is_left_at_the_end_too(sea: Sea) -> None:
    web = Web()
    web.start()
    with closing(web), sea.bridged(web.choice):
        for _ in range(60):
            sea.append(1)
    assert web.taken() == [wire["id"] for wire in sea.wires()]


ALERT: Wire = {"kind": "alert", "mode": "live", "label": "upcall", "max_score": 0.8, "state": "raised", "flood": False}
CALL: Wire = {"kind": "detection", "mode": "live", "label": "upcall", "score": 0.8, "flood": None}
EVENT: Wire = {"kind": "event", "mode": "live", "what": "reload"}


@pytest.mark.parametrize(
    ("wanted", "wire", "passed"),
    [
        (Filter(), ALERT, True),
        (Filter(), CALL, False),
        (Filter(kinds=("detection", "event")), CALL, True),
        (Filter(), ALERT | {"mode": "drill"}, False),
        (Filter(), ALERT | {"mode": "replay"}, False),
        (Filter(modes=("drill",)), ALERT | {"mode": "drill"}, True),
        (Filter(modes=("drill",)), ALERT, False),
        (Filter(min_score=0.8), ALERT, True),
        (Filter(min_score=0.81), ALERT, False),
        (Filter(kinds=("detection",), min_score=0.81), CALL, False),
        (Filter(labels=("moan", "upcall")), ALERT, True),
        (Filter(labels=("moan",)), ALERT, False),
        (Filter(labels=()), ALERT, False),
        (Filter(kinds=("event",), labels=("moan",), min_score=1), EVENT, True),
        (Filter(kinds=("detection",)), CALL | {"flood": True}, False),
        (Filter(kinds=("detection",), flood=True), CALL | {"flood": True}, True),
        (Filter(), ALERT | {"flood": True}, True),  # a crowd of whales is a flood too
        (Filter(), ALERT | {"flood": True, "state": "extended"}, False),
        (Filter(flood=True), ALERT | {"flood": True, "state": "extended"}, True),
        (Filter(), ALERT | {"flood": True, "state": "cleared"}, True),
        (Filter(), ALERT | {"flood": True, "state": "lapsed"}, True),
    ],
)
def test_a_bridge_takes_what_its_filter_lets_through(wanted: Filter, wire: Wire, passed: bool) -> None:
    assert passes(wanted, wire) is passed


def test_what_is_filtered_out_is_passed_over(sea: Sea) -> None:
    """Drills, other kinds and low scores between what is wanted, more than is read at a time."""
    web = Web()
    web.start()
    choice = msgspec.structs.replace(web.choice, filter=Filter(kinds=("detection",), min_score=0.5))
    kinds: list[Kind] = ["event", "gap"]
    with closing(web), sea.bridged(choice) as bridges:
        for begin in (0, 3000):
            sea.journal(*(detection(begin + n, mode="drill") for n in range(1200)))
            sea.journal(*(event(begin + n, kind=kinds[n % 2]) for n in range(10)))
            sea.journal(*(detection(begin + 1200 + n, score=n % 2 * 0.9) for n in range(20)))
        await_true(lambda: len(web.taken()) == 20)
        await_true(lambda: bridges.status()["web"].behind == 0)
    wanted = [wire["id"] for wire in everything(sea) if wire["mode"] == "live" and wire.get("score", 0) > 0.5]
    assert web.taken() == wanted


def everything(sea: Sea) -> list[Wire]:
    with closing(sea.open_journal()) as journal:
        return journal.since(0, limit=10_000)


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


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [
        ("secret", 0o644, "mode 644 lets everybody at it; chmod o="),
        ("secret", 0o601, "mode 601"),
        ("", 0o600, "one line"),
        ("two\nlines", 0o600, "one line"),
        ("sécret", 0o600, "one line"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_secret_that_is_none_is_refused(content: str | None, mode: int, named: str, sea: Sea, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    choice = Webhook("web", "https://localhost/", token_file=str(path))
    with pytest.raises(ConfigError, match=f"bridge web: token_file: {path}: {named}"), sea.bridged(choice):
        pass


WEB = "kind: webhook, name: w"
BROKER = "kind: mqtt, name: m, host: h"


@pytest.mark.parametrize(
    ("bridges", "named"),
    [
        ("{name: w, url: 'https://h/'}", ["bridges.0", "kind"]),
        ("{kind: fax, name: w}", ["bridges.0.kind", "'fax'"]),
        (f"{{{WEB}, url: 'https://h/', colour: red}}", ["unknown key bridges.0.colour"]),
        (f"{{{WEB}}}", ["bridges.0", "url"]),
        (f"{{{WEB}, url: 'ftp://h/'}}", ["bridges.0.url", "'ftp://h/'", "https://HOST/PATH"]),
        (f"{{{WEB}, url: 'https://user:word@h/'}}", ["bridges.0.url"]),
        (f"{{{WEB}, url: 'https://h:99999/'}}", ["bridge w: url", "99999"]),
        (f"{{{WEB}, url: 'http://192.0.2.1/'}}", ["bridge w", "192.0.2.1", "in the clear", "insecure: true"]),
        (f"{{{WEB}, url: 'http://localhost/', ca_file: x}}", ["bridge w", "ca_file"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{kinds: []}}}}", ["bridges.0.filter.kinds"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{kinds: [status]}}}}", ["bridges.0.filter.kinds", "status"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{mode: live}}}}", ["unknown key bridges.0.filter.mode"]),
        (f"{{{WEB}, url: 'https://h/', timeout_s: 0}}", ["bridges.0.timeout_s", "0"]),
        (f"{{{BROKER}, tls: false}}", ["bridge m", "in the clear"]),
        (f"{{{BROKER}, user: u}}", ["bridge m", "password_file"]),
        (f"{{{BROKER}, version: 4}}", ["bridges.0.version", "4"]),
        (f"{{{BROKER}, prefix: 'a/#'}}", ["bridges.0.prefix", "'a/#'", "PREFIX"]),
        (f"{{{BROKER}, port: 0}}", ["bridges.0.port", "0"]),
        ("{kind: pgalm, name: p, host: h, filter: {kinds: [gap]}}", ["bridge p", "filter.kinds", "gap"]),
        (f"{{{BROKER}}}, {{{BROKER}}}", ["two are called m"]),
    ],
)
def test_a_bridge_that_does_not_fit_is_named(bridges: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"bridges=[{bridges}]"])
    assert [part for part in named if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bridge",
    [
        f"{WEB}, url: 'http://127.0.0.1:8080/x'",
        f"{WEB}, url: 'http://[::1]/'",
        f"{WEB}, url: 'http://192.0.2.1/', insecure: true",
        "kind: mqtt, name: m, host: localhost, tls: false",
        f"{BROKER}, tls: false, insecure: true, filter: {{kinds: [alert, gap], modes: [live, drill], flood: true}}",
    ],
)
def test_plain_traffic_is_for_this_machine_or_for_who_insists(bridge: str) -> None:
    assert len(load_config(None, [f"bridges=[{{{bridge}}}]"]).bridges) == 1


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
