"""What must not matter to a model: where in the window a call is, and how loud the sound is.

    python tests/bench/invariance.py --clips shared/data/narw_clips --split select [MODEL] [--recordings FILE...]

Positions: each clip with a call is moved by up to 0.6 s, and what that uncovers holds a neighbour without a call. A
move counts for the clips whose call stays wholly inside: from where 5 % to where 95 % of its energy above the noise has
come, between 80 and 220 Hz. The recall is compared with that of the same clips unmoved. Simulated calls, whose place is
known, are put at every tenth of a second. Gains: clips whose score crosses the threshold, and detections in recordings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from export import augment, dataset
from pam_daemon.analysis.model import Model, shipped_model
from pam_daemon.tools import sounds
from pam_daemon.tools.evaluate.clips import Clips, find_clips, load

SHIFTS_S = tuple(step / 10 for step in range(-6, 7))
GAINS_DB = (-40, -30, -20, -10, 10, 20)
FEWEST = 30  # clips that a move must leave wholly inside to say anything
BAND_HZ = (80.0, 220.0)
SNR_DB = (5.0, 15.0)  # of simulated calls: heard, yet not each of them
_TAPER = 256
_PLACES_S = 0.1
_BATCH = 64

Audio = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moved:
    """Clips whose call stays wholly inside when it is moved so far, and how many were found: then, and unmoved."""

    shift_s: float
    calls: int
    found: int
    found_unmoved: int

    @property
    def fall(self) -> float:
        return (self.found_unmoved - self.found) / self.calls


def select_clips(model: Model, folder: Path, split: str | None) -> Clips:
    """The labelled clips of a part, one window each."""
    return load(find_clips(folder, split, model.card.labels), model, lambda done, total: None)


def found(model: Model, windows: Audio) -> Flags:
    """Windows (n, samples) that reach the model's threshold."""
    parts = [model.scores(windows[first : first + _BATCH])[:, 0] for first in range(0, len(windows), _BATCH)]
    reached: Flags = np.concatenate(parts) >= model.card.threshold
    return reached


def extents_s(audio: Audio, rate_hz: int) -> npt.NDArray[np.float64]:
    """Where each call (clips, samples) begins and ends, (clips, 2); see the module's text."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, _TAPER, axis=1)[:, :: _TAPER // 8]
    power = np.abs(np.fft.rfft(frames * np.hanning(_TAPER).astype(np.float32), axis=2)) ** 2
    frequencies_hz = np.fft.rfftfreq(_TAPER, 1 / rate_hz)
    band = power[:, :, (frequencies_hz >= BAND_HZ[0]) & (frequencies_hz <= BAND_HZ[1])].sum(axis=2)
    above = np.maximum(band - np.median(band, axis=1, keepdims=True), 0)
    share = np.cumsum(above, axis=1) / above.sum(axis=1, keepdims=True)
    centres_s = (np.arange(band.shape[1]) * (_TAPER // 8) + _TAPER / 2) / rate_hz
    return np.stack([centres_s[(share >= part).argmax(axis=1)] for part in (0.05, 0.95)], axis=1)


def recall_by_shift(model: Model, clips: Clips) -> list[Moved]:
    """What moving does to the calls that stay wholly inside."""
    rate_hz, length_s = model.card.sample_rate_hz, model.card.window_samples / model.card.sample_rate_hz
    every = dataset.Clips(clips.names, clips.windows, clips.labels[:, None].astype(np.float32), clips.names)
    index = np.flatnonzero(clips.labels)
    calls = clips.windows[index]
    begin_s, end_s = extents_s(calls, rate_hz).T
    filling = every.audio[augment.quiet(every, index, np.random.default_rng(0))]
    unmoved = found(model, calls)
    rows = []
    for shift_s in SHIFTS_S:
        inside = (begin_s + shift_s >= 0) & (end_s + shift_s <= length_s)
        if inside.sum() >= FEWEST:
            shifts = np.full(inside.sum(), round(shift_s * rate_hz), np.intp)
            moved = found(model, augment.shift(calls[inside], filling[inside], shifts, rate_hz))
            rows.append(Moved(shift_s, len(moved), int(moved.sum()), int(unmoved[inside].sum())))
    return rows


def simulated_by_place(model: Model, calls: int = 200) -> list[tuple[float, int, int]]:
    """Where the middle of a simulated call lies, in tenths of a second; how many were there, how many were found."""
    card, random = model.card, np.random.default_rng(0)
    rate_hz, samples = card.sample_rate_hz, card.window_samples
    windows, middles_s = [], []
    for _ in range(calls):
        duration_s = sounds.upcall_duration_s(random)
        call = sounds.upcall(random, rate_hz, duration_s).samples
        noise = sounds.ambient_noise(samples, rate_hz, random)
        gain = sounds.band_rms(noise, rate_hz) * 10 ** (random.uniform(*SNR_DB) / 20)
        call = call * gain / sounds.band_rms(call[: round(duration_s * rate_hz)], rate_hz)
        for begin_s in np.arange(0, samples / rate_hz - duration_s, _PLACES_S):
            first, window = round(begin_s * rate_hz), noise.copy()
            window[first : first + len(call)] += call[: samples - first]
            windows.append(window.astype(np.float32))
            middles_s.append(round(begin_s + duration_s / 2, 1))
    reached, places = found(model, np.stack(windows)), np.array(middles_s)
    rows = [(place, places == place) for place in np.unique(places)]
    return [(float(p), int(here.sum()), int(reached[here].sum())) for p, here in rows if here.sum() >= FEWEST]


def flips_by_gain(model: Model, clips: Clips) -> dict[int, int]:
    """For each gain, how many clips' scores it takes across the threshold."""
    plain = found(model, clips.windows)
    return {
        gain_db: int((found(model, clips.windows * np.float32(10 ** (gain_db / 20))) != plain).sum())
        for gain_db in GAINS_DB
    }


