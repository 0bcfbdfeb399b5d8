"""Segmenter written out from the formulas of both code bases, on the *foreign* names; and makers of such checkpoints.

Knows nothing of paumer: it imports only torch, so that it can be the judge of the converter and the model together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# ---------------------------------------------------------------------------------------------------- forward passes


def rstrudel_logits(state: State, images: Tensor, statistics=HALF) -> Tensor:
    """(B, 3, H, W) in 0..1 -> logits (B, K, H, W), with seg-repo's weights."""
    eps, dim = 1e-5, state["encoder.cls_token"].shape[2]
    patch = state["encoder.patch_embed.proj.weight"].shape[-1]
    x, size = prepare(images, statistics, patch)
    h, w = x.shape[2] // patch, x.shape[3] // patch
    x = F.conv2d(x, state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"], stride=patch)
    extra = [state[key] for key in ("encoder.cls_token", "encoder.dist_token") if key in state]
    x = torch.cat([token.expand(len(x), 1, dim) for token in extra] + [x.flatten(2).transpose(1, 2)], dim=1)
    x = x + resized_positions(state["encoder.pos_embed"], len(extra), (h, w), "bilinear")
    for block in blocks_of(state, "encoder.blocks."):
        x = rstrudel_block(x, block, eps)
    x = norm(x, state, "encoder.norm", eps)[:, len(extra) :]
    if "decoder.head.weight" in state:
        return enlarge(linear(x, state, "decoder.head"), (h, w), patch, size)
    x = linear(x, state, "decoder.proj_dec")
    num_classes = state["decoder.cls_emb"].shape[1]
    x = torch.cat([x, state["decoder.cls_emb"].expand(len(x), num_classes, dim)], dim=1)
    for block in blocks_of(state, "decoder.blocks."):
        x = rstrudel_block(x, block, eps)
    x = norm(x, state, "decoder.decoder_norm", eps)
    patches = x[:, :-num_classes] @ state["decoder.proj_patch"]
    classes = x[:, -num_classes:] @ state["decoder.proj_classes"]
    masks = norm(cosines(patches, classes), state, "decoder.mask_norm", eps)
    return enlarge(masks, (h, w), patch, size)


def mmseg_logits(state: State, images: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> logits (B, K, H, W), with mmseg's weights; padded and cropped as seg-repo does."""
    dim = state["backbone.cls_token"].shape[2]
    patch = state["backbone.patch_embed.projection.weight"].shape[-1]
    x, size = prepare(images, HALF, patch)
    h, w = x.shape[2] // patch, x.shape[3] // patch
    weight, bias = (state[f"backbone.patch_embed.projection.{kind}"] for kind in ("weight", "bias"))
    x = F.conv2d(x, weight, bias, stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([state["backbone.cls_token"].expand(len(x), 1, dim), x], dim=1)
    x = x + resized_positions(state["backbone.pos_embed"], 1, (h, w), "bicubic")
    for block in blocks_of(state, "backbone.layers."):
        x = mmseg_block(x, block, 1e-6)
    x = norm(x, state, "backbone.ln1", 1e-6)[:, 1:]
    if "decode_head.cls_emb" not in state:
        maps = x.transpose(1, 2).reshape(len(x), dim, h, w)
        logits = F.conv2d(maps, state["decode_head.conv_seg.weight"], state["decode_head.conv_seg.bias"])
        return stretch(logits.flatten(2).transpose(1, 2), (h, w), size)
    x = linear(x, state, "decode_head.dec_proj")
    num_classes = state["decode_head.cls_emb"].shape[1]
    x = torch.cat([x, state["decode_head.cls_emb"].expand(len(x), num_classes, dim)], dim=1)
    for block in blocks_of(state, "decode_head.layers."):
        x = mmseg_block(x, block, 1e-5)
    x = norm(x, state, "decode_head.decoder_norm", 1e-5)
    patches = F.linear(x[:, :-num_classes], state["decode_head.patch_proj.weight"])
    classes = F.linear(x[:, -num_classes:], state["decode_head.classes_proj.weight"])
    masks = norm(cosines(patches, classes), state, "decode_head.mask_norm", 1e-5)
    return stretch(masks, (h, w), size)


def rstrudel_block(x: Tensor, p: State, eps: float) -> Tensor:
    y = linear(norm(x, p, "norm1", eps), p, "attn.qkv")
    num_heads = x.shape[2] // 64
    q, k, v = y.reshape(len(x), -1, 3, num_heads, 64).permute(2, 0, 3, 1, 4)  # each (B, heads, n, 64)
    weights = torch.softmax(q @ k.transpose(-2, -1) / 8, dim=-1)
    y = (weights @ v).transpose(1, 2).reshape(x.shape)
    x = x + linear(y, p, "attn.proj")
    return x + linear(F.gelu(linear(norm(x, p, "norm2", eps), p, "mlp.fc1")), p, "mlp.fc2")


def mmseg_block(x: Tensor, p: State, eps: float) -> Tensor:
    y = norm(x, p, "ln1", eps).transpose(0, 1)  # torch's own multi-head attention takes (n, B, D)
    attention = torch.nn.MultiheadAttention(x.shape[2], x.shape[2] // 64)
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    attention.load_state_dict({name: p[f"attn.attn.{name}"] for name in names})
    x = x + attention(y, y, y, need_weights=True)[0].transpose(0, 1)
    return x + linear(F.gelu(linear(norm(x, p, "ln2", eps), p, "ffn.layers.0.0")), p, "ffn.layers.1")


def prepare(images: Tensor, statistics, patch: int) -> tuple[Tensor, tuple[int, int]]:
    """Normalised, then zeros at the right and the bottom; and the size before that."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in statistics)
    height, width = images.shape[2:]
    padded = torch.zeros(len(images), 3, -(-height // patch) * patch, -(-width // patch) * patch)
    padded[:, :, :height, :width] = (images - mean) / std
    return padded, (height, width)


def resized_positions(positions: Tensor, num_extra: int, grid: tuple[int, int], mode: str) -> Tensor:
    side = round((positions.shape[1] - num_extra) ** 0.5)
    maps = positions[:, num_extra:].transpose(1, 2).reshape(1, -1, side, side)
    maps = F.interpolate(maps, size=grid, mode=mode, align_corners=False)
    return torch.cat([positions[:, :num_extra], maps.flatten(2).transpose(1, 2)], dim=1)


def cosines(patches: Tensor, classes: Tensor) -> Tensor:
    patches = patches / patches.norm(dim=-1, keepdim=True)
    classes = classes / classes.norm(dim=-1, keepdim=True)
    return patches @ classes.transpose(1, 2)


def enlarge(scores: Tensor, grid: tuple[int, int], patch: int, size: tuple[int, int]) -> Tensor:
    """(B, N, K) -> (B, K, H, W)."""
    maps = scores.transpose(1, 2).reshape(len(scores), -1, *grid)
    maps = F.interpolate(maps, size=(grid[0] * patch, grid[1] * patch), mode="bilinear", align_corners=False)
    return maps[:, :, : size[0], : size[1]]


def stretch(scores: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B, N, K) -> (B, K, H, W), without a way over the padded image: mmseg's decode heads resize to the input size."""
    maps = scores.transpose(1, 2).reshape(len(scores), -1, *grid)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def norm(x: Tensor, p: State, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)


def linear(x: Tensor, p: State, name: str) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def blocks_of(state: State, prefix: str) -> list[State]:
    """The weights of each block, under their names inside the block."""
    inside = [key.removeprefix(prefix).split(".", 1) for key in state if key.startswith(prefix)]
    numbers = sorted({int(number) for number, _ in inside})
    return [{name: state[f"{prefix}{i}.{name}"] for number, name in inside if int(number) == i} for i in numbers]


# -------------------------------------------------------------------------------------- checkpoints with random weights


def rstrudel_checkpoint(decoder: str = "mask", distilled: bool = False, num_classes: int = 5, grid: int = 4) -> dict:
    """What seg-repo's train.py saves, for ViT-Ti/16; `decoder` is "mask" or "linear"."""
    draw = Draw(seed=1)
    state = {
        "encoder.cls_token": draw(1, 1, 192),
        "encoder.pos_embed": draw(1, 1 + distilled + grid**2, 192),
        "encoder.patch_embed.proj.weight": draw(192, 3, 16, 16, std=0.001),
        "encoder.patch_embed.proj.bias": draw(192),
        **draw.norm("encoder.norm", 192),
        **draw.linear("encoder.head", 1000, 192),
    }
    if distilled:
        state |= {"encoder.dist_token": draw(1, 1, 192), **draw.linear("encoder.head_dist", 1000, 192)}
    for i in range(12):
        state |= rstrudel_block_weights(draw, f"encoder.blocks.{i}")
    if decoder == "linear":
        state |= draw.linear("decoder.head", num_classes, 192)
    else:
        state |= {
            "decoder.cls_emb": draw(1, num_classes, 192),
            "decoder.proj_patch": draw(192, 192),
            "decoder.proj_classes": draw(192, 192),
            **draw.linear("decoder.proj_dec", 192, 192),
            **draw.norm("decoder.decoder_norm", 192),
            **draw.norm("decoder.mask_norm", num_classes),
            **rstrudel_block_weights(draw, "decoder.blocks.0"),
            **rstrudel_block_weights(draw, "decoder.blocks.1"),
        }
    return {"model": state, "optimizer": {"state": {}, "param_groups": []}, "n_cls": num_classes, "epoch": 63}


def rstrudel_variant(decoder: str = "mask", distilled: bool = False, num_classes: int = 5, grid: int = 4) -> dict:
    """The content of the variant.yml that train.py writes beside it."""
    mask = {"drop_path_rate": 0.0, "dropout": 0.1, "n_layers": 2, "name": "mask_transformer"}
    net = {
        "backbone": "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_384",
        "d_model": 192,
        "decoder": mask if decoder == "mask" else {"name": "linear"},
        "distilled": distilled,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "image_size": [16 * grid, 16 * grid],
        "n_cls": num_classes,
        "n_heads": 3,
        "n_layers": 12,
        "normalization": "deit" if distilled else "vit",
        "patch_size": 16,
    }
    return {"amp": False, "dataset_kwargs": {"dataset": "ade20k"}, "net_kwargs": net}


def mmseg_checkpoint(decoder: str = "mask", num_classes: int = 5, grid: int = 4) -> dict:
    """What mmseg 0.x saves for a ViT-Ti Segmenter with the mask or the linear (FCNHead) decoder."""
    draw = Draw(seed=2)
    state = {
        "backbone.cls_token": draw(1, 1, 192),
        "backbone.pos_embed": draw(1, 1 + grid**2, 192),
        "backbone.patch_embed.projection.weight": draw(192, 3, 16, 16, std=0.001),
        "backbone.patch_embed.projection.bias": draw(192),
        **draw.norm("backbone.ln1", 192),
    }
    for i in range(12):
        state |= mmseg_block_weights(draw, f"backbone.layers.{i}")
    # The mask head has this classifier too and never uses it.
    state["decode_head.conv_seg.weight"] = draw(num_classes, 192, 1, 1)
    state["decode_head.conv_seg.bias"] = draw(num_classes)
    if decoder == "mask":
        state |= {
            "decode_head.cls_emb": draw(1, num_classes, 192),
            "decode_head.patch_proj.weight": draw(192, 192),
            "decode_head.classes_proj.weight": draw(192, 192),
            **draw.linear("decode_head.dec_proj", 192, 192),
            **draw.norm("decode_head.decoder_norm", 192),
            **draw.norm("decode_head.mask_norm", num_classes),
            **mmseg_block_weights(draw, "decode_head.layers.0"),
            **mmseg_block_weights(draw, "decode_head.layers.1"),
        }
    return {"meta": {"mmseg_version": "0.20.2", "CLASSES": ("a", "b")}, "state_dict": state, "optimizer": {}}


class Draw:
    """Random; embeddings small, so that a wrong LayerNorm eps shows; layers larger, so that attention varies."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 0.02) -> Tensor:
        return std * torch.randn(*shape, generator=self.generator)

    def norm(self, name: str, dim: int) -> State:
        return {f"{name}.weight": 1 + self(dim, std=0.1), f"{name}.bias": self(dim, std=0.1)}

    def linear(self, name: str, dim_out: int, dim_in: int) -> State:
        return {f"{name}.weight": self(dim_out, dim_in, std=dim_in**-0.5), f"{name}.bias": self(dim_out, std=0.1)}


def rstrudel_block_weights(draw: Draw, name: str) -> State:
    return {
        **draw.norm(f"{name}.norm1", 192),
        **draw.linear(f"{name}.attn.qkv", 576, 192),
        **draw.linear(f"{name}.attn.proj", 192, 192),
        **draw.norm(f"{name}.norm2", 192),
        **draw.linear(f"{name}.mlp.fc1", 768, 192),
        **draw.linear(f"{name}.mlp.fc2", 192, 768),
    }


def mmseg_block_weights(draw: Draw, name: str) -> State:
    return {
        **draw.norm(f"{name}.ln1", 192),
        f"{name}.attn.attn.in_proj_weight": draw(576, 192, std=192**-0.5),
        f"{name}.attn.attn.in_proj_bias": draw(576, std=0.1),
        **draw.linear(f"{name}.attn.attn.out_proj", 192, 192),
        **draw.norm(f"{name}.ln2", 192),
        **draw.linear(f"{name}.ffn.layers.0.0", 768, 192),
        **draw.linear(f"{name}.ffn.layers.1", 192, 768),
    }
