"""Prometheus metrics: a real daemon on a real device, scraped over HTTP; and the alert rules, by Prometheus's tool."""

import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from fakes import toy_model
from live import (
    PAMD,
    PATIENCE_S,
    Station,
    server_fixture,  # noqa: F401 - pytest finds the fixtures by their import
    station_fixture,  # noqa: F401
)
from prometheus_client.parser import text_string_to_metric_families
from servers import free_port
from sound import DEVICE

from pam_daemon.clock import NS_PER_S, parse_rfc3339

REPOSITORY = Path(__file__).resolve().parent.parent
RULES = REPOSITORY / "configs" / "prometheus-rules.yaml"
TERMS = ("analysed_samples_total", "gap_samples_total", "skipped_samples_total", "pending_samples")

Scrape = dict[str, list[tuple[dict[str, str], float]]]  # metric to its samples, labels and value


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found: Scrape = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def of_stream(found: Scrape, name: str) -> float:
    ((labels, value),) = found[f"pamd_{name}"]
    assert labels["stream"] == "ch1"
    return value


def test_a_scrape_says_what_the_status_says_and_the_identity_holds(station: Station) -> None:
    """Counters grow between two scrapes, lie on both sides of `pamd status`, and add up to the sample in each."""
    port = free_port()
    with station.running("--device", DEVICE, "--set", f"metrics.port={port}"):
        station.await_heard()
        time.sleep(3)
        first = scrape(port)
        status = station.status()["status"]
        last, end_s = first, time.monotonic() + PATIENCE_S
        while of_stream(last, "analysed_samples_total") <= status["streams"]["ch1"]["analysed_samples"]:
            assert time.monotonic() < end_s
            last = scrape(port)
        with pytest.raises(ConnectionRefusedError):  # all but 127.0.0.1 is another's address
            socket.create_connection(("127.0.0.2", port))
    stream = status["streams"]["ch1"]
    for found in (first, last):
        assert of_stream(found, "elapsed_samples_total") == sum(of_stream(found, term) for term in TERMS)
    for name in ("elapsed_samples", "analysed_samples"):
        assert of_stream(first, f"{name}_total") <= stream[name] < of_stream(last, f"{name}_total")
    assert of_stream(last, "sample_rate_hertz") == stream["sample_rate_hz"]
    ((state, one),) = last["pamd_source_state"]
    assert one == 1
    assert state["state"] in ("heard", "silent"), "ten seconds of digital silence are told"
    assert [value for _, value in last["pamd_start_time_seconds"]] == [parse_rfc3339(status["started_utc"]) / NS_PER_S]
    ((build, _),) = last["pamd_build_info"]
    model = {"model": status["model"]["name"], "model_sha256": status["model"]["sha256"]}
    assert build == {"station": "pamd", "mode": "live", "version": status["version"], "provider": "cpu", **model}
    assert "pamd_level_dbfs" not in last, "digital silence has no level"
    assert last["process_resident_memory_bytes"][0][1] > 1e6
    missing = rule_metrics() - last.keys()
    # Prometheus makes the first itself; the others are there while an alert stands, and where there is a bridge.
    assert missing == {"up", "pamd_alert_standing", "pamd_bridge_up"}
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_a_port_that_cannot_be_had_is_refused_and_there_is_no_address(tmp_path: Path) -> None:
    """A taken port is one line and exit code 1; an address is no key that there is."""
    model = toy_model(tmp_path / "toy.onnx")
    (tmp_path / "pamd.yaml").write_text("devices: [{device: nowhere}]\n")
    common = ["--config", str(tmp_path / "pamd.yaml"), "--model", str(model), "--journal", str(tmp_path / "journal")]

    def refused(setting: str) -> str:
        done = subprocess.run(
            [*PAMD, "run", *common, "--endpoint", "tcp://127.0.0.1:*", "--set", setting],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(f"metrics.port={port}").startswith(f"pamd: metrics.port: {port}: cannot bind: Address already")
    assert "unknown key metrics.address" in refused("metrics.address=0.0.0.0")
    assert "metrics.port" in refused("metrics.port=0")


def rule_metrics() -> set[str]:
    """Every metric that the rules ask for."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    expressions = " ".join(rule["expr"] for group in groups for rule in group["rules"])
    return set(re.findall(r"\b(pamd_[a-z_]+|process_[a-z_]+|up)\b", expressions))


# What a healthy station's metrics do in three hours, a value a minute; and what makes each alert fire.
HEALTHY = {
    'up{job="pamd"}': "1x180",
    'pamd_elapsed_samples_total{stream="ch1"}': "0+2880000x180",
    'pamd_analysed_samples_total{stream="ch1"}': "0+2880000x180",
    'pamd_clipped_samples_total{stream="ch1"}': "0x180",
    'pamd_sample_rate_hertz{stream="ch1"}': "48000x180",
    'pamd_lag_seconds{stream="ch1"}': "1x180",
    'pamd_real_time_factor{stream="ch1"}': "0.2x180",
    'pamd_source_state{stream="ch1",state="heard"}': "1x180",
    'pamd_clock_synchronised{stream="ch1"}': "1x180",
    'pamd_flood_detections_total{stream="ch1"}': "0x180",
    'pamd_bridge_up{bridge="office"}': "1x180",
    'pamd_alert_standing{mode="live",level="possible",rule="tally",label="upcall"}': "1x180",
    'pamd_alert_standing{mode="drill",level="detected",rule="tally",label="upcall"}': "1x180",
    "pamd_journal_durable": "1x180",
    "pamd_disk_free_bytes": "10e9x180",
}
STATE = 'pamd_source_state{stream="ch1",state="heard"}'
UNHEARD = {'pamd_analysed_samples_total{stream="ch1"}': "0+2880000x150 432000000x30"}
FAULTS: Sequence[tuple[str, set[str], dict[str, str]]] = (
    ("healthy", set(), {}),
    (
        "just installed",
        set(),
        {series: f"_x150 {HEALTHY[series][:-4]}x30" for series in HEALTHY if "_samples_total" in series},
    ),
    ("dead", {"PamdDown"}, {'up{job="pamd"}': "1x170 0x10"}),
    (
        "hung",
        {"PamdDeaf", "PamdNoEffort", "PamdCoverageLow"},
        {'pamd_elapsed_samples_total{stream="ch1"}': "0+2880000x150 432000000x30", **UNHEARD},
    ),
    (
        "absent",
        {"PamdDeviceGone", "PamdNoEffort", "PamdCoverageLow"},
        {STATE: "1x150", 'pamd_source_state{stream="ch1",state="absent"}': "_x150 1x30", **UNHEARD},
    ),
    ("silent", {"PamdSilent"}, {STATE: "1x150", 'pamd_source_state{stream="ch1",state="silent"}': "_x150 1x30"}),
    (
        "switched off for 20 min",
        {"PamdCoverageLow"},
        {
            f'pamd_{term}_samples_total{{stream="ch1"}}': "0+2880000x130 _x20 0+2880000x30"
            for term in ("elapsed", "analysed")
        },
    ),
    ("late", {"PamdLag"}, {'pamd_lag_seconds{stream="ch1"}': "1x170 20x10"}),
    ("slow", {"PamdSlow"}, {'pamd_real_time_factor{stream="ch1"}': "0.2x160 0.9x20"}),
    ("refused by the disk", {"PamdNotDurable"}, {"pamd_journal_durable": "1x170 0x10"}),
    ("nearly full", {"PamdDiskNearlyFull"}, {"pamd_disk_free_bytes": "10e9x160 5e8x20"}),
    ("overdriven", {"PamdClipping"}, {'pamd_clipped_samples_total{stream="ch1"}': "0+28800x180"}),
    (
        "hearing whales",
        {"PamdWhales"},
        {'pamd_alert_standing{mode="live",level="detected",rule="tally",label="upcall"}': "_x170 1x10"},
    ),
    ("squeaking", {"PamdFlood"}, {'pamd_flood_detections_total{stream="ch1"}': "0x140 0+2x40"}),
    ("cut off", {"PamdBridgeDown"}, {'pamd_bridge_up{bridge="office"}': "1x170 0x10"}),
    ("without NTP", {"PamdClockUnsynchronised"}, {'pamd_clock_synchronised{stream="ch1"}': "1x150 0x30"}),
)


def promtool() -> str:
    path = shutil.which("promtool") or str(REPOSITORY / ".venv" / "bin" / "promtool")
    if not Path(path).exists():
        pytest.skip("no promtool: `make test` fetches it on Debian")
    return path


@pytest.mark.parametrize(("state", "alerts", "series"), FAULTS, ids=[state for state, *_ in FAULTS])
def test_each_fault_raises_its_alerts_and_no_others(
    state: str, alerts: set[str], series: dict[str, str], tmp_path: Path
) -> None:
    """promtool runs the rules over three hours of a station in this state."""
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in (HEALTHY | series).items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "3h", "exp_samples": expected}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [test]}))
    done = subprocess.run(
        [promtool(), "test", "rules", str(tmp_path / "test.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_raised_by_some_fault() -> None:
    """No rule is untried."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"]} == set().union(*(f[1] for f in FAULTS))
