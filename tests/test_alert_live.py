"""Alerts of a real daemon on a real device: what it could not hear clears none, and a restart raises none twice."""

import signal
import time
from pathlib import Path

from live import (
    FINE,
    Station,
    playing,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
    unix_s,
)
from sound import DEVICE, SoundServer, sound_server

from pam_daemon.records import Wire

CONTRACT = {
    *("schema", "kind", "station", "stream", "mode", "id", "time_utc", "log", "seq", "prev_seq", "durable"),
    *("alert", "revision", "label", "level", "state", "rule", "count", "window_s", "first_utc", "last_utc"),
    *("expires_utc", "max_score", "detections", "coverage", "zone"),
}


def rule(fields: str) -> tuple[str, str]:
    return "--set", f"alerts=[{{name: whales, {fields}}}]"


def told_in_order(alerts: list[Wire]) -> bool:
    """Revisions of each alert from 0 on, with the id of its first record in all but that."""
    raised = [alert for alert in alerts if alert["state"] == "raised"]
    own = {first["id"]: [first, *(alert for alert in alerts if alert["alert"] == first["id"])] for first in raised}
    return sum(map(len, own.values())) == len(alerts) and all(
        [alert["revision"] for alert in records] == list(range(len(records))) for records in own.values()
    )


def test_an_alert_lapses_while_the_device_is_gone_and_clears_when_it_was_there(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """The hold passes without a device: nobody listened. After the next call it passes in silence: no whale."""
    with station.running(*FINE, *rule("count: 1, window_s: 5, hold_s: 9")):
        station.await_source(DEVICE)
        with playing(server, tmp_path) as player:
            player.until(call=2)
        station.await_logged("alert extended")
        server.process.kill()
        server.process.wait()
        station.await_logged("alert lapsed")
        with sound_server(Path(server.env["HOME"])) as again:
            station.await_logged("device opened", 2)
            time.sleep(1)
            with playing(again, tmp_path) as player:
                player.until(call=1)
                time.sleep(1)
            station.await_logged("alert cleared")
    alerts = station.of("alert")
    assert [alert["state"] for alert in alerts] == ["raised", "extended", "lapsed", "raised", "cleared"]
    assert told_in_order(alerts) and all(alert.keys() >= CONTRACT for alert in alerts)
    assert {alert["stream"] for alert in alerts} == {"_"} and {alert["mode"] for alert in alerts} == {"live"}
    lapsed, cleared = alerts[2], alerts[4]
    assert 0.2 < lapsed["coverage"] < 0.9 <= cleared["coverage"]
    detections = {detection["id"]: detection for detection in station.of("detection")}
    for alert in alerts:
        last = detections[alert["detections"][-1]]
        assert alert["last_utc"] == last["peak_utc"]
        assert abs(unix_s(alert["expires_utc"]) - unix_s(last["peak_utc"]) - 9) < 0.001
    raised, call = alerts[0], detections[alerts[0]["detections"][0]]
    # In the journal right behind what caused it.
    assert raised["seq"] == call["seq"] + 1


def test_a_restart_in_the_middle_of_an_alert_goes_on_with_it(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    """kill -9, and the alert that stood is extended under its id; the two calls before and one after make three."""
    whales = rule("count: 2, window_s: 60, hold_s: 60, coverage: 0.1")
    with station.running(*FINE, *whales) as daemon:
        station.await_source(DEVICE)
        time.sleep(11)  # its place has been kept
        with playing(server, tmp_path) as player:
            player.until(call=2)
            station.await_logged("alert raised")
            daemon.kill()
            daemon.wait()
            with station.running(*FINE, *whales):
                station.await_logged("device opened", 2)
                player.until(call=player.over + 2)
                time.sleep(2.5)
    alerts = station.of("alert")
    assert [alert["state"] for alert in alerts] == ["raised", *["extended"] * (len(alerts) - 1)]
    assert len(alerts) >= 2 and told_in_order(alerts)
    assert alerts[1]["detections"][:2] == alerts[0]["detections"]
    assert alerts[1]["count"] == 3
    # The time without a daemon, and that before the first one, was not listened to.
    assert alerts[1]["coverage"] < 0.9


def test_sighup_takes_on_rules_and_refuses_one_that_cannot_be(
    server: SoundServer, station: Station, tmp_path: Path
) -> None:
    config = tmp_path / "pamd.yaml"
    devices = f"devices: [{{device: {DEVICE}}}]\n"
    config.write_text(devices)
    with station.running("--config", str(config), "--hop", "0.1") as daemon:
        station.await_source(DEVICE)
        assert station.logged("no alert rules") == 1
        config.write_text(f"{devices}alerts: [{{name: whales, count: 10, window_s: 10}}]\n")
        daemon.send_signal(signal.SIGHUP)
        station.await_logged("reload refused")
        config.write_text(f"{devices}alerts: [{{name: whales, count: 2, window_s: 60}}]\n")
        daemon.send_signal(signal.SIGHUP)
        station.await_logged("alert rule")
        with playing(server, tmp_path) as player:
            player.until(call=player.over + 3)
            time.sleep(2.5)
    (refused,), (taken,) = station.events("reload_refused"), station.events("reload")
    assert "10 calls in 10 s" in refused["text"]
    assert taken["data"]["restart_needed"] == [] and "alerts" in taken["data"]["changed"]
    assert [alert["state"] for alert in station.of("alert")][:2] == ["raised", "extended"]
