"""Nothing that comes from outside crashes pamd, hangs it or fills the memory: it is read, or refused in one line."""

import re
from pathlib import Path

import pytest
from fuzz import child
from fuzz.cases import cases
from fuzz.child import COUNTS, Case, Child
from hypothesis import HealthCheck, given, settings

SHORT = 100
# At least 5,000 of each kind, 100,000 in all.
LONG = {
    "audio": 20_000,
    "model": 12_000,
    "configuration": 6_000,
    "requests": 10_000,
    "names": 10_000,
    "tables": 8_000,
    "publications": 6_000,
    "control": 5_000,
    "messages": 5_000,
    "journal": 5_000,
    "training": 5_000,
    "clips": 5_000,
    "clip": 5_000,
    "marks": 5_000,
}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (b"refuse without a word", "not one line"),
        (b"raise", "KeyError: 'whale'"),
        (b"crash", "ends the process with -11"),
        (b"exit", "ends the process with 0"),
        (b"eat memory", "MemoryError"),
        (b"hang", "hangs: no answer in 1 s"),
    ],
)
def test_harm_is_found_and_its_case_kept(
    harm: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next case finds a child that is well."""
    monkeypatch.setattr(child, "FOUND", tmp_path / "found")
    with child.Child("traps", wall_s=1.0) as attempts:
        assert attempts.attempt([b"refuse"]) == "refused"
        with pytest.raises(AssertionError, match=re.escape(said)):
            attempts.attempt([harm])
        assert harm in (tmp_path / "found" / "traps").read_bytes()
        assert attempts.attempt([b"nothing"]) == "read"


@pytest.mark.parametrize("kind", LONG)
def test_what_comes_from_outside_is_read_or_refused_in_one_line(kind: str) -> None:
    attempt_many(kind, SHORT, always_the_same=True)


@pytest.mark.long
@pytest.mark.parametrize("kind", LONG)
def test_a_hundred_thousand_times(kind: str) -> None:
    """Other cases each time; the closing lines count them."""
    assert sum(LONG.values()) >= 100_000
    assert LONG[kind] >= 5_000
    attempt_many(kind, LONG[kind], always_the_same=False)


def attempt_many(kind: str, count: int, *, always_the_same: bool) -> None:
    with Child(kind) as reader:

        @settings(
            max_examples=count,
            derandomize=always_the_same,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(kind))
        def attempt(case: Case) -> None:
            reader.attempt(case)

        attempt()
        COUNTS[kind] = COUNTS.get(kind, 0) + reader.cases
        assert reader.cases >= count
