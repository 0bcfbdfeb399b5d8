"""PAUMER's section 2 written out for one image at a time: NumPy, Python lists and loops; no gather, scatter or topk.

Knows nothing of paumer, so that it can be the judge of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor


def entropies(logits) -> np.ndarray:
    """Eq. 4 in float64: (..., C) -> (...)."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return -(p * np.log(p)).sum(axis=-1)


def pause_one_image(
    vit, image: Tensor, amounts: Mapping[int, Any], weight: Tensor, bias: Tensor
) -> tuple[Tensor, list[int]]:
    """Normalised image (3, H, W) -> (N, D) normed tokens, and the layer after which each paused (0: never).

    Amounts are ratios, numbers of tokens (int), or values with nats, low and high.
    """
    num_prefix = vit.num_prefix_tokens
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))
    num_tokens = x.shape[1] - num_prefix
    home = list(range(num_tokens))  # raster position of each running token
    final: dict[int, Tensor] = {}
    paused_at = [0] * num_tokens
    for layer, block in enumerate(vit.blocks, start=1):
        x = block(x)
        if layer not in amounts:
            continue
        patches = list(x[0, num_prefix:])
        scores = entropies((torch.stack(patches) @ weight.T + bias).detach())
        num_paused = number_of(amounts[layer], scores)
        order = sorted(range(len(patches)), key=lambda i: scores[i])
        for i in order[:num_paused]:
            final[home[i]] = patches[i]
            paused_at[home[i]] = layer
        running = sorted(order[num_paused:])
        home = [home[i] for i in running]
        x = torch.cat([x[0, :num_prefix], torch.stack([patches[i] for i in running])])[None]
    final |= dict(zip(home, x[0, num_prefix:], strict=True))
    return vit.norm(torch.stack([final[i] for i in range(num_tokens)])), paused_at


def number_of(amount: Any, scores: np.ndarray) -> int:
    if isinstance(amount, int):
        return amount
    if isinstance(amount, float):
        return int(Fraction(str(amount)) * len(scores))  # exact decimal, rounded down
    low, high = (number_of(bound, scores) for bound in (amount.low, amount.high))
    return int(np.clip((scores < amount.nats).sum(), low, high))


def bilinear(maps, patch: int) -> np.ndarray:
    """(..., h, w) -> (..., h * patch, w * patch), pixel centres at half integers, edges repeated."""
    maps = np.asarray(maps, dtype=np.float64)
    for axis in (-2, -1):
        length = maps.shape[axis]
        centres = (np.arange(length * patch) + 0.5) / patch - 0.5
        maps = np.apply_along_axis(lambda line, c=centres, n=length: np.interp(c, np.arange(n), line), axis, maps)
    return maps


def pixel_cross_entropy(logits, target, ignore: int = 255, weight=None, average: str = "valid") -> float:
    """(B, C, H, W), (B, H, W) -> one number, pixel by pixel."""
    logits, target = np.asarray(logits, dtype=np.float64), np.asarray(target)
    total = norm = 0.0
    for b, row, column in np.ndindex(target.shape):
        label = int(target[b, row, column])
        if label == ignore:
            continue
        scores = logits[b, :, row, column]
        factor = 1.0 if weight is None else float(weight[label])
        total += factor * (np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])
        norm += factor
    return total / (target.size if average == "all" else norm)


def mean_iou(predictions, targets, num_classes: int, ignore: int = 255) -> float:
    """Over the whole set, in per cent, classes that are nowhere left out."""
    predicted = np.concatenate([np.asarray(p).ravel() for p in predictions])
    true = np.concatenate([np.asarray(t).ravel() for t in targets])
    predicted, true = predicted[true != ignore], true[true != ignore]
    ious = []
    for c in range(num_classes):
        if union := ((predicted == c) | (true == c)).sum():
            ious.append(((predicted == c) & (true == c)).sum() / union)
    return 100 * float(np.mean(ious))
