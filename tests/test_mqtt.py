"""The bridge to an MQTT broker, a real one."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path

from bridges import (
    Sea,
    bridging,
    sea_fixture,  # noqa: F401 - pytest finds fixtures by their import
)
from servers import Broker, await_true


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
