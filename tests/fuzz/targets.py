"""What reads from outside, by kind of case: a context manager that takes a directory and gives the reader.

A reader raises a PamdError or nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import soundfile
import zmq
from fakes import event, toy_model
from fuzz.child import MEMORY_BYTES, Case
from fuzz.examples import sound_file
from house import House, bare_context, heartbeat

from export import settings as train_settings
from pam_daemon.analysis.model import Model
from pam_daemon.capture.sources.child import split
from pam_daemon.capture.sources.file import find_files, recordings
from pam_daemon.capture.sources.filenames import start_of
from pam_daemon.clock import SystemClock
from pam_daemon.config import Config
from pam_daemon.control import ask
from pam_daemon.daemon import replay
from pam_daemon.errors import PamdError
from pam_daemon.journal import Journal
from pam_daemon.records import Wire
from pam_daemon.settings import load_config
from pam_daemon.setup import set_up
from pam_daemon.station import Station
from pam_daemon.subscribe import Subscriber
from pam_daemon.tools import console
from pam_daemon.tools.site import set_values
from pam_daemon.tools.tables import read_raven, read_selections, write_raven

Reader = Callable[[Case], object]
Target = Callable[[Path], AbstractContextManager[Reader]]
_PATIENCE_MS = 10_000


@contextmanager
def audio(directory: Path) -> Iterator[Reader]:
    """Suffix and content of a sound file: replayed whole, with a real model."""
    model = toy_model(directory / "toy.onnx")
    setup = set_up(
        Config(model=msgspec.structs.replace(Config().model, path=str(model), threads=1)), "replay", SystemClock()
    )

    def read(case: Case) -> None:
        path = directory / f"case{case[0].decode()}"
        path.write_bytes(case[1])
        try:
            found = recordings([path], min_rate_hz=setup.model.card.sample_rate_hz)
            with Station(setup, None, None, lambda wire, new: None, 0.0) as station:
                replay(station, found, speed=None, on_tick=lambda _: None, on_recording=lambda _: None)
        finally:
            path.unlink()

    yield read


@contextmanager
def model(directory: Path) -> Iterator[Reader]:
    """A model file: loaded, tested and described."""
    path = directory / "case.onnx"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        list(console.card_lines(Model(path, "cpu", 1)))

    yield read


@contextmanager
def configuration(directory: Path) -> Iterator[Reader]:
    """A configuration file and settings; what is read has a value changed in it."""
    path = directory / "pamd.yaml"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        load_config(path, [setting.decode(errors="surrogateescape") for setting in case[1:]])
        set_values(path, "model", {"threshold": 0.5, "sha256": "0" * 64})
        assert load_config(path).model.threshold == 0.5

    yield read


@contextmanager
def training(directory: Path) -> Iterator[Reader]:
    """A training configuration and settings."""
    path = directory / "train.yaml"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        train_settings.load(path, [setting.decode(errors="surrogateescape") for setting in case[1:]])

    yield read


@contextmanager
def names(directory: Path) -> Iterator[Reader]:
    """A file's name, as it is and as a pattern; where the file system takes it, that of a sound file, too."""
    os.chdir(directory)
    sound = sound_file("WAV", "PCM_16", seconds=0.1)

    def read(case: Case) -> None:
        name = os.fsdecode(case[0])
        start_of(name)
        with suppress(PamdError):
            find_files([name])
        path = directory / name.replace("/", "_")
        try:
            path.write_bytes(sound)
        except (OSError, ValueError):  # no name for a file
            return
        try:
            for recording in recordings(find_files([str(path)]), min_rate_hz=2000):
                console.say_start(recording)
        finally:
            path.unlink()

    yield read


@contextmanager
def tables(directory: Path) -> Iterator[Reader]:
    """A selection table: read, and what was read is written and read again as the same."""
    path, again = directory / "table.txt", directory / "again.txt"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        selections = read_selections(path)
        write_raven(again, selections)
        assert len(read_raven(again)) == len(selections)

    yield read


