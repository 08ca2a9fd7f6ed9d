"""The model, where it really runs, and how many streams that carries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pam_daemon.analysis.model import Model, has_nvidia_device, shipped_model
from pam_daemon.card import GOLDEN_TOLERANCE
from pam_daemon.setup import Setup, set_up
from pam_daemon.tools.doctor.case import Case, Result, guarded

_SPEED_S = 2.0  # of scoring, after the first batch
_RESERVE = 0.5  # of the model's speed: for resampling, other programs, and a processor that is throttled in the sun


def check_model(case: Case) -> Iterator[Result]:
    """The golden self-test on the CPU, then the provider as configured, and its speed."""
    case.doing("testing the model")
    choice = case.config.model
    model = Model(Path(choice.path) if choice.path else shipped_model(), "cpu", choice.threads)
    card = model.card
    allowed = GOLDEN_TOLERANCE[card.precision]
    found = f"{card.name} ({card.precision}): golden scores within {model.golden_difference:.1e}, allowed {allowed:g}"
    yield Result("model", "ok", found)
    yield from guarded("provider", _provider(case))


def _provider(case: Case) -> Iterator[Result]:
    setup = set_up(case.config, "live", case.clock, threshold=case.threshold, hop_s=case.hop_s)
    yield _got(case.config.model.provider, setup.model)
    case.doing(f"measuring the model's speed on {setup.model.provider}")
    yield _speed(setup, max(1, sum(len(device.channels) for device in case.devices)))


def _got(asked: str, model: Model) -> Result:
    found = f"{model.provider}, asked for {asked}: golden scores within {model.golden_difference:.1e}"
    if model.provider == "cuda" and model.card.precision == "int8":
        remedy = "export a float16 model (`pamd train`), or set model.provider: cpu"
        return Result("provider", "warning", f"{found}; int8 is made for CPUs, and slow on CUDA", remedy)
    if asked == "auto" and model.provider == "cpu" and has_nvidia_device():
        remedy = 'install the CUDA libraries (`pip install "pamd[cuda]"`), or set model.provider: cpu'
        return Result(
            "provider", "warning", f"{found}; there is an NVIDIA device, and onnxruntime cannot use it", remedy
        )
    return Result("provider", "ok", found)


def _speed(setup: Setup, wanted: int) -> Result:
    batch, analysis = setup.config.model.batch, setup.analysis
    hop_s = analysis.hop_samples / analysis.model_rate_hz
    windows_per_s = _windows_per_s(setup.model, batch)
    most = windows_per_s * hop_s
    carried = int(most * (1 - _RESERVE))
    found = (
        f"carries {carried} streams at a {hop_s:g} s hop, {wanted} wanted: {windows_per_s:.0f} windows/s in batches "
        f"of {batch}, {100 * _RESERVE:.0f} % in reserve"
    )
    if carried >= wanted:
        return Result("speed", "ok", found)
    remedy = "a wider hop (model.hop_s), fewer channels, an int8 model, or a faster machine"
    return Result("speed", "failure" if most < wanted else "warning", found, remedy)


def _windows_per_s(model: Model, batch: int) -> float:
    noise = np.random.default_rng(0).normal(0, 0.01, (batch, model.card.window_samples)).astype(np.float32)
    model.scores(noise)
    scored, begin_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - begin_s) < _SPEED_S:
        model.scores(noise)
        scored += batch
    return scored / took_s
