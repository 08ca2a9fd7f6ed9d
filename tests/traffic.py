"""A publisher in a process of its own: ten thousand records for each line on stdin."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from pathlib import Path

from fakes import event
from house import publisher

from pam_daemon.clock import SystemClock
from pam_daemon.journal import Bell, Journal


def main(endpoint: str, path: Path) -> None:
    with closing(Bell()) as bell, closing(Journal(path, [bell])) as journal:
        server = publisher(endpoint, path, bell, log=journal.log, every_s=0.2, clock=SystemClock())
        stop = threading.Event()
        thread = threading.Thread(target=server.run, args=(stop,))
        thread.start()
        server.subscribed.wait()
        print("subscribed", flush=True)
        number = 0
        for _ in sys.stdin:
            for _ in range(100):
                journal.append([event(number + n) for n in range(100)])
                number += 100
            print("done", flush=True)
        stop.set()
        bell.ring()
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
