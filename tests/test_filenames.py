"""File names tell when a recording began, and never more than they say."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pam_daemon.capture.sources.filenames import start_of

EXAMPLES = [
    # name, recorder, UTC, whether UTC had to be assumed
    ("67416073.210610033655.flac", "SoundTrap", "2021-06-10T03:36:55", True),
    ("67416073.210610033655", "SoundTrap", "2021-06-10T03:36:55", True),
    ("805855252.180421093014.wav", "SoundTrap", "2018-04-21T09:30:14", True),
    ("5BD0A1E4.WAV", "AudioMoth", "2018-10-24T16:46:28", False),
    ("20240131_235959.WAV", "AudioMoth", "2024-01-31T23:59:59", True),
    ("20240131_235959T.WAV", "AudioMoth", "2024-01-31T23:59:59", True),
    ("24F31901603CE5C5_20240131_235959.WAV", "AudioMoth", "2024-01-31T23:59:59", True),
    ("SM4_20200101_120000.wav", "Song Meter", "2020-01-01T12:00:00", True),
    ("S4A01234-A_20200101_120000.wav", "Song Meter", "2020-01-01T12:00:00", True),
    ("STATION_0+1_20200101$120000.wav", "Song Meter", "2020-01-01T12:00:00", True),
    ("STATION_0+1_20200101_120000.wav", "Song Meter", "2020-01-01T12:00:00", True),
    ("STATION_20200101_120000_000.wav", "PAMGuard", "2020-01-01T12:00:00", True),
    ("SBW1234_20200101_120000.wav", "icListen", "2020-01-01T12:00:00", True),
    ("icListenHF-1234_20200101T120000Z.wav", "icListen", "2020-01-01T12:00:00", False),
    ("ICLISTENHF1234_20191009T000000.250Z.wav", "icListen", "2019-10-09T00:00:00.250000", False),
    ("PAM_20200101_120000_125.wav", "PAMGuard", "2020-01-01T12:00:00.125000", True),
    ("BUOY_20200101_120000_123456.wav", "PAMGuard", "2020-01-01T12:00:00.123456", True),
    ("NOPP6_EST_20090329_121500.wav", "DCLDE", "2009-03-29T17:15:00", False),
    ("79296_Brunswick03_002K_M06_UTCm5_CH6_20161227_110000.flac", "DCLDE", "2016-12-27T16:00:00", False),
    ("site_UTCp0330_20161227_110000.flac", "DCLDE", "2016-12-27T07:30:00", False),
    ("site_GMT_20161227_110000.flac", "DCLDE", "2016-12-27T11:00:00", False),
    ("NOPP6_EDT_20090729_121500.wav", "DCLDE", "2009-07-29T16:15:00", False),
    ("Samana_PU194_20090111_003000.flac", "Song Meter", "2009-01-11T00:30:00", True),
    ("orcasound_lab_20250714T231129Z_n16.raw.flac", "ISO 8601", "2025-07-14T23:11:29", False),
    ("AMAR613.20190604T182000Z.wav", "ISO 8601", "2019-06-04T18:20:00", False),
    ("OO-HYEA2--YDH-2015-12-16T023000.000015.flac", "ISO 8601", "2015-12-16T02:30:00.000015", True),
    ("site_20200101T120000+0100.wav", "ISO 8601", "2020-01-01T11:00:00", False),
    ("site_20200101_000000-0500.wav", "Song Meter", "2020-01-01T05:00:00", False),
    ("2020-01-01_12-34-56.wav", "dashed", "2020-01-01T12:34:56", True),
    ("/data/2019/SM4_20200101_120000.wav", "Song Meter", "2020-01-01T12:00:00", True),
]


@pytest.mark.parametrize(("name", "recorder", "utc", "assumed"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_every_recorder_is_understood(name: str, recorder: str, utc: str, assumed: bool) -> None:
    """Each known pattern gives its instant in UTC and says whether the zone was assumed."""
    start = start_of(name)
    assert start is not None
    assert (start.pattern, start.utc, start.assumed_utc) == (
        recorder,
        datetime.fromisoformat(utc).replace(tzinfo=UTC),
        assumed,
    )


@pytest.mark.parametrize(
    "name",
    [
        "recording.wav",
        "deepship_Tanker_10.flac",
        "20201301_120000.wav",  # month 13
        "67416073.250231120000.wav",  # 31 February
        "SM4_20200101_240000.wav",
        "SM4_20200101_120060.wav",
        "SM4_20200101_1200001.wav",  # seven digits are no time
        "120200101_120000.wav",
        "20200101.wav",  # a date alone, and hexadecimal of 1987
        "DEADBEEF.WAV",
        "site_CST_20200101_120000.wav",  # Chicago or Shanghai
        "site_AST_20200101_120000.wav",
        "site_UTCm15_20200101_120000.wav",
        "site_EST_UTCm4_20200101_120000.wav",  # two zones that differ
        "SM4_２０２００１０１_120000.wav",  # digits of another script
        "",
        "..",
    ],
)
def test_what_is_impossible_or_unclear_is_not_guessed(name: str) -> None:
    """No start rather than a wrong one."""
    assert start_of(name) is None


def test_a_counter_behind_the_time_is_not_a_zone() -> None:
    """Only offsets that exist are read as such."""
    start = start_of("site_20200101_120000-0007.wav")
    assert start is not None
    assert (start.utc, start.assumed_utc) == (datetime(2020, 1, 1, 12, tzinfo=UTC), True)


@given(st.text(alphabet="0123456789_-.$TZ+ABCDEFGMPSUTCmpx", max_size=60) | st.text(max_size=40))
@example("UTC+99_20200101_120000.wav")
def test_no_name_is_a_crash(name: str) -> None:
    """Whatever a file is called, the answer is an instant in UTC or None."""
    start = start_of(name)
    assert start is None or start.utc.utcoffset() == timedelta(0)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_exactly_the_possible_dates_are_read(month: int, day: int, hour: int, minute: int, second: int) -> None:
    """A SoundTrap name gives a start if and only if the calendar has that second."""
    try:
        expected = datetime(2021, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        expected = None
    start = start_of(f"67416073.21{month:02}{day:02}{hour:02}{minute:02}{second:02}.wav")
    assert (start and start.utc) == expected


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2089, 12, 31)),
    st.sampled_from(
        ["{:%Y%m%d_%H%M%S_%f}", "x_{:%Y%m%dT%H%M%S.%f}", "OO--{:%Y-%m-%dT%H%M%S.%f}", "SBW1_{:%Y%m%dT%H%M%S.%f}"]
    ),
    st.integers(-14 * 4, 14 * 4),
)
def test_zones_and_fractions_come_out_as_written(when: datetime, layout: str, quarters: int) -> None:
    """Writing an instant with an offset and reading it gives the instant, to the microsecond."""
    offset = timedelta(minutes=15 * quarters)
    sign = "-" if quarters < 0 else "+"
    zone = f"{sign}{abs(quarters) // 4:02}{abs(quarters) % 4 * 15:02}"
    start = start_of(layout.format(when) + zone + ".wav")
    assert start is not None
    assert (start.utc, start.assumed_utc) == (when.replace(tzinfo=UTC) - offset, False)
