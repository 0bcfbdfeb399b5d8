"""The pausing encoder: a timm ViT's own layers in a loop that parks certain patches and assembles them at the end.

Knows nothing of images' sizes, decoders or losses. Source: PAUMER, Fig. 2 and section 2.2; Segmenter for the preset
"segmenter"; timm's `VisionTransformer.forward_features`, which this equals bit for bit when nothing pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from paumer.errors import InputError, did_you_mean
from paumer.model.packed import run_block, run_packed
from paumer.model.presets import Preset
from paumer.model.select import Select
from paumer.model.tokens import Lengths, Running, Tokens, assemble_tokens
from paumer.model.trace import PauseStep, Trace

# (layer, running tokens (T, D), number of them in each image) -> scores (T,), auxiliary logits (T, C) or None
ScoreTokens = Callable[[int, Tensor, Lengths], tuple[Tensor, Tensor | None]]


def create_vit(backbone: str, image_size: tuple[int, int], preset: Preset, drop_path_rate: float) -> VisionTransformer:
    """A plain ViT of timm with random weights, without its classifier, for any image size at run time."""
    name = backbone.split(".")[0]
    if not timm.is_model(name):
        raise InputError(f"unknown backbone '{backbone}': {did_you_mean(name, timm.list_models('*vit*'))}")
    kwargs: dict[str, Any] = dict(
        img_size=image_size, dynamic_img_size=True, num_classes=0, drop_path_rate=drop_path_rate
    )
    if preset.encoder_eps is not None:
        kwargs["norm_layer"] = partial(nn.LayerNorm, eps=preset.encoder_eps)
    try:
        vit = timm.create_model(name, pretrained=False, **kwargs)
    except TypeError:
        vit = None  # not a ViT: it does not know these arguments
    if not isinstance(vit, VisionTransformer) or vit.pos_embed is None:
        raise InputError(f"'{backbone}' is not a plain ViT of timm: take one such as vit_tiny_patch16_384")
    return vit


def embed_patches(vit: VisionTransformer, images: Tensor, preset: Preset) -> tuple[Tensor, tuple[int, int]]:
    """(B, 3, H, W) normalised images -> (B, P + N, D) tokens with positions, prefix tokens first, and the grid."""
    x = vit.patch_embed(images)  # (B, h, w, D)
    grid = (x.shape[1], x.shape[2])
    # timm's private step, as it is, where its resize is wanted: DeiT and register tokens come right by themselves.
    x = vit._pos_embed(x) if preset.pos_embed is None else _add_positions(vit, x, preset.pos_embed)
    return vit.norm_pre(vit.patch_drop(x)), grid


def _add_positions(vit: VisionTransformer, x: Tensor, interpolation: str) -> Tensor:
    """What `vit._pos_embed` does, with the resize of another code base: not antialiased, at every grid but its own."""
    batch_size, h, w, _ = x.shape
    prefix = [vit.cls_token, vit.reg_token]
    if isinstance(vit, VisionTransformerDistilled):
        prefix = [vit.cls_token, vit.dist_token]
    positions = resample_abs_pos_embed(
        vit.pos_embed,
        new_size=[h, w],
        old_size=list(vit.patch_embed.grid_size),
        num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
        interpolation=interpolation,
        antialias=False,
    )
    x = x.flatten(1, 2)  # (B, N, D)
    tokens = [token.expand(batch_size, -1, -1) for token in prefix if token is not None]
    if vit.no_embed_class:
        return vit.pos_drop(torch.cat([*tokens, x + positions], dim=1))
    return vit.pos_drop(torch.cat([*tokens, x], dim=1) + positions)


def encode(
    vit: VisionTransformer, images: Tensor, select: Mapping[int, Select], score_tokens: ScoreTokens, preset: Preset
) -> tuple[Tensor, Trace]:
    """(B, 3, H, W) normalised images, sides multiples of the patch -> (B, N, D) normed tokens in raster order.

    ``select`` maps a layer, counted from 1, to the choice of the tokens that pause after it (see `selectors`). A paused
    token is not updated any more and no running token attends to it; prefix tokens never pause.
    """
    batch_size = len(images)
    x, grid = embed_patches(vit, images, preset)
    # Large images take as much memory as the tokens do, and are not needed any more.
    del images
    running = Running.all_of(x, vit.num_prefix_tokens)
    del x
    parked: list[Tokens] = []
    steps: list[PauseStep] = []
    for layer, block in enumerate(vit.blocks, start=1):
        running = _run_layer(block, running)
        if layer not in select:
            continue
        patches = running.patches
        scores, aux_logits = score_tokens(layer, patches, running.lengths)
        # Only the order of the scores is used, and an order has no gradient.
        selection = select[layer](scores.detach(), running.lengths)
        paused = Tokens(patches.index_select(0, selection.paused), running.index.index_select(0, selection.paused))
        steps.append(PauseStep(layer, running.index, scores, aux_logits, paused.index))
        if len(paused.index):
            parked.append(paused)
            running = running.keep(selection)
    # Tokens of which none paused never left their order.
    tokens = running.x[:, running.num_prefix :]
    if parked:
        tokens = assemble_tokens([*parked, Tokens(running.patches, running.index)], batch_size)
    # The norm works token by token, so once after assembling is the same as on each group.
    return vit.norm(tokens), Trace(grid, batch_size, tuple(steps))


def _run_layer(block: nn.Module, running: Running) -> Running:
    """One layer on all running tokens."""
    if not running.is_packed:
        return replace(running, x=run_block(block, running.x))
    return replace(running, x=run_packed(block, running.x, tuple(n + running.num_prefix for n in running.lengths)))
