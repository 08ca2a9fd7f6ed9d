"""The subscriber over real sockets: what was lost is noticed, recovered in order and counted; its place is kept."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from fakes import FakeClock, event
from house import (
    ANY_PORT,
    PATIENCE_MS,
    House,
    bare_context,
    heartbeat,
    house_fixture,  # noqa: F401 - pytest finds the fixture by its import
    listen,
    numbers,
    take,
)

from pam_daemon.clock import NS_PER_S
from pam_daemon.errors import ListenError
from pam_daemon.journal import Journal
from pam_daemon.records import Wire
from pam_daemon.subscribe import Subscriber


class Lossy:
    """Passes on to a subscriber what a test chooses, as if the rest had been lost; recovery is the houses' own."""

    def __init__(self, exits: ExitStack, **options: Any) -> None:
        context = exits.enter_context(bare_context())
        self._socket = exits.enter_context(context.socket(zmq.XPUB))
        self._socket.bind(ANY_PORT)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.subscriber = exits.enter_context(Subscriber(self.endpoint, **options))
        assert self._socket.poll(PATIENCE_MS)
        assert self._socket.recv().startswith(b"\x01")

    def send(self, wires: Sequence[Wire]) -> None:
        for wire in wires:
            topic = f"{wire['kind']}/{wire['station']}/{wire['stream']}".encode()
            self._socket.send_multipart([topic, msgspec.json.encode(wire)])

    def beat(self, house: House, last_seq: int | None, port: int | None = None) -> None:
        """A heartbeat of a house, as if its journal were so long."""
        self.send([heartbeat(house.journal.log, port or house.publisher.recovery_port, last_seq).wire()])

    def taken(self, count: int) -> list[int]:
        return numbers(take(self.subscriber, count))


@pytest.fixture
def lossy(house: House, exits: ExitStack) -> Lossy:
    """It listens from the beginning of the journal, which is empty."""
    made = Lossy(exits)
    made.beat(house, None)
    return made


def counted(subscriber: Subscriber) -> tuple[int, int]:
    return subscriber.recovered_records, subscriber.lost_records


