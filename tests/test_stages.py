"""Stages: the watchdog's beat needs every one of them to move."""

from pam_daemon.stages import Stages


def test_all_have_moved_once_each_has_since_the_last_time() -> None:
    """One that stands still keeps the beat back, and is named."""
    stages = Stages()
    worker, capture = stages.add("worker"), stages.add("capture hydrophone")
    assert not stages.all_moved()
    worker()
    worker()
    assert not stages.all_moved()
    assert stages.still() == {"capture hydrophone"}
    capture()
    assert stages.all_moved()
    assert not stages.all_moved()
    assert stages.still() == {"worker", "capture hydrophone"}
