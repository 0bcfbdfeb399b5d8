"""Weights of others into our model: timm backbones, Segmenters to fine-tune, foreign checkpoints to convert.

Knows nothing of training. Model folders themselves are read and written by `Segmenter`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from paumer.convert import convert_file
from paumer.errors import InputError
from paumer.model import Segmenter, SegmenterConfig, load_strictly
from paumer.unpickle import load_foreign

log = logging.getLogger(__name__)

# What depends on the number of classes and starts afresh where that differs.
CLASS_TENSORS = ("decoder.cls_emb", "decoder.mask_norm.", "decoder.head.", "aux_head.")


def load_backbone(model: Segmenter, weights: str | Path) -> None:
    """Loads ImageNet weights of timm into the encoder, positions resized to its grid.

    Args:
        weights: ``hub`` (timm's own for the backbone's name and tag), or a local ``.safetensors``, ``.pth``, ``.npz``.

    Raises:
        InputError: no such file, or weights that are not of this backbone.
    """
    vit = model.encoder
    if str(weights) == "hub":
        try:
            source = timm.create_model(model.config.backbone, pretrained=True, num_classes=0)
        except Exception as error:  # urllib3, httpx, hub and pickle errors: all mean that there are no weights
            raise InputError(
                f"cannot get the weights of {model.config.backbone} from the hub ({type(error).__name__}); "
                "give a local file with --weights FILE"
            ) from error
        state = source.state_dict()
    else:
        path = Path(weights)
        if not path.is_file():
            raise InputError(f"no weights at {path}: give a .safetensors, .pth or .npz file, or 'hub'")
        if path.suffix == ".npz":
            _load_npz(model, path)
            return
        state = load_foreign(path)
    resize: dict[str, Any] = {}
    if model.preset.pos_embed is not None:
        resize = {"interpolation": model.preset.pos_embed, "antialias": False}
    state = checkpoint_filter_fn(state, vit, **resize)
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist.", "pre_logits."))}
    load_strictly(vit, state, origin=str(weights))


def _load_npz(model: Segmenter, path: Path) -> None:
    """AugReg's own files, by timm's reader. It copies as it goes, so a file that breaks off must not be used."""
    try:
        model.encoder.load_pretrained(str(path))
    except (OSError, ValueError, KeyError, AssertionError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} does not hold AugReg weights of {model.config.backbone}, or is damaged") from error


def open_segmenter(path: str | Path) -> Segmenter:
    """A model folder, a hub repository, or a foreign checkpoint file (`paumer convert` reads the same)."""
    return _converted(path) if Path(path).is_file() else Segmenter.from_pretrained(path)


def start_from(model: Segmenter, path: str | Path) -> list[str]:
    """Copies a trained Segmenter, plain or pausing, into ``model`` and returns the names of tensors that start afresh.

    Positions are resized to the model's grid; the tensors of the classes start afresh if their number differs, the
    auxiliary head if the source has none.

    Raises:
        InputError: a tensor of another shape, or one that the source does not have.
    """
    source = open_segmenter(path)
    state, own = source.state_dict(), model.state_dict()
    if source.config.mean != model.config.mean or source.config.std != model.config.std:
        raise InputError(
            f"{path} was trained with mean {source.config.mean} and std {source.config.std}: use them here as well"
        )
    state["encoder.pos_embed"] = _resized_positions(source, model)
    fresh = []
    for key, value in own.items():
        fits = key in state and state[key].shape == value.shape
        if not fits and key.startswith(CLASS_TENSORS):
            fresh.append(key)
            state[key] = value
    load_strictly(
        model,
        {key: value for key, value in state.items() if key in own or not key.startswith("aux_head.")},
        origin=str(path),
    )
    if fresh:
        log.warning("%s start afresh: %s", len(fresh), ", ".join(fresh))
    return fresh


def _resized_positions(source: Segmenter, target: Segmenter) -> Tensor:
    grid = target.encoder.patch_embed.grid_size
    return resample_abs_pos_embed(
        source.encoder.pos_embed,
        new_size=list(grid),
        old_size=list(source.encoder.patch_embed.grid_size),
        num_prefix_tokens=0 if source.encoder.no_embed_class else source.encoder.num_prefix_tokens,
        interpolation=source.preset.pos_embed or "bicubic",
        antialias=source.preset.pos_embed is None,
    )


def num_parameters(model: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())


def convert_checkpoint(
    path: str | Path, out: str | Path, variant: str | Path | None = None, dtype: torch.dtype | None = None
) -> Segmenter:
    """Reads a foreign Segmenter checkpoint, or a model folder, and writes a model folder; a card it has is kept.

    Nothing is written if anything does not fit.
    """
    model = _converted(path, variant) if Path(path).is_file() else Segmenter.from_pretrained(path)
    card = Path(path) / "README.md"
    model.save_pretrained(out, card=card.read_text(encoding="utf-8") if card.is_file() else None, dtype=dtype)
    return model


def _converted(path: str | Path, variant: str | Path | None = None) -> Segmenter:
    converted = convert_file(path, variant)
    model = Segmenter(SegmenterConfig.from_dict(converted.config, origin=str(path)))
    load_strictly(model, converted.state, origin=str(path))
    return model.eval()


def model_id(model: Segmenter) -> str:
    """16 hexadecimal digits that two models share if weights and architecture are the same, bit for bit."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        # As bytes, since NumPy has no bfloat16.
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(key.encode() + content.numpy().tobytes())
    return digest.hexdigest()[:16]