@contextmanager
def clips(directory: Path) -> Iterator[Reader]:
    """The table of labelled clips, as training and as an evaluation read it."""
    from export.table import read_table
    from pam_daemon.tools.evaluate.clips import find_clips

    path = directory / "train.csv"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        with suppress(PamdError):
            find_clips(directory, "select", ("upcall",))
        with suppress(PamdError):
            find_clips(directory, None, ("upcall",))
        read_table(path, ["clip_name", "label"])

    yield read


@contextmanager
def marks(directory: Path) -> Iterator[Reader]:
    """The selection table of a recording that is trained on."""
    from export.config import TrainConfig
    from export.sources import recognise

    soundfile.write(directory / "night.wav", np.zeros(60_000), 2000)

    def read(case: Case) -> None:
        (directory / "night.selections.txt").write_bytes(case[0])
        recognise(directory, TrainConfig())

    yield read


@contextmanager
def clip(directory: Path) -> Iterator[Reader]:
    """Suffix and content of a labelled clip."""
    from export.sound import read_clip

    def read(case: Case) -> None:
        path = directory / f"clip{case[0].decode()}"
        path.write_bytes(case[1])
        try:
            read_clip(path, 2000)
        finally:
            path.unlink()

    yield read


@contextmanager
def journal(directory: Path) -> Iterator[Reader]:
    """A journal's file: opened, read through and written to."""
    path = directory / "case.journal"

    def read(case: Case) -> None:
        path.write_bytes(case[0])
        try:
            with closing(Journal(path)) as opened:
                opened.since(0, kinds=["event"], streams=["ch1"])
                opened.append([event(1), event(99)])
                opened.places(), opened.ends(), list(opened.latest("event")), opened.since(0)
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)

    yield read


@contextmanager
def messages(directory: Path) -> Iterator[Reader]:
    """What comes through the pipe from a device's process."""

    def read(case: Case) -> None:
        buffer = bytearray()
        for part in case:
            buffer += part
            split(buffer)

    yield read


@contextmanager
def control(directory: Path) -> Iterator[Reader]:
    """What another program answers on a daemon's private socket."""
    path = directory / "case.sock"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as server:
        server.bind(str(path))
        server.listen()

        def answer(content: bytes) -> None:
            with closing(server.accept()[0]) as connection, suppress(OSError):
                connection.sendall(content)

        def read(case: Case) -> None:
            thread = threading.Thread(target=answer, args=(case[0],))
            thread.start()
            try:
                list(console.state_lines(ask(path)))
            finally:
                thread.join()

        yield read


@contextmanager
def requests(directory: Path) -> Iterator[Reader]:
    """Which socket, raw or not, and what strangers send there: the publisher answers a good request afterwards."""
    with ExitStack() as exits:
        house = House(directory / "journal", exits)
        house.journal.append([event(number) for number in range(20)])
        context = exits.enter_context(bare_context())
        ports = {
            b"records": int(house.publisher.endpoint.rpartition(":")[2]),
            b"recovery": house.publisher.recovery_port,
        }
        kinds = {b"records": zmq.XSUB, b"recovery": zmq.DEALER}
        strangers = {name: exits.enter_context(_connected(context, kinds[name], port)) for name, port in ports.items()}
        good = exits.enter_context(_connected(context, zmq.DEALER, house.publisher.recovery_port))

        def read(case: Case) -> None:
            name, *frames = case
            if name in ports:
                strangers[name].send_multipart(frames)
                while strangers[name].poll(0):
                    strangers[name].recv_multipart()
            else:
                port = ports[name.removeprefix(b"raw ")]
                with socket.create_connection(("127.0.0.1", port)) as connection, suppress(OSError):
                    connection.sendall(b"".join(frames))
            good.send(b'{"op": "since", "limit": 1}')
            assert good.poll(_PATIENCE_MS), f"a good request is not answered any more: {house.failures}"
            assert len(msgspec.json.decode(good.recv())["records"]) == 1

        yield read


