"""Real servers on loopback ports that can be down for a while: an MQTT broker, a web server, a UDP socket."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from pam_daemon.config import BridgeChoice, Filter, Mqtt, Pgalm, Webhook
from pam_daemon.outlets.pgalm import sentence
from pam_daemon.records import Wire

PATIENCE_S = 60.0
DETECTIONS = Filter(kinds=("detection",))


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def await_true(what: Callable[[], Any]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.02)


class Side(Protocol):
    """Where a bridge leads: down until it is started."""

    @property
    def choice(self) -> BridgeChoice: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def key(self, wire: Wire) -> str:
        """How the side tells a record from others."""

    def taken(self) -> Sequence[str]:
        """The keys of what has come, in order, whenever it was up."""


@dataclass
class Broker:
    """mosquitto, and a client that watches it with a session of its own, which survives the broker's restarts."""

    directory: Path
    settings: str = "allow_anonymous true"
    port: int = field(default_factory=free_port)
    options: dict[str, Any] = field(default_factory=lambda: {"tls": False})
    seen: list[tuple[str, bytes, bool]] = field(default_factory=list)  # topic, payload, retained
    _process: subprocess.Popen[bytes] | None = None
    _watch: Client | None = None

    @property
    def choice(self) -> Mqtt:
        return Mqtt("broker", "localhost", self.port, filter=DETECTIONS, **self.options)

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        settings = self.directory / "mosquitto.conf"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\npersistence true\npersistence_location {self.directory}/\n"
            f"user root\n{self.settings}\n"
        )
        with (self.directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=log)
        await_true(self._answers)
        if self._watch is None and "allow_anonymous true" in self.settings:
            self._watch = self._watcher()

    def stop(self) -> None:
        """The broker keeps its sessions."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def reload(self) -> None:
        """Read again who may do what."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.disconnect()
            self._watch.loop_stop()
        self.stop()

    def key(self, wire: Wire) -> str:
        return str(wire["id"])

    def taken(self) -> list[str]:
        return [json.loads(payload)["id"] for topic, payload, _ in list(self.seen) if "/detection/" in topic]

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (
            self.directory / "mosquitto.log"
        ).read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _watcher(self) -> Client:
        subscribed = threading.Event()
        watch = Client(CallbackAPIVersion.VERSION2, "watch", clean_session=False)
        watch.reconnect_delay_set(1, 1)
        watch.on_message = self._see
        watch.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        watch.on_subscribe = lambda *_: subscribed.set()
        watch.connect("127.0.0.1", self.port)
        watch.loop_start()
        assert subscribed.wait(PATIENCE_S)
        return watch

    def _see(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.seen.append((message.topic, message.payload, message.retain))


@dataclass(frozen=True)
class Post:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return str(json.loads(self.body)["id"])


@dataclass
class Web:
    """A web server; `answer` says with which status, after as long as it likes."""

    answer: Callable[[Post], int] = lambda _: 204
    trust: ssl.SSLContext | None = None
    port: int = field(default_factory=free_port)
    options: dict[str, Any] = field(default_factory=dict)
    posts: list[tuple[Post, int]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def choice(self) -> Webhook:
        scheme = "http" if self.trust is None else "https"
        return Webhook("web", f"{scheme}://localhost:{self.port}/whales?a=1", filter=DETECTIONS, **self.options)

    def start(self) -> None:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                post = Post(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
                status = web.answer(post)
                web.posts.append((post, status))
                self.send_response(status)
                if status // 100 == 3:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0" if status == 204 else "9")
                self.end_headers()
                self.wfile.write(b"" if status == 204 else b"not\nthat!")

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.trust is not None:
            self._server.socket = self.trust.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.stop()

    def key(self, wire: Wire) -> str:
        return str(wire["id"])

    def taken(self) -> list[str]:
        return [post.id for post, status in list(self.posts) if status == 204]


@dataclass
class Udp:
    """A socket that keeps what it hears."""

    port: int = field(default_factory=lambda: free_port(socket.SOCK_DGRAM))
    heard: list[str] = field(default_factory=list)
    _socket: socket.socket | None = None
    _thread: threading.Thread | None = None

    @property
    def choice(self) -> Pgalm:
        return Pgalm("udp", "127.0.0.1", self.port, filter=DETECTIONS)

    def start(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._listen, args=(self._socket,))
        self._thread.start()

    def stop(self) -> None:
        if self._socket is not None and self._thread is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", self.port))
            self._thread.join()
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        self.stop()

    def key(self, wire: Wire) -> str:
        return sentence(wire)

    def taken(self) -> list[str]:
        return list(self.heard)

    def _listen(self, bound: socket.socket) -> None:
        while datagram := bound.recv(1000):
            self.heard.append(datagram.decode())


@contextmanager
def every_side(directory: Path) -> Iterator[dict[str, Broker | Web | Udp]]:
    """One of each kind, down, and closed at the end."""
    sides: dict[str, Broker | Web | Udp] = {"mqtt": Broker(directory), "webhook": Web(), "pgalm": Udp()}
    try:
        yield sides
    finally:
        for side in sides.values():
            side.close()
