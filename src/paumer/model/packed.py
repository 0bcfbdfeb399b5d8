"""A block on the tokens of several images, also where they have different numbers of them, without padding.

Knows nothing of pausing. Where all have as many it is timm's own block that runs, but for processors on which attention
in slices is quicker. Where they do not, everything but attention works token by token and takes the packed tokens of
all images at once; attention goes image by image, or in one call of variable length where CUDA has it. Padding with a
mask, masks of diagonal blocks and nested tensors were slower than not pausing at all.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from itertools import accumulate
from typing import TypeGuard

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from paumer.errors import warn_once
from paumer.model.attention import attend_in_slices, slices_pay

log = logging.getLogger(__name__)


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """One block on images of equally many tokens (B, n, D) -> (B, n, D): timm's own forward pass, bit for bit.

    Only where attention in slices is quicker (see `slices_pay`) it equals that up to rounding.
    """
    compiled = block._compiled_call_impl is not None
    if compiled or not _is_plain(block) or not block.attn.fused_attn or not slices_pay(x):
        return block(x)
    return run_packed(block, x.flatten(0, 1)[None], (x.shape[1],) * len(x))[0].unflatten(0, x.shape[:2])


def _is_plain(block: nn.Module) -> TypeGuard[Block]:
    """Whether it is timm's usual block, whose steps are known here, and not in training, where it drops images."""
    return type(block) is Block and type(block.attn) is Attention and not block.training


def run_packed(block: nn.Module, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """One block on packed tokens (1, T, D) of images with ``lengths`` tokens each, prefix included -> (1, T, D).

    Equals the block on each image alone, up to the order of sums. Blocks and attention that are not timm's usual ones
    are called for each image, and so are all of them in training, where stochastic depth drops images.
    """
    if not _is_plain(block):
        return torch.cat([block(image) for image in x.split(lengths, dim=1)], dim=1)
    assert isinstance(block.attn, Attention)
    x = x + block.ls1(attend(block.attn, block.norm1(x)[0], lengths)[None])
    return x + block.ls2(block.mlp(block.norm2(x)))


def attend(attention: Attention, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """timm's attention within each image: packed (T, D) -> (T, D)."""
    heads = (attention.num_heads, attention.head_dim)
    q, k, v = attention.qkv(x).unflatten(1, (3, *heads)).unbind(1)  # (T, heads, d)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if attention.fused_attn and _has_varlen(q):
        y = _attend_varlen(q, k, v, lengths)
    else:
        y = _attend_each(q, k, v, lengths, attention.fused_attn)
    y = attention.norm(y.flatten(1))
    if attention.gate is not None:
        y = y * attention.gate(x).sigmoid()
    return attention.proj(y)


def _attend_each(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], fused: bool) -> Tensor:
    parts, in_slices = [], fused and slices_pay(q)
    for q_i, k_i, v_i in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        q_i, k_i, v_i = (part.transpose(0, 1)[None] for part in (q_i, k_i, v_i))  # (1, heads, n, d)
        if in_slices:
            y = attend_in_slices(q_i, k_i, v_i)
        elif fused:
            y = F.scaled_dot_product_attention(q_i, k_i, v_i)
        else:
            y = (q_i * q_i.shape[-1] ** -0.5 @ k_i.transpose(-2, -1)).softmax(dim=-1) @ v_i
        parts.append(y[0].transpose(0, 1))
    return torch.cat(parts)


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=q.device)
    y = varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))
    return y[0] if isinstance(y, tuple) else y


def _has_varlen(q: Tensor) -> bool:
    """Whether torch's attention of variable length takes these; says once what is in its way on a GPU."""
    if q.device.type != "cuda":
        return False
    obstacle = None
    if find_spec("torch.nn.attention.varlen") is None:
        obstacle = f"torch {torch.__version__} has no attention of variable length"
    elif q.dtype not in (torch.bfloat16, torch.float16):
        obstacle = "attention of variable length needs bfloat16 or float16 on CUDA"
    elif torch.cuda.get_device_capability(q.device) < (8, 0):
        obstacle = f"{torch.cuda.get_device_name(q.device)} has no attention of variable length (Ampere and later do)"
    if obstacle:
        warn_once(log, f"{obstacle}: attending image by image")
    return obstacle is None
