"""mIoU of a model at several pause configurations: each image is read once and segmented at all of them.

Knows nothing of speed (see `benchmark`) and nothing of how images are windowed or classes counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

from paumer.data.datasets import Dataset, Sample
from paumer.errors import InputError
from paumer.inference import InferenceConfig
from paumer.metrics import SegmentationMeter, SegmentationScores
from paumer.model import Segmenter
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.segment import inference_config, segment_images


@dataclass(frozen=True)
class EvalResult:
    """Scores of one pause configuration, with the conditions they hold under."""

    pause: PauseConfig
    scores: SegmentationScores
    num_images: int
    criterion: str
    inference: InferenceConfig
    batch_size: int = 1
    tokens: float | None = None  # mean share of an image's patches that a layer processes; None in windows and views

    @property
    def miou(self) -> float:
        return self.scores.miou

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "pause": str(self.pause),
            "criterion": self.criterion,
            "num_images": self.num_images,
            "batch_size": self.batch_size,
            "tokens": self.tokens,
            "inference": asdict(self.inference),
            **self.scores.to_dict(names),
        }


def spread_indices(size: int, limit: int) -> Sequence[int]:
    """``limit`` of ``size`` indices, spread evenly; all of them if ``limit`` is 0 or too large."""
    return range(size) if not 0 < limit < size else [index * size // limit for index in range(limit)]


@torch.inference_mode()
def evaluate(
    model: Segmenter,
    dataset: Dataset,
    pauses: Sequence[PauseConfig] = (NO_PAUSE,),
    *,
    inference: InferenceConfig | None = None,
    criterion: str = "entropy",
    seed: int = 0,
    indices: Sequence[int] | None = None,
    batch_size: int = 1,
    progress: bool = False,
) -> list[EvalResult]:
    """Dataset-level scores for each of ``pauses``, in their order.

    Args:
        model: evaluated where its weights are; put in evaluation mode for the time and back again.
        dataset: samples with uint8 images (3, H, W) and masks (H, W) of train ids.
        pauses: configurations to score.
        inference: windows, scales and flip; by default what the model's configuration says.
        criterion: what ranks the patches; ``random`` pauses image i by seed + i, whatever else is evaluated.
        indices: a part of the data set, by default all of it.
        batch_size: images of the same size that go through the model together, in the order of the data set. Of
            influence on what pauses where a share of the batch does (``5:0.6@batch``), and only there.

    Raises:
        InputError: the model's number of classes is not the data set's, a layer does not exist, no positive batch.
    """
    classes = dataset.spec.num_classes
    if classes != model.config.num_classes:
        raise InputError(f"the model predicts {model.config.num_classes} classes, {dataset.spec.name} has {classes}")
    for pause in pauses:
        pause.check_depth(model.depth)  # a wrong layer is told before the first image, not after an hour
    inference = inference or inference_config(model)
    indices = range(len(dataset)) if indices is None else indices
    if batch_size < 1:
        raise InputError(f"a batch has at least 1 image, got {batch_size}")
    tallies = [_Tally(SegmentationMeter(classes, dataset.spec.ignore_index), []) for _ in pauses]
    device = model.pixel_mean.device
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(indices), desc="evaluating", unit="image", disable=not progress, leave=False)
    try:
        for batch in batches_of_one_size(dataset, indices, batch_size):
            images = torch.stack([sample.image for _, sample in batch]).to(device)
            masks = torch.stack([sample.mask for _, sample in batch]).to(device)
            seeds = [seed + index for index, _ in batch]
            for pause, tally in zip(pauses, tallies, strict=True):
                segmented = segment_images(model, images, pause, inference, criterion=criterion, seeds=seeds)
                tally.meter.update(segmented.labels, masks)
                if segmented.trace is not None:
                    running = segmented.trace.num_running(model.depth).double().mean(dim=1)
                    tally.tokens.extend((running / math.prod(segmented.trace.grid)).tolist())
            bar.update(len(batch))
    finally:
        bar.close()
        model.train(was_training)
    return [
        EvalResult(
            pause,
            tally.meter.compute(),
            len(indices),
            criterion,
            inference,
            batch_size,
            fmean(tally.tokens) if tally.tokens else None,
        )
        for pause, tally in zip(pauses, tallies, strict=True)
    ]


@dataclass(frozen=True)
class _Tally:
    """What is counted of one configuration while images go by."""

    meter: SegmentationMeter
    tokens: list[float]


def batches_of_one_size(
    dataset: Dataset, indices: Iterable[int], batch_size: int
) -> Iterator[list[tuple[int, Sample]]]:
    """Samples with their indices, up to ``batch_size`` of the same image size together, in their order.

    Where sizes vary, no more than eight batches' worth of samples wait for others of their size.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Sample]]] = {}
    for index in indices:
        sample = dataset[index]
        size = tuple(sample.image.shape)
        waiting.setdefault(size, []).append((index, sample))
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) > 8 * batch_size:
            yield waiting.pop(next(iter(waiting)))  # the size that has waited longest
    yield from waiting.values()
