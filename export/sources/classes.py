"""A folder a class: `upcall/`, `background/`, each with its clips."""

from __future__ import annotations

from pathlib import Path

from export.config import TrainConfig
from export.sound import sounds_in
from export.sources import lengths
from export.sources.cut import Cut, Source
from export.sources.names import meanings, spoken


def read(folder: Path, config: TrainConfig) -> Source:
    """Every clip below a folder has the label that the folder is named after, and no other.

    Raises:
        TableError: a folder whose name is no label's.
        SourceError: a clip that cannot be read, where lengths matter.
    """
    clips = {path.name: sounds_in(path, below=True) for path in sorted(folder.iterdir()) if path.is_dir()}
    clips = {name: paths for name, paths in clips.items() if paths}
    meant = meanings(clips, config, folder, "folders")
    cuts: list[Cut] = []
    for name, paths in clips.items():
        labels = meant[name]
        if labels is None:
            continue
        for path in paths:
            file = path.relative_to(folder).as_posix()
            cuts += lengths.cuts(Cut(path, file, labels, group=file), config)
    return Source(folder, f"{len(clips)} folders of clips{spoken(meant, config)}", cuts)
