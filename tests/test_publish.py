"""Publisher and subscriber over real sockets: order, heartbeats, recovery, and what strangers may send."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from fakes import event
from house import (
    ANY_PORT,
    PATIENCE_MS,
    House,
    context_fixture,  # noqa: F401
    house_fixture,  # noqa: F401 - pytest finds the fixture by its import
    listen,
    numbers,
    publisher,
    take,
)

from pam_daemon.errors import EndpointError
from pam_daemon.journal import Journal
from pam_daemon.subscribe import Subscriber


def ask(house: House, context: zmq.Context[zmq.Socket[bytes]], *requests: object) -> list[Any]:
    """Put questions to the recovery socket as any program would, with a plain DEALER."""
    replies = []
    with context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://127.0.0.1:{house.publisher.recovery_port}")
        for request in requests:
            dealer.send(request if isinstance(request, bytes) else msgspec.json.encode(request))
            assert dealer.poll(PATIENCE_MS), f"no reply to {request!r}"
            replies.append(msgspec.json.decode(dealer.recv()))
    return replies


def test_records_arrive_in_order_as_they_are_journalled(house: House, exits: ExitStack) -> None:
    subscriber = listen(house.publisher.endpoint, exits)
    for start in range(0, 2500, 500):  # more than the publisher reads at a time
        house.journal.append([event(n, stream=f"ch{n % 2}") for n in range(start, start + 500)])
    assert take(subscriber, 2500) == house.journal.since(0, limit=2500)
    assert subscriber.lost_records == 0


def test_two_frames_topic_and_one_object(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with context.socket(zmq.SUB) as socket:
        socket.connect(house.publisher.endpoint)
        socket.subscribe(b"event/pamd/ch1/")  # nothing has this prefix: frames end without a slash
        socket.subscribe(b"status/")
        socket.subscribe(b"event/pamd/")
        assert house.publisher.subscribed.wait(60)
        topics: set[bytes] = set()
        while b"event/pamd/ch1" not in topics:
            house.journal.append([event(len(topics))])
            assert socket.poll(PATIENCE_MS)
            topic, frame = socket.recv_multipart()
            wire = msgspec.json.decode(frame)
            assert topic == f"{wire['kind']}/{wire['station']}/{wire['stream']}".encode()
            topics.add(topic)
            house.clock.now_ns += 10**9
    assert topics == {b"status/pamd/_", b"event/pamd/ch1"}


def test_a_late_joiner_gets_a_status_and_what_comes_from_then_on(house: House, exits: ExitStack) -> None:
    house.journal.append([event(1), event(2)])
    early = exits.enter_context(Subscriber(house.publisher.endpoint))
    assert house.publisher.subscribed.wait(60)
    house.journal.append([event(3)])
    while take(early, 1)[0]["seq"] != 3:
        pass  # 1 and 2 may have come before it, or gone out before it was there
    late = exits.enter_context(Subscriber(house.publisher.endpoint))
    status = next(late.records(timeout_s=60))
    assert (status["kind"], status["last_seq"]) == ("status", 3)
    assert status["recovery"] == house.publisher.recovery_port
    assert "seq" not in status
    house.journal.append([event(4)])
    assert numbers(take(late, 1)) == [4]


def test_the_heart_beats_in_its_period(house: House, exits: ExitStack) -> None:
    subscriber = listen(house.publisher.endpoint, exits)
    for _ in range(3):
        house.clock.now_ns += 20_000_000
        assert next(subscriber.records(timeout_s=60))["kind"] == "status"
    more = list(islice(subscriber.records(timeout_s=0.2), 5))  # a newcomer may get one of its own; no time passes
    assert len(more) < 5


def test_what_was_journalled_before_is_not_published_again(tmp_path: Path, exits: ExitStack) -> None:
    with closing(Journal(tmp_path / "journal")) as journal:
        journal.append([event(n) for n in range(5)])
    house = House(tmp_path / "journal", exits, after=5)
    subscriber = listen(house.publisher.endpoint, exits)
    house.journal.append([event(4), event(5)])
    assert numbers(take(subscriber, 1)) == [6]


def test_recovery_gives_what_came_after(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    kinds: tuple[Any, ...] = ("event", "gap")
    house.journal.append([event(n, kind=kinds[n % 2], stream=f"ch{n % 3}") for n in range(12)])
    log = house.journal.log
    since = {"op": "since", "log": log, "seq": 4}
    replies = ask(
        house,
        context,
        since,
        since | {"seq": 12},
        since | {"kinds": ["gap"], "streams": ["ch1", "ch2"]},
        since | {"limit": 2},
        since | {"limit": -5},
        since | {"log": "another"},
        {"op": "since"},
        since | {"something": "new"},
    )
    assert [numbers(reply["records"]) for reply in replies] == [
        [5, 6, 7, 8, 9, 10, 11, 12],
        [],
        [6, 8, 12],
        [5, 6],
        [5],
        list(range(1, 13)),  # another log: from the beginning of this one
        list(range(1, 13)),
        [5, 6, 7, 8, 9, 10, 11, 12],
    ]
    assert replies[0] == {
        "log": log,
        "oldest_seq": 1,
        "last_seq": 12,
        "expired_seq": None,
        "records": house.journal.since(4),
    }
    assert all((reply["log"], reply["oldest_seq"], reply["last_seq"]) == (log, 1, 12) for reply in replies)


def test_a_reply_is_bounded_and_the_rest_is_asked_for(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    house.journal.append([event(n) for n in range(1500)])
    request = {"op": "since", "log": house.journal.log, "seq": 0, "limit": 10**30}
    first, rest = ask(house, context, request, request | {"seq": 1000})
    assert numbers(first["records"] + rest["records"]) == list(range(1, 1501))


def test_an_empty_journal_answers_too(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    (reply,) = ask(house, context, {"op": "since", "log": None, "seq": 0})
    assert reply == {"log": house.journal.log, "oldest_seq": None, "last_seq": None, "expired_seq": None, "records": []}


def test_recovery_gives_the_last_status(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    house.journal.append([event(1)])
    (status,) = ask(house, context, {"op": "status"})
    assert (status["kind"], status["last_seq"], status["recovery"]) == ("status", 1, house.publisher.recovery_port)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'"since"',
        b'{"op": "delete"}',
        b'{"seq": 1}',
        b'{"op": "since", "seq": "one"}',
        b'{"op": "since", "seq": 1.5}',
        b'{"op": "since", "seq": -1}',
        b'{"op": "since", "seq": 9223372036854775808}',
        b'{"op": "since", "kinds": "gap"}',
        b'{"op": "\xff"}',
        b'{"x": ' + b"[" * 60_000,
    ],
    ids=lambda frame: repr(frame[:40]),
)
def test_a_question_that_is_none_gets_an_error_and_harms_nobody(
    house: House, context: zmq.Context[zmq.Socket[bytes]], nonsense: bytes
) -> None:
    house.journal.append([event(1)])
    error, reply = ask(house, context, nonsense, {"op": "since"})
    assert list(error) == ["error"]
    assert isinstance(error["error"], str)
    assert numbers(reply["records"]) == [1]


def test_a_question_of_many_megabytes_is_not_read(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with context.socket(zmq.DEALER) as dealer, dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        dealer.connect(f"tcp://127.0.0.1:{house.publisher.recovery_port}")
        dealer.send(b" " * 10_000_000 + b'{"op": "status"}')
        (reply,) = ask(house, context, {"op": "status"})
        assert reply["kind"] == "status"
        assert monitor.poll(PATIENCE_MS), "it is turned away"
        dealer.disable_monitor()
        assert not dealer.poll(0)


def test_a_req_socket_is_answered_as_well(house: House, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with context.socket(zmq.REQ) as socket:
        socket.connect(f"tcp://127.0.0.1:{house.publisher.recovery_port}")
        socket.send(b'{"op": "status"}')
        assert socket.poll(PATIENCE_MS)
        assert msgspec.json.decode(socket.recv())["kind"] == "status"


@pytest.mark.parametrize("linger_s", [0.0, 0.05])
def test_the_end_is_a_last_status_and_recovery_for_a_while(
    tmp_path: Path, exits: ExitStack, context: zmq.Context[zmq.Socket[bytes]], linger_s: float
) -> None:
    house = House(tmp_path / "journal", exits, linger_s=linger_s)
    subscriber = listen(house.publisher.endpoint, exits)
    house.journal.append([event(1), event(2)])
    house.stop()
    seen = []
    for wire in subscriber.records(timeout_s=60):
        if wire["kind"] == "status" and wire["last_seq"] == 2:
            break
        seen += [wire["seq"]] if wire["kind"] == "event" else []
    else:
        pytest.fail("no last status came")
    assert seen == [1, 2]
    if linger_s:  # the clock stands still, so the linger lasts
        (reply,) = ask(house, context, {"op": "since"})
        assert numbers(reply["records"]) == [1, 2]


def one_line(make: Callable[[], object]) -> str:
    with pytest.raises(EndpointError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_libzmq_that_never_lets_go_does_not_hold_up_the_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    destroy = zmq.Context.destroy

    def hang(context: zmq.Context[zmq.Socket[bytes]]) -> None:
        assert released.wait(60)
        destroy(context)

    monkeypatch.setattr(zmq.Context, "destroy", hang)
    house.end()
    released.set()


def test_a_port_in_use_is_an_error_be_it_the_recoverys(house: House, tmp_path: Path) -> None:
    port = house.publisher.recovery_port - 1
    for taken in (port, port - 1):
        message = one_line(partial(publisher, f"tcp://127.0.0.1:{taken}", tmp_path / "unused", house.bell))
        assert "in use" in message
        assert "--endpoint" in message


def test_any_port_is_one_whose_next_is_free_too(house: House, tmp_path: Path, exits: ExitStack) -> None:
    """On a machine where many ports are taken."""
    for _ in range(600):
        exits.enter_context(socket.socket()).bind(("127.0.0.1", 0))
    stopped = threading.Event()
    stopped.set()
    for _ in range(40):
        made = publisher(ANY_PORT, tmp_path / "unused", house.bell)
        made.run(stopped)
        assert made.endpoint == f"tcp://127.0.0.1:{made.recovery_port - 1}"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:65535", "tcp://no.such.host.invalid:5556", "tcp://1.2.3.4:5556"])
def test_endpoints_that_cannot_be_bound(endpoint: str, tmp_path: Path, house: House) -> None:
    assert "cannot bind" in one_line(lambda: publisher(endpoint, tmp_path / "unused", house.bell))


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "inproc://here", "", "udp://a:1"]
)
def test_endpoints_that_cannot_be_listened_to(endpoint: str) -> None:
    assert "tcp://HOST:PORT" in one_line(lambda: Subscriber(endpoint))
