"""When a recording began, read from its file name: one table of patterns, tried from top to bottom.

To add a recorder: put a `Pattern` into `PATTERNS` above any more general one, with named groups `year`, `month`,
`day`, `hour`, `minute`, `second` (or `unix`, hexadecimal), optionally `fraction` and `zone`, and an example into
tests/test_filenames.py.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class NamedStart:
    """The start that a file name tells."""

    utc: datetime
    """Aware, in UTC, to the microsecond."""
    pattern: str
    """Whose pattern it was."""
    assumed_utc: bool
    """True when the name says no time zone: the user must be told."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One recorder's way to write the start into a name, without the suffix."""

    recorder: str
    expression: re.Pattern[str]


# Offsets stand right behind the time: hours to 14, minutes in quarters, so that a counter such as -0007 is not one.
_ZONE = r"(?P<zone>Z|[+-](?:0\d|1[0-4])(?:00|15|30|45))?(?![0-9A-Za-z])"
_DATE = r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<month>\d\d)(?P<day>\d\d)"
_TIME = r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)"


def _pattern(recorder: str, *parts: str) -> Pattern:
    return Pattern(recorder, re.compile("".join(parts), re.ASCII))


PATTERNS: tuple[Pattern, ...] = (
    # 67416073.210610033655: serial number, YYMMDDhhmmss (Ocean Instruments, SoundTrap user guide).
    _pattern("SoundTrap", r"^\d{3,10}\.(?P<year>\d\d)(?P<month>\d\d)(?P<day>\d\d)", _TIME, _ZONE),
    # 5BD0A1E4: Unix time, firmware before 1.2.1; within 2017-2035, so that 20200101 is not one.
    _pattern("AudioMoth", r"^(?P<unix>(?:5[89A-F]|6[0-9A-F]|7[0-9])[0-9A-F]{6})$"),
    # 20240131_235959, 24F31901603CE5C5_20240131_235959, with T when triggered.
    _pattern("AudioMoth", r"^(?:[0-9A-F]{16}_)?", _DATE, "_", _TIME, r"T?(?P<zone>)?$"),
    # SBW1234_20200101_120000, ICLISTENHF1234_20191009T000000.000Z (Ocean Sonics; Ocean Networks Canada's archive).
    _pattern(
        "icListen",
        r"^(?:[A-Z]BW|(?i:icListen))[A-Za-z0-9-]*_",
        _DATE,
        "[_T]",
        _TIME,
        r"(?:[._](?P<fraction>\d{3,6}))?",
        _ZONE,
    ),
    # STATION_0+1_20161023$195550: $ says that the clock was set by GPS (Wildlife Acoustics, SM3 user guide).
    _pattern("Song Meter", _DATE, r"\$", _TIME, _ZONE),
    # orcasound_lab_20250714T231129Z_n16.raw, AMAR613.20190604T182000Z, OO-HYEA2--YDH-2015-12-16T023000.000000.
    _pattern(
        "ISO 8601",
        r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)T",
        r"(?P<hour>\d\d)[-:]?(?P<minute>\d\d)[-:]?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,6}))?",
        _ZONE,
    ),
    # PAM_20200101_120000_000: milliseconds (PAMGuard); six digits are microseconds (Wildlife Acoustics' SMART).
    _pattern("PAMGuard", _DATE, "_", _TIME, r"_(?P<fraction>\d{3}|\d{6})", _ZONE),
    # NOPP6_EST_20090329_121500, 79296_Brunswick03_002K_M06_UTCm5_CH6_20161227_110000: the zone is a word of its own.
    _pattern("DCLDE", r"^(?=.*(?:^|_)(?:[A-Z][DS]T|UTC|GMT)).*", _DATE, "_", _TIME, _ZONE),
    # SM4_20200101_120000, Samana_PU194_20090111_003000.
    _pattern("Song Meter", _DATE, "[_-]", _TIME, _ZONE),
    # 2020-01-01_12-34-56 (Cornell pop-ups, Avisoft).
    _pattern(
        "dashed",
        r"(?<!\d)(?P<year>(?:19|20)\d\d)-(?P<month>\d\d)-(?P<day>\d\d)[ _]",
        r"(?P<hour>\d\d)[-_](?P<minute>\d\d)[-_](?P<second>\d\d)",
        _ZONE,
    ),
)

