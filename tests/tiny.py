"""Tiny models that many tests share: timm's `test_vit` (6 layers, width 64, patch 16), with sure and unsure patches.

Knows nothing of what is tested with them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paumer.model import Segmenter, create_model

BACKBONE = "test_vit"
DEPTH = 6


def tiny_model(num_classes: int = 5, *, backbone: str = BACKBONE, seed: int = 0, **options) -> Segmenter:
    """Random weights, in evaluation mode, 64x64 pixels = 4x4 patches unless told otherwise."""
    torch.manual_seed(seed)
    model = create_model(backbone, num_classes=num_classes, **{"image_size": (64, 64), **options}).eval()
    with torch.no_grad():
        # Fresh weights are so small that all patches look alike: scores must differ by far more than rounding.
        model.encoder.pos_embed.mul_(30)
        for head in model.aux_head.values() if isinstance(model.aux_head, nn.ModuleDict) else [model.aux_head]:
            if head is not None:
                head.weight.mul_(30)
    return model


def random_images(batch: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """uint8 (B, 3, H, W)"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
