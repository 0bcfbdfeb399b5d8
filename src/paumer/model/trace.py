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
    """One pausing layer. ``n`` tokens were still running when it was reached, ``k`` of them paused."""

    layer: int  # counted from 1
    index: Tensor  # (B, n) int64, raster positions of the tokens scored here
    scores: Tensor  # (B, n), low = paused first
    aux_logits: Tensor | None  # (B, n, C), None where the model has no auxiliary head
    paused: Tensor  # (B, k) int64, raster positions of the tokens paused here


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
        layers = torch.zeros(self.batch_size, math.prod(self.grid), dtype=torch.int64, device=device)
        for step in self.steps:
            layers = layers.scatter(1, step.paused, torch.full_like(step.paused, step.layer))
        return layers.view(-1, *self.grid)

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
        logits = None
        for step in self.steps[: self.layers.index(layer) + 1]:
            assert step.aux_logits is not None
            if logits is None:  # the first pausing layer scores all tokens, in raster order
                logits = step.aux_logits
            else:
                logits = logits.scatter(1, step.index.unsqueeze(-1).expand_as(step.aux_logits), step.aux_logits)
        assert logits is not None
        return logits

    def _step(self, layer: int) -> PauseStep:
        return self.steps[self.layers.index(layer)]

    def _to_grid(self, step: PauseStep, values: Tensor) -> Tensor:
        full = values.new_full((values.shape[0], math.prod(self.grid)), math.nan)
        return full.scatter(1, step.index, values).view(-1, *self.grid)
