"""A Segmenter as such networks were written in 2021, for comparison only: softmax(q k) v step by step, nothing fused.

Knows nothing of pausing. Written anew from the Segmenter paper (Strudel et al., ICCV 2021); takes the weights of ours
and gives the same logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paumer.model import Segmenter
from paumer.model.decoder import MaskTransformer
from paumer.model.encoder import embed_patches


class Attention2021(nn.Module):
    """Writes out the (B, heads, n, n) matrix three times: scaled, after the softmax, after the dropout."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.head_dim**-0.5
        self.qkv, self.proj = attention.qkv, attention.proj
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        batch_size, num_tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch_size, num_tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1)) * self.scale
        attention = self.attn_drop(attention.softmax(dim=-1))
        x = (attention @ v).transpose(1, 2).reshape(batch_size, num_tokens, width)
        return self.proj_drop(self.proj(x))


class Block2021(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, Attention2021(block.attn), block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Segmenter2021(nn.Module):
    """(B, 3, H, W) images, sides multiples of the patch -> logits on the patch grid (B, C, h, w)."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        assert isinstance(model.decoder, MaskTransformer)
        self.model = model
        self.encoder_blocks = nn.ModuleList(Block2021(block) for block in model.encoder.blocks)
        self.decoder_blocks = nn.ModuleList(Block2021(block) for block in model.decoder.blocks)

    def forward(self, images: Tensor) -> Tensor:
        vit, decoder = self.model.encoder, self.model.decoder
        x, grid = embed_patches(vit, self.model.normalize(images), self.model.preset)
        for block in self.encoder_blocks:
            x = block(x)
        x = decoder.proj_dec(vit.norm(x)[:, vit.num_prefix_tokens :])
        x = torch.cat([x, decoder.cls_emb.expand(len(x), -1, -1)], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        x = decoder.decoder_norm(x)
        patches, classes = x[:, : -decoder.num_classes], x[:, -decoder.num_classes :]
        patches, classes = (
            F.normalize(patches @ decoder.proj_patch, dim=-1),
            F.normalize(classes @ decoder.proj_classes, dim=-1),
        )
        masks = decoder.mask_norm(patches @ classes.transpose(1, 2))
        return masks.transpose(1, 2).unflatten(2, grid)
