"""Where labelled sound comes from: each --data is recognised by what it holds, and becomes a list of cuts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.config import TrainConfig
from export.sound import sounds_in
from export.sources import challenge, classes, recordings
from export.sources.cut import Cut, Source
from pam_daemon.errors import ConfigError, SourceError

__all__ = ["Cut", "Source", "find", "recognise"]


def find(data: Sequence[Path], config: TrainConfig, seed: int) -> tuple[list[Source], list[str]]:
    """All sources of a run, those of --data first, and warnings of what has no effect.

    Raises:
        ConfigError: there is none, or one without a clip.
        SourceError: a folder that is not there, or is none of the layouts; a clip or recording that cannot be read.
        TableError: a table that cannot be read or used.
    """
    dataset = config.dataset
    warnings = []
    audio = Path(dataset.data_folder) if dataset.data_folder else None
    if data:
        found = [recognise(folder, config) for folder in data]
        given = {"data_folder": "clips", "train_dataframe": "table"}
        if dataset.validation_dataframe:  # its clips lie there
            del given["data_folder"]
        warnings = [f"dataset.{key} has no effect: --data gives the {what}" for key, what in given.items()
                    if getattr(dataset, key)]  # fmt: skip
    elif dataset.train_dataframe:
        found = [challenge.read(Path(dataset.train_dataframe), audio, config)]
    elif audio:
        found = [recognise(audio, config)]
    else:
        raise ConfigError("no data: give a folder with --data, or a table with dataset.train_dataframe")
    if dataset.validation_dataframe:
        found.append(challenge.read(Path(dataset.validation_dataframe), audio, config, "select"))
    tests = Path(dataset.data_folder_test) if dataset.data_folder_test else None
    if dataset.test_dataframe:
        found.append(challenge.read(Path(dataset.test_dataframe), tests or audio, config, "test"))
    elif tests:
        found.append(recognise(tests, config, "test"))
    for source in found:
        if not source.cuts:
            raise ConfigError(f"{source.folder}: {source.kind}: no clip is left; give another --data")
    return recordings.thin(found, config, seed), warnings


def recognise(folder: Path, config: TrainConfig, part: str = "") -> Source:
    """A folder as what it holds: train.csv, sound files (with or without selection tables), or a folder a class.

    Raises:
        SourceError: it holds none of these, or recordings and folders of clips at once.
        TableError: a table that cannot be read or used.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give one with --data")
    if (folder / challenge.TABLE).exists():
        return challenge.read(folder / challenge.TABLE, None, config, part)
    on_top, below = sounds_in(folder), sounds_in(folder, below=True)
    if not below:
        raise SourceError(f"{folder}: holds neither {challenge.TABLE} nor sound files; give another --data")
    if all(path.relative_to(folder).parts[0] == challenge.AUDIO_FOLDER for path in below):
        raise SourceError(f"{folder}: holds {challenge.AUDIO_FOLDER}/ and no {challenge.TABLE}; restore the table")
    tables = recordings.find_tables(folder)
    if on_top and len(below) > len(on_top) and not tables:
        raise SourceError(f"{folder}: holds sound files and folders of them; give each by a --data of its own")
    read = recordings.read if on_top or tables else classes.read
    source = read(folder, config)
    return Source(source.folder, source.kind, source.cuts, part)
