"""Parking and assembling tokens: gather and scatter along the token axis, nothing else.

Knows nothing of scores' meaning, layers or images. Source: PAUMER, Fig. 2 and the patch assembler of appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """Some of the patch tokens of each image, and where they belong."""

    x: Tensor  # (B, n, D)
    index: Tensor  # (B, n) int64, raster position of each token in its image


def take(tokens: Tokens, position: Tensor) -> Tokens:
    """The tokens at ``position`` (B, m), positions counted within ``tokens``."""
    x = tokens.x.gather(1, position.unsqueeze(-1).expand(-1, -1, tokens.x.shape[-1]))
    return Tokens(x, tokens.index.gather(1, position))


def split_tokens(tokens: Tokens, scores: Tensor, num_paused: int) -> tuple[Tokens, Tokens]:
    """The ``num_paused`` tokens with the lowest ``scores`` (B, n) of each image, and the rest in their old order."""
    # A count, not a threshold: every image parks the same number, so the batch stays rectangular.
    num_tokens = scores.shape[1]
    paused = scores.topk(num_paused, dim=1, largest=False, sorted=False).indices  # (B, k)
    # Paused positions get a key beyond every other, so the smallest keys are the running positions in rising order.
    keys = torch.arange(num_tokens, device=scores.device).expand(scores.shape[0], -1)
    keys = keys.scatter_add(1, paused, torch.full_like(paused, num_tokens))
    running = keys.topk(num_tokens - num_paused, dim=1, largest=False, sorted=True).indices
    return take(tokens, paused), take(tokens, running)


def assemble_tokens(groups: Sequence[Tokens]) -> Tensor:
    """Groups that together hold every token of each image once -> (B, N, D) in raster order (the patch assembler)."""
    if len(groups) == 1:  # nothing was paused: the tokens never left their order
        return groups[0].x
    x = torch.cat([group.x for group in groups], dim=1)
    index = torch.cat([group.index for group in groups], dim=1)
    return torch.empty_like(x).scatter(1, index.unsqueeze(-1).expand_as(x), x)