@contextmanager
def publications(directory: Path) -> Iterator[Reader]:
    """What a publisher sends (first the answers of its recovery socket, after a count of them): a good record after
    it is heard."""
    with ExitStack() as exits:
        context = exits.enter_context(bare_context())
        records = exits.enter_context(context.socket(zmq.PUB))
        recovery = exits.enter_context(context.socket(zmq.ROUTER))
        port = _bind_pair(records, recovery)
        replies: list[bytes] = []
        stop = threading.Event()
        answering = threading.Thread(target=_answer, args=(recovery, replies, stop), daemon=True)
        answering.start()
        subscriber = exits.enter_context(Subscriber(f"tcp://127.0.0.1:{port}"))
        good: Wire = msgspec.json.decode(msgspec.json.encode(heartbeat("log", port + 1, None).wire()))
        _await_connection(records, subscriber, good)
        number = 0

        def read(case: Case) -> None:
            nonlocal number
            number += 1
            count = case[0][0]
            replies[:] = case[1 : 1 + count]
            records.send_multipart(case[1 + count :] or [b""])
            last = good | {"version": f"good {number}"}
            records.send_multipart([b"status/pamd/_", msgspec.json.encode(last)])
            for wire in subscriber.records(timeout_s=_PATIENCE_MS / 1000):
                if wire == last:
                    return
                console.readable(wire)
            raise AssertionError("a good record is not heard any more")

        yield read
        stop.set()
        answering.join()


@contextmanager
def traps(directory: Path) -> Iterator[Reader]:
    """What the harness is for: each case does the harm that it names."""
    harm: dict[bytes, Callable[[], object]] = {
        b"nothing": lambda: None,
        b"refuse": partial(_refuse, "no whale; listen again"),
        b"refuse without a word": partial(_refuse, ""),
        b"raise": lambda: {}["whale"],
        b"crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        b"exit": lambda: os._exit(0),
        b"eat memory": lambda: bytearray(2 * MEMORY_BYTES),
        b"hang": lambda: time.sleep(600),
    }
    yield lambda case: harm[case[0]]()


def _refuse(text: str) -> None:
    raise PamdError(text)


def _bind_pair(records: zmq.Socket[bytes], recovery: zmq.Socket[bytes]) -> int:
    while True:
        port = records.bind_to_random_port("tcp://127.0.0.1")
        try:
            recovery.bind(f"tcp://127.0.0.1:{port + 1}")
            return port
        except zmq.ZMQError:
            records.unbind(f"tcp://127.0.0.1:{port}")


def _answer(recovery: zmq.Socket[bytes], replies: list[bytes], stop: threading.Event) -> None:
    """The same answers over and over, at once: `replies` is changed between cases."""
    number = 0
    while not stop.is_set():
        if recovery.poll(50):
            route, *_ = recovery.recv_multipart()
            recovery.send_multipart([route, replies[number % len(replies)] if replies else b"{}"])
            number += 1


def _await_connection(records: zmq.Socket[bytes], subscriber: Subscriber, good: Wire) -> None:
    while not any(True for _ in subscriber.records(timeout_s=0.05)):
        records.send_multipart([b"status/pamd/_", msgspec.json.encode(good)])


def _connected(context: zmq.Context[zmq.Socket[bytes]], kind: int, port: int) -> zmq.Socket[bytes]:
    stranger = context.socket(kind)
    stranger.linger = 0
    stranger.connect(f"tcp://127.0.0.1:{port}")
    return stranger


TARGETS: dict[str, Target] = {
    "audio": audio,
    "model": model,
    "configuration": configuration,
    "requests": requests,
    "names": names,
    "tables": tables,
    "publications": publications,
    "control": control,
    "messages": messages,
    "journal": journal,
    "training": training,
    "clips": clips,
    "clip": clip,
    "marks": marks,
    "traps": traps,
}
