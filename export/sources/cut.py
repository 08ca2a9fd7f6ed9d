"""What a source is made of: windows of sound that are known, and not yet read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Labels = tuple[float, ...]  # one 0 or 1 a label


@dataclass(frozen=True)
class Cut:
    """One labelled window."""

    path: Path
    file: str  # the path as the source's tables name it
    labels: Labels
    begin: int | None = None  # a sample at the model's rate; None: the whole clip, fitted to the window
    begin_s: float = 0.0
    channel: int = 1
    group: str = ""  # cuts of one group share sound, and no split divides them
    unmarked: bool = False  # from where a recording has no marks
    columns: Mapping[str, str] = field(default_factory=dict)  # what else the table says of it

    @property
    def name(self) -> str:
        """Unique in its source."""
        channel = f"#{self.channel}" if self.channel > 1 else ""
        place = "" if self.begin is None else f"@{self.begin_s:.3f}"
        return f"{self.file}{channel}{place}"


@dataclass(frozen=True)
class Source:
    """What one --data, or one table of the configuration, gives: its cuts in the order of time, as far as known."""

    folder: Path
    kind: str  # what it was taken for, in words
    cuts: list[Cut]
    part: str = ""  # of the split, where that is given: train, select or test

    @property
    def name(self) -> str:
        return self.folder.resolve().name