def test_a_hole_is_filled_before_the_record_that_showed_it(house: House, lossy: Lossy) -> None:
    """Two streams of two stations in one log: all come in the order of the journal, each once."""
    house.journal.append([event(n, stream=f"ch{n % 2}", station=("north", "south")[n // 2 % 2]) for n in range(3000)])
    wires = house.journal.since(0, limit=3000)
    lost = {*range(100, 2900)} - {1002}
    lossy.send([wire for number, wire in enumerate(wires) if number not in lost])
    assert take(lossy.subscriber, 3000) == wires
    assert counted(lossy.subscriber) == (2799, 0)


def test_duplicates_are_dropped(house: House, lossy: Lossy) -> None:
    house.journal.append([event(n) for n in range(4)])
    first, second, third, fourth = house.journal.since(0)
    lossy.send([first, second, first, second, third, third, fourth])
    assert lossy.taken(4) == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_lost_comes_in_order_once(house: House, lossy: Lossy, seed: int) -> None:
    """Records lost and sent twice at random among five topics, the last ones too; heartbeats tell the end."""
    chance = random.Random(seed)
    house.journal.append([event(n, stream=f"ch{chance.randrange(5)}") for n in range(400)])
    wires = house.journal.since(0)
    share = chance.random()
    for wire in wires:
        lossy.send([wire] * chance.choice([0, 0, 1, 1, 1, 2]) if chance.random() < share else [wire])
        if chance.random() < 0.05:
            lossy.beat(house, wire["seq"])
    lossy.beat(house, 400)
    assert take(lossy.subscriber, 400) == wires
    assert lossy.subscriber.lost_records == 0


def test_a_hole_that_cannot_be_filled_is_told(house: House, lossy: Lossy) -> None:
    house.journal.append([event(n) for n in range(6)])
    wires = house.journal.since(0)
    with closing(sqlite3.connect(house.journal.path)) as db:
        db.execute("delete from record where seq in (2, 3, 4)")
        db.commit()
    lossy.send([wires[0], wires[4], wires[5]])
    assert lossy.taken(3) == [1, 5, 6]
    assert counted(lossy.subscriber) == (0, 1)


def test_numbers_that_were_never_given_are_no_loss(house: House, lossy: Lossy) -> None:
    """`prev_seq` alone tells losses: after a crash numbers may be left out."""
    house.journal.append([event(1), event(2)])
    with closing(sqlite3.connect(house.journal.path)) as db:
        db.execute("update record set seq = 1001 where seq = 2")
        db.commit()
    lossy.send(house.journal.since(0))
    assert lossy.taken(2) == [1, 1001]
    assert counted(lossy.subscriber) == (0, 0)


def test_the_last_record_is_missed_at_the_next_heartbeat(house: House, lossy: Lossy) -> None:
    house.journal.append([event(n) for n in range(3)])
    lossy.send(house.journal.since(0)[:1])
    lossy.beat(house, 3)
    assert lossy.taken(3) == [1, 2, 3]
    assert counted(lossy.subscriber) == (2, 0)


def test_a_late_joiner_does_not_ask_for_what_was_before_it(house: House, exits: ExitStack) -> None:
    """It begins at the first heartbeat, or at a record that comes before that."""
    house.journal.append([event(n) for n in range(6)])
    for greeted in (True, False):
        lossy = Lossy(exits)
        if greeted:
            lossy.beat(house, 3)
        lossy.send(house.journal.since(3))
        assert lossy.taken(3) == [4, 5, 6]
        assert counted(lossy.subscriber) == (0, 0)


def test_a_late_joiner_misses_nothing_from_its_first_heartbeat_on(house: House, exits: ExitStack) -> None:
    """What was committed after that heartbeat and never came is recovered, though no record was there before."""
    house.journal.append([event(n) for n in range(6)])
    lossy = Lossy(exits)
    lossy.beat(house, 3)
    lossy.send(house.journal.since(5))
    assert lossy.taken(3) == [4, 5, 6]
    assert counted(lossy.subscriber) == (2, 0)


def test_a_late_joiner_with_a_state_file_gets_all(house: House, exits: ExitStack, tmp_path: Path) -> None:
    house.journal.append([event(n) for n in range(2500)])
    subscriber = exits.enter_context(Subscriber(house.publisher.endpoint, state=tmp_path / "place"))
    assert take(subscriber, 2500) == house.journal.since(0, limit=2500)
    assert subscriber.lost_records == 0


def test_a_new_log_is_recovered_from_its_beginning(house: House, exits: ExitStack) -> None:
    """The station's journal was replaced while we listened: nothing of the new one may be missed."""
    lossy = Lossy(exits)
    before = event(9).wire() | {"log": "the old one", "seq": 9, "prev_seq": 8, "durable": True}
    house.journal.append([event(n) for n in range(5)])
    lossy.send([before])
    lossy.beat(house, 5)
    assert lossy.taken(6) == [9, 1, 2, 3, 4, 5]


def test_what_an_old_log_kept_is_lost_with_it(house: House, exits: ExitStack) -> None:
    """It is told, and what comes is handed on."""
    lossy = Lossy(exits)
    old = event(9).wire() | {"log": "the old one", "durable": True}
    lossy.send([old | {"seq": 9, "prev_seq": 8}])
    lossy.beat(house, None)
    lossy.send([old | {"seq": 12, "prev_seq": 11}])
    lossy._socket.send_multipart([b"status", b'{"kind": "status", "station": "pamd", "stream": "_"}'])
    assert lossy.taken(1) == [9]
    lossy.subscriber._port = house.publisher.recovery_port
    assert lossy.taken(1) == [12]
    assert counted(lossy.subscriber) == (0, 1)


def test_two_publishers_behind_one_endpoint(tmp_path: Path, exits: ExitStack) -> None:
    """A forwarder mixes two stations: each has a log, a place and a recovery of its own."""
    houses = [House(tmp_path / name, exits) for name in ("north", "south")]
    lossy = Lossy(exits, state=tmp_path / "place")
    for number, house in enumerate(houses):
        house.journal.append([event(n, station=("north", "south")[number]) for n in range(100)])
        lossy.beat(house, None)
    for north, south in zip(*(house.journal.since(0) for house in houses), strict=True):
        lossy.send([north] if north["seq"] % 3 else [])
        lossy.send([south] if south["seq"] % 4 else [])
    for house in houses:
        lossy.beat(house, 100)
    got = take(lossy.subscriber, 200)
    for house in houses:
        assert [wire for wire in got if wire["log"] == house.journal.log] == house.journal.since(0)
    assert counted(lossy.subscriber) == (33 + 25, 0)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_publisher_that_restarts(tmp_path: Path, exits: ExitStack, replaced: bool) -> None:
    """At the same endpoint, with its journal or a new one: what was committed meanwhile comes, nothing is lost."""
    first = House(tmp_path / "journal", exits)
    subscriber = listen(first.publisher.endpoint, exits)

    def taken(count: int) -> list[int]:
        return [wire["data"]["number"] for wire in take(subscriber, count)]

    first.journal.append([event(n) for n in range(3)])
    assert taken(3) == [0, 1, 2]
    first.end()
    path = tmp_path / ("another" if replaced else "journal")
    with closing(Journal(path)) as journal:
        journal.append([event(n) for n in range(3, 5)])
        after = journal.ends()[1] or 0
    second = House(path, exits, after=after, endpoint=first.publisher.endpoint)
    assert taken(2) == [3, 4]
    second.journal.append([event(n) for n in range(5, 7)])
    assert taken(2) == [5, 6]
    assert counted(subscriber) == (2, 0)


def test_a_filtered_subscriber_misses_only_what_it_asked_for(house: House, exits: ExitStack) -> None:
    """Holes of other kinds are nothing to it; one of its own is found though its topics tell nothing of it."""
    kinds: tuple[Any, ...] = ("event", "gap", "detection")
    stations = ("pamd", "south")
    house.journal.append(
        [event(n, kind=kinds[n % 3], station=stations[n % 2], stream=f"ch{n % 5}") for n in range(300)]
    )
    lossy = Lossy(exits, kinds=["gap", "event"], stations=["pamd"])
    for _ in range(2):  # a prefix each of two kinds and the heartbeat
        assert lossy._socket.poll(PATIENCE_MS)
        lossy._socket.recv()
    lossy.beat(house, None)
    wires = house.journal.since(0)
    lossy.send([wire for wire in wires if not 40 < wire["seq"] < 140])
    mine = [wire for wire in wires if wire["kind"] in ("gap", "event") and wire["station"] == "pamd"]
    assert take(lossy.subscriber, len(mine)) == mine
    assert counted(lossy.subscriber) == (sum(40 < wire["seq"] < 140 for wire in mine), 0)


def test_topics_are_filtered_by_the_publisher(house: House, exits: ExitStack) -> None:
    """So that what was not asked for is not even sent."""
    context = exits.enter_context(bare_context())
    socket = exits.enter_context(context.socket(zmq.XPUB))
    socket.bind(ANY_PORT)
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    exits.enter_context(Subscriber(endpoint, kinds=["alert", "gap"], stations=["north"]))
    asked = set()
    for _ in range(3):
        assert socket.poll(PATIENCE_MS)
        asked.add(socket.recv())
    assert asked == {b"\x01alert/north/", b"\x01gap/north/", b"\x01status/north/"}


def test_kinds_and_fields_of_the_future_pass_through(lossy: Lossy) -> None:
    future = {"kind": "song", "station": "pamd", "stream": "ch1", "seq": None, "verses": 3}
    lossy.send([future])
    assert take(lossy.subscriber, 1) == [future]


GARBLED: list[list[bytes]] = [
    [b"event/pamd/ch1", b""],
    [b"event/pamd/ch1", b"no JSON"],
    [b"event/pamd/ch1", b"[1, 2]"],
    [b"event/pamd/ch1", b"\xff\xfe"],
    [b"event/pamd/ch1", b"[" * 100_000],
    [b"event/pamd/ch1", b'{"kind": "event"}'],
    [b"event/pamd/ch1", b'{"kind": "event", "station": 1, "stream": "ch1"}'],
    [b"status/pamd/_", b'{"kind": "status", "station": "pamd", "stream": "_", "recovery": 99999}'],
    [b"event/pamd/ch1", b'{"kind": "event", "station": "pamd", "stream": "ch1", "seq": 5, "prev_seq": 7}'],
    [b"one frame"],
    [b"a", b"b", b"c"],
]


@pytest.mark.parametrize("frames", GARBLED, ids=range(len(GARBLED)))
def test_what_is_no_record_is_passed_over_and_counted(house: House, lossy: Lossy, frames: list[bytes]) -> None:
    """Who listens for whales does not end because of one garbled message."""
    house.journal.append([event(1)])
    lossy._socket.send_multipart(frames)
    lossy.send(house.journal.since(0))
    assert numbers(take(lossy.subscriber, 1)) == [1]
    assert lossy.subscriber.unreadable_messages == 1


# The place.


def kept(house: House, path: Path, exits: ExitStack) -> Subscriber:
    return exits.enter_context(Subscriber(house.publisher.endpoint, state=path))


def test_a_subscriber_that_ends_and_comes_back_gets_the_rest_once(
    house: House, tmp_path: Path, exits: ExitStack
) -> None:
    """An hour's records later, too."""
    got: list[int] = []
    for begin, end in ((0, 10), (10, 5000), (5000, 5001)):
        house.journal.append([event(n) for n in range(begin, end)])
        with Subscriber(house.publisher.endpoint, state=tmp_path / "place") as subscriber:
            stop = threading.Event()
            for wire in subscriber.records(60, stop):
                got += [] if wire["kind"] == "status" else [wire["seq"]]
                if len(got) == end:
                    stop.set()
        assert subscriber.lost_records == 0
    assert got == list(range(1, 5002))


def test_a_record_whose_handling_failed_comes_again(house: House, tmp_path: Path) -> None:
    house.journal.append([event(n) for n in range(5)])
    for expected in ([1, 2, 3], [3, 4, 5]):
        got = []
        with (
            pytest.raises(RuntimeError),
            Subscriber(house.publisher.endpoint, state=tmp_path / "place") as subscriber,
        ):
            for wire in subscriber.records(60):
                got += [wire["seq"]] if wire["kind"] != "status" else []
                if len(got) == 3:
                    raise RuntimeError("the disk of the program that handles it is full")
        assert got == expected


def await_sent(house: House, seq: int) -> None:
    """Until the publisher has sent so much: each newcomer is told."""
    sent = None
    while sent != seq:
        with Subscriber(house.publisher.endpoint) as newcomer:
            sent = next(wire for wire in newcomer.records(60) if wire["kind"] == "status")["last_seq"]


def test_from_now_with_a_state_file(house: House, tmp_path: Path) -> None:
    """Nothing old comes the first time; what comes while it is away does."""
    house.journal.append([event(n) for n in range(5)])
    await_sent(house, 5)
    for expected in ([6], [7]):
        with Subscriber(house.publisher.endpoint, state=tmp_path / "place", from_beginning=False) as subscriber:
            records = subscriber.records(60)
            if expected == [6]:
                assert next(records)["kind"] == "status"
                house.journal.append([event(5)])
            assert numbers([next(wire for wire in records if wire["kind"] != "status")]) == expected
            stop = threading.Event()
            stop.set()
            list(subscriber.records(0, stop))
            next(records, None)
        house.journal.append([event(expected[-1])])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": "pamd-place/1", "places": {"a": "b"}}', b"\xff"])
def test_a_state_file_that_is_none_is_left_alone(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "place").write_bytes(text)
    with pytest.raises(ListenError, match="--state"):
        Subscriber("tcp://127.0.0.1:5556", state=tmp_path / "place")
    assert (tmp_path / "place").read_bytes() == text


def test_a_place_that_cannot_be_kept(house: House, tmp_path: Path, exits: ExitStack) -> None:
    """At the start it is an error; later it is told, the records come, and it is tried again."""
    with pytest.raises(ListenError, match="cannot be written"):
        Subscriber("tcp://127.0.0.1:5556", state=tmp_path / "none" / "place")
    path = tmp_path / "kept" / "place"
    path.parent.mkdir()
    subscriber = exits.enter_context(Subscriber(house.publisher.endpoint, state=path, save_every_s=0.0))
    path.rename(tmp_path / "aside")
    path.parent.rmdir()
    house.journal.append([event(1), event(2)])
    assert numbers(take(subscriber, 2)) == [1, 2]
    list(subscriber.records(0))
    assert subscriber.unsaved is not None
    assert "place" in subscriber.unsaved
    path.parent.mkdir()
    list(subscriber.records(0))
    assert subscriber.unsaved is None
    assert msgspec.json.decode(path.read_bytes())["places"] == {house.journal.log: 2}


def dead_port(exits: ExitStack) -> int:
    """Where somebody listens who never answers."""
    context = exits.enter_context(bare_context())
    socket = exits.enter_context(context.socket(zmq.ROUTER))
    return int(socket.bind_to_random_port("tcp://127.0.0.1"))


def test_recovery_that_does_not_answer_loses_what_only_it_has(house: House, exits: ExitStack) -> None:
    """Without a state file what comes is handed on, and the loss is told."""
    lossy = Lossy(exits)
    lossy.beat(house, 0, port=dead_port(exits))
    house.journal.append([event(n) for n in range(4)])
    lossy.send([wire for wire in house.journal.since(0) if wire["seq"] != 2])
    assert lossy.taken(3) == [1, 3, 4]
    assert counted(lossy.subscriber) == (0, 1)


def test_records_wait_for_recovery_with_a_state_file(house: House, exits: ExitStack, tmp_path: Path) -> None:
    """That is told, and when it answers again they come, in order, all."""
    clock = FakeClock()
    lossy = Lossy(exits, state=tmp_path / "place", clock=clock)
    lossy.beat(house, 0, port=dead_port(exits))
    house.journal.append([event(n) for n in range(4)])
    lossy.send([wire for wire in house.journal.since(0) if wire["seq"] != 2])
    assert lossy.taken(1) == [1]
    while not lossy.subscriber.waiting:
        assert not [wire for wire in lossy.subscriber.records(0) if wire["kind"] != "status"]
    clock.now_ns += 60 * NS_PER_S
    lossy.beat(house, 4)
    assert lossy.taken(3) == [2, 3, 4]
    assert not lossy.subscriber.waiting
    assert counted(lossy.subscriber) == (3, 0)


# The documentation.

EXAMPLES = (Path(__file__).parent.parent / "docs" / "subscribing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_in_python_get_every_record(house: House, tmp_path: Path, number: int) -> None:
    """As they stand in docs/subscribing.md, but for the port: records from before they came, and those that come."""
    kind: Any = "detection"
    house.journal.append([event(n, kind=kind) for n in range(2500)])
    code = re.findall(r"```python\n(.*?)```", EXAMPLES, re.DOTALL)[number]
    assert "5556" in code
    script = tmp_path / "example.py"
    script.write_text(code.replace("5556", str(house.publisher.recovery_port - 1)), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-u", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2500)]
        house.journal.append([event(2500, kind=kind)])
        lines.append(process.stdout.readline())
        process.kill()
    assert [line.split()[:2] for line in lines] == [[str(seq), "detection"] for seq in range(1, 2502)]
