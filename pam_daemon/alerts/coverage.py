"""When a station's streams were listened to: what alert rules ask before they take silence for an absence of whales."""

from __future__ import annotations

from collections.abc import Sequence


class Coverage:
    """Stretches of stream time, in nanoseconds, in which a stream was not listened to; all else was."""

    def __init__(self) -> None:
        self.streams: Sequence[str] = ()  # those that are asked about
        self._missed: dict[str, list[tuple[int, int]]] = {}

    def missed(self, stream: str, start_ns: int, end_ns: int) -> None:
        """Nobody listened from `start_ns` to `end_ns`; stretches may overlap, and be told twice."""
        if end_ns <= start_ns:
            return
        stretches = self._missed.setdefault(stream, [])
        if stretches and stretches[-1][0] <= start_ns <= stretches[-1][1]:
            start_ns, before_ns = stretches.pop()
            end_ns = max(before_ns, end_ns)
        stretches.append((start_ns, end_ns))

    def share(self, start_ns: int, end_ns: int) -> float:
        """Of a stretch, what was listened to, 0..1; the mean of the streams."""
        heard_ns = sum(self._heard_ns(stream, start_ns, end_ns) for stream in self.streams)
        return heard_ns / (len(self.streams) * (end_ns - start_ns))

    def forget(self, before_ns: int) -> None:
        """Nobody will ask for what was earlier."""
        for stream, stretches in self._missed.items():
            self._missed[stream] = [stretch for stretch in stretches if stretch[1] > before_ns]

    def _heard_ns(self, stream: str, start_ns: int, end_ns: int) -> int:
        heard_ns, at_ns = 0, start_ns
        for first_ns, last_ns in sorted(self._missed.get(stream, [])):
            heard_ns += max(0, min(first_ns, end_ns) - at_ns)
            at_ns = max(at_ns, last_ns)
        return heard_ns + max(0, end_ns - at_ns)
