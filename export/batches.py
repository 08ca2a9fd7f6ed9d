"""Batches of augmented clips, in a random order, made by worker threads while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.augment import Augmenter
from export.config import TrainConfig
from export.dataset import Clips
from export.store import Audio

_AHEAD = 2  # batches for each worker


@dataclass(frozen=True)
class Batch:
    """What one step is computed from."""

    audio: Audio  # (batch, samples)
    targets: Audio  # (batch, labels), 0..1


def steps(config: TrainConfig, clips: int) -> int:
    """Batches in one epoch."""
    full, rest = divmod(clips, config.training.batch_size)
    # A last batch of one clip has no statistics to normalise by, so it goes even where batches are kept.
    return full + (rest > 1 and not config.training.drop_last_batch)


def batches(clips: Clips, config: TrainConfig, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch. Each has random numbers of its own: how many threads make them changes nothing."""
    order = np.random.default_rng([seed, 2, epoch]).permutation(len(clips))
    size = config.training.batch_size
    augmenter = Augmenter(clips, config)

    def make(number: int) -> Batch:
        random = np.random.default_rng([seed, 2, epoch, number])
        index: npt.NDArray[np.intp] = order[number * size : (number + 1) * size]
        return Batch(*augmenter.draw(index, random))

    numbers = range(steps(config, len(clips)))
    workers = config.environment.number_of_workers
    return _ahead(make, numbers, workers) if workers else map(make, numbers)


def _ahead(make: Callable[[int], Batch], numbers: Sequence[int], workers: int) -> Iterator[Batch]:
    waiting: deque[Future[Batch]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="clips")
    try:
        for number in numbers:
            waiting.append(executor.submit(make, number))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
