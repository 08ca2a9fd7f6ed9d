"""Clips a second of `pamd train`'s loop, against a bare forward-backward loop on tensors already in memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from common import Bench, spread

from export import optimisation
from export.batches import steps
from export.config import TrainConfig
from export.dataset import Clips
from export.device import autocast
from export.job import State
from export.settings import load
from export.train import start, train_epoch
from pam_daemon.tools.simulate import Sea

CONFIGURATION = Path(__file__).resolve().parents[2] / "configs" / "narw.yaml"
CLIPS = 512


def measure(bench: Bench) -> None:
    config = load(CONFIGURATION)[0]
    clips = _clips(config)
    cpu = torch.device("cpu")
    torch.manual_seed(1)
    state = start(config, None, len(clips), cpu)
    scored = steps(config, len(clips)) * config.training.batch_size
    trained: list[float] = []
    bare: list[float] = []
    for _ in range(bench.rounds + 1):
        trained.append(_trained(state, clips, config, cpu, scored))
        bare.append(_bare(state, clips, config))
    trained, bare = trained[1:], bare[1:]  # warm: memory, caches, clocks
    network, batch = config.architecture.backbone, config.training.batch_size
    print(f"  {CONFIGURATION.name}: {network}, {scored} clips in batches of {batch},")
    print(f"  {bench.rounds} rounds, interleaved; {torch.get_num_threads()} threads of torch;")
    print("  pamd train: an epoch with all augmentation and the updates of the weights and of their average;")
    print("  bare: log-mel, forward, loss and backward on batches in memory, in the same precision, and no more")
    print(f"  bare:         {spread(bare, 'clips/s', 1)}")
    print(f"  pamd train:   {spread(trained, 'clips/s', 1)}")
    ratios = [ours / theirs for ours, theirs in zip(trained, bare, strict=True)]
    print(f"  train / bare: {spread(ratios, 'of it')}")


def _clips(config: TrainConfig) -> Clips:
    """Windows of a simulated sea, every other one labelled: what they hold does not change how long they take."""
    sea = Sea(minutes=CLIPS * config.audio.training_chunk_seconds / 60, calls=CLIPS // 16, seed=1)
    samples = np.concatenate(list(sea.blocks()))[: CLIPS * config.window_samples]
    labels = (np.arange(CLIPS) % 2).astype(np.float32)[:, None]
    return Clips([""] * CLIPS, samples.reshape(CLIPS, config.window_samples), labels, [""] * CLIPS)


def _trained(state: State, clips: Clips, config: TrainConfig, place: torch.device, scored: int) -> float:
    begin_s = time.perf_counter()
    train_epoch(state, clips, config, 1, place, lambda text: None)
    return scored / (time.perf_counter() - begin_s)


def _bare(state: State, clips: Clips, config: TrainConfig) -> float:
    size = config.training.batch_size
    audio, targets = (torch.from_numpy(part[: len(part) // size * size]) for part in (clips.audio, clips.labels))
    network = state.network.train()
    begin_s = time.perf_counter()
    for waveform, target in zip(audio.split(size), targets.split(size), strict=True):
        with torch.no_grad():
            log_mel = network.features(waveform)
        with autocast(audio.device, config.environment.mixed_precision_training):
            logits = network.classify(log_mel.contiguous(memory_format=torch.channels_last))
        optimisation.loss(logits, target, config).backward()  # type: ignore[no-untyped-call]
        network.zero_grad()
    return len(audio) / (time.perf_counter() - begin_s)
