"""CurveZMQ on sockets: a server that turns strangers away and proves it, and a client that learns why it gets nothing.

libzmq asks a ZAP handler (ZeroMQ RFC 27) whether a key is let in, and admits everybody where it asks nobody.
"""

from __future__ import annotations

import time
from typing import Literal

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from pam_daemon.errors import EndpointError
from pam_daemon.wire.keys import KeyPair, StationKeys
from pam_daemon.wire.sockets import end, open_context

_DOMAIN = b"pamd"
_PROOF_TIMEOUT_S = 10.0
_FAILURES = 5  # handshakes in a row, before the first that succeeds, after which it is no accident

_OUTCOMES: dict[int, Literal["let in", "turned away", "not understood", "failed"]] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "let in",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "turned away",  # libzmq tries no more
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "not understood",  # nor here
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "failed",  # it does
}


class Door:
    """The ZAP handler of a context's sockets: asked through `socket`, on the thread that serves them."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: StationKeys) -> None:
        self.keys = keys
        self.socket = context.socket(zmq.REP)
        self.socket.bind("inproc://zeromq.zap.01")

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket ask here for every connection, before it is bound."""
        socket.curve_server = True
        socket.curve_publickey = self.keys.own.public.encode()
        socket.curve_secretkey = self.keys.own.secret.encode()
        # Without a domain that is enforced, libzmq may ask nobody.
        socket.zap_domain = _DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def answer(self, keys: StationKeys | None = None) -> None:
        """One question, by these keys or by the door's own."""
        version, request, domain, _address, _identity, mechanism, *credentials = self.socket.recv_multipart()
        known = (version, domain, mechanism) == (b"1.0", _DOMAIN, b"CURVE") and (
            z85.encode(credentials[0]).decode() in (keys or self.keys).subscribers.values()
        )
        verdict = (b"200", b"OK") if known else (b"400", b"unknown key")
        self.socket.send_multipart([b"1.0", request, *verdict, b"", b""])

    def prove(self, endpoint: str, kind: int) -> None:
        """A stranger's key is turned away from a socket that is bound, by a client of this kind.

        Raises:
            EndpointError: it is let in, or nothing is decided in time.
        """
        context = open_context(linger_ms=0)
        stranger = context.socket(kind)
        try:
            public, secret = (half.decode() for half in zmq.curve_keypair())
            present(stranger, KeyPair(public, secret), self.keys.own.public)
            monitor = watch(stranger)
            stranger.connect(endpoint.replace("//0.0.0.0:", "//127.0.0.1:"))
            outcome = self._answer_until_decided(monitor)
        finally:
            unwatch(stranger)
            end(context)
        if outcome != "turned away":
            raise EndpointError(f"{endpoint}: a stranger's key was not turned away but {outcome}: refusing to serve")

    def _answer_until_decided(self, monitor: zmq.Socket[bytes]) -> str:
        poller = zmq.Poller()
        for waker in (self.socket, monitor):
            poller.register(waker, zmq.POLLIN)
        outcome, end_s = "not answered", time.monotonic() + _PROOF_TIMEOUT_S
        while outcome not in ("turned away", "let in") and (left_s := end_s - time.monotonic()) > 0:
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            if self.socket in ready:
                self.answer()
            if monitor in ready:
                outcome = next_outcome(monitor)
        return outcome


class Handshakes:
    """How a client fares at a station's door; to be made before its socket connects, for whom `key` says it is."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str, key: KeyPair | None) -> None:
        self.monitor = watch(socket)
        self._socket = socket
        self._endpoint = endpoint
        self._key = key
        self._failures: int | None = 0  # in a row; None once it has been let in

    def judge(self) -> None:
        """The next handshake.

        Raises:
            EndpointError: it will never be let in, and why.
        """
        outcome = next_outcome(self.monitor)
        if outcome == "turned away":
            key = "" if self._key is None else f" '{self._key.public}'"
            raise EndpointError(
                f"{self._endpoint}: turned away: the station does not know the key{key}; `pamd keys allow` it there"
            )
        if outcome == "let in":
            self._failures = None
        elif self._failures is not None:
            self._failures += 1
        if outcome == "not understood" or (self._failures or 0) >= _FAILURES:
            remedy = (
                "does the station use keys? Then give --key and --server-key"
                if self._key is None
                else "is --server-key that of the station, and does it use keys?"
            )
            raise EndpointError(f"{self._endpoint}: the handshake fails; {remedy}")

    def close(self) -> None:
        """Judge no more, before the sockets are closed."""
        unwatch(self._socket)


def present(socket: zmq.Socket[bytes], key: KeyPair, server_key: str) -> None:
    """Make a client's socket say who it is, and whom it expects, before it connects."""
    socket.curve_publickey = key.public.encode()
    socket.curve_secretkey = key.secret.encode()
    socket.curve_serverkey = server_key.encode()


def watch(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A socket that tells how another one's handshakes end, until `unwatch`."""
    return socket.get_monitor_socket(sum(_OUTCOMES))


def unwatch(socket: zmq.Socket[bytes]) -> None:
    """To be done before either is closed: libzmq waits for ever to tell one that is gone (zeromq/libzmq#3575)."""
    if not socket.closed:
        socket.disable_monitor()


def next_outcome(monitor: zmq.Socket[bytes]) -> Literal["let in", "turned away", "not understood", "failed"]:
    """How the next handshake ended."""
    return _OUTCOMES[recv_monitor_message(monitor)["event"]]
