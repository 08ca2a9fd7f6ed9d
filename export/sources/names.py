"""What the names of folders and marks mean: a label, none of them, or nothing that one may learn from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from export.config import TrainConfig
from export.sources.cut import Labels
from pam_daemon.errors import TableError

Meanings = dict[str, Labels | None]  # by name; None: neither a call nor the absence of one


def meanings(found: Iterable[str], config: TrainConfig, where: Path, what: str) -> Meanings:
    """The labels that each name stands for; case does not count.

    A name is one of label_columns or label_names, of `negative_names` or of `ignored_names`. Where one label is
    trained and a single other name is found, that is the label's.

    Raises:
        TableError: a name that is none of these.
    """
    dataset = config.dataset
    count = len(config.labels)
    known: Meanings = {name.casefold(): None for name in dataset.ignored_names}
    known |= {name.casefold(): (0.0,) * count for name in dataset.negative_names}
    for names in (dataset.label_columns, config.labels):
        known |= {name.casefold(): tuple(float(i == j) for j in range(count)) for i, name in enumerate(names)}
    found = sorted(set(found))
    others = [name for name in found if name.casefold() not in known]
    labelled = any(known.get(name.casefold()) == (1.0,) for name in found)
    if count == 1 and len(others) == 1 and not labelled:
        known[others[0].casefold()] = (1.0,)
    elif others:
        raise TableError(
            f"{where}: {what} named {others[0]!r} are of no label ({', '.join(config.labels)}); rename them, or add "
            "the name to dataset.label_columns, negative_names or ignored_names"
        )
    return {name: known[name.casefold()] for name in found}


def spoken(meanings: Meanings, config: TrainConfig) -> str:
    """The names that mean something else than they say, for the line that says what was understood."""
    words = []
    for name, labels in meanings.items():
        meant = [label for label, value in zip(config.labels, labels or (), strict=False) if value]
        if meant and name.casefold() != meant[0].casefold():
            words.append(f"{name or 'without a name'} is {meant[0]}")
        elif labels is None:
            words.append(f"{name or 'without a name'} is ignored")
    return f" ({', '.join(words)})" if words else ""
