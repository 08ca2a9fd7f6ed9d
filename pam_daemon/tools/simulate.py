"""`pamd simulate`: a sea with right whale upcalls at known times, as a sound file and its truth table.

Any block of a sea can be made alone, so ten hours need no more memory than ten minutes. `export` takes its noise and
most of its distractors from here, the rest from `sounds`.

**Signal-to-noise ratio** of a call (column "SNR (dB)"): its rms inside 50-250 Hz over the call's begin to end, echoes
included, against the rms of the background (ambient noise and ships) inside the same band over the same time.
Impulses and other animals do not count as background; snaps may fall on a call, the others keep 3 s away from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from pam_daemon.errors import ConfigError, SourceError
from pam_daemon.tools import sounds
from pam_daemon.tools.sounds import Samples, Sound, ambient_noise, band_rms, upcall
from pam_daemon.tools.tables import Selection, write_raven

__all__ = ["SNR_COLUMN", "Sea", "ambient_noise", "band_rms", "simulate", "truth_path", "upcall"]

SNR_COLUMN = "SNR (dB)"
LABEL = "upcall"
SNR_DB = (-5.0, 15.0)
CALL_MAX_S = 1.5
SPACING_S = 3.0  # at least, from the end of a sound to the begin of the next
OTHERS_PER_MINUTE = 6.0
OTHER_MAX_S = 2.5
SHIPS_PER_MINUTE = 1 / 5
SNAPS_PER_S = 0.4
AMBIENT_RMS = 0.0025  # full scale 1: leaves room for a loud knock above a near ship
MIN_SAMPLE_RATE_HZ = 1000
AIFF_MAX_BYTES = 2**32 - 2**16  # AIFF counts its bytes in 32 bits

BLOCK_S = 4
# What a generator is for; with the seed and an index it is the generator's key, so each sound has its own.
LAYOUT, WIND, TRAFFIC, CAVITATION, SNAPS, SOUNDS, LEVELS = range(7)

Draw = Callable[[np.random.Generator, int, float], Sound]


@dataclass(frozen=True)
class Kind:
    """A confounder: in the upcall's band, not an upcall. Its share among them, durations and SNR, as the calls'."""

    draw: Draw
    share: float
    duration_s: tuple[float, float]
    snr_db: tuple[float, float]


CONFOUNDERS = (
    Kind(sounds.knock, 0.3, (0.3, 1.0), (3.0, 17.0)),
    Kind(sounds.moan, 0.2, (0.6, 2.0), (-3.0, 15.0)),
    Kind(sounds.downsweep, 0.2, (0.5, 1.5), (-3.0, 15.0)),
    Kind(sounds.song_note, 0.2, (0.6, 1.6), (-3.0, 15.0)),
    Kind(sounds.pulse_train, 0.1, (1.5, OTHER_MAX_S), (-3.0, 12.0)),
)


@dataclass(frozen=True)
class Event:
    """A sound in its place: `begin` is a sample; `index` keys its generator."""

    index: int
    draw: Draw
    begin: int
    duration_s: float
    snr_db: float


class Sea:
    """A simulated sea, deterministic by its seed: `truth()` says where the calls are, `blocks()` gives the samples.

    Raises: ConfigError: a value out of range, or more calls than fit `SPACING_S` apart.
    """

    def __init__(self, *, minutes: float, calls: int, seed: int, sample_rate_hz: int = 2000) -> None:
        _check(minutes, calls, seed, sample_rate_hz)
        self.sample_rate_hz = sample_rate_hz
        self.sample_count = round(minutes * 60 * sample_rate_hz)
        self._seed = seed
        self._block = BLOCK_S * sample_rate_hz
        self.events = _lay_out(minutes * 60, calls, sample_rate_hz, self._rng(LAYOUT))
        rng = self._rng(LAYOUT, 1)
        self.ships = [sounds.draw_ship(rng, minutes * 60) for _ in range(max(1, round(minutes * SHIPS_PER_MINUTE)))]
        # A sound needs the background beneath it for its level, and so does the next block: keep the last few.
        self._background = lru_cache(maxsize=4)(self._make_background)
        self._sound = lru_cache(maxsize=4)(self._make_sound)
        self._grain = lru_cache(maxsize=8)(self._make_grain)

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """The samples, in order, in blocks (n,) of BLOCK_S; the last may be shorter."""
        for number in range(-(-self.sample_count // self._block)):
            yield self.block(number)

    def block(self, number: int) -> npt.NDArray[np.float32]:
        """One block (n,), without the others; full scale +-1."""
        first = number * self._block
        mix = self._background(number) + self._snaps(number)
        reach = int((OTHER_MAX_S + sounds.ECHO_S) * self.sample_rate_hz) + 1
        begins = (first - reach, first + self._block)
        for event in self.events[slice(*(bisect_left(self.events, begin, key=_begin) for begin in begins))]:
            _add(mix, self._sound(event), event.begin - first)
        return np.clip(mix[: self.sample_count - first], -1.0, 1.0).astype(np.float32)

    def truth(self) -> list[Selection]:
        """The calls in order, with their SNR (the module's docstring defines it) in the column SNR_COLUMN."""
        return [self._selection(event) for event in self.events if event.draw is upcall]

    def _selection(self, event: Event) -> Selection:
        call = self._draw(event)
        begin_s = event.begin / self.sample_rate_hz
        extra = {SNR_COLUMN: f"{event.snr_db:.1f}"}
        return Selection(begin_s, begin_s + event.duration_s, call.low_hz, call.high_hz, label=LABEL, extra=extra)

    def _draw(self, event: Event) -> Sound:
        return event.draw(self._rng(SOUNDS, event.index), self.sample_rate_hz, event.duration_s)

    def _make_sound(self, event: Event) -> Samples:
        """The event's waveform (n,) at its level above the background beneath it."""
        samples = self._draw(event).samples
        count = round(event.duration_s * self.sample_rate_hz)
        noise_rms = band_rms(self._background_between(event.begin, event.begin + count), self.sample_rate_hz)
        call_rms = band_rms(samples[:count], self.sample_rate_hz)
        gain: float = noise_rms * 10.0 ** (event.snr_db / 20.0) / call_rms
        return samples * gain

    def _background_between(self, begin: int, end: int) -> Samples:
        first, last = begin // self._block, (end - 1) // self._block
        stretch = np.concatenate([self._background(number) for number in range(first, last + 1)])
        return stretch[begin - first * self._block : end - first * self._block]

    def _make_background(self, number: int) -> Samples:
        """Ambient noise and ships in one block (n,)."""
        time_s = (number * self._block + np.arange(self._block)) / self.sample_rate_hz
        wind = self._noise(sounds.wind_psd, WIND, number) * self._slow_gain(WIND, time_s, mean_db=-9.0)
        traffic = self._noise(sounds.traffic_psd, TRAFFIC, number) * self._slow_gain(TRAFFIC, time_s, mean_db=0.0)
        mix = wind + traffic
        heard = [ship for ship in self.ships if np.abs(time_s - ship.closest_s).min() < ship.heard_s]
        if heard:
            cavitation = self._noise(sounds.cavitation_psd, CAVITATION, number)
            mix = sum((ship.sound(time_s, cavitation) for ship in heard), mix)
        return mix * AMBIENT_RMS

    def _noise(self, psd: sounds.Psd, purpose: int, number: int) -> Samples:
        """A block (n,) of steady noise, about rms 1: two independent grains, crossfaded so that the power stays."""
        fall = np.cos(np.pi / 2.0 * (np.arange(self._block) + 0.5) / self._block)
        old, new = self._grain(psd, purpose, number), self._grain(psd, purpose, number + 1)
        return old[self._block :] * fall + new[: self._block] * fall[::-1]

    def _make_grain(self, psd: sounds.Psd, purpose: int, index: int) -> Samples:
        """Two blocks (2n,) of noise; its rms below 1 kHz is 1."""
        unit = float(np.sqrt(psd(np.arange(1.0, 1000.0)).sum()))  # in steps of 1 Hz
        return sounds.shaped_noise(psd, 2 * self._block, self.sample_rate_hz, self._rng(purpose, index)) / unit

    def _slow_gain(self, purpose: int, time_s: Samples, mean_db: float) -> Samples:
        """Weather and swell as a gain (n,): a few dB over minutes, half a dB with the waves."""
        rng = self._rng(LEVELS, purpose)
        level_db = np.full(time_s.size, mean_db)
        for period_s, depth_db in ((1100.0, 2.5), (390.0, 1.5), (130.0, 0.8), (9.0, 0.5)):
            level_db += depth_db * np.sin(2.0 * np.pi * (time_s / period_s + rng.uniform()))
        return 10.0 ** (level_db / 20.0)

    def _snaps(self, number: int) -> Samples:
        """Snaps in one block (n,), most of them faint."""
        rng = self._rng(SNAPS, number)
        mix = np.zeros(self._block)
        for _ in range(rng.poisson(SNAPS_PER_S * BLOCK_S)):
            snap = sounds.snap(rng, self.sample_rate_hz) * AMBIENT_RMS * 10.0 ** (rng.normal(-3.0, 7.0) / 20.0)
            _add(mix, snap, int(rng.integers(0, self._block - snap.size)))
        return mix

    def _rng(self, purpose: int, index: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, index])


