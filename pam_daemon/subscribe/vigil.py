"""Whether somebody listens at all: what a subscriber makes of the heartbeats, and of their absence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from pam_daemon.clock import NS_PER_S, Clock, rfc3339
from pam_daemon.errors import EndpointError
from pam_daemon.records import Wire

HEARTBEATS_MISSED = 3  # so many without one mean that the station is deaf
LAG_BOUND_S = 60.0  # a live station this far behind warns nobody in time
_LOOK_NS = 5 * NS_PER_S  # who has not looked for so long has not waited, but was busy or stopped


class _Stream(msgspec.Struct):
    elapsed_samples: int
    lag_s: float
    trouble: str | None = None


class _Status(msgspec.Struct):
    mode: str = "replay"
    every_s: float = 10.0
    started_utc: str = ""
    streams: dict[str, _Stream] = {}


@dataclass(slots=True)
class _Station:
    heard_ns: int  # monotonic, as all here: when something came
    told_ns: int  # when the last status did
    status: _Status = field(default_factory=_Status)
    grew_ns: dict[str, int] = field(default_factory=dict)  # when a stream's elapsed samples last changed

    @property
    def patience_ns(self) -> int:
        return int(HEARTBEATS_MISSED * self.status.every_s * NS_PER_S)


class Vigil:
    """Judges stations by what comes from them, on this machine's monotonic clock.

    A station is deaf when three heartbeats did not come; a stream when the status says that its source is in trouble,
    and a live one when its sound does not go on or is analysed too late.

    Args:
        name: of the publisher, until a station has told its own.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        now_ns = self._looked_ns = clock.monotonic_ns()
        self._stations = {name: _Station(now_ns, now_ns)}
        self._waits_ns: int | None = None
        self._deaf: dict[str, tuple[str, int]] = {}  # who: why, and since when (monotonic)

    @property
    def deaf(self) -> bool:
        return bool(self._deaf)

    def hear(self, wire: Wire) -> None:
        """Anything that came shows that its station is there; a status shows how it is.

        Raises:
            EndpointError: a status that is none.
        """
        now_ns = self._clock.monotonic_ns()
        self._stations.pop(self._name, None)
        station = self._stations.setdefault(wire["station"], _Station(now_ns, now_ns))
        station.heard_ns = now_ns
        if wire["kind"] != "status":
            return
        try:
            status = msgspec.convert(wire, _Status)
        except msgspec.ValidationError as error:
            raise EndpointError(f"{self._name}: what comes is no status of pamd: {error}") from error
        before, station.status, station.told_ns = station.status, status, now_ns
        for name, stream in status.streams.items():
            known = before.streams.get(name) if before.started_utc == status.started_utc else None
            if known is None or known.elapsed_samples != stream.elapsed_samples:
                station.grew_ns[name] = now_ns

    def recovery(self, waiting: bool) -> None:
        """Whether records wait for recovery that does not answer."""
        if not waiting or self._waits_ns is None:
            self._waits_ns = self._clock.monotonic_ns() if waiting else None

    def changes(self) -> list[str]:
        """Who has become deaf, and who hears again, since this was last asked: a line each.

        To be asked when nothing waits to be read: what nobody has read has not been missed.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns > _LOOK_NS:
            for station in self._stations.values():
                station.heard_ns = now_ns
        self._looked_ns = now_ns
        deaf = {who: (why, since_ns) for who, why, since_ns in self._causes(now_ns)}
        lines = [
            f"{who}: hears again, after {(now_ns - since_ns) / NS_PER_S:.0f} s"
            for who, (_, since_ns) in self._deaf.items()
            if who not in deaf
        ]
        for who, (why, since_ns) in deaf.items():
            before, began_ns = self._deaf.get(who, (None, since_ns))
            deaf[who] = (why, began_ns)
            if why != before:
                since_utc = rfc3339(self._clock.utc_ns() - (now_ns - began_ns))[:19]
                lines.append(f"{who}: DEAF: {why}, since {since_utc}Z")
        self._deaf = deaf
        return lines

    def _causes(self, now_ns: int) -> Iterator[tuple[str, str, int]]:
        """Who, why, and since when (monotonic). A stream stays as the last status told, while no other comes."""
        for name, station in self._stations.items():
            if now_ns - station.heard_ns > station.patience_ns:
                yield name, "no heartbeat", station.heard_ns
            elif self._waits_ns is not None and now_ns - self._waits_ns > station.patience_ns:
                yield name, "recovery does not answer, and records wait for it", self._waits_ns
            live = station.status.mode != "replay"  # a replay waits for nobody, and ends
            for stream, told in station.status.streams.items():
                grew_ns = station.grew_ns[stream]
                if told.trouble:
                    yield f"{name}/{stream}", told.trouble, station.told_ns
                elif live and station.told_ns - grew_ns > station.patience_ns:
                    yield f"{name}/{stream}", "no sound comes", grew_ns
                elif live and told.lag_s > LAG_BOUND_S:
                    yield f"{name}/{stream}", f"more than {LAG_BOUND_S:g} s behind", station.told_ns
