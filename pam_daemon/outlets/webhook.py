"""Records by HTTP POST: the record as JSON, its id as the idempotency key."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from importlib.metadata import version
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import msgspec

from pam_daemon.config import Webhook
from pam_daemon.errors import BridgeError, ConfigError
from pam_daemon.outlets.bridge import Refused, Undelivered
from pam_daemon.outlets.secret import read_secret, tls_context
from pam_daemon.records import Wire

# What speaks of the record: a malformed request, one that is too large, one of a kind or content that it does not take.
# Any other status speaks of the server or of this configuration (a token, an address), and holds for every record.
_OF_THE_RECORD = {400, 413, 415, 422}
_EXCERPT = 200


class _NoRedirect(HTTPRedirectHandler):
    """urllib would follow with a GET, without the record."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class WebhookOutlet:
    """A web server; 2xx takes the record.

    Raises:
        ConfigError: a token or certificates that cannot be used.
    """

    def __init__(self, choice: Webhook) -> None:
        self._choice = choice
        self._host = urlsplit(choice.url).netloc  # the rest of an address may be a secret
        self._headers()
        self._trust = tls_context(choice.ca_file, f"bridge {choice.name}")
        self._opener = build_opener(_NoRedirect, HTTPSHandler(context=self._trust))

    def send(self, wire: Wire) -> None:
        try:
            headers = self._headers() | {"Idempotency-Key": wire["id"]}
            request = Request(self._choice.url, msgspec.json.encode(wire), headers, method="POST")
            with self._opener.open(request, timeout=self._choice.timeout_s) as answer:
                answer.read(_EXCERPT)
        except HTTPError as error:
            with error:
                raise _failure(self._host, error) from error
        except (OSError, HTTPException, ValueError, ConfigError) as error:
            raise Undelivered(f"{self._host}: {getattr(error, 'reason', error)}") from error

    def idle(self) -> None:
        """Nothing stands open."""

    def reach(self) -> str:
        parts, timeout_s = urlsplit(self._choice.url), self._choice.timeout_s
        if parts.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(parts.netloc, timeout=timeout_s, context=self._trust)
        else:
            connection = HTTPConnection(parts.netloc, timeout=timeout_s)
        try:
            with closing(connection):
                connection.connect()
        except (OSError, HTTPException) as error:
            raise Undelivered(f"{self._host}: {error}") from error
        return f"{self._host}: is there; whether it takes records, the first one tells"

    def close(self) -> None:
        """Likewise."""

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"pamd/{version('pamd')}"}
        if self._choice.token_file is not None:
            token = read_secret(self._choice.token_file, f"bridge {self._choice.name}: token_file")
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _failure(host: str, error: HTTPError) -> BridgeError:
    try:
        text = " ".join(error.read(_EXCERPT).decode(errors="replace").split())
    except (OSError, HTTPException):
        text = ""
    message = f"{host}: HTTP {error.code} {error.reason}" + (f": {text}" if text else "")
    return Refused(message) if error.code in _OF_THE_RECORD else Undelivered(message)