def simulate(path: Path, *, minutes: float, calls: int, seed: int, sample_rate_hz: int = 2000) -> list[Selection]:
    """Write a sea to `path` as 16-bit AIFF and the truth beside it (`truth_path`); gives the truth.

    Raises: ConfigError: a value out of range, or a name that is not an AIFF's. SourceError: a file that cannot be
    written. TableError: the truth table cannot be written.
    """
    if path.suffix.lower() not in (".aiff", ".aif"):
        raise ConfigError(f"{path}: a simulated sea is written as AIFF: choose a name that ends in .aiff")
    sea = Sea(minutes=minutes, calls=calls, seed=seed, sample_rate_hz=sample_rate_hz)
    part = path.with_name(f".{path.name}.part")
    try:
        with soundfile.SoundFile(part, "w", sample_rate_hz, 1, "PCM_16", format="AIFF") as file:
            for block in sea.blocks():
                file.write(block)
        part.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise SourceError(f"{path}: cannot be written ({error}): choose another place or free space there") from error
    finally:
        part.unlink(missing_ok=True)
    truth = sea.truth()
    write_raven(truth_path(path), truth)
    return truth


def truth_path(path: Path) -> Path:
    """Where the truth of a simulated sea lies: `sea.aiff` has `sea.selections.txt`."""
    return path.with_suffix(".selections.txt")


