"""The simulated sea: repeatable, its truth true, its spectrum the sea's, and no easy prey for an energy detector."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from energy import energy_detector, f1
from scipy import signal

from pam_daemon.errors import ConfigError, SourceError
from pam_daemon.tools import sounds
from pam_daemon.tools.simulate import CONFOUNDERS, SNR_COLUMN, Sea, simulate, truth_path
from pam_daemon.tools.tables import read_raven

RATE_HZ = 2000


def samples_of(sea: Sea) -> npt.NDArray[np.float32]:
    return np.concatenate(list(sea.blocks()))


@pytest.fixture(scope="module")
def sea() -> Sea:
    return Sea(minutes=10, calls=30, seed=1)


@pytest.fixture(scope="module")
def samples(sea: Sea) -> npt.NDArray[np.float32]:
    return samples_of(sea)


def test_writes_a_16_bit_aiff_and_its_truth(tmp_path: Path) -> None:
    path = tmp_path / "sea.aiff"
    truth = simulate(path, minutes=1.5, calls=5, seed=3)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("AIFF", "PCM_16", RATE_HZ, 1)
    assert info.frames == 90 * RATE_HZ
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sea.aiff", "sea.selections.txt"]
    read = read_raven(truth_path(path))
    assert [s.label for s in read] == ["upcall"] * 5
    assert [s.extra for s in read] == [s.extra for s in truth]
    assert [s.begin_s for s in read] == pytest.approx([s.begin_s for s in truth], abs=1e-6)
    written, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(written, samples_of(Sea(minutes=1.5, calls=5, seed=3)), atol=1 / 32768)


def test_a_seed_gives_the_same_sea_again_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        simulate(tmp_path / f"{name}.aiff", minutes=1, calls=3, seed=seed)
    first, again, other = ((tmp_path / f"{name}.aiff").read_bytes() for name in "abc")
    assert first == again
    assert first != other
    assert truth_path(tmp_path / "a.aiff").read_text() == truth_path(tmp_path / "b.aiff").read_text()


def test_a_block_does_not_depend_on_the_blocks_before_it(sea: Sea, samples: npt.NDArray[np.float32]) -> None:
    """So a call that straddles two blocks is whole, and memory is that of one block."""
    blocks = [Sea(minutes=10, calls=30, seed=1).block(number) for number in (149, 20, 19, 3)]
    for number, block in zip((149, 20, 19, 3), blocks, strict=True):
        np.testing.assert_array_equal(samples[number * block.size :][: block.size], block)


def test_memory_does_not_grow_with_the_length() -> None:
    peaks = []
    for minutes in (2, 20):
        long_sea = Sea(minutes=minutes, calls=5, seed=1)
        tracemalloc.start()
        for _ in long_sea.blocks():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("seed", range(5))
def test_calls_lie_inside_apart_and_within_the_stated_ranges(seed: int) -> None:
    truth = Sea(minutes=10, calls=30, seed=seed).truth()
    assert len(truth) == 30
    assert truth[0].begin_s >= 0
    assert truth[-1].end_s <= 600
    assert all(later.begin_s - earlier.end_s >= 3 for earlier, later in itertools.pairwise(truth))
    assert all(0.5 <= call.end_s - call.begin_s <= 1.5 for call in truth)
    assert all(75 <= (call.low_hz or 0) <= 110 and 170 <= (call.high_hz or 0) <= 200 for call in truth)
    snr_db = [float(call.extra[SNR_COLUMN]) for call in truth]
    assert -5 <= min(snr_db) < 0 < 10 < max(snr_db) <= 15


def test_as_many_calls_as_promised_fit() -> None:
    for seed in range(20):
        assert len(Sea(minutes=1, calls=12, seed=seed).truth()) == 12
    with pytest.raises(ConfigError, match="at most 12 fit into 1 minutes"):
        Sea(minutes=1, calls=13, seed=0)


def test_the_stated_snr_is_what_a_meter_reads() -> None:
    """Against the same sea without its calls, measured with another filter than the simulation's own."""
    sea = Sea(minutes=10, calls=30, seed=2)
    quiet = Sea(minutes=10, calls=30, seed=2)
    quiet.events = ()
    with_calls, without = samples_of(sea).astype(np.float64), samples_of(quiet).astype(np.float64)
    band = signal.butter(8, sounds.BAND_HZ, "bandpass", fs=RATE_HZ, output="sos")
    calls, noise = (signal.sosfiltfilt(band, x) for x in (with_calls - without, without))
    measured_db, stated_db = [], []
    for call in sea.truth():
        inside = slice(round(call.begin_s * RATE_HZ), round(call.end_s * RATE_HZ))
        measured_db.append(10 * np.log10(np.mean(calls[inside] ** 2) / np.mean(noise[inside] ** 2)))
        stated_db.append(float(call.extra[SNR_COLUMN]))
    # A snap may fall on a call and raise the noise that this meter sees.
    assert np.median(np.abs(np.array(measured_db) - stated_db)) < 0.3
    assert np.max(np.abs(np.array(measured_db) - stated_db)) < 2.0


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_nothing_clips_and_the_16_bits_are_used(seed: int) -> None:
    samples = samples_of(Sea(minutes=10, calls=30, seed=seed))
    assert np.abs(samples).max() < 0.95
    assert samples.std() > 40 / 32768


