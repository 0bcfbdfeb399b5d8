"""What paused where: the record that a forward pass leaves, so that no figure needs a second pass.

Knows nothing of how scores were made. Source: PAUMER, Fig. 1 (b, c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from paumer.model.criterion import entropy


@dataclass(frozen=True)
class PauseStep:
    """One pausing layer. ``T`` tokens of the batch were still running when it was reached, ``K`` of them paused.

    Images follow one another, and need not have the same number of tokens. Positions are raster positions in the
    batch: token ``t`` of image ``i`` with N patches is ``i * N + t``.
    """

    layer: int  # counted from 1
    index: Tensor  # (T,) int64, positions of the tokens scored here
    scores: Tensor  # (T,), low = paused first
    aux_logits: Tensor | None  # (T, C), None where the model has no auxiliary head
    paused: Tensor  # (K,) int64, positions of the tokens paused here


@dataclass(frozen=True)
class Trace:
    """All pausing layers of one forward pass over a batch, and the patch grid they refer to."""

    grid: tuple[int, int]  # (h, w) patches, padding included
    batch_size: int
    steps: tuple[PauseStep, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(step.layer for step in self.steps)

    def paused_at(self) -> Tensor:
        """(B, h, w) int64: the layer after which each patch paused, 0 where it ran to the end (Fig. 1)."""
        device = self.steps[0].index.device if self.steps else None
        layers = torch.zeros(self.batch_size * math.prod(self.grid), dtype=torch.int64, device=device)
        for step in self.steps:
            layers[step.paused] = step.layer
        return layers.view(-1, *self.grid)

    def num_running(self, depth: int) -> Tensor:
        """(B, depth) int64: tokens of each image that each layer processed, prefix tokens not counted."""
        last = self.paused_at().flatten(1)  # the last layer that each patch went through
        last = torch.where(last == 0, depth, last)
        return torch.stack([(last >= layer).sum(dim=1) for layer in range(1, depth + 1)], dim=1)

    def scores(self, layer: int) -> Tensor:
        """(B, h, w) scores at a pausing layer; nan where the patch had paused before."""
        step = self._step(layer)
        return self._to_grid(step, step.scores.float())

    def entropy(self, layer: int) -> Tensor:
        """(B, h, w) posterior entropy in nats at a pausing layer (Fig. 1, b.2); nan where paused before or unknown."""
        step = self._step(layer)
        if step.aux_logits is None:
            return self._to_grid(step, torch.full_like(step.scores, math.nan))
        return self._to_grid(step, entropy(step.aux_logits))

    def aux_logits(self, layer: int) -> Tensor:
        """(B, N, C) the latest auxiliary prediction of *every* patch up to ``layer``, in raster order (for Eq. 2).

        Patches that paused earlier keep the prediction with which they paused.
        """
        first, *later = self.steps[: self.layers.index(layer) + 1]
        logits = first.aux_logits  # the first pausing layer scores all tokens, in raster order
        assert logits is not None
        for step in later:
            assert step.aux_logits is not None
            logits = logits.index_copy(0, step.index, step.aux_logits)
        return logits.unflatten(0, (self.batch_size, -1))

    def _step(self, layer: int) -> PauseStep:
        return self.steps[self.layers.index(layer)]

    def _to_grid(self, step: PauseStep, values: Tensor) -> Tensor:
        full = values.new_full((self.batch_size * math.prod(self.grid),), math.nan)
        return full.index_copy(0, step.index, values).view(-1, *self.grid)
