"""The devices as the daemon opens them, and some seconds of what they hear."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import numpy as np

from pam_daemon.capture.hearing import TEXTS, Look
from pam_daemon.capture.ring import FloatArray
from pam_daemon.capture.sources import Missing, Outage
from pam_daemon.capture.sources.device import DeviceInfo, choose_device
from pam_daemon.capture.sources.hydrophone import NO_MESSAGE_S, Hydrophone
from pam_daemon.clock import NS_PER_S
from pam_daemon.config import Device
from pam_daemon.control import ask, socket_path
from pam_daemon.errors import DependencyError, EndpointError, PamdError, SourceError
from pam_daemon.tools.doctor.case import Case, Result, guarded, refusal
from pam_daemon.tools.doctor.sounding import mains_hum, true_rate

_PORTAUDIO_S = 20.0  # to list its devices
_HELD = "`pamd status` says what it hears; stop it to examine the device itself"
_DRIFT_PPM = 500.0  # far more than any sound card's


def check_sound(case: Case) -> Iterator[Result]:
    """PortAudio, then each device: whether it opens, its level, hum and rate."""
    case.doing("asking PortAudio for its devices")
    listed: list[DeviceInfo] = []
    held = _heard_by_daemon(case.config.station.name)
    try:
        listed = _list_devices()
        yield _portaudio(listed, held)
    except PamdError as error:
        yield refusal("PortAudio", error)
    if not case.devices:
        remedy = "give --device, or devices in the configuration; `pamd devices` lists them"
        yield Result("device", "failure", "none is named", remedy)
    for choice in case.devices:
        yield from guarded("device", _device(case, choice, listed, held))


def _list_devices() -> list[DeviceInfo]:
    """In a process of its own, which can be killed where PortAudio hangs."""
    command = [sys.executable, "-m", "pam_daemon", "devices", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PORTAUDIO_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"hangs for {_PORTAUDIO_S:g} s; unplug the devices and plug them in again") from error
    if done.returncode:
        told = done.stderr.strip().rpartition("pamd: ")[2]
        raise DependencyError(told or f"its process ended with {done.returncode}; install libportaudio2 again")
    return [msgspec.json.decode(line, type=DeviceInfo) for line in done.stdout.splitlines()]


def _portaudio(listed: Sequence[DeviceInfo], held: set[str]) -> Result:
    if listed:
        return Result("PortAudio", "ok", f"{len(listed)} devices that can capture")
    if held:  # PortAudio lists no device that another process has
        return Result("PortAudio", "warning", "no device that is free", _HELD)
    remedy = "plug it in (`arecord -l` shows what the kernel sees); let the user be of the group audio"
    return Result("PortAudio", "failure", "no device that can capture", remedy)


def _device(case: Case, choice: Device, listed: list[DeviceInfo], held: set[str]) -> Iterator[Result]:
    keep_s = case.seconds + NO_MESSAGE_S
    rate_hz = choice.sample_rate_hz or 0
    stop = threading.Event()
    with Hydrophone(choice.device, stop, case.clock, max(choice.channels), keep_s, rate_hz) as hydrophone:
        case.doing(f"listening to {choice.device} for {case.seconds:g} s")
        try:
            info = choose_device(choice.device, listed)
            hydrophone.open()
        except Outage:
            if choice.device not in held:
                raise
            yield Result("device", "warning", f"{choice.device}: the running pamd of this station listens to it", _HELD)
            return
        found = f"{info.full_name}: {info.channels} channels, native rate {info.sample_rate_hz} Hz"
        asked = f", opened at {rate_hz} Hz" if rate_hz else ""
        yield Result("device", "ok", f"{found}{asked}")
        capture = _capture(hydrophone, case)
    for channel in choice.channels:
        samples, name = capture.samples[channel - 1], f"{info.name} ch{channel}"
        yield judge_level(name, samples, case.config.capture.floor_dbfs)
        if samples.any():
            yield _hum(name, samples, capture.sample_rate_hz)
    yield _rate(info.name, capture)


@dataclass(frozen=True, slots=True)
class Capture:
    """What a device gave."""

    samples: FloatArray  # (channels, samples)
    sample_rate_hz: int
    lost: int  # samples, by the reckoning of capture/sources/capture.py
    arrivals: list[tuple[float, int]]  # monotonic seconds, and the samples that had come by then, lost ones included


def _capture(hydrophone: Hydrophone, case: Case) -> Capture:
    blocks: list[FloatArray] = []
    arrivals: list[tuple[float, int]] = []
    came, lost = 0, 0
    begin_s = case.clock.monotonic_ns() / NS_PER_S
    for piece in hydrophone.listen():
        now_s = case.clock.monotonic_ns() / NS_PER_S
        if isinstance(piece, Missing):
            lost += piece.samples
        else:
            blocks.append(piece.samples)
            came += piece.samples.shape[1]
            arrivals.append((now_s, came + lost))
        late = now_s - begin_s > case.seconds + NO_MESSAGE_S  # one far below its rate does not hold us up
        if late or came + lost >= case.seconds * hydrophone.sample_rate_hz:
            break
    if not blocks:
        raise SourceError(f"{hydrophone.name}: gave no sound; check that it is connected and not in use")
    return Capture(np.concatenate(blocks, axis=1), hydrophone.sample_rate_hz, lost, arrivals)


def _heard_by_daemon(station: str) -> set[str]:
    with suppress(EndpointError):
        return {stream["source"] for stream in ask(socket_path(station))["status"]["streams"].values()}
    return set()


def judge_level(name: str, samples: FloatArray, floor_dbfs: float) -> Result:
    """Of one channel's samples (n,), by the daemon's own measure (capture/hearing.py) of all of them at once."""
    if not np.isfinite(samples).all():
        return Result(
            "level", "failure", f"{name}: samples that are no numbers", "use another driver, or another device"
        )
    look = Look()
    look.feed(samples)
    state = look.judge(floor_dbfs)
    if state == "silent":
        level = "every sample is 0"
    elif state == "dc":
        level = f"{samples.mean():+.3g} of full scale"
    else:
        clipped = f"{100 * look.clipped / look.count:.3g} % clipped" if look.clipped else "nothing clipped"
        peak_dbfs = 20 * np.log10(np.abs(samples).max())
        level = f"{look.level_dbfs:.1f} dBFS, peak {peak_dbfs:.1f} dBFS, {clipped}"
    if state is not None:
        what, _, remedy = TEXTS[state].partition(": ")
        return Result("level", "failure", f"{name}: {level}: {what}", remedy)
    if look.clipped:
        return Result("level", "warning", f"{name}: {level}", "lower the gain, unless somebody knocked at it")
    return Result("level", "ok", f"{name}: {level}")


def _hum(name: str, samples: FloatArray, sample_rate_hz: int) -> Result:
    hum = mains_hum(samples, sample_rate_hz)
    if hum is None:
        return Result("hum", "ok", f"{name}: none of the mains at 50 or 60 Hz")
    lines = ", ".join(f"{line_hz} Hz +{excess_db:.0f} dB" for line_hz, excess_db in hum.lines_db.items())
    remedy = "look for a ground loop: earth it at one place only, try a battery, keep mains cables away"
    return Result("hum", "warning", f"{name}: {hum.mains_hz} Hz mains stand out of their surroundings: {lines}", remedy)


def _rate(name: str, capture: Capture) -> Result:
    rate_hz = capture.sample_rate_hz
    if capture.lost:
        found = f"{name}: {capture.lost / rate_hz:.2f} s of the sound were lost"
        return Result("rate", "warning", found, "end what else is busy; a USB port of its own, without a hub")
    rate = true_rate(capture.arrivals, rate_hz)
    if rate is None:
        return Result("rate", "ok", f"{name}: too little sound to hold it against the clock")
    found = f"{name}: {rate.ppm:+.0f} ± {rate.uncertainty_ppm:.0f} ppm from {rate_hz} Hz, by the monotonic clock"
    if abs(rate.ppm) - rate.uncertainty_ppm <= _DRIFT_PPM:
        return Result("rate", "ok", found)
    return Result("rate", "warning", found, "give the rate that it has (sample_rate_hz), or use another device")
