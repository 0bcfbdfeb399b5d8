"""IoU and accuracy over a whole data set, from one confusion matrix of pixels.

Knows nothing of models, files or images: class ids come in, percentages go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from paumer.errors import InputError

MIOU_CONVENTION = (
    "mIoU: pixels of the whole set in one histogram, then the mean over the classes whose union is not empty "
    "(as mmsegmentation); ignored pixels count nowhere"
)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a whole data set, all in per cent (0..100); nan where there is nothing to divide by.

    ``iou[c]`` is nan if class c is neither present nor predicted; ``accuracy[c]`` (recall) is nan if it is not
    present; ``pixels[c]`` counts its pixels in the truth. The means leave nan out.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    pixels: tuple[int, ...]
    convention: str = MIOU_CONVENTION

    def to_dict(self, names: Sequence[str]) -> dict:
        """The same as values that JSON knows: nan becomes None, and each class is given its name."""
        if len(names) != len(self.iou):
            raise InputError(f"cannot name {len(self.iou)} classes with {len(names)} names: give one name per class")
        # A list, since data sets may use one name twice.
        classes = [
            {"name": name, "iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": pixels}
            for name, iou, accuracy, pixels in zip(names, self.iou, self.accuracy, self.pixels, strict=True)
        ]
        return {
            "miou": _or_none(self.miou),
            "pixel_accuracy": _or_none(self.pixel_accuracy),
            "mean_accuracy": _or_none(self.mean_accuracy),
            "classes": classes,
            "convention": self.convention,
        }


class SegmentationMeter:
    """Counts predicted against true classes; over several processes torchmetrics adds the counts in ``compute``."""

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # Its own validation sorts every mask (`unique`); the maxima checked in `update` are far cheaper.
        self._confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignore_index, validate_args=False)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds class ids 0..C-1 against true ids 0..C-1 or ``ignore_index``: both (H, W), or both (B, H, W)."""
        if prediction.shape != target.shape:
            raise InputError(
                f"cannot compare a prediction of shape {tuple(prediction.shape)} with a mask of shape "
                f"{tuple(target.shape)}: resize the logits to the mask's size first"
            )
        target = target.to(prediction.device)
        counted = target != self.ignore_index
        self._check_ids("prediction", prediction[counted])
        self._check_ids("mask", target[counted])
        self._confusion.to(prediction.device)
        self._confusion.update(prediction.long(), target.long())

    def _check_ids(self, what: str, ids: Tensor) -> None:
        # Unchecked, an id too large would be counted silently as another class.
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_classes:
            wrong = int(ids.max()) if int(ids.min()) >= 0 else int(ids.min())
            raise InputError(
                f"the {what} holds the class id {wrong}, but there are {self.num_classes} classes: use ids "
                f"0..{self.num_classes - 1}, and {self.ignore_index} in masks for pixels to ignore"
            )

    def confusion(self) -> Tensor:
        """Pixel counts so far, (C, C) int64 on the CPU: rows are true classes, columns predicted ones."""
        return self._confusion.compute().cpu()

    def compute(self) -> SegmentationScores:
        """The scores of everything seen so far; all nan if that was nothing but ignored pixels."""
        confusion = self.confusion().double()  # exact to 2^53 pixels
        hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        iou = 100 * hits / (true + predicted - hits)  # 0 / 0 = nan, which is what the means leave out
        accuracy = 100 * hits / true
        return SegmentationScores(
            miou=iou.nanmean().item(),
            pixel_accuracy=(100 * hits.sum() / true.sum()).item(),
            mean_accuracy=accuracy.nanmean().item(),
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
            pixels=tuple(true.to(torch.int64).tolist()),
        )


def _or_none(value: float) -> float | None:
    return None if isnan(value) else value
