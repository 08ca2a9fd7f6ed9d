"""A publisher in a process of its own: ten thousand records for each line on stdin."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

from fakes import event
from house import heartbeat

from pam_daemon.clock import SystemClock
from pam_daemon.journal import Bell, Journal
from pam_daemon.wire.publish import Publisher


def main(endpoint: str, path: Path) -> None:
    with closing(Bell()) as bell, closing(Journal(path, [bell])) as journal:
        publisher = Publisher(
            endpoint,
            partial(Journal, path),
            0,
            bell,
            status=partial(heartbeat, journal.log),
            every_s=0.2,
            linger_s=0.0,
            clock=SystemClock(),
            moved=lambda: None,
        )
        stop = threading.Event()
        thread = threading.Thread(target=publisher.run, args=(stop,))
        thread.start()
        publisher.subscribed.wait()
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
