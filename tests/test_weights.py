"""A backbone's first weights: from a server, from none, and without waiting for one that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
from clips import fast_config
from rich.console import Console
from safetensors.torch import save

from export.weights import find_weights
from pam_daemon.errors import ConfigError

PROGRAM = """
import sys
from clips import fast_config
from rich.console import Console
from export.weights import find_weights
from pam_daemon.errors import ConfigError
for name in sys.argv[1:]:
    config = fast_config(f"architecture.backbone={name}", "architecture.pretrained=true")
    try:
        print(find_weights(config, None, Console(stderr=True)), flush=True)
    except ConfigError as error:
        print(error, flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """What Hugging Face answers for one repository; there is no other, and one question it never answers."""

    weights = b""
    sent = 0  # how often they were

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if "test_vit" in self.path:
            time.sleep(60)
        known = "test_resnet" in self.path
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(self.weights) if known else 0))
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if known and body:
            self.wfile.write(self.weights)
            Hub.sent += 1

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.weights = save(timm.create_model("test_resnet", pretrained=False).state_dict())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def find(names: list[str], cache: Path, **environment: str) -> list[str]:
    """What each backbone's weights are found to be, asked of one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        | {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "PYTHONPATH"}
        | {"HF_HUB_CACHE": str(cache), "no_proxy": "127.0.0.1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_weights_come_from_the_hub_and_then_from_this_computer(hub: str, tmp_path: Path) -> None:
    """A repository that does not exist, and a server that never answers, are told in a line each."""
    names = ["test_resnet", "test_resnet", "test_efficientnet", "test_vit"]
    fetched, again, missing, silent = find(names, tmp_path, HF_ENDPOINT=hub)
    assert Path(fetched).read_bytes() == Hub.weights
    assert (again, Hub.sent) == (fetched, 1)
    remedy = "give --weights FILE (timm's, .safetensors or .pth) or train from scratch with `--weights none`"
    for name, line in (("test_efficientnet", missing), ("test_vit", silent)):
        assert f"architecture.pretrained: no weights of {name} on this computer, nor from {hub}/timm/{name}" in line
        assert line.endswith(remedy)


@pytest.mark.parametrize(
    ("name", "message"),
    [("cs3darknet_s", "timm has no weights of cs3darknet_s; give"), ("rsnet50", "timm has no rsnet50; try .*resnet50")],
)
def test_a_backbone_without_weights_or_of_no_such_name_is_told(name: str, message: str) -> None:
    config = fast_config(f"architecture.backbone={name}", "architecture.pretrained=true")
    with pytest.raises(ConfigError, match=message):
        find_weights(config, None, Console(stderr=True))
