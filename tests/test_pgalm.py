"""The bridge in PAMGuard's alarm sentence."""

from __future__ import annotations

from bridges import detection

from pam_daemon.outlets.pgalm import sentence
from pam_daemon.records import Wire


def test_the_alarm_sentence_is_pamguards() -> None:
    """Fields, their forms and the checksum as PAMGuard writes them, reckoned by hand."""
    alert: Wire = {
        "kind": "alert",
        "mode": "live",
        "station": "reef",
        "rule": "tally-15min",
        "level": "detected",
        "state": "raised",
        "count": 3,
        "last_utc": "2009-03-29T17:05:09.876543Z",
        "time_utc": "2009-03-29T17:05:11.000000Z",
    }
    assert sentence(alert) == "$PGALM,reef-tally-15min,20090329,170509,2,3.0,0*67\r\n"
    assert ",1,3.0,0*" in sentence(alert | {"level": "possible", "state": "extended"})
    assert ",0,3.0,0*" in sentence(alert | {"state": "cleared"})
    assert ",0,3.0,0*" in sentence(alert | {"state": "lapsed"})
    assert ",20090329,170511," in sentence(alert | {"last_utc": None})
    assert sentence(alert | {"mode": "drill"}).startswith("$PGALM,DRILL reef-tally-15min,20090329,")
    wire = detection(1, label="up*call, $x", score=0.96).wire()
    assert sentence(wire).startswith("$PGALM,pamd-up_call_ _x,20090329,171501,1,1.0,0*")
