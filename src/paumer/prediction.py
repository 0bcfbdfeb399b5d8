"""The segmentation of one image: its mask, what became of its patches, and the pictures that show both.

Knows nothing of models, nor of where images come from. Source of the figure: PAUMER, Fig. 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paumer import visualize
from paumer.data.images import save_index_mask
from paumer.errors import InputError, did_you_mean
from paumer.files import write_beside
from paumer.inference import InferenceConfig
from paumer.model.trace import Trace
from paumer.pause import PauseConfig
from paumer.visualize import Pixels, Rgb

# What can be drawn, and where `predict_files` puts it. JPEG where the picture is mostly a photo.
KINDS: dict[str, tuple[str, str]] = {
    "mask": ("masks", ".png"),
    "overlay": ("overlays", ".jpg"),
    "paused": ("paused", ".jpg"),
    "entropy": ("entropy", ".png"),
    "figure": ("figures", ".png"),
}
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PANEL = (480, 360)  # (width, height) into which the panels of a figure are fitted
_MAX_LEGEND = 20


@dataclass(frozen=True, eq=False)
class PatchViews:
    """What became of the patches of one image. The grid (h, w) lies over the image as the model saw it."""

    size: tuple[int, int]  # (height, width) of the image that the model saw; its padding is beyond
    patch_size: int
    paused_at: NDArray[np.int64]  # (h, w), 0: ran to the end
    entropy: dict[int, NDArray[np.float32]]  # {layer: (h, w)} in nats, nan: paused before, or unknown

    @classmethod
    def from_trace(cls, trace: Trace, size: tuple[int, int], patch_size: int, image: int = 0) -> PatchViews:
        """Of one image of a batch."""
        entropy = {layer: trace.entropy(layer)[image].float().cpu().numpy() for layer in trace.layers}
        return cls(size, patch_size, trace.paused_at()[image].cpu().numpy(), entropy)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.entropy)

    def last_entropy(self) -> NDArray[np.float32]:
        """(h, w): of each patch, the entropy when it was last scored."""
        latest = np.full(self.paused_at.shape, np.nan, np.float32)
        for values in self.entropy.values():
            latest = np.where(np.isnan(values), latest, values)
        return latest

    def paused_share(self, layer: int) -> float:
        """The share of all patches that paused after ``layer`` or before."""
        return float(((self.paused_at > 0) & (self.paused_at <= layer)).mean())


@dataclass(frozen=True, eq=False)
class Prediction:
    """The segmentation of one image, at its own size.

    ``patches`` is None where the image went through the model in windows or in several views: each of them pauses
    patches of its own, so that no single map of the image exists.
    """

    image: Pixels  # (H, W, 3), upright
    mask: NDArray  # (H, W) class ids 0..C-1; uint8, beyond 256 classes int32
    names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    pause: PauseConfig
    inference: InferenceConfig
    patches: PatchViews | None
    label_ids: tuple[int, ...] | None = None  # the data set's own id of each class; None: the same

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def paused_at(self) -> NDArray[np.int64]:
        """(h, w): the layer after which each patch paused, 0 where it ran to the end."""
        return self._patch_views().paused_at

    @property
    def entropy(self) -> dict[int, NDArray[np.float32]]:
        """``{layer: (h, w)}``: posterior entropy in nats at each pausing layer, nan where a patch had paused before."""
        return self._patch_views().entropy

    def shares(self) -> dict[str, float]:
        """The share of the pixels of each class, absent ones too; they sum to 1."""
        counts = np.bincount(self.mask.ravel(), minlength=self.num_classes) / self.mask.size
        shares: dict[str, float] = {}
        for name, share in zip(self.names, counts.tolist(), strict=True):
            shares[name] = shares.get(name, 0.0) + share  # two classes of the same name count together
        return shares

    def label_mask(self) -> NDArray[np.int32]:
        """The mask (H, W) in the data set's own ids, as its evaluation server wants it."""
        ids = range(self.num_classes) if self.label_ids is None else self.label_ids
        return np.array(ids, np.int32)[self.mask]

    def to_dict(self) -> dict[str, Any]:
        """What fits in a line of JSON: size, pause, share of the pixels of each class found, of the patches paused."""
        result: dict[str, Any] = {
            "width": self.mask.shape[1],
            "height": self.mask.shape[0],
            "pause": str(self.pause),
            "shares": {name: round(share, 6) for name, share in self.shares().items() if share},
        }
        if self.patches is not None:
            paused = {layer: self.patches.paused_share(layer) for layer in self.patches.layers}
            result["paused_shares"] = {str(layer): round(share, 6) for layer, share in paused.items()}
        return result

    def plot(
        self, kind: str = "overlay", *, layer: int | None = None, alpha: float | None = None, legend: bool = False
    ) -> Image.Image:
        """A picture at the size of the image; ``figure`` and ``legend`` make it larger.

        Args:
            kind: ``overlay`` (image tinted with the classes), ``mask`` (classes alone), ``paused`` (image with its
                paused patches tinted by layer), ``entropy`` (heat map on the scale 0..ln C), ``figure`` (all of it
                side by side, as in Fig. 1).
            layer: ``paused``: up to this layer; ``entropy``: at this layer. By default up to the last one, and the
                entropy with which each patch was last scored.
            alpha: strength of the tint in ``overlay`` and ``paused``.
            legend: what the colours mean, below the picture.

        Raises:
            InputError: an unknown kind; nothing is known of the patches, or of that layer.
        """
        check_kinds([kind])
        if kind == "figure":
            return self._figure()
        tint = {} if alpha is None else {"alpha": alpha}
        if kind == "paused":
            pixels, entries = self._paused_pixels(layer, **tint), self._paused_entries()
        elif kind == "entropy":
            pixels, entries = self._entropy_pixels(layer), self._entropy_entries()
        else:
            pixels, entries = visualize.colorize(self.mask, self.palette), self._class_entries()
            if kind == "overlay":
                pixels = visualize.overlay(self.image, self.mask, self.palette, **tint)
        picture = Image.fromarray(pixels)
        if not legend:
            return picture
        return visualize.vstack([picture, visualize.legend(entries, width=max(picture.width, 320))])

    def save(self, path: str | Path, kind: str = "mask", *, label_ids: bool = False) -> None:
        """Writes ``path``: ``mask`` as an index PNG, the other kinds as the picture that :meth:`plot` draws.

        Args:
            label_ids: masks in the data set's own ids instead of 0..C-1.
        """
        path = Path(path)
        check_kinds([kind])
        if kind == "mask":
            self._save_mask(path, label_ids)
            return
        if path.suffix.lower() not in _PICTURE_SUFFIXES:
            raise InputError(f"cannot write a picture as '{path.name}': end it in {', '.join(_PICTURE_SUFFIXES)}")
        picture = self.plot(kind)
        with write_beside(path) as beside:
            picture.save(beside, quality=92)

    # -- parts of the above --------------------------------------------------------------------------------------------

    def _save_mask(self, path: Path, label_ids: bool) -> None:
        if not label_ids or self.label_ids is None:
            save_index_mask(path, self.mask, self.palette)
            return
        colors = dict(zip(self.label_ids, self.palette, strict=True))
        palette = [colors.get(i, visualize.BLACK) for i in range(max(self.label_ids) + 1)]
        save_index_mask(path, self.label_mask(), palette)

    def _patch_views(self) -> PatchViews:
        if self.patches is None:
            raise InputError(
                f"no map of paused patches with {describe_views(self.inference)}, where every view pauses its own: "
                "predict with inference=InferenceConfig() to see the whole image at once"
            )
        return self.patches

    def _pausing_views(self, layer: int | None) -> PatchViews:
        patches = self._patch_views()
        if not patches.layers:
            raise InputError("nothing pauses with 'none': give a pause such as '5:0.6', or '5:0' to score patches only")
        if layer is not None and layer not in patches.layers:
            raise InputError(f"nothing is known of layer {layer}: patches were scored after {list(patches.layers)}")
        return patches

    def _paused_pixels(self, layer: int | None, alpha: float = 0.6) -> Pixels:
        patches = self._pausing_views(layer)
        layers = list(patches.layers)
        paused_at = np.where(patches.paused_at <= (layer or max(layers)), patches.paused_at, 0)
        place = {0: -1, **{number: i for i, number in enumerate(layers)}}
        places = np.vectorize(place.__getitem__, otypes=[np.int32])(paused_at)
        # A mask of patches: so the photo keeps its own resolution, whatever size the model saw.
        return visualize.overlay(self.image, self._to_pixels(places), self._layer_colors(), alpha)

    def _entropy_pixels(self, layer: int | None) -> Pixels:
        patches = self._pausing_views(layer)
        values = patches.last_entropy() if layer is None else patches.entropy[layer]
        if np.isnan(values).all():
            raise InputError("the entropies are unknown: this model has no auxiliary head; train it with pausing")
        heat = visualize.entropy_map(values, patches.size, self.num_classes, patches.patch_size)
        return _resize_nearest(heat, self.mask.shape)

    def _to_pixels(self, grid: NDArray) -> NDArray:
        patches = self._patch_views()
        return _resize_nearest(visualize.patches_to_pixels(grid, patches.patch_size, patches.size), self.mask.shape)

    def _layer_colors(self) -> list[Rgb]:
        return list(visualize.layer_colors(self._patch_views().layers).values())

    def _class_entries(self) -> list[tuple[str, Rgb]]:
        shares = np.bincount(self.mask.ravel(), minlength=self.num_classes) / self.mask.size
        found = [i for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
        entries = [(f"{self.names[i]} {100 * shares[i]:.1f} %", self.palette[i]) for i in found[:_MAX_LEGEND]]
        if len(found) > _MAX_LEGEND:
            entries.append((f"and {len(found) - _MAX_LEGEND} more", visualize.WHITE))
        return entries

    def _paused_entries(self) -> list[tuple[str, Rgb]]:
        patches = self._patch_views()
        shares = [float((patches.paused_at == layer).mean()) for layer in patches.layers]
        return [
            (f"paused after layer {layer}: {100 * share:.0f} %", color)
            for layer, share, color in zip(patches.layers, shares, self._layer_colors(), strict=True)
        ]

    def _entropy_entries(self) -> list[tuple[str, Rgb]]:
        known = visualize.entropy_entries(self.num_classes)
        return [(f"entropy {known[0][0]}", known[0][1]), *known[1:], ("paused before", visualize.UNKNOWN)]

    def _figure(self) -> Image.Image:
        """A column for the image and its segmentation, then one per pausing layer: what paused, and why."""
        columns = [_column(("image", self.image), ("segmentation", visualize.colorize(self.mask, self.palette)))]
        entries = [self._class_entries()]
        if self.patches is not None and self.patches.layers:
            scored = not np.isnan(self.patches.last_entropy()).all()
            for layer in self.patches.layers:
                share = 100 * self.patches.paused_share(layer)
                paused = (f"after layer {layer}: {share:.0f} % paused", self._paused_pixels(layer))
                entropy = (f"entropy after layer {layer}", self._entropy_pixels(layer)) if scored else None
                columns.append(_column(paused, *([entropy] if entropy else [])))
            entries += [self._paused_entries(), *([self._entropy_entries()] if scored else [])]
        sheet = visualize.hstack([("", column) for column in columns])
        return visualize.vstack([sheet, *(visualize.legend(part, width=max(sheet.width, 320)) for part in entries)])


def _resize_nearest(values: NDArray, size: tuple[int, ...]) -> NDArray:
    """(H', W', ...) -> (H, W, ...), by the pixel under the middle of each new one."""
    rows = (np.arange(size[0]) + 0.5) * values.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * values.shape[1] / size[1]
    return values[rows.astype(np.int64)][:, columns.astype(np.int64)]


def _column(*panels: tuple[str, Pixels]) -> Image.Image:
    return visualize.vstack([visualize.hstack([(caption, _fit_panel(pixels))]) for caption, pixels in panels])


def _fit_panel(pixels: Pixels) -> Image.Image:
    picture = Image.fromarray(pixels)
    scale = min(_PANEL[0] / picture.width, _PANEL[1] / picture.height)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def describe_views(inference: InferenceConfig) -> str:
    """The settings because of which an image has no single map of its patches, in words."""
    if inference.mode == "slide":
        return "sliding windows"
    return "flipped views" if inference.flip else "several scales"


def check_kinds(kinds: Iterable[str]) -> None:
    """Raises :class:`InputError` for what is no key of :data:`KINDS`."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"unknown kind of picture '{kind}': {did_you_mean(str(kind), KINDS)}")
