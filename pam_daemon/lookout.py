"""The alert rules' place in a station: what the streams have told goes in, alert records come out, right behind it."""

from __future__ import annotations
