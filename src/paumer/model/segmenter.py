"""The model: images in, class logits and a trace of what paused out.

Knows nothing of data sets, losses or files' formats. Source: PAUMER, Fig. 2; Segmenter (pad, encode, decode, upsample).
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paumer.errors import InputError, did_you_mean
from paumer.model.criterion import check_criterion, random_scores, score_logits
from paumer.model.decoder import LinearDecoder, MaskTransformer
from paumer.model.encoder import create_vit, encode
from paumer.model.folder import fetch_model_folder, read_model_folder, upload_model_folder, write_model_folder
from paumer.model.presets import get_preset
from paumer.model.select import selectors
from paumer.model.tokens import Lengths
from paumer.model.trace import Trace
from paumer.model.upsample import upsampled_argmax
from paumer.pause import NO_PAUSE, PauseConfig

DECODERS = ("mask", "linear")
AUX_HEADS = ("none", "shared", "per_layer")


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that rebuilds the model, stored as ``config.json``.

    Args:
        backbone: a plain ViT of timm, ``vit_tiny_patch16_384``.
        num_classes: classes predicted, the ignored label not counted.
        image_size: (height, width) in pixels whose patch grid the stored position embedding has; others are resized.
        decoder: ``mask`` (Segmenter's mask transformer) or ``linear``.
        decoder_layers: depth of the mask transformer.
        preset: whose LayerNorm eps, position resize and decoder regularisation: ``timm``, ``segmenter``, ``mmseg``.
        aux_head: ``shared`` by all layers (the paper), ``per_layer``, or ``none`` (a plain Segmenter; random pausing).
        mean, std: per RGB channel on a scale of 0..1.
        drop_path_rate: stochastic depth of the last encoder layer in training, rising linearly from 0.
        names, palette, label_ids: class names, RGB colours and the data set's own ids, as far as known.
        mode, base_size, crop_size, stride: how images were meant to be cut up for evaluation (``whole`` or ``slide``).
    """

    backbone: str = "vit_tiny_patch16_384"
    num_classes: int = 19
    image_size: tuple[int, int] = (512, 512)
    decoder: str = "mask"
    decoder_layers: int = 2
    preset: str = "timm"
    aux_head: str = "none"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    drop_path_rate: float = 0.1
    names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    label_ids: tuple[int, ...] | None = None
    mode: str = "whole"
    base_size: tuple[int, int] | None = None
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # JSON and YAML know lists only
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
                object.__setattr__(self, field.name, value)
        for name, allowed in (("decoder", DECODERS), ("aux_head", AUX_HEADS)):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"unknown {name} '{getattr(self, name)}': {did_you_mean(getattr(self, name), allowed)}"
                )
        if self.num_classes < 2:
            raise InputError(f"a segmentation model needs at least 2 classes, got {self.num_classes}")
        if self.names and len(self.names) != self.num_classes:
            raise InputError(f"{len(self.names)} class names for {self.num_classes} classes: give one for each")
        get_preset(self.preset)

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "the configuration") -> SegmenterConfig:
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"unknown key '{key}' in {origin}: {did_you_mean(key, known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SegmenterOutput:
    """What one forward pass gives: logits at the images' size, and what paused."""

    logits: Tensor  # (B, C, H, W); on the patch grid, (B, C, h, w), where upsample=False was asked for
    trace: Trace


@dataclass(frozen=True)
class Segmentation:
    """What :meth:`Segmenter.segment` gives: the class of each pixel, and what paused."""

    labels: Tensor  # (B, H, W) int64
    trace: Trace


