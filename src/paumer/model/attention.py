"""Attention in slices of the queries, for processors on which torch's fused attention is not the quickest way.

Knows nothing of blocks or images. On a CPU with AVX512-BF16 torch computes fused attention of bfloat16 no faster than
that of float32, while products of matrices are: written out, attention takes half the time, as long as what is written
out is small enough for the cache and the allocator. Hence slices, and hence nothing as large as N x N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paumer.device import cpu_has

# Weights of one slice: few enough that they stay in a CPU's cache and need no new pages of memory each time; and at
# least so many queries that reading all keys pays.
_SLICE_WEIGHTS = 2**20
_SLICE_QUERIES = 256


def attend_in_slices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: (..., heads, n, d) -> (..., heads, n, d), up to rounding."""
    keys = k.transpose(-2, -1)
    rows = max(_SLICE_WEIGHTS // max(k.shape[:-1].numel(), 1), _SLICE_QUERIES)
    q = q * q.shape[-1] ** -0.5
    parts = [(part @ keys).softmax(dim=-1) @ v for part in q.split(rows, dim=-2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def slices_pay(x: Tensor) -> bool:
    """Whether attention of such tensors is quicker in slices than by `scaled_dot_product_attention`.

    Known of bfloat16 on x86 processors with AVX512-BF16 and without AMX. Never where the caller has named a back-end of
    torch, where gradients would keep what is written out, or in a compiled graph.
    """
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    named = not (torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled())
    return not named and cpu_has("avx512_bf16") and not cpu_has("amx_bf16")
