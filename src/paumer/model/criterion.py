"""Which patches are certain: token scores, low = pause first.

Knows nothing of pausing itself. Source: PAUMER, section 2.1 and Eq. 4; `max_prob` and `margin` are common alternatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paumer.errors import InputError, did_you_mean


def entropy(logits: Tensor) -> Tensor:
    """Posterior entropy of each token (Eq. 4): (..., C) logits -> (...) in nats, 0..ln C; low means sure."""
    # float32: under autocast a half-precision sum over 150 classes cannot order close entropies.
    log_p = logits.float().log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def max_prob(logits: Tensor) -> Tensor:
    """One minus the highest class probability: (..., C) logits -> (...), 0..1 - 1/C; low means sure."""
    return 1 - logits.float().softmax(dim=-1).amax(dim=-1)


def margin(logits: Tensor) -> Tensor:
    """One minus the gap between the two most probable classes: (..., C) logits -> (...), 0..1; low means sure."""
    first_two = logits.float().softmax(dim=-1).topk(2, dim=-1).values
    return 1 - (first_two[..., 0] - first_two[..., 1])


def random_scores(lengths: Sequence[int], seeds: Sequence[int], layer: int, device: torch.device) -> Tensor:
    """Uniform scores (T,) for images of ``lengths`` tokens, one stream each: the paper's random-pausing baseline.

    The stream depends on the image's own seed and the layer, never on its batch mates.
    """
    rows = []
    for length, seed in zip(lengths, seeds, strict=True):
        # Drawn on the CPU so that every device pauses the same patches.
        generator = torch.Generator().manual_seed(seed * 1009 + layer)
        rows.append(torch.rand(length, generator=generator))
    return torch.cat(rows).to(device)


CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {"entropy": entropy, "max_prob": max_prob, "margin": margin}
CRITERION_NAMES = (*CRITERIA, "random")


# Logits of one slice on a CPU: what is computed on the way stays in the cache and in memory that is there already.
_SLICE = 2**17


def score_logits(criterion: str, logits: Tensor) -> Tensor:
    """A criterion of `CRITERIA` on the logits of each token: (T, C) -> (T,), on a CPU slice by slice."""
    score = CRITERIA[criterion]
    rows = max(_SLICE // logits.shape[1], 1)
    if logits.device.type != "cpu" or len(logits) <= rows:
        return score(logits)
    return torch.cat([score(part) for part in logits.split(rows)])


def check_criterion(name: str) -> str:
    if name not in CRITERION_NAMES:
        raise InputError(f"unknown criterion '{name}': {did_you_mean(name, CRITERION_NAMES)}")
    return name
