"""Bridges as they are configured: one line about what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridges import (
    Sea,
    sea_fixture,  # noqa: F401 - pytest finds fixtures by their import
)

from pam_daemon.config import Webhook
from pam_daemon.errors import ConfigError
from pam_daemon.settings import load_config


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [
        ("secret", 0o644, "mode 644 lets everybody at it; chmod o="),
        ("secret", 0o601, "mode 601"),
        ("", 0o600, "one line"),
        ("two\nlines", 0o600, "one line"),
        ("sécret", 0o600, "one line"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_secret_that_is_none_is_refused(content: str | None, mode: int, named: str, sea: Sea, tmp_path: Path) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    choice = Webhook("web", "https://localhost/", token_file=str(path))
    with pytest.raises(ConfigError, match=f"bridge web: token_file: {path}: {named}"), sea.bridged(choice):
        pass


WEB = "kind: webhook, name: w"
BROKER = "kind: mqtt, name: m, host: h"


@pytest.mark.parametrize(
    ("bridges", "named"),
    [
        ("{name: w, url: 'https://h/'}", ["bridges.0", "kind"]),
        ("{kind: fax, name: w}", ["bridges.0.kind", "'fax'"]),
        (f"{{{WEB}, url: 'https://h/', colour: red}}", ["unknown key bridges.0.colour"]),
        (f"{{{WEB}}}", ["bridges.0", "url"]),
        (f"{{{WEB}, url: 'ftp://h/'}}", ["bridges.0.url", "'ftp://h/'", "https://HOST/PATH"]),
        (f"{{{WEB}, url: 'https://user:word@h/'}}", ["bridges.0.url"]),
        (f"{{{WEB}, url: 'https://h:99999/'}}", ["bridge w: url", "99999"]),
        (f"{{{WEB}, url: 'http://192.0.2.1/'}}", ["bridge w", "192.0.2.1", "in the clear", "insecure: true"]),
        (f"{{{WEB}, url: 'http://localhost/', ca_file: x}}", ["bridge w", "ca_file"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{kinds: []}}}}", ["bridges.0.filter.kinds"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{kinds: [status]}}}}", ["bridges.0.filter.kinds", "status"]),
        (f"{{{WEB}, url: 'https://h/', filter: {{mode: live}}}}", ["unknown key bridges.0.filter.mode"]),
        (f"{{{WEB}, url: 'https://h/', timeout_s: 0}}", ["bridges.0.timeout_s", "0"]),
        (f"{{{BROKER}, tls: false}}", ["bridge m", "in the clear"]),
        (f"{{{BROKER}, user: u}}", ["bridge m", "password_file"]),
        (f"{{{BROKER}, version: 4}}", ["bridges.0.version", "4"]),
        (f"{{{BROKER}, prefix: 'a/#'}}", ["bridges.0.prefix", "'a/#'", "PREFIX"]),
        (f"{{{BROKER}, port: 0}}", ["bridges.0.port", "0"]),
        ("{kind: pgalm, name: p, host: h, filter: {kinds: [gap]}}", ["bridge p", "filter.kinds", "gap"]),
        (f"{{{BROKER}}}, {{{BROKER}}}", ["two are called m"]),
    ],
)
def test_a_bridge_that_does_not_fit_is_named(bridges: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"bridges=[{bridges}]"])
    assert [part for part in named if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bridge",
    [
        f"{WEB}, url: 'http://127.0.0.1:8080/x'",
        f"{WEB}, url: 'http://[::1]/'",
        f"{WEB}, url: 'http://192.0.2.1/', insecure: true",
        "kind: mqtt, name: m, host: localhost, tls: false",
        f"{BROKER}, tls: false, insecure: true, filter: {{kinds: [alert, gap], modes: [live, drill], flood: true}}",
    ],
)
def test_plain_traffic_is_for_this_machine_or_for_who_insists(bridge: str) -> None:
    assert len(load_config(None, [f"bridges=[{{{bridge}}}]"]).bridges) == 1
