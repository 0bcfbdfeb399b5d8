"""Optimiser, learning rate and weight average of a training run.

Knows nothing of the loop. Sources: Segmenter's and mmsegmentation's recipes (SGD, poly schedule with a floor).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from paumer.errors import InputError, did_you_mean

OPTIMIZERS = ("sgd", "nesterov", "adamw")


def create_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, momentum: float, decoder_lr_scale: float
) -> Optimizer:
    """SGD ("sgd" plain as in mmsegmentation, "nesterov" as in rstrudel/segmenter) or AdamW.

    Everything but the encoder learns at ``lr * decoder_lr_scale``; biases, norms, embeddings and tokens do not decay.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"unknown optimizer '{name}': {did_you_mean(name, OPTIMIZERS)}")
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for key, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and not key.endswith(("pos_embed", "_token", "cls_emb"))
        groups.setdefault((key.startswith("encoder."), decays), []).append(parameter)
    params = [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": 1.0 if in_encoder else decoder_lr_scale,
        }
        for (in_encoder, decays), parameters in groups.items()
    ]
    if name == "adamw":
        return torch.optim.AdamW(params, lr=lr)
    return torch.optim.SGD(params, lr=lr, momentum=momentum, nesterov=name == "nesterov")


def poly_lr(step: int, steps: int, lr: float, min_lr: float, power: float = 0.9, warmup_steps: int = 0) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up times (lr - min_lr) (1 - step / steps)^power + min_lr."""
    value = (lr - min_lr) * (1 - step / steps) ** power + min_lr
    return value * min(1.0, (step + 1) / (warmup_steps + 1))


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def create_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights: after each step, ema = decay ema + (1 - decay) weights."""
    if not 0 < decay < 1:
        raise InputError(f"ema_decay must lie in (0, 1), got {decay}; 0 turns it off")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
