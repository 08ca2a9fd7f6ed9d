"""The curves of a run for a program that draws them while it goes on: `logging.logger`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboardX import SummaryWriter

from export.config import TrainConfig
from export.job import History

FOLDER = "tensorboard"


@contextmanager
def curves(config: TrainConfig, out: Path, history: History) -> Iterator[Callable[[dict[str, float]], None]]:
    """What an epoch's figures are to be handed to.

    TensorBoard's file in RUN/tensorboard is begun anew with the epochs so far: what an interruption cut off is whole.
    """
    if config.logging.logger is None:
        yield lambda row: None
        return
    for earlier in (out / FOLDER).glob("events.out.tfevents.*"):
        earlier.unlink()
    with SummaryWriter(str(out / FOLDER)) as writer:

        def write(row: dict[str, float]) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, int(row["epoch"]))
            writer.flush()

        for row in history:
            write(row)
        yield write
