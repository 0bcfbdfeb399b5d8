"""Tokens of all patches -> class scores on the patch grid: Segmenter's mask transformer and the linear decoder.

Knows nothing of pausing: it always sees every patch in raster order. Source: Segmenter (Strudel et al., ICCV 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from paumer.model.packed import run_block
from paumer.model.presets import Preset


def init_weights(module: nn.Module) -> None:
    """Segmenter's initialisation of Linear and LayerNorm."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


class LinearDecoder(nn.Module):
    """One linear layer per patch."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(init_weights)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D), (h, w) -> (B, C, h, w)."""
        return self.head(tokens).transpose(1, 2).unflatten(2, grid)


class MaskTransformer(nn.Module):
    """Class embeddings attend together with the patches; a class mask is the cosine of its embedding and each patch."""

    def __init__(self, embed_dim: int, num_heads: int, num_classes: int, num_layers: int, preset: Preset) -> None:
        super().__init__()
        self.num_classes = num_classes
        scale = embed_dim**-0.5

        def norm_layer(dim: int, **kwargs) -> nn.LayerNorm:
            return nn.LayerNorm(dim, eps=preset.decoder_eps, **kwargs)

        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                qkv_bias=True,
                proj_drop=preset.decoder_dropout,
                attn_drop=preset.decoder_dropout,
                drop_path=drop_path,  # pyrefly: ignore[bad-argument-type] (lists of lists only for stages)
                norm_layer=norm_layer,  # pyrefly: ignore[bad-argument-type] (timm takes any callable)
            )
            for drop_path in calculate_drop_path_rates(preset.decoder_drop_path, num_layers)
        )
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, embed_dim))
        self.proj_dec = nn.Linear(embed_dim, embed_dim)
        self.proj_patch = nn.Parameter(scale * torch.randn(embed_dim, embed_dim))
        self.proj_classes = nn.Parameter(scale * torch.randn(embed_dim, embed_dim))
        self.decoder_norm = norm_layer(embed_dim)
        self.mask_norm = norm_layer(num_classes)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D), (h, w) -> (B, C, h, w)."""
        x = torch.cat([self.proj_dec(tokens), self.cls_emb.expand(tokens.shape[0], -1, -1)], dim=1)  # (B, N + C, D)
        for block in self.blocks:
            x = run_block(block, x)
        x = self.decoder_norm(x)
        patches = F.normalize(x[:, : -self.num_classes] @ self.proj_patch, dim=-1)
        classes = F.normalize(x[:, -self.num_classes :] @ self.proj_classes, dim=-1)
        masks = self.mask_norm(patches @ classes.transpose(1, 2))  # (B, N, C)
        return masks.transpose(1, 2).unflatten(2, grid)
