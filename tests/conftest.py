"""What several tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pam_daemon  # noqa: F401 # isort: skip - before onnxruntime, which it tells to report nothing
from fakes import toy_model
from fuzz.child import COUNTS
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# A machine that is busy otherwise is no fault of the code.
settings.register_profile("pamd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pamd")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs inherit that, and pass it on
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def exits() -> Iterator[ExitStack]:
    """What is entered here is left when the test ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real audio: PAMD_TEST_DATA, by default ../shared/data beside the repository. Fails where it is missing."""
    path = Path(os.environ.get("PAMD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    assert path.is_dir(), f"no real audio at {path}: set PAMD_TEST_DATA"
    return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that scores loudness: see `fakes.toy_model`."""
    return toy_model(tmp_path_factory.mktemp("model") / "toy.onnx")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many cases of each kind the fuzzing tried."""
    if COUNTS:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in COUNTS.items())
        terminalreporter.line(f"fuzzed: {counts}; {sum(COUNTS.values()):,} in all")
