"""mIoU of a model at several pause configurations: each image is read once and segmented at all of them.

Knows nothing of speed (see `benchmark`) and nothing of how images are windowed or classes counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from paumer.data.datasets import Dataset
from paumer.errors import InputError
from paumer.inference import InferenceConfig, segment_image
from paumer.metrics import SegmentationMeter, SegmentationScores
from paumer.model import Segmenter
from paumer.pause import NO_PAUSE, PauseConfig


@dataclass(frozen=True)
class EvalResult:
    """Scores of one pause configuration, with the conditions they hold under."""

    pause: PauseConfig
    scores: SegmentationScores
    num_images: int
    criterion: str
    inference: InferenceConfig

    @property
    def miou(self) -> float:
        return self.scores.miou

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        return {
            "pause": str(self.pause),
            "criterion": self.criterion,
            "num_images": self.num_images,
            "inference": asdict(self.inference),
            **self.scores.to_dict(names),
        }


def inference_config(model: Segmenter, **overrides: Any) -> InferenceConfig:
    """How the model's own configuration wants images cut up; ``overrides`` that are not None win."""
    config = model.config
    values: dict[str, Any] = {
        "mode": config.mode,
        "base_size": config.base_size,
        "crop_size": config.crop_size,
        "stride": config.stride,
    }
    values.update({key: value for key, value in overrides.items() if value is not None})
    return InferenceConfig(**values)


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

    Raises:
        InputError: the model's number of classes is not the data set's, or a layer does not exist.
    """
    classes = dataset.spec.num_classes
    if classes != model.config.num_classes:
        raise InputError(f"the model predicts {model.config.num_classes} classes, {dataset.spec.name} has {classes}")
    for pause in pauses:
        pause.check_depth(model.depth)  # a wrong layer is told before the first image, not after an hour
    inference = inference or inference_config(model)
    indices = range(len(dataset)) if indices is None else indices
    meters = [SegmentationMeter(classes, dataset.spec.ignore_index) for _ in pauses]
    device = model.pixel_mean.device
    was_training = model.training
    model.eval()
    try:
        for index in tqdm(indices, desc="evaluating", unit="image", disable=not progress, leave=False):
            sample = dataset[index]
            image, mask = sample.image.to(device), sample.mask.to(device)
            for pause, meter in zip(pauses, meters, strict=True):

                def predict(images: Tensor, pause: PauseConfig = pause, seed: int = seed + index) -> Tensor:
                    return model(images, pause, criterion=criterion, seeds=[seed] * len(images)).logits

                meter.update(segment_image(predict, image, inference).argmax(dim=0), mask)
    finally:
        model.train(was_training)
    return [
        EvalResult(pause, meter.compute(), len(indices), criterion, inference)
        for pause, meter in zip(pauses, meters, strict=True)
    ]
