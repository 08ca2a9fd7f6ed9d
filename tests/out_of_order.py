"""A daemon in miniature that publishes before it commits, or in the right order; to show that test_kill tells which.

A real publisher reads a journal of its own, which is fed with each record before or after the journal that counts.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from fakes import event
from house import publisher

from pam_daemon.clock import SystemClock
from pam_daemon.journal import Bell, Journal

PACE_S = 0.002


def main(order: str, endpoint: str, path: Path) -> None:
    staged = path.with_name("staged")
    for old in path.parent.glob("staged*"):
        old.unlink()
    with closing(Bell()) as bell, closing(Journal(staged, [bell])) as shown, closing(Journal(path)) as kept:
        server = publisher(endpoint, staged, bell, log=shown.log, every_s=0.3, clock=SystemClock())
        threading.Thread(target=server.run, args=(threading.Event(),), daemon=True).start()
        steps = [shown, kept] if order == "published first" else [kept, shown]
        for number in itertools.count(len(kept.since(0, limit=10**6))):
            for journal in steps:
                journal.append([event(number)])
                time.sleep(PACE_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
