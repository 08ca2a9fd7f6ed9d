"""Hydrophones on sound cards: PortAudio devices found by name, opened at their native rate, read without callbacks.

A blocking read with a large device buffer survives Python's pauses; a Python callback needs the interpreter in time.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pam_daemon.capture.sources import Audio, Missing, Outage
from pam_daemon.capture.sources.capture import Pace, StopEvent, capture
from pam_daemon.errors import DependencyError, SourceError

_OPEN_REASONS: dict[object, str] = {-9985: "busy", -9997: "wrong_rate"}  # paDeviceUnavailable, paInvalidSampleRate
_ALSA_HARDWARE = re.compile(r"hw:(\d+)(?:,(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A PortAudio device that can capture."""

    index: int
    """PortAudio's; holds only within this process."""
    name: str
    """What `--device` takes; where two devices share it, so does `full_name`."""
    host_api: str
    channels: int
    """The most that it gives."""
    sample_rate_hz: int
    """Native: what PortAudio calls its default."""

    @property
    def full_name(self) -> str:
        """With the host API, as PortAudio's users write it."""
        return f"{self.name}, {self.host_api}"


def list_devices() -> list[DeviceInfo]:
    """All devices that can capture, as PortAudio saw them when it was first used in this process.

    Raises:
        DependencyError: PortAudio or its Python binding is not installed.
    """
    sounddevice = _sounddevice()
    host_apis = [api["name"] for api in sounddevice.query_hostapis()]
    return [
        DeviceInfo(
            index=device["index"],
            name=device["name"],
            host_api=host_apis[device["hostapi"]],
            channels=device["max_input_channels"],
            sample_rate_hz=round(device["default_samplerate"]),
        )
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0
    ]


def find_device(name: str) -> DeviceInfo:
    """The device of that name: exact, else ALSA's `hw:N[,M]`, else a part that only one name has, whatever its case.

    Raises:
        Outage: There is none, or there are several.
        DependencyError: PortAudio or its Python binding is not installed.
    """
    return choose_device(name, list_devices())


def choose_device(name: str, devices: list[DeviceInfo]) -> DeviceInfo:
    """`find_device` among given devices.

    Raises:
        Outage: There is none, or there are several.
    """
    for matches in _matches(name, devices):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Outage("ambiguous", f"device {name!r} is ambiguous: {_listed(matches)}; give the whole name")
    raise Outage("absent", f"no device {name!r}; there is {_listed(devices)}; `pamd devices` lists them")


def _matches(name: str, devices: list[DeviceInfo]) -> Iterator[list[DeviceInfo]]:
    """What each way to name a device finds, the strictest first."""
    yield [device for device in devices if name in (device.name, device.full_name)]
    if hardware := _ALSA_HARDWARE.fullmatch(name):
        place = f"(hw:{hardware[1]},{hardware[2] or 0})"  # as in ALSA itself, hw:1 is hw:1,0
        yield [device for device in devices if place in device.name]
    else:
        yield [device for device in devices if name.casefold() in device.full_name.casefold()]


def _listed(devices: list[DeviceInfo]) -> str:
    return ", ".join(repr(device.full_name) for device in devices) or "no device that can capture"


class Device:
    """A Source that captures from a device, open from `with` on.

    `blocks` ends when `stop` is set, after all that the device has delivered. A sample is up to a quarter of `buffer_s`
    old when the device delivers it.
    """

    def __init__(
        self,
        info: DeviceInfo,
        stop: StopEvent,
        *,
        channels: int = 1,
        sample_rate_hz: int | None = None,
        buffer_s: float = 2.0,
        no_data_s: float = 5.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Without `sample_rate_hz`, at the native rate.

        Raises:
            SourceError: The device has fewer channels.
        """
        if not 1 <= channels <= info.channels:
            raise SourceError(f"device {info.name!r} has {info.channels} channels, not {channels}; ask for fewer")
        self.name = info.name
        self.channels = channels
        self.sample_rate_hz = sample_rate_hz or info.sample_rate_hz
        self._info, self._stop = info, stop
        self._buffer_s, self._no_data_s = buffer_s, no_data_s
        self._monotonic_ns = monotonic_ns
        self._stream: _Stream | None = None

    def __enter__(self) -> Self:
        """Open the device and start capturing.

        Raises:
            Outage: It cannot be opened: `busy` in use, `wrong_rate` not at this rate, or `failed`.
            DependencyError: PortAudio or its Python binding is not installed.
        """
        sounddevice = _sounddevice()
        try:
            stream = sounddevice.InputStream(
                device=self._info.index,
                samplerate=self.sample_rate_hz,
                channels=self.channels,
                dtype="float32",
                latency=self._buffer_s,
            )
            stream.start()
        except sounddevice.PortAudioError as error:
            raise Outage(
                _OPEN_REASONS.get(error.args[1] if len(error.args) > 1 else None, "failed"),
                f"device {self.name!r} cannot be opened with {self.channels} channels at {self.sample_rate_hz} Hz "
                f"({error}); close what else uses it, or ask for what `pamd devices` shows",
            ) from error
        self._stream = _Stream(stream, sounddevice.PortAudioError)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()
            self._stream = None

    def blocks(self) -> Iterator[Audio | Missing]:
        """What was captured, in blocks of at most 0.1 s, and what was lost, until `stop` is set.

        Raises:
            Outage: The device has `failed`, or is `hung`: gives no data for `no_data_s`.
        """
        if self._stream is None:
            raise ValueError("the device is open only inside its `with`")
        pace = Pace(self.sample_rate_hz, settle_s=max(2.0, self._buffer_s))  # a buffer is four bursts
        try:
            yield from capture(
                self._stream, self._stop, pace, no_data_s=self._no_data_s, monotonic_ns=self._monotonic_ns
            )
        except Outage as outage:
            raise Outage(outage.reason, f"device {self.name!r} {outage}") from outage


@dataclass(frozen=True, slots=True)
class _Stream:
    """PortAudio's stream with the house's errors."""

    stream: Any  # sounddevice publishes no types
    error: type[Exception]

    @property
    def read_available(self) -> int:
        try:
            return int(self.stream.read_available)
        except self.error as error:
            raise Outage("failed", f"has failed ({error}); check that it is connected") from error

    def read(self, frames: int) -> tuple[NDArray[np.float32], bool]:
        try:
            data, overflowed = self.stream.read(frames)
        except self.error as error:
            raise Outage("failed", f"has failed ({error}); check that it is connected") from error
        return data, overflowed

    def close(self) -> None:
        # What is left in the buffer is not wanted, and waiting for an unplugged device might never end.
        self.stream.abort(ignore_errors=True)
        self.stream.close(ignore_errors=True)


def _sounddevice() -> ModuleType:
    """The binding, imported when a device is wanted: importing it initialises PortAudio.

    Raises:
        DependencyError: It or the library is not installed.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise DependencyError("python-sounddevice is not installed; run `pip install sounddevice`") from error
    except OSError as error:
        raise DependencyError(
            f"sound devices need the PortAudio library ({error}); run `apt install libportaudio2` or its like"
        ) from error
    return sounddevice  # type: ignore[no-any-return]  # it publishes no types