@pytest.mark.parametrize("rate_hz", [2000, 8000])
@pytest.mark.parametrize("seed", range(4))
def test_ambient_noise_falls_as_the_seas(rate_hz: int, seed: int) -> None:
    """Wenz (1962): above the traffic's hump some 3 to 8 dB an octave, at any sample rate."""
    noise = sounds.ambient_noise(60 * rate_hz, rate_hz, np.random.default_rng(seed))
    freq_hz, psd = signal.welch(noise, rate_hz, nperseg=rate_hz)
    level_db = [10 * np.log10(psd[(freq_hz > f / 1.1) & (freq_hz < f * 1.1)].mean()) for f in (100, 200, 400, 800)]
    falls_db = -np.diff(level_db)
    assert (falls_db > 1.5).all()
    assert 9 < falls_db.sum() < 24
    assert noise.std() == pytest.approx(1.0)


def test_the_level_changes_slowly_and_nowhere_jumps() -> None:
    """Neither the weather nor the seams between the noise's grains may show as events."""
    sea = Sea(minutes=20, calls=0, seed=4)
    sea.events, sea.ships = (), []
    level_db = 10 * np.log10(np.square(samples_of(sea).reshape(-1, RATE_HZ)).mean(axis=1))
    minutes_db = level_db.reshape(20, 60).mean(axis=1)
    assert 1.0 < np.ptp(minutes_db) < 12.0
    assert np.abs(np.diff(minutes_db)).max() < 3.0
    seams, middles = level_db[0::4], level_db[2::4]
    assert abs(seams.mean() - middles.mean()) < 0.3


def test_the_level_does_not_depend_on_the_sample_rate() -> None:
    def band_power(rate_hz: int) -> float:
        sea = Sea(minutes=2, calls=0, seed=6, sample_rate_hz=rate_hz)
        sea.events, sea.ships = (), []
        freq_hz, psd = signal.welch(samples_of(sea), rate_hz, nperseg=rate_hz)
        return float(psd[(freq_hz >= 50) & (freq_hz <= 250)].sum())

    assert 10 * np.log10(band_power(48000) / band_power(2000)) == pytest.approx(0.0, abs=0.5)


def test_an_upcall_sweeps_up() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        call = sounds.upcall(rng, RATE_HZ)
        freq_hz, time_s, spectrum = signal.stft(call.samples, RATE_HZ, nperseg=256, noverlap=224, nfft=1024)
        power = np.abs(spectrum) ** 2
        loud = power.max(axis=0) > 0.05 * power.max()
        ridge_hz = freq_hz[power.argmax(axis=0)][loud]
        slope_hz_s = np.polyfit(time_s[loud], ridge_hz, 1)[0]
        assert slope_hz_s > 30
        assert ridge_hz[0] < 135
        assert 150 < ridge_hz.max() < 215
        assert np.abs(call.samples).max() == pytest.approx(1.0)


def test_a_unit_of_song_is_no_upcall() -> None:
    """Where an upcall begins, it rises by far less than one; it may fall, and lie higher."""
    rng = np.random.default_rng(1)
    rises_hz, lows_hz = [], []
    for _ in range(300):
        duration_s = float(rng.uniform(0.2, 1.5))
        unit = sounds.song_unit(rng, RATE_HZ, duration_s)
        assert np.abs(unit.samples).max() == pytest.approx(1.0)
        assert unit.samples.size == pytest.approx((duration_s + sounds.ECHO_S) * RATE_HZ, abs=2)
        head, tail = np.array_split(unit.samples[: round(duration_s * RATE_HZ)], 2)
        if unit.low_hz < 120.0:
            below_hz = 1.4 * unit.high_hz  # of the fundamental alone
            rises_hz.append(_loudest_hz(tail, below_hz) - _loudest_hz(head, below_hz))
        lows_hz.append(unit.low_hz)
    assert max(rises_hz) < 40.0
    assert min(lows_hz) < 70.0 and max(lows_hz) > 400.0