_HOURS_OF_ZONE = {
    "UTC": 0.0, "GMT": 0.0, "Z": 0.0,
    "NST": -3.5, "NDT": -2.5, "ADT": -3.0, "EST": -5.0, "EDT": -4.0, "MDT": -6.0, "PDT": -7.0,
    "AKST": -9.0, "AKDT": -8.0, "HST": -10.0,
}  # fmt: skip
# More than one place uses these (AST: Atlantic, Arabia; CST: Chicago, Shanghai...): a wrong start is worse than none.
_AMBIGUOUS_ZONES = ("AST", "BST", "CST", "CDT", "IST", "MST", "PST", "SST", "WST")
_ZONE_WORD = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:UTC|GMT)(?P<sign>[mp+-])(?P<hours>\d{1,2})(?P<minutes>\d{2})?|(?P<word>"
    + "|".join(sorted((*_HOURS_OF_ZONE, *_AMBIGUOUS_ZONES), key=len, reverse=True))
    + r"))(?![A-Za-z0-9])",
    re.ASCII,
)
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$", re.ASCII)  # not the time stamp of a SoundTrap
_LARGEST_OFFSET = timedelta(hours=14)


def start_of(name: str) -> NamedStart | None:
    """The start that a file name (or path) tells, or None if it tells none.

    None also when the date is impossible, or the name holds a time zone that more than one place uses: neither is
    guessed.
    """
    stem = _SUFFIX.sub("", PurePath(name).name)
    for pattern in PATTERNS:
        match = pattern.expression.search(stem)
        if match and (local := _instant(match.groupdict())):
            return _in_utc(local, match.groupdict().get("zone") or "", stem, pattern)
    return None


def _instant(parts: dict[str, str | None]) -> datetime | None:
    """The date and time as written, marked UTC whatever the zone; None when there is no such date."""
    if unix := parts.get("unix"):
        return datetime.fromtimestamp(int(unix, 16), UTC)
    year, month, day, hour, minute, second = (
        int(parts[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    )
    microsecond = int((parts.get("fraction") or "").ljust(6, "0"))
    try:
        return datetime(year + 2000 if year < 100 else year, month, day, hour, minute, second, microsecond, UTC)
    except ValueError:
        return None


def _in_utc(local: datetime, attached_zone: str, stem: str, pattern: Pattern) -> NamedStart | None:
    if "unix" in pattern.expression.groupindex:
        return NamedStart(local, pattern.recorder, assumed_utc=False)
    if attached_zone:
        return NamedStart(local - _attached_offset(attached_zone), pattern.recorder, assumed_utc=False)
    words = list(_ZONE_WORD.finditer(stem))
    if not words:
        return NamedStart(local, pattern.recorder, assumed_utc=True)
    offsets = {_word_offset(word) for word in words}
    offset = offsets.pop()
    if offset is None or offsets:  # ambiguous, or two zones that differ
        return None
    return NamedStart(local - offset, pattern.recorder, assumed_utc=False)


def _attached_offset(zone: str) -> timedelta:
    """`Z`, or +hhmm east of Greenwich."""
    if zone == "Z":
        return timedelta(0)
    size = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
    return -size if zone[0] == "-" else size


def _word_offset(match: re.Match[str]) -> timedelta | None:
    """`EST`, `UTCm5`, `UTC+0330`...; None for a word that is not clear."""
    if word := match["word"]:
        return None if word in _AMBIGUOUS_ZONES else timedelta(hours=_HOURS_OF_ZONE[word])
    size = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
    if size > _LARGEST_OFFSET:
        return None
    return -size if match["sign"] in "m-" else size