def _check(minutes: float, calls: int, seed: int, sample_rate_hz: int) -> None:
    if sample_rate_hz < MIN_SAMPLE_RATE_HZ:
        raise ConfigError(f"sample rate {sample_rate_hz} Hz: choose at least {MIN_SAMPLE_RATE_HZ} Hz")
    if seed < 0:
        raise ConfigError(f"seed {seed}: choose 0 or more")
    if calls < 0:
        raise ConfigError(f"calls {calls}: choose 0 or more")
    if not 0 < minutes * 60 * sample_rate_hz * 2 < AIFF_MAX_BYTES:
        raise ConfigError(f"minutes {minutes:g}: an AIFF holds more than 0 and at most 4 GB of sound: choose another")
    if minutes * 60 <= SPACING_S:
        raise ConfigError(f"minutes {minutes:g}: a sea is longer than {SPACING_S:g} s: choose more")
    fitting = int((minutes * 60 - SPACING_S) / (CALL_MAX_S + sounds.ECHO_S + SPACING_S))
    if calls > max(fitting, 0):
        raise ConfigError(f"calls {calls}: at most {max(fitting, 0)} fit into {minutes:g} minutes: ask for fewer")


def _lay_out(duration_s: float, calls: int, sample_rate_hz: int, rng: np.random.Generator) -> tuple[Event, ...]:
    """Calls and confounders in random order, at random places at least SPACING_S apart and from both ends."""
    left_s = duration_s - SPACING_S - calls * (CALL_MAX_S + sounds.ECHO_S + SPACING_S)
    others = min(round(duration_s / 60 * OTHERS_PER_MINUTE), int(left_s / (OTHER_MAX_S + sounds.ECHO_S + SPACING_S)))
    drawn: list[tuple[Draw, float, float]] = [
        (upcall, sounds.upcall_duration_s(rng), rng.uniform(*SNR_DB)) for _ in range(calls)
    ]
    shares = [kind.share for kind in CONFOUNDERS]
    for number in rng.choice(len(CONFOUNDERS), max(others, 0), p=shares):
        kind = CONFOUNDERS[number]
        drawn.append((kind.draw, rng.uniform(*kind.duration_s), rng.uniform(*kind.snr_db)))
    drawn = [drawn[number] for number in rng.permutation(len(drawn))]
    # What no sound and no spacing needs is dealt out at random between them.
    lengths_s = np.array([duration + sounds.ECHO_S + SPACING_S for _, duration, _ in drawn])
    spare_s = np.sort(rng.uniform(0.0, duration_s - SPACING_S - lengths_s.sum(), len(drawn)))
    begins_s = SPACING_S + spare_s + np.cumsum(lengths_s) - lengths_s
    return tuple(
        Event(index, draw, int(begin_s * sample_rate_hz), duration, float(snr_db))
        for index, (begin_s, (draw, duration, snr_db)) in enumerate(zip(begins_s, drawn, strict=True))
    )


def _begin(event: Event) -> int:
    return event.begin


def _add(mix: Samples, sound: Samples, begin: int) -> None:
    """Add the part of `sound` that lies inside `mix`, where it begins at sample `begin` (which may be negative)."""
    first = max(begin, 0)
    last = max(min(begin + sound.size, mix.size), first)
    mix[first:last] += sound[first - begin : last - begin]
