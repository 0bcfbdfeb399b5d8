"""Which tokens pause, given their scores: a number in each image, a share of the whole batch, or all below a threshold.

Knows nothing of tokens' values or of what the scores mean: low pauses first. Scores are (T,), one image after another.
Source: PAUMER, section 2.2, for the number in each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from paumer.model.tokens import Lengths, Selection, image_of
from paumer.pause import BatchShare, PauseConfig, Threshold, num_to_pause

Select = Callable[[Tensor, Lengths], Selection]


def selectors(pause: PauseConfig, num_tokens: int, depth: int) -> dict[int, Select]:
    """``{layer: how to choose there}`` for images of ``num_tokens`` patches and an encoder of ``depth`` layers.

    Raises:
        InputError: a layer that the encoder does not have.
    """
    pause.check_depth(depth)
    counts = pause.counts_ahead(num_tokens)
    select: dict[int, Select] = {}
    for layer, amount in pause.steps:
        if layer in counts:  # known before anything runs: no number has to come from the device
            select[layer] = partial(select_lowest, num_paused=counts[layer])
        elif isinstance(amount, BatchShare):
            select[layer] = partial(select_in_batch, share=amount)
        elif isinstance(amount, Threshold):
            select[layer] = partial(select_below, threshold=amount)
        else:
            select[layer] = partial(select_share, ratio=amount)
    return select


def select_lowest(scores: Tensor, lengths: Lengths, num_paused: int) -> Selection:
    """The ``num_paused`` lowest of each image, all of which have as many tokens."""
    # A count, not a threshold: every image parks the same number, so the batch stays rectangular.
    batch_size, num_tokens = len(lengths), lengths[0]
    scores = scores.unflatten(0, (batch_size, num_tokens))
    paused = scores.topk(num_paused, dim=1, largest=False, sorted=False).indices  # (B, k)
    # Paused positions get a key beyond every other, so the smallest keys are the running positions in rising order.
    keys = torch.arange(num_tokens, device=scores.device).expand(batch_size, -1)
    keys = keys.scatter_add(1, paused, torch.full_like(paused, num_tokens))
    kept = keys.topk(num_tokens - num_paused, dim=1, largest=False, sorted=True).indices
    first = num_tokens * torch.arange(batch_size, device=scores.device)[:, None]
    return Selection((paused + first).flatten(), (kept + first).flatten(), (num_tokens - num_paused,) * batch_size)


def select_share(scores: Tensor, lengths: Lengths, ratio: float) -> Selection:
    """The lowest of each image, a share of its own tokens."""
    counts = [num_to_pause(ratio, length) for length in lengths]
    if all(length == lengths[0] for length in lengths):
        return select_lowest(scores, lengths, counts[0])
    return _from_mask(_rank_in_image(scores, lengths) < _per_token(counts, lengths, scores.device), lengths)


def select_in_batch(scores: Tensor, lengths: Lengths, share: BatchShare) -> Selection:
    """The lowest of the whole batch, within the bounds of each image."""
    low = [num_to_pause(share.low, length) for length in lengths]
    high = [num_to_pause(share.high, length) for length in lengths]
    num_paused = max(sum(low), min(num_to_pause(share.ratio, sum(lengths)), sum(high)))
    rank = _rank_in_image(scores, lengths)
    keys = scores.masked_fill(rank < _per_token(low, lengths, scores.device), -math.inf)
    keys = keys.masked_fill(rank >= _per_token(high, lengths, scores.device), math.inf)
    paused = torch.zeros_like(keys, dtype=torch.bool)
    paused[keys.topk(num_paused, largest=False, sorted=False).indices] = True
    return _from_mask(paused, lengths)


def select_below(scores: Tensor, lengths: Lengths, threshold: Threshold) -> Selection:
    """All below the threshold, within the bounds of each image."""
    low = [num_to_pause(threshold.low, length) for length in lengths]
    high = [num_to_pause(threshold.high, length) for length in lengths]
    rank, device = _rank_in_image(scores, lengths), scores.device
    paused = (scores < threshold.nats) | (rank < _per_token(low, lengths, device))
    return _from_mask(paused & (rank < _per_token(high, lengths, device)), lengths)


def _rank_in_image(scores: Tensor, lengths: Lengths) -> Tensor:
    """(T,): how many tokens of the same image have a lower score; equal ones count in raster order."""
    image = image_of(lengths, scores.device)
    order = scores.argsort(stable=True)
    order = order[image[order].argsort(stable=True)]  # image after image, and within each of them by score
    rank = torch.empty_like(order)
    starts = [0, *accumulate(lengths)][:-1]
    rank[order] = torch.arange(len(order), device=scores.device) - _per_token(starts, lengths, scores.device)
    return rank


def _per_token(values: list[int], lengths: Lengths, device: torch.device) -> Tensor:
    """One value for each image -> (T,), that of the image of each token."""
    return torch.tensor(values, device=device)[image_of(lengths, device)]


def _from_mask(paused: Tensor, lengths: Lengths) -> Selection:
    kept = torch.zeros(len(lengths), dtype=torch.int64, device=paused.device)
    kept = kept.index_add(0, image_of(lengths, paused.device), (~paused).long())
    # How many remain has to be known to shape the next tensors: the one time that the device is waited for.
    return Selection(paused.nonzero().squeeze(1), (~paused).nonzero().squeeze(1), tuple(kept.tolist()))
