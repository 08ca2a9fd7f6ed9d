"""Ports for a publisher that another process is told of before it binds."""

from __future__ import annotations

import socket


def free_endpoint() -> str:
    """On this machine: the port is free, and the next one, for recovery, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return f"tcp://127.0.0.1:{port}"
