"""How good a model is: on labelled clips, and on continuous recordings, which is what matters at sea."""

from pam_daemon.tools.evaluate.matching import Detected, Matching, match

__all__ = ["Detected", "Matching", "match"]
