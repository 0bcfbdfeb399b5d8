"""The training loss: cross entropy of the decoder and of the auxiliary decoder (Eq. 1-3).

Knows nothing of optimisers, data sets or which patches paused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from paumer.model import Segmenter, SegmenterOutput


@dataclass(frozen=True)
class SegmentationLoss:
    """``total`` is what is minimised (Eq. 3); ``main`` (Eq. 1) and ``aux`` (Eq. 2, 0 where there is none) its parts."""

    total: Tensor
    main: Tensor
    aux: Tensor


def cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int = 255, weight: Tensor | None = None, average: str = "valid"
) -> Tensor:
    """Pixel cross entropy: (B, C, H, W) logits, (B, H, W) class ids -> scalar.

    Args:
        weight: (C,) weight of each class.
        average: ``valid`` divides by the (weighted) number of labelled pixels, as torch and Segmenter do; ``all`` by
            the number of all pixels, as mmsegmentation does by default.
    """
    target = target.long()
    total = F.cross_entropy(logits.float(), target, weight, ignore_index=ignore_index, reduction="sum")
    if average == "all":
        return total / target.numel()
    valid = target != ignore_index
    count = valid.sum() if weight is None else weight[target[valid]].sum()
    return total / count.clamp(min=1e-6)  # a batch without one labelled pixel gives 0, not nan


def segmentation_loss(
    model: Segmenter,
    output: SegmenterOutput,
    target: Tensor,
    *,
    aux_weight: float = 0.1,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    average: str = "valid",
) -> SegmentationLoss:
    """Eq. 3, L_main + lambda L_aux, for class ids ``target`` (B, H, W) of the images' size.

    The auxiliary loss is taken at every pausing layer over *all* patches, the paused ones included, with logits
    upsampled to the label. ``aux_weight`` is the paper's lambda.
    """
    options = dict(ignore_index=ignore_index, weight=weight, average=average)
    main = cross_entropy(output.logits, target, **options)
    aux = main.new_zeros(())
    height, width = target.shape[-2:]
    if model.aux_head is not None:
        for layer in output.trace.layers:
            patches = output.trace.aux_logits(layer).transpose(1, 2).unflatten(2, output.trace.grid)  # (B, C, h, w)
            aux = aux + cross_entropy(model.upsample(patches, (height, width)), target, **options)
    return SegmentationLoss(main + aux_weight * aux, main, aux)
