"""Segmenter weights of rstrudel/segmenter and MMSegmentation in our names: dictionary in, dictionary and config out.

Knows nothing of models or model folders. Source: rstrudel/segmenter (20d1bfa, below "seg-repo"), mmseg 0.x and 1.x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paumer.errors import InputError, did_you_mean
from paumer.unpickle import load_foreign, load_variant

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Converted:
    """Weights of a plain Segmenter and the keyword arguments of the ``SegmenterConfig`` that holds them.

    ``state`` is float32, without auxiliary head; its tensors may share memory with the checkpoint they come from.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """What the shapes of the weights say of the model; ``grid`` is the side of the stored position embedding."""

    embed_dim: int
    depth: int
    patch_size: int
    distilled: bool
    grid: int
    num_classes: int
    decoder: str
    decoder_layers: int

    @property
    def num_heads(self) -> int:
        return self.embed_dim // 64  # both code bases use heads of 64 channels everywhere

    @property
    def image_size(self) -> list[int]:
        return [self.grid * self.patch_size] * 2


# (embed_dim, depth, patch_size) -> timm name. The size at the end is that of timm's own weights and means nothing here.
BACKBONES = {
    "vit": {
        (192, 12, 16): "vit_tiny_patch16_384",
        (384, 12, 16): "vit_small_patch16_384",
        (768, 12, 16): "vit_base_patch16_384",
        (1024, 24, 16): "vit_large_patch16_384",
        (384, 12, 32): "vit_small_patch32_384",
        (768, 12, 32): "vit_base_patch32_384",
        (1024, 24, 32): "vit_large_patch32_384",
        (384, 12, 8): "vit_small_patch8_224",
        (768, 12, 8): "vit_base_patch8_224",
    },
    "deit": {
        (192, 12, 16): "deit_tiny_patch16_224",
        (384, 12, 16): "deit_small_patch16_224",
        (768, 12, 16): "deit_base_patch16_384",
    },
    "deit distilled": {
        (192, 12, 16): "deit_tiny_distilled_patch16_224",
        (384, 12, 16): "deit_small_distilled_patch16_224",
        (768, 12, 16): "deit_base_distilled_patch16_384",
    },
}

