"""What one image costs in arithmetic: a closed formula, and torch's own counter to check it with.

Knows nothing of time. FLOP = 2 MAC of convolutions, linear layers and attention; softmax, norms, activations and the
final upsample count nothing, as in `torch.utils.flop_counter`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from timm.models.vision_transformer import Attention
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paumer.errors import InputError
from paumer.model.decoder import LinearDecoder, MaskTransformer
from paumer.model.segmenter import Segmenter
from paumer.model.trace import Trace
from paumer.pause import PauseConfig


def flop_formula(model: Segmenter, pause: PauseConfig, image_size: tuple[int, int]) -> int:
    """FLOP of the forward pass of one image of (height, width) pixels, by arithmetic alone.

    With N patches, width D, C classes and n running tokens (prefix tokens included), in MAC: the patch embedding is
    3 p^2 N D; a layer of the usual shape 12 n D^2 + 2 n^2 D; the mask decoder N D^2, two such layers on N + C tokens,
    (N + C) D^2 and N C D; the auxiliary head n C D at each pausing layer, prefix tokens not counted.

    Raises:
        InputError: a layer that the encoder does not have, attention of another kind (`count_flops` counts any), a
            number of paused tokens that follows the image (see `flops_of_trace`).
    """
    height, width = model.grid_of(*image_size)
    num_patches = height * width
    return _flops(model, num_patches, pause.num_running(num_patches, model.depth), pause.layers)


def flops_of_trace(model: Segmenter, trace: Trace) -> list[int]:
    """FLOP of each image of a forward pass by the same formula, from how many tokens each layer really processed."""
    num_patches = math.prod(trace.grid)
    return [_flops(model, num_patches, running, trace.layers) for running in trace.num_running(model.depth).tolist()]


def _flops(model: Segmenter, num_patches: int, running: Sequence[int], scored_after: Sequence[int]) -> int:
    """Of one image; ``running`` are the patches that each layer processes."""
    vit = model.encoder
    macs = num_patches * _macs_per_token(vit.patch_embed)
    macs += sum(_layer_macs(block, n + vit.num_prefix_tokens) for block, n in zip(vit.blocks, running, strict=True))
    macs += _decoder_macs(model.decoder, num_patches)
    if model.aux_head is not None:
        macs += model.config.num_classes * vit.embed_dim * sum(running[layer - 1] for layer in scored_after)
    return 2 * macs


def _layer_macs(block: nn.Module, num_tokens: int) -> int:
    attentions = [module for module in block.modules() if isinstance(module, Attention)]
    if not attentions:
        raise InputError(f"the formula knows softmax attention only, not that of {type(block).__name__}: count instead")
    # Queries with keys, and weights with values: two products of num_tokens^2 and the width of all heads.
    width = sum(attention.num_heads * attention.head_dim for attention in attentions)
    return num_tokens * _macs_per_token(block) + 2 * num_tokens**2 * width


def _macs_per_token(module: nn.Module) -> int:
    """Every weight of a linear layer, or of a convolution over whole patches, meets every token once."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d))


def _decoder_macs(decoder: MaskTransformer | LinearDecoder, num_patches: int) -> int:
    if isinstance(decoder, LinearDecoder):
        return num_patches * _macs_per_token(decoder.head)
    num_classes = decoder.num_classes
    macs = num_patches * _macs_per_token(decoder.proj_dec)
    macs += sum(_layer_macs(block, num_patches + num_classes) for block in decoder.blocks)
    macs += num_patches * decoder.proj_patch.numel() + num_classes * decoder.proj_classes.numel()
    return macs + num_patches * decoder.cls_emb.numel()


def count_flops(
    model: Segmenter, pause: PauseConfig, image_size: tuple[int, int], *, criterion: str = "entropy"
) -> int:
    """FLOP of the forward pass of one image of (height, width) pixels, counted by torch without computing anything.

    Raises:
        InputError: what the forward pass refuses: a layer that is not there, a criterion without auxiliary head; a
            number of paused tokens that follows the image, which has none here.
    """
    pause.counts(1, model.depth)
    shapes = _on_meta(model)
    image = torch.empty(1, 3, *image_size, device="meta")
    with torch.inference_mode():
        return count_call(lambda: shapes(image, pause, criterion=criterion))


def count_call(call: Callable[[], object]) -> int:
    """FLOP that torch's counter sees in a call, on any device."""
    # The counter does not know the fused attention of CPUs and leaves it out; the unfused one is two plain products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _on_meta(model: Segmenter) -> Segmenter:
    """A copy that has shapes and no values."""
    memo = {id(tensor): nn.Parameter(tensor.detach().to("meta"), requires_grad=False) for tensor in model.parameters()}
    return copy.deepcopy(model, memo | {id(tensor): tensor.to("meta") for tensor in model.buffers()}).eval()
