"""A process with nothing but bridges on a journal, until it is killed: JOURNAL, and their choices as JSON."""

import sys
import threading
from pathlib import Path

import msgspec

from pam_daemon.clock import SystemClock
from pam_daemon.config import BridgeChoice
from pam_daemon.journal import Gong, Journal
from pam_daemon.outlets.bridge import Feed
from pam_daemon.outlets.bridges import Bridges


def start(name: str, work: object) -> threading.Thread:
    thread = threading.Thread(target=work, name=name)  # type: ignore[arg-type]
    thread.start()
    return thread


journal = Path(sys.argv[1])
feed = Feed(lambda: Journal(journal), Gong(), lambda _: None, SystemClock(), retry_s=0.05)
Bridges("pamd", feed, start).prepare(msgspec.json.decode(sys.argv[2], type=list[BridgeChoice]))()