HALF = [0.5, 0.5, 0.5]
# seg-repo's two choices of pixel statistics, on the 0..1 scale: AugReg's and ImageNet's.
NORMALIZATIONS = {"vit": (HALF, HALF), "deit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}

# The 1000-way ImageNet heads that seg-repo keeps in its encoder.
_RSTRUDEL_UNUSED = ("encoder.head.", "encoder.head_dist.")
_MMSEG_UNUSED = ("data_preprocessor.",)
# BaseDecodeHead makes a classifier that the mask head never calls; some revisions of mmseg delete it.
_MMSEG_UNUSED_BY_MASK = (*_MMSEG_UNUSED, "decode_head.conv_seg.")

# Ours -> mmseg. The first prefix that fits is replaced; then, inside blocks, the parts.
_MMSEG_PREFIXES = (
    ("encoder.patch_embed.proj.", "backbone.patch_embed.projection."),
    ("encoder.blocks.", "backbone.layers."),
    ("encoder.norm.", "backbone.ln1."),
    ("encoder.", "backbone."),
    ("decoder.proj_dec.", "decode_head.dec_proj."),
    ("decoder.proj_patch", "decode_head.patch_proj.weight"),
    ("decoder.proj_classes", "decode_head.classes_proj.weight"),
    ("decoder.head.", "decode_head.conv_seg."),
    ("decoder.blocks.", "decode_head.layers."),
    ("decoder.", "decode_head."),
)
_MMSEG_PARTS = (
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".attn.qkv.", ".attn.attn.in_proj_"),
    (".attn.proj.", ".attn.attn.out_proj."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)


def recognise(checkpoint: Mapping[str, Any]) -> str:
    """Where a loaded checkpoint comes from: ``"rstrudel"``, ``"mmseg"`` or ``"paumer"``; else :class:`InputError`."""
    if _has_parts(checkpoint.get("model"), "encoder.", "decoder."):
        return "rstrudel"
    if _has_parts(_mmseg_weights(checkpoint), "backbone.", "decode_head."):
        return "mmseg"
    if _has_parts(checkpoint, "encoder.", "decoder."):
        return "paumer"
    raise InputError(
        f"not a Segmenter checkpoint: it has {_some(list(checkpoint))} at the top; "
        "known are those of rstrudel/segmenter (model: encoder.*, decoder.*) "
        "and of MMSegmentation (state_dict: backbone.*, decode_head.*)"
    )


def convert_file(path: str | Path, variant: str | Path | None = None) -> Converted:
    """Reads, recognises and converts a foreign checkpoint; ``variant`` is by default the variant.yml beside it."""
    path = Path(path)
    checkpoint = load_foreign(path)
    match recognise(checkpoint):
        case "rstrudel":
            return from_rstrudel(checkpoint["model"], load_variant(variant or path.with_name("variant.yml")))
        case "mmseg":
            return from_mmseg(_mmseg_weights(checkpoint))
        case _:
            raise InputError(
                f"{path} has PAUMER's own names already; give its model folder wherever a model is asked for"
            )


def from_rstrudel(state: State, variant: Mapping[str, Any]) -> Converted:
    """seg-repo's ``checkpoint["model"]`` and the content of its variant.yml; the weights' names are ours already.

    Raises :class:`InputError` if a key is missing or left over, a shape is wrong, or the two do not belong together.
    """
    state = _plain(state)
    architecture = _read_architecture(state, _same_name)
    net = variant.get("net_kwargs")
    if not isinstance(net, Mapping):
        raise InputError(
            f"variant.yml has no section net_kwargs, only {_some(list(variant))}; seg-repo's own file is needed"
        )
    _check_variant(net, architecture)
    weights = _collect(state, _target_shapes(architecture), _same_name, _RSTRUDEL_UNUSED)
    family = "deit" if str(net.get("backbone")).startswith("deit") else "vit"
    return Converted(weights, _config(architecture, family, "segmenter", *_pixel_statistics(net)))


def from_mmseg(state: State) -> Converted:
    """mmseg's ``checkpoint["state_dict"]`` (0.x or 1.x) of a Segmenter with the mask or the linear (FCNHead) decoder.

    Pixel statistics are mean = std = 127.5, those of every published config: the config text that a file may carry is
    Python code and not read. Raises :class:`InputError` if a key is missing or left over, or a shape is wrong.
    """
    state = _plain(state)
    architecture = _read_architecture(state, _mmseg_name)
    unused = _MMSEG_UNUSED_BY_MASK if architecture.decoder == "mask" else _MMSEG_UNUSED
    weights = _collect(state, _target_shapes(architecture), _mmseg_name, unused, _from_mmseg_layout)
    return Converted(weights, _config(architecture, "vit", "mmseg", HALF, HALF))


def _same_name(target: str) -> str:
    return target


def _mmseg_name(target: str) -> str:
    """mmseg's name for one of our weights."""
    ours, theirs = next(pair for pair in _MMSEG_PREFIXES if target.startswith(pair[0]))
    name = theirs + target.removeprefix(ours)
    for ours, theirs in _MMSEG_PARTS:
        name = name.replace(ours, theirs)
    return name


def _from_mmseg_layout(target: str, weight: Tensor) -> Tensor:
    # nn.Linear computes x @ W.T, while seg-repo's two parameters stand right of x.
    if target in ("decoder.proj_patch", "decoder.proj_classes"):
        return weight.T
    # mmseg's linear decoder is a 1x1 convolution (K, D, 1, 1).
    if target == "decoder.head.weight":
        return weight.flatten(1)
    return weight


def _mmseg_weights(checkpoint: Mapping[str, Any]) -> Any:
    """The weights, be they in mmseg's usual ``state_dict`` or, as in published-weights files, at the top."""
    return checkpoint.get("state_dict", checkpoint)


def _plain(state: State) -> dict[str, Tensor]:
    """A new dictionary without DataParallel's ``module.`` prefix; everything in it is a tensor."""
    if strangers := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(f"{_some(strangers)} among the weights: not a tensor; give the state_dict of the model")
    return {str(name).removeprefix("module."): value.detach() for name, value in state.items()}


def _read_architecture(state: State, name: Callable[[str], str]) -> Architecture:
    def shape(target: str, ndim: int) -> tuple[int, ...]:
        if (weight := state.get(name(target))) is None:
            raise InputError(
                f"not a Segmenter: the weights have no {name(target)}; a ViT encoder with CLS token is needed"
            )
        if weight.ndim != ndim:
            raise InputError(f"{name(target)} has the shape {tuple(weight.shape)}; {ndim} dimensions were expected")
        return tuple(weight.shape)

    def num_blocks(part: str) -> int:
        names = (name(f"{part}.blocks.{i}.norm1.weight") for i in count())
        return sum(1 for _ in takewhile(state.__contains__, names))

    decoder, num_classes = _read_decoder(state, name)
    distilled = name("encoder.dist_token") in state
    return Architecture(
        embed_dim=shape("encoder.cls_token", 3)[2],
        depth=num_blocks("encoder"),
        patch_size=shape("encoder.patch_embed.proj.weight", 4)[3],
        distilled=distilled,
        grid=_side(shape("encoder.pos_embed", 3)[1] - 1 - distilled),
        num_classes=num_classes,
        decoder=decoder,
        decoder_layers=num_blocks("decoder"),
    )


def _read_decoder(state: State, name: Callable[[str], str]) -> tuple[str, int]:
    """("mask" or "linear", number of classes)."""
    if (class_tokens := state.get(name("decoder.cls_emb"))) is not None:
        if class_tokens.ndim != 3:
            raise InputError(
                f"{name('decoder.cls_emb')} has the shape {tuple(class_tokens.shape)}, not (1, classes, width)"
            )
        return "mask", class_tokens.shape[1]
    if (classifier := state.get(name("decoder.head.weight"))) is not None:
        return "linear", len(classifier)
    raise InputError(
        f"no decoder of Segmenter among the weights: neither {name('decoder.cls_emb')} (mask) "
        f"nor {name('decoder.head.weight')} (linear)"
    )


def _side(num_patches: int) -> int:
    # The number alone is stored; both sources train on square crops.
    side = math.isqrt(max(num_patches, 0))
    if side == 0 or side * side != num_patches:
        raise InputError(
            f"the position embedding has {num_patches} patches, which is no square; square crops are needed"
        )
    return side


def _target_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every weight our Segmenter has in this architecture, with its shape."""
    dim, classes = a.embed_dim, a.num_classes
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.cls_token": (1, 1, dim),
        "encoder.pos_embed": (1, 1 + a.distilled + a.grid**2, dim),
        "encoder.patch_embed.proj.weight": (dim, 3, a.patch_size, a.patch_size),
        "encoder.patch_embed.proj.bias": (dim,),
        **_block_shapes("encoder", a.depth, dim),
        **_norm_shapes("encoder.norm", dim),
    }
    if a.distilled:
        shapes["encoder.dist_token"] = (1, 1, dim)
    if a.decoder == "linear":
        return shapes | _linear_shapes("decoder.head", dim, classes)
    return shapes | {
        "decoder.cls_emb": (1, classes, dim),
        **_linear_shapes("decoder.proj_dec", dim, dim),
        "decoder.proj_patch": (dim, dim),
        "decoder.proj_classes": (dim, dim),
        **_block_shapes("decoder", a.decoder_layers, dim),
        **_norm_shapes("decoder.decoder_norm", dim),
        **_norm_shapes("decoder.mask_norm", classes),
    }


def _block_shapes(part: str, depth: int, dim: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for block in (f"{part}.blocks.{i}" for i in range(depth)):
        shapes |= _norm_shapes(f"{block}.norm1", dim) | _norm_shapes(f"{block}.norm2", dim)
        shapes |= _linear_shapes(f"{block}.attn.qkv", dim, 3 * dim) | _linear_shapes(f"{block}.attn.proj", dim, dim)
        shapes |= _linear_shapes(f"{block}.mlp.fc1", dim, 4 * dim) | _linear_shapes(f"{block}.mlp.fc2", 4 * dim, dim)
    return shapes


def _linear_shapes(name: str, dim_in: int, dim_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim_out, dim_in), f"{name}.bias": (dim_out,)}


def _norm_shapes(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _collect(
    state: State,
    shapes: Mapping[str, tuple[int, ...]],
    name: Callable[[str], str],
    unused: tuple[str, ...],
    layout: Callable[[str, Tensor], Tensor] = lambda target, weight: weight,
) -> dict[str, Tensor]:
    """The weights named in ``shapes``; every key of ``state`` must be one of them or start with one of ``unused``."""
    sources = {target: name(target) for target in shapes}
    if missing := [source for source in sources.values() if source not in state]:
        raise InputError(f"the checkpoint lacks {_some(missing)}; a complete Segmenter is needed")
    known = set(sources.values())
    if left_over := [key for key in state if key not in known and not key.startswith(unused)]:
        raise InputError(f"the checkpoint has weights that a Segmenter has not: {_some(left_over)}")
    weights = {target: layout(target, state[source]) for target, source in sources.items()}
    wrong = [
        f"{sources[target]} {tuple(state[sources[target]].shape)}"
        for target, weight in weights.items()
        if tuple(weight.shape) != shapes[target]
    ]
    if wrong:
        raise InputError(f"weights with shapes that do not fit the rest of the Segmenter: {_some(wrong)}")
    return {target: weight.to(torch.float32).contiguous() for target, weight in weights.items()}


def _check_variant(net: Mapping[str, Any], a: Architecture) -> None:
    """variant.yml and weights must tell the same story where both speak; a file may lack some of these."""
    decoder = net.get("decoder")
    decoder = decoder if isinstance(decoder, Mapping) else {}
    decoder_name = decoder.get("name", "mask_transformer" if a.decoder == "mask" else "linear")
    said_and_seen = {
        "d_model": (net.get("d_model"), a.embed_dim),
        "n_layers": (net.get("n_layers"), a.depth),
        "n_heads": (net.get("n_heads"), a.num_heads),
        "patch_size": (net.get("patch_size"), a.patch_size),
        "n_cls": (net.get("n_cls"), a.num_classes),
        "image_size": (net.get("image_size"), a.image_size),
        "distilled": (net.get("distilled"), a.distilled),
        "decoder.name": (decoder_name, "mask_transformer" if a.decoder == "mask" else "linear"),
        "decoder.n_layers": (decoder.get("n_layers") if a.decoder == "mask" else None, a.decoder_layers),
    }
    differing = [
        f"{key} is {said} there and {seen} in the weights"
        for key, (said, seen) in said_and_seen.items()
        if said is not None and (list(said) if isinstance(said, tuple) else said) != seen
    ]
    if differing:
        raise InputError(f"variant.yml does not belong to this checkpoint: {_some(differing)}; give the one beside it")


def _pixel_statistics(net: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    choice = str(net.get("normalization"))
    if choice not in NORMALIZATIONS:
        raise InputError(f"variant.yml has net_kwargs.normalization '{choice}'; {did_you_mean(choice, NORMALIZATIONS)}")
    return NORMALIZATIONS[choice]


def _config(a: Architecture, family: str, preset: str, mean: list[float], std: list[float]) -> dict[str, Any]:
    return {
        "backbone": _backbone(a, "deit distilled" if a.distilled else family),
        "num_classes": a.num_classes,
        "image_size": a.image_size,
        "decoder": a.decoder,
        "decoder_layers": a.decoder_layers,
        "preset": preset,
        "mean": list(mean),
        "std": list(std),
    }


def _backbone(a: Architecture, family: str) -> str:
    size = (a.embed_dim, a.depth, a.patch_size)
    if size not in BACKBONES[family]:
        raise InputError(
            f"no {family} backbone in timm has width {size[0]}, {size[1]} layers and patches of {size[2]} px; "
            f"known: {', '.join(BACKBONES[family].values())}"
        )
    return BACKBONES[family][size]


def _has_parts(weights: Any, *prefixes: str) -> bool:
    if not isinstance(weights, Mapping):
        return False
    names = [str(name).removeprefix("module.") for name in weights]
    return all(any(name.startswith(prefix) for name in names) for prefix in prefixes)


def _some(names: list[Any]) -> str:
    """The first eight and how many there are in all."""
    shown = ", ".join(str(name) for name in names[:8]) or "nothing"
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)} in all)"
