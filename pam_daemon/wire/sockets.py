"""ZeroMQ contexts that end in bounded time, whatever libzmq still waits for; endpoints that are free."""

from __future__ import annotations

import socket
import threading

import zmq

from pam_daemon.errors import EndpointError

_END_S = 5.0  # beyond the linger


def open_context(linger_ms: int) -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose sockets have this linger from their begin, as their connections take it on then."""
    context = zmq.Context()
    context.setsockopt(zmq.LINGER, linger_ms)
    return context


def end(context: zmq.Context[zmq.Socket[bytes]]) -> bool:
    """Close a context's sockets, on the thread that used them, and let go of it.

    Rarely libzmq never lets go, even with no linger (zeromq/libzmq#2586): then the context is left to the end of the
    process, which nobody may be kept from. Returns: whether it has ended.
    """
    ending = threading.Thread(target=context.destroy, name="sockets' end", daemon=True)
    ending.start()
    ending.join(int(context.getsockopt(zmq.LINGER)) / 1000 + _END_S)
    return not ending.is_alive()


def free_endpoint() -> str:
    """On this machine: a port that is free now, and the next one, for recovery, too.

    Raises:
        EndpointError: there is hardly any.
    """
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return f"tcp://127.0.0.1:{port}"
    raise EndpointError("no two neighbouring ports are free on 127.0.0.1; close some connections")
