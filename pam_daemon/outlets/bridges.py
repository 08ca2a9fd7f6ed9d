"""The bridges of a station: made from the configuration, a thread each, and changed while the station listens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pam_daemon.config import BridgeChoice, Mqtt, Pgalm, Webhook
from pam_daemon.outlets.bridge import Bridge, Feed, Outlet
from pam_daemon.records import BridgeStatus

Start = Callable[[str, Callable[[], None]], threading.Thread]


@dataclass(frozen=True, slots=True)
class Running:
    """A bridge, what it was made from, and its thread."""

    choice: BridgeChoice
    bridge: Bridge
    thread: threading.Thread


class Bridges:
    """A station's bridges, by name. All but `status` is called on the main thread.

    Args:
        start: starts a thread by name; whoever gave it waits for the thread.
    """

    def __init__(self, station: str, feed: Feed, start: Start) -> None:
        self._station = station
        self._feed = feed
        self._start = start
        self._running: dict[str, Running] = {}

    def status(self) -> dict[str, BridgeStatus]:
        """Of each; on any thread."""
        return {name: running.bridge.status() for name, running in self._running.items()}

    def handed_over(self) -> dict[str, int]:
        """By kind, up to which seq all that take it are done; on any thread."""
        done: dict[str, int] = {}
        for running in self._running.values():
            for kind in running.choice.filter.kinds:
                done[kind] = min(running.bridge.done, done.get(kind, running.bridge.done))
        return done

    def prepare(self, choices: Sequence[BridgeChoice]) -> Callable[[], None]:
        """Make what is new or different, and change nothing. Returns: what makes the change.

        Raises:
            ConfigError: a secret or certificates that cannot be used.
            JournalError: a bridge that cannot keep its place.
        """
        made = {}
        for choice in choices:
            running = self._running.get(choice.name)
            if running is None or running.choice != choice:
                made[choice] = Bridge(choice.name, outlet(choice, self._station), choice.filter, self._feed)
        return partial(self._change, choices, made)

    def stop(self) -> None:
        """Ask all for the end."""
        for running in self._running.values():
            running.bridge.stop()

    def _change(self, choices: Sequence[BridgeChoice], made: dict[BridgeChoice, Bridge]) -> None:
        kept = {choice.name: self._running[choice.name] for choice in choices if choice not in made}
        ended = {name: running for name, running in self._running.items() if name not in kept}
        for running in ended.values():
            running.bridge.stop()
        for choice, bridge in made.items():
            before = ended.get(choice.name)
            work = partial(_run_after, before.thread if before else None, bridge)
            kept[choice.name] = Running(choice, bridge, self._start(f"bridge {choice.name}", work))
        self._running = kept


def _run_after(before: threading.Thread | None, bridge: Bridge) -> None:
    """Two of one name share a place: the new one begins where the old one ended."""
    if before is not None:
        before.join()
    bridge.run()


def outlet(choice: BridgeChoice, station: str) -> Outlet:
    """The other side of a bridge, for a station or whoever else gives a name.

    Raises:
        ConfigError: a secret or certificates that cannot be used.
    """
    # Imported when there is one: a station without bridges needs no MQTT.
    match choice:
        case Mqtt():
            from pam_daemon.outlets.mqtt import MqttOutlet

            return MqttOutlet(choice, station)
        case Webhook():
            from pam_daemon.outlets.webhook import WebhookOutlet

            return WebhookOutlet(choice)
        case Pgalm():
            from pam_daemon.outlets.pgalm import PgalmOutlet

            return PgalmOutlet(choice)