class Segmenter(nn.Module):
    """A Segmenter whose patches can pause.

    The pause configuration is an argument of each call and never a state of the model.

    >>> model = create_model("vit_tiny_patch16_384", num_classes=19)
    >>> output = model(torch.rand(2, 3, 512, 512), "3:0.3,5:0.3")
    >>> output.logits.shape
    torch.Size([2, 19, 512, 512])
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        preset = get_preset(config.preset)
        self.preset = preset
        self.encoder = create_vit(config.backbone, config.image_size, preset, config.drop_path_rate)
        width, depth = self.encoder.embed_dim, len(self.encoder.blocks)
        if config.decoder == "mask":
            # pyrefly: ignore[missing-attribute] (torch calls every attribute of a module Tensor | Module)
            num_heads = self.encoder.blocks[0].attn.num_heads
            self.decoder = MaskTransformer(width, num_heads, config.num_classes, config.decoder_layers, preset)
        else:
            self.decoder = LinearDecoder(width, config.num_classes)
        # A 1x1 convolution over the patch grid, applied to tokens: a Linear (section 2.2, "auxiliary decoder").
        if config.aux_head == "shared":
            self.aux_head = _aux_linear(width, config.num_classes)
        elif config.aux_head == "per_layer":
            heads = {str(layer): _aux_linear(width, config.num_classes) for layer in range(1, depth + 1)}
            self.aux_head = nn.ModuleDict(heads)
        else:
            self.aux_head = None
        # Buffers, so that nobody can forget or mix up the normalisation; not stored, the configuration has them.
        self.register_buffer("pixel_mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    @property
    def depth(self) -> int:
        return len(self.encoder.blocks)

    @property
    def patch_size(self) -> tuple[int, int]:
        return self.encoder.patch_embed.patch_size

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """The patch grid (h, w) of an image of that size, padding included."""
        ph, pw = self.patch_size
        return -(-height // ph), -(-width // pw)

    def forward(
        self,
        images: Tensor,
        pause: PauseConfig | str = NO_PAUSE,
        *,
        criterion: str = "entropy",
        seeds: Sequence[int] | None = None,
        upsample: bool = True,
    ) -> SegmenterOutput:
        """(B, 3, H, W) RGB images, uint8 or float in 0..1, not normalised -> logits (B, C, H, W) and trace.

        Args:
            images: any size; padded at the right and the bottom to whole patches, logits are cropped back.
            pause: which patches pause after which layers.
            criterion: what ranks the patches: ``entropy`` (Eq. 4), ``max_prob``, ``margin``, ``random``.
            seeds: for ``random``, one seed per image; by default its place in the batch.
            upsample: ``False`` leaves the logits on the patch grid (B, C, h, w), padding included.

        Raises:
            InputError: a layer that the encoder does not have; a criterion that needs an auxiliary head, without one.
        """
        output = self._predict(images, PauseConfig.parse(pause), criterion, seeds)
        if not upsample:
            return output
        return SegmenterOutput(self.upsample(output.logits, (images.shape[-2], images.shape[-1])), output.trace)

    def segment(
        self,
        images: Tensor,
        pause: PauseConfig | str = NO_PAUSE,
        *,
        criterion: str = "entropy",
        seeds: Sequence[int] | None = None,
    ) -> Segmentation:
        """The class of each pixel (B, H, W), for arguments as of :meth:`forward`.

        The labels are ``forward(...).logits.argmax(1)``, up to rounding where two classes are equally likely, without
        the logits of all pixels ever being written: with many classes that takes as long as the network itself.
        """
        output = self._predict(images, PauseConfig.parse(pause), criterion, seeds)
        height, width = images.shape[-2:]
        grid = (output.logits.shape[-2], output.logits.shape[-1])
        whole = (grid[0] * self.patch_size[0], grid[1] * self.patch_size[1])
        if self.preset.crop_logits or whole == (height, width):
            labels = upsampled_argmax(output.logits, self.patch_size)[:, :height, :width]
        else:  # stretched by a factor that is no whole number
            labels = self.upsample(output.logits, (height, width)).argmax(dim=1)
        return Segmentation(labels, output.trace)

    def _predict(
        self, images: Tensor, pause: PauseConfig, criterion: str, seeds: Sequence[int] | None
    ) -> SegmenterOutput:
        """Logits on the patch grid, padding included."""
        height, width = images.shape[-2:]
        grid = self.grid_of(height, width)
        select = selectors(pause, grid[0] * grid[1], self.depth)
        check_criterion(criterion)
        pause.check_criterion(criterion)
        if select and self.aux_head is None and criterion != "random":
            raise InputError(
                f"the criterion '{criterion}' needs an auxiliary head, which this plain Segmenter does not have: "
                "train it with pausing, or use the criterion 'random'"
            )
        seeds = range(len(images)) if seeds is None else seeds

        def score_tokens(layer: int, tokens: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor | None]:
            aux_logits = self.predict_aux(layer, tokens)
            if criterion == "random":
                return random_scores(lengths, seeds, layer, tokens.device), aux_logits
            assert aux_logits is not None
            return score_logits(criterion, aux_logits), aux_logits

        # The normalised images get no name here, so that the encoder frees them once they are embedded.
        tokens, trace = encode(self.encoder, self.pad(self.normalize(images)), select, score_tokens, self.preset)
        return SegmenterOutput(self.decoder(tokens, grid), trace)

    def predict_aux(self, layer: int, tokens: Tensor) -> Tensor | None:
        """Auxiliary decoder D_A on raw block outputs, no norm (Eq. 4): (..., D) -> (..., C)."""
        if isinstance(self.aux_head, nn.ModuleDict):
            return self.aux_head[str(layer)](tokens)
        return None if self.aux_head is None else self.aux_head(tokens)

    def normalize(self, images: Tensor) -> Tensor:
        dtype = self.pixel_mean.dtype
        # In place where the values are ours: each copy of an image costs as much as a pausing layer.
        images = images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)
        return (images - self.pixel_mean).div_(self.pixel_std)

    def pad(self, x: Tensor) -> Tensor:
        """Zeros at the right and the bottom, after normalisation as Segmenter does: the mean colour."""
        h, w = self.grid_of(*x.shape[-2:])
        bottom, right = h * self.patch_size[0] - x.shape[-2], w * self.patch_size[1] - x.shape[-1]
        # Padding by nothing would copy.
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bilinear: (B, C, h, w) on the patch grid -> (B, C, *size).

        Via the padded image, then cropped; mmsegmentation stretches to ``size`` instead, which differs where a side is
        not a multiple of the patch.
        """
        (h, w), (ph, pw) = logits.shape[-2:], self.patch_size
        padded = (h * ph, w * pw) if self.preset.crop_logits else size
        # The decoders leave the classes of a token side by side. From there torch's CPU kernel writes the large map
        # twice: at 150 classes and 512x512 that is seven times as slow as copying the small one first.
        logits = F.interpolate(logits.contiguous(), size=padded, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]

    # -- files --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
    ) -> Segmenter:
        """A model folder, or a repository of the hub -> the model in evaluation mode, weights as float32.

        Raises:
            InputError: not a model folder, a truncated file, weights of another architecture.
        """
        folder = fetch_model_folder(path, revision, cache_dir)
        values, state = read_model_folder(folder)
        model = cls(SegmenterConfig.from_dict(values, origin=str(folder / "config.json")))
        load_strictly(model, state, origin=str(folder))
        return model.eval()

    def save_pretrained(self, path: str | Path, card: str | None = None, dtype: torch.dtype | None = None) -> None:
        """Writes a model folder; an existing one is replaced only once the new one is complete.

        Args:
            card: text of the model card, by default a short one made of the configuration.
            dtype: of the stored weights, ``torch.float16`` halves the file.
        """
        write_model_folder(path, self.config.to_dict(), self.state_dict(), card or default_card(self.config), dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        dtype: torch.dtype | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Uploads the model folder that :meth:`save_pretrained` writes; returns the address of the commit."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, card, dtype)
            return upload_model_folder(folder, repo_id, private, token)


def _aux_linear(embed_dim: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(embed_dim, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def load_strictly(model: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Copies every tensor of ``state`` into the model; one clear sentence if a name or a shape does not fit."""
    own = model.state_dict()
    faults = [f"missing {key}" for key in own if key not in state]
    faults += [f"unknown {key}" for key in state if key not in own]
    faults += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise InputError(f"the weights in {origin} are of another architecture: {', '.join(faults[:3])}{more}")
    model.load_state_dict(state, strict=True)


def default_card(config: SegmenterConfig) -> str:
    """A model card with what the configuration knows; trained models get a fuller one."""
    kind = "pausing Segmenter (PAUMER)" if config.aux_head != "none" else "Segmenter"
    return (
        "---\nlibrary_name: paumer\npipeline_tag: image-segmentation\n---\n\n"
        f"# {kind}, {config.backbone}, {config.num_classes} classes\n\n"
        "```python\nimport paumer\n\npredictor = paumer.Predictor('path/to/this/folder', pause='5:0.6')\n"
        "predictor('photo.jpg').plot().save('overlay.png')\n```\n\n"
        f"## Configuration\n\n```json\n{json.dumps(config.to_dict(), indent=2)}\n```\n"
    )


def create_model(
    backbone: str = "vit_tiny_patch16_384", *, num_classes: int, aux_head: str = "shared", **options: Any
) -> Segmenter:
    """A model with random weights; mean and std are those of the backbone's weights in timm unless given.

    Args:
        backbone: name of a plain ViT of timm, with or without the tag of its weights.
        num_classes: classes to predict.
        aux_head: ``shared``, ``per_layer`` or ``none``.
        options: other fields of :class:`SegmenterConfig`.
    """
    known = [field.name for field in dataclasses.fields(SegmenterConfig)]
    for key in options:
        if key not in known:
            raise InputError(f"unknown option '{key}': {did_you_mean(key, known)}")
    pretrained = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone.split(".")[0]) else None
    if pretrained is not None:
        options.setdefault("mean", pretrained.mean)
        options.setdefault("std", pretrained.std)
    return Segmenter(SegmenterConfig(backbone=backbone, num_classes=num_classes, aux_head=aux_head, **options))
