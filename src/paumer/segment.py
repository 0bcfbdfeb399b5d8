"""Images through a model as an inference configuration says: the class of each pixel, and what paused.

Knows nothing of files, data sets or drawing. Whole images go through in batches and without the logits of all pixels;
windows and several views go image by image, since their logits have to be averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paumer.device import choose_dtype
from paumer.inference import InferenceConfig, resize_images, segment_image, view_size
from paumer.model import Segmenter, Trace
from paumer.pause import PauseConfig


@dataclass(frozen=True)
class Segmented:
    """The classes of the pixels of some images, and what became of their patches.

    ``trace`` is None where an image went through the model in windows or in several views: each of them pauses patches
    of its own.
    """

    labels: Tensor  # (B, H, W) int64, at the size of the images
    trace: Trace | None
    seen: tuple[int, int]  # (height, width) of the images as the model saw them, where there is a trace


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


def in_dtype(model: Segmenter, dtype: str | None) -> Segmenter:
    """The model for inference in a dtype of `choose_dtype`: a copy, or itself if that is its own or None is asked for.

    Weights and activations are of that type, nothing is cast on the way; scores and probabilities are float32 anyway.

    Raises:
        InputError: a dtype that is unknown, or that the device where the model is does not have.
    """
    own = model.pixel_mean
    wanted = own.dtype if dtype is None else choose_dtype(dtype, own.device)
    return model if wanted == own.dtype else copy.deepcopy(model).to(wanted).eval()


@torch.inference_mode()
def segment_images(
    model: Segmenter,
    images: Tensor,
    pause: PauseConfig,
    inference: InferenceConfig,
    *,
    criterion: str = "entropy",
    seeds: Sequence[int],
) -> Segmented:
    """(B, 3, H, W) RGB images, uint8 or float in 0..1, where the model is -> classes at their size.

    Args:
        seeds: for the criterion ``random``, one for each image.
    """
    size = (images.shape[-2], images.shape[-1])
    if not inference.is_single_view:
        labels = []
        for image, seed in zip(images, seeds, strict=True):

            def predict(views: Tensor, seed: int = seed) -> Tensor:
                return model(views, pause, criterion=criterion, seeds=[seed] * len(views)).logits

            labels.append(segment_image(predict, image, inference).argmax(dim=0))
        return Segmented(torch.stack(labels), None, size)
    seen = view_size(size, inference)
    if seen == size:
        segmentation = model.segment(images, pause, criterion=criterion, seeds=seeds)
        return Segmented(segmentation.labels, segmentation.trace, seen)
    output = model(resize_images(images, seen), pause, criterion=criterion, seeds=seeds)
    return Segmented(resize_images(output.logits, size).argmax(dim=1), output.trace, seen)
