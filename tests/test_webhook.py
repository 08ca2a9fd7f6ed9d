"""The bridge by HTTP POST, to real servers that hang, refuse and redirect."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bridges import (
    Sea,
    assert_all_arrived,
    bridging,
    detection,
    sea_fixture,  # noqa: F401 - pytest finds fixtures by their import
)
from servers import Web, await_true

from pam_daemon.outlets.bridge import place_path


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
