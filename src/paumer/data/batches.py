"""Which samples make up which training step: a function of (seed, step), so a run can stop and go on anywhere.

Knows nothing of models. There is no sampler state to save, and the global random numbers are never touched.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from paumer.data.transforms import TrainTransform, sample_generator
from paumer.errors import InputError


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(size)


class StepSamples(TorchDataset):
    """Item j of an endless, reshuffled pass over ``dataset``: (image uint8 (3, h, w), mask uint8 (h, w)), augmented."""

    def __init__(self, dataset, transform: TrainTransform, seed: int, samples_per_step: int) -> None:
        if len(dataset) == 0:
            raise InputError(f"{dataset.spec.name} has no training images")
        self.dataset, self.transform, self.seed, self.samples_per_step = dataset, transform, seed, samples_per_step

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(index, len(self.dataset))
        sample = self.dataset[int(_permutation(self.seed, epoch, len(self.dataset))[place])]
        generator = sample_generator(self.seed, *divmod(index, self.samples_per_step))
        return self.transform(sample.image, sample.mask, generator)


class StepBatches:
    """Batch sampler: the items of one rank, from ``start_step`` to ``steps``, ``accumulation`` batches a step."""

    def __init__(
        self, batch_size: int, start_step: int, steps: int, accumulation: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size, self.start_step, self.steps = batch_size, start_step, steps
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size

    def __len__(self) -> int:
        return (self.steps - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start_step * self.accumulation, self.steps * self.accumulation):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def create_loader(samples: StepSamples, batches: StepBatches, workers: int, pin_memory: bool = False) -> DataLoader:
    """Batches of images (B, 3, h, w) and masks (B, h, w), both uint8; the number of workers changes speed only."""
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupt,
        # DataLoader draws a base seed for its workers from the global generator unless it is given one.
        generator=torch.Generator(),
    )


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C goes to every process of a terminal; the training one saves a checkpoint, and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read_batches(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches. What a worker process raises for the user comes without the worker's traceback."""
    try:
        yield from loader
    except InputError as error:
        # torch wraps the message in "Caught InputError in DataLoader worker process 0. Original Traceback ...".
        raise InputError(str(error).strip().rsplit(f"{InputError.__qualname__}: ", 1)[-1]) from None
