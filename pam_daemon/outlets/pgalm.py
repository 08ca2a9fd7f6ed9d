"""Alerts as PAMGuard's alarm sentence `$PGALM`, one a UDP datagram.

The sentence is that of PAMGuard's alarm module, as its source makes it for serial ports and UDP (PAMGuard 2.02,
src/alarm/actions/AlarmAction.java, createAlarmString; times by src/PamUtils/PamCalendar.java, levels by
src/alarm/AlarmParameters.java); its help does not describe it:

    $PGALM,<name>,<yyyyMMdd>,<HHmmss>,<level>,<score>,<n>[,<field>,<value>]...*<checksum><CR><LF>

`name` is the alarm's; the time is the last update's, UTC; the level 0 (off), 1 (amber) or 2 (red); the score, with one
decimal, what the alarm counts; `n` pairs follow, in PAMGuard's ordinary alarms and here none. The checksum is that of
NMEA 0183: the exclusive or of what stands between $ and *, as two hexadecimal digits.

UDP is fire and forget: a datagram that is lost on its way is lost, and nobody notices. What the network says in time,
that there is no such host or that nobody listens on it, is heeded, and the record is sent again.
"""

from __future__ import annotations

import re
import select
import socket
from functools import reduce
from operator import xor

from pam_daemon.config import Pgalm
from pam_daemon.outlets.bridge import Undelivered
from pam_daemon.records import Wire

_HEED_S = 0.1  # for the network to say that nobody is there


class PgalmOutlet:
    """Whoever listens at a UDP port."""

    def __init__(self, choice: Pgalm) -> None:
        self._address = (choice.host, choice.port)
        self._socket: socket.socket | None = None

    def reach(self) -> str:
        host, port = self._address
        try:
            _connected(self._address).close()
        except OSError as error:
            raise Undelivered(f"{host}:{port}: {error.strerror or error}") from error
        return f"{host}:{port}: there is a way to it; UDP tells no more"

    def send(self, wire: Wire) -> None:
        try:
            self._socket = self._socket or _connected(self._address)
            self._socket.send(sentence(wire).encode("ascii"))
            if select.select([self._socket], [], [], _HEED_S)[0]:
                self._socket.recv(1)  # raises what the network said
        except (OSError, ValueError) as error:
            self.close()
            host, port = self._address
            raise Undelivered(f"{host}:{port}: {getattr(error, 'strerror', None) or error}") from error

    def idle(self) -> None:
        """Nothing tells whether somebody listens."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def sentence(wire: Wire) -> str:
    """An alert's or a detection's; a single detection is amber, its score the detection's.

    The name is the station's and the alert's rule or the detection's label, without what separates fields, after the
    word DRILL where it is one: the sentence has no other place for it.
    """
    if wire["kind"] == "alert":
        what, when, score = wire["rule"], wire["last_utc"], wire["count"]
        level = {"detected": 2, "possible": 1}[wire["level"]] if wire["state"] in ("raised", "extended") else 0
    else:
        what, when, score, level = wire["label"], wire["peak_utc"], wire["score"], 1
    drill = "DRILL " if wire["mode"] == "drill" else ""
    name = re.sub(r"[^A-Za-z0-9_ .-]", "_", f"{drill}{wire['station']}-{what}")
    date, clock = _instant(when or wire["time_utc"])
    body = f"PGALM,{name},{date},{clock},{level},{score:.1f},0"
    return f"${body}*{reduce(xor, body.encode('ascii')):02X}\r\n"


def _instant(utc: str) -> tuple[str, str]:
    """yyyyMMdd and HHmmss of `2009-03-29T17:15:00.000000Z`."""
    date, _, time = utc[:19].partition("T")
    return date.replace("-", ""), time.replace(":", "")


def _connected(address: tuple[str, int]) -> socket.socket:
    """A socket that hears what the network says of the address."""
    family, kind, protocol, _, found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.connect(found)
    except OSError:
        made.close()
        raise
    return made