def _loudest_hz(samples: npt.NDArray[np.float64], below_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    freq_hz = np.fft.rfftfreq(samples.size, 1 / RATE_HZ)
    return float(freq_hz[spectrum[freq_hz < below_hz].argmax()])


def test_a_ship_passes_in_and_out_with_lines_that_drift_down() -> None:
    """Its lines are harmonics of the blade rate; the Doppler shift turns from above to below as it passes."""
    ship = sounds.Ship(200.0, 200.0, 15.0, 10.0, 0.0, 60.0, 1.0, ((20, 1.0),))
    time_s = np.arange(400 * RATE_HZ) / RATE_HZ
    sound = ship.sound(time_s, np.zeros(time_s.size))
    seconds = np.square(sound.reshape(-1, RATE_HZ)).mean(axis=1)
    assert seconds.argmax() == pytest.approx(200, abs=2)
    assert seconds[:140].max() < 0.05 * seconds.max()
    assert seconds[-140:].max() < 0.05 * seconds.max()

    def line_hz(begin_s: int) -> float:
        stretch = sound[begin_s * RATE_HZ : (begin_s + 20) * RATE_HZ] * np.hanning(20 * RATE_HZ)
        return float(np.abs(np.fft.rfft(stretch, 2**19)).argmax() * RATE_HZ / 2**19)

    shift = 15.0 / sounds.SOUND_SPEED_M_S
    assert line_hz(160) == pytest.approx(200 * (1 + 0.93 * shift), abs=0.15)
    assert line_hz(220) == pytest.approx(200 * (1 - 0.93 * shift), abs=0.15)


@pytest.mark.parametrize("kind", CONFOUNDERS, ids=lambda kind: kind.draw.__name__)
def test_every_confounder_has_its_energy_in_the_upcalls_band(kind: object) -> None:
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        duration_s = rng.uniform(*kind.duration_s)  # type: ignore[attr-defined]
        sound = kind.draw(rng, RATE_HZ, duration_s)  # type: ignore[attr-defined]
        assert np.isfinite(sound.samples).all()
        assert sound.samples.size == pytest.approx((duration_s + sounds.ECHO_S) * RATE_HZ, abs=2)
        shares.append(sounds.band_rms(sound.samples, RATE_HZ) ** 2 / np.mean(sound.samples**2))
    assert np.median(shares) > 0.4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_energy_detector_does_poorly_even_at_its_best_threshold(seed: int) -> None:
    sea = Sea(minutes=10, calls=30, seed=seed)
    _, matching = energy_detector(samples_of(sea), RATE_HZ, sea.truth())
    assert f1(matching) < 0.6


def test_the_energy_detector_is_a_fair_one() -> None:
    """Without confounders it finds nearly all loud calls: what defeats it is the sea, not a fault of its own."""
    sea = Sea(minutes=10, calls=30, seed=1)
    sea.events = tuple(event for event in sea.events if event.draw is sounds.upcall)
    loud = [call for call in sea.truth() if float(call.extra[SNR_COLUMN]) > 3]
    _, matching = energy_detector(samples_of(sea), RATE_HZ, sea.truth())
    assert f1(matching) > 0.85
    assert sum(call in loud for _, call in matching.found) >= len(loud) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minutes": 0.0}, "minutes 0"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"minutes": 0.01, "calls": 0}, "minutes 0.01"),
        ({"minutes": 1e6}, "minutes 1e"),
        ({"calls": -1}, "calls -1"),
        ({"calls": 1000}, "calls 1000: at most"),
        ({"seed": -1}, "seed -1"),
        ({"sample_rate_hz": 500}, "sample rate 500 Hz"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, float], message: str
) -> None:
    settings = {"minutes": 1, "calls": 3, "seed": 1} | arguments
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path / "sea.aiff", **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_places_and_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be written"):
        simulate(tmp_path / "no folder" / "sea.aiff", minutes=1, calls=1, seed=1)
    with pytest.raises(ConfigError, match=r"\.aiff"):
        simulate(tmp_path / "sea.wav", minutes=1, calls=1, seed=1)