def detections_by_gain(model: Path, recordings: Sequence[Path]) -> dict[int, int]:
    """For each gain, 0 dB among them, how many detections of a replay differ from those without it; at 0 dB, all."""
    plain = _replayed(model, recordings, 0)
    return {0: len(plain)} | {gain_db: len(plain ^ _replayed(model, recordings, gain_db)) for gain_db in GAINS_DB}


def _replayed(model: Path, recordings: Sequence[Path], gain_db: int) -> set[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as directory:
        for path in recordings:
            samples, rate_hz = soundfile.read(path, dtype="float32")
            louder = samples * np.float32(10 ** (gain_db / 20))
            soundfile.write(Path(directory) / f"{path.stem}.wav", louder, rate_hz, subtype="FLOAT")
        calls = set()
        for path in sorted(Path(directory).iterdir()):
            command = [sys.executable, "-m", "pam_daemon", "replay", str(path), "--model", str(model)]
            text = subprocess.run(command, capture_output=True, check=True).stdout
            wires = [wire for wire in map(json.loads, text.splitlines()) if wire["kind"] == "detection"]
            calls |= {(path.stem, wire["start_sample"]) for wire in wires}
        return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=shipped_model())
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--split")
    parser.add_argument("--recordings", nargs="*", type=Path, default=[])
    chosen = parser.parse_args()
    model = Model(chosen.model, "cpu", threads=1)
    clips = select_clips(model, chosen.clips, chosen.split)
    print(f"model {model.name.name} ({model.name.sha256[:12]}), threshold {model.card.threshold}")
    print("calls of the clips, moved by\n  shift    calls  recall  of the same unmoved  fall")
    for row in recall_by_shift(model, clips):
        recalls = f"{row.found / row.calls:.3f}   {row.found_unmoved / row.calls:.3f}"
        print(f"  {row.shift_s:+.1f} s  {row.calls:5}   {recalls}                {row.fall:+.3f}")
    print("simulated calls, by where their middle is\n  place  calls  recall")
    for place_s, calls, reached in simulated_by_place(model):
        print(f"  {place_s:.1f} s  {calls:5}  {reached / calls:.3f}")
    print(f"of {len(clips.names)} clips, those that a gain takes across the threshold: {flips_by_gain(model, clips)}")
    if chosen.recordings:
        print(f"detections (0 dB: all, else those that differ): {detections_by_gain(chosen.model, chosen.recordings)}")


if __name__ == "__main__":
    main()
