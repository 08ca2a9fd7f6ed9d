"""`pamd run --drill`: a sound plays in place of the devices, and what follows from it goes the whole way, marked.

Nothing of the station that listens is touched: a drill has a journal, a directory for recordings, a control socket and
a name at MQTT brokers of its own. The endpoint and the port for metrics are the station's: what is rehearsed with is
what connects there; who wants both at once gives the drill others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import structlog
from msgspec.structs import replace

from pam_daemon.capture.sources import Audio, Missing
from pam_daemon.capture.sources.file import recordings
from pam_daemon.capture.sources.player import Player, Sound
from pam_daemon.clock import NS_PER_S, Clock, SystemClock
from pam_daemon.config import Config, Device
from pam_daemon.daemon import log_record, run
from pam_daemon.setup import set_up
from pam_daemon.station import Station
from pam_daemon.tools.simulate import MIN_SAMPLE_RATE_HZ, Sea

SIMULATED = "simulated"
_LINGER_S = 5.0  # to answer recovery at the end: nobody will serve this journal again

log = structlog.get_logger()


@dataclass(frozen=True)
class SimulatedSea:
    """Ten minutes of the sea that `pamd simulate` writes, then twenty without whales, in which alerts end."""

    sample_rate_hz: int
    channels: int = 1
    name: str = "a simulated sea"

    def blocks(self, block_samples: int | None = None) -> Iterator[Audio | Missing]:
        for minutes, calls in ((10, 30), (20, 0)):
            for block in Sea(minutes=minutes, calls=calls, seed=1, sample_rate_hz=self.sample_rate_hz).blocks():
                size = block_samples or block.size
                yield from (Audio(block[np.newaxis, at : at + size], None) for at in range(0, block.size, size))


def rehearse(
    what: str,
    devices: Sequence[Device],
    load: Callable[[], Config],
    journal: Path,
    *,
    threshold: float | None,
    hop_s: float | None,
) -> None:
    """Play a file or a simulated sea, once, to all streams that the devices would have; without any, to one a channel.

    Args:
        journal: the station's own; the drill's is beside it.

    Raises:
        SourceError: a file that cannot be played, or that is cut short, once all before has been.
        PamdError: as `set_up`, `Station` and `run`.
    """
    clock, stop = SystemClock(), threading.Event()
    config = _apart(load())
    setup = set_up(config, "drill", clock, threshold=threshold, hop_s=hop_s)
    sound = _sound(what, setup.model.card.sample_rate_hz)
    choices = devices or [Device(sound.name, channels=tuple(range(1, sound.channels + 1)))]
    players = [(choice, Player(sound, max(choice.channels), stop, clock)) for choice in choices]
    place = _journal(journal, clock)
    with Station(setup, place, config.publish.endpoint, log_record, _LINGER_S, stop) as house:
        text = f"DRILL: {sound.name} is played in place of the devices; no record of it is a real one"
        log.warning("drill begins", text=text, journal=str(place), bridges=[bridge.name for bridge in config.bridges])
        run(house, players, config, lambda: _apart(load()))
        played_s = max(stream.ring.elapsed_samples / stream.sample_rate_hz for stream in house.streams)
        how = "it was ended" if stop.is_set() else "its sound is over"
        log.warning("drill over", text=f"DRILL: {how} after {played_s:.1f} s; its records stay in {place}")


def _apart(config: Config) -> Config:
    """What a drill takes of the station's configuration: recordings apart, and bridges that ask for drills."""
    record = config.record
    if record.directory is not None:
        record = replace(record, directory=str(Path(record.directory) / "drill"))
    bridges = tuple(bridge for bridge in config.bridges if "drill" in bridge.filter.modes)
    return replace(config, record=record, bridges=bridges)


def _sound(what: str, model_rate_hz: int) -> Sound:
    if what == SIMULATED:
        return SimulatedSea(max(model_rate_hz, MIN_SAMPLE_RATE_HZ))
    (recording,) = recordings([Path(what)], min_rate_hz=model_rate_hz)
    return recording


def _journal(station: Path, clock: Clock) -> Path:
    """Each drill has a new one: none goes on where another ended."""
    began = datetime.fromtimestamp(clock.utc_ns() // NS_PER_S, UTC)
    return station.with_name(f"{station.name}.drill-{began:%Y%m%dT%H%M%SZ}")
