"""Parking and assembling tokens: rows are gathered once where they pause and put back once at the end, nothing else.

Knows nothing of scores' meaning, layers or images' sizes. Source: PAUMER, Fig. 2 and the patch assembler of appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# How many patch tokens each image of a batch has.
Lengths = tuple[int, ...]


class Tokens(NamedTuple):
    """Some of the patch tokens of a batch, and where they belong."""

    x: Tensor  # (T, D)
    index: Tensor  # (T,) int64, raster position of each token in the batch: image * N + position in the image


class Selection(NamedTuple):
    """Which tokens pause. Positions count the tokens of all images through, one image after another."""

    paused: Tensor  # (K,) int64 positions, in any order
    kept: Tensor  # (T - K,) int64 positions of the others, rising
    lengths: Lengths  # tokens that each image keeps


@dataclass(frozen=True)
class Running:
    """The tokens on their way through the encoder: the prefix and the running patches of each image of a batch.

    Where all images have as many, ``x`` is (B, P + n, D), as every ViT has it. Where they do not, it is packed: one
    image after another, (1, sum of P + n_i, D), so that no row is computed for nothing.
    """

    x: Tensor
    index: Tensor  # (sum of n_i,) int64, raster position in the batch of each patch token
    lengths: Lengths  # n_i
    num_prefix: int

    @classmethod
    def all_of(cls, x: Tensor, num_prefix: int) -> Running:
        """(B, P + N, D) tokens of which none has paused, prefix tokens first."""
        batch_size, num_tokens = x.shape[0], x.shape[1] - num_prefix
        index = torch.arange(batch_size * num_tokens, device=x.device)
        return cls(x, index, (num_tokens,) * batch_size, num_prefix)

    @property
    def is_packed(self) -> bool:
        return any(length != self.lengths[0] for length in self.lengths)

    @property
    def patches(self) -> Tensor:
        """(T, D): the patch tokens alone, one image after another."""
        if self.is_packed:
            return self.x[0].index_select(0, patch_rows(self.lengths, self.num_prefix, self.x.device))
        return self.x[:, self.num_prefix :].flatten(0, 1)

    def keep(self, selection: Selection) -> Running:
        """Those of ``selection`` that run on, in their old order, and the prefix."""
        after = selection.lengths
        # One gather for patches and prefix alike, and of rows, which is 50 times as fast as of elements on a CPU.
        x = self.x.flatten(0, 1).index_select(0, self._rows_of(selection))
        is_packed = any(length != after[0] for length in after)
        x = x[None] if is_packed else x.unflatten(0, (len(after), -1))
        return Running(x, self.index.index_select(0, selection.kept), after, self.num_prefix)

    def _rows_of(self, selection: Selection) -> Tensor:
        """Of which old row each new one is made."""
        before, after, num_prefix, device = self.lengths, selection.lengths, self.num_prefix, self.x.device
        if not self.is_packed and all(length == after[0] for length in after):
            images = torch.arange(len(after), device=device)[:, None]
            patches = selection.kept.unflatten(0, (len(after), -1)) + num_prefix * (images + 1)
            prefix = (before[0] + num_prefix) * images + torch.arange(num_prefix, device=device)
            return torch.cat([prefix, patches], dim=1).flatten()
        rows = torch.empty(sum(after) + len(after) * num_prefix, dtype=torch.int64, device=device)
        patches = patch_rows(before, num_prefix, device).index_select(0, selection.kept)
        rows[patch_rows(after, num_prefix, device)] = patches
        rows[prefix_rows(after, num_prefix, device)] = prefix_rows(before, num_prefix, device)
        return rows


def patch_rows(lengths: Lengths, num_prefix: int, device: torch.device) -> Tensor:
    """(sum of n_i,): the rows of the patch tokens where each image is its prefix and then its patches."""
    rows = torch.arange(sum(lengths), device=device)
    return rows if num_prefix == 0 else rows + num_prefix * (image_of(lengths, device) + 1)


def prefix_rows(lengths: Lengths, num_prefix: int, device: torch.device) -> Tensor:
    """(B * P,): the rows of the prefix tokens."""
    starts = [sum(lengths[:i]) + num_prefix * i for i in range(len(lengths))]
    return (torch.tensor(starts, device=device)[:, None] + torch.arange(num_prefix, device=device)).flatten()


def image_of(lengths: Lengths, device: torch.device) -> Tensor:
    """(sum of n_i,): the image that each patch token belongs to."""
    images = torch.arange(len(lengths), device=device)
    if all(length == lengths[0] for length in lengths):
        return images.repeat_interleave(lengths[0])
    return images.repeat_interleave(torch.tensor(lengths, device=device), output_size=sum(lengths))


def assemble_tokens(groups: Sequence[Tokens], batch_size: int) -> Tensor:
    """Groups that together hold every token of a batch once -> (B, N, D) in raster order (the patch assembler)."""
    x = groups[0].x.new_empty(sum(len(group.index) for group in groups), groups[0].x.shape[1])
    for group in groups:
        x[group.index] = group.x
    return x.unflatten(0, (batch_size, -1))
