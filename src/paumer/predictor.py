"""From a photo to its segmentation: anything that is an image goes in, masks and pictures come out; also many files.

Knows nothing of data sets or training. Source of the figure: PAUMER, Fig. 1.
"""

from __future__ import annotations

import glob
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from paumer import visualize
from paumer.checkpoint import open_segmenter
from paumer.data.datasets import distinct_palette
from paumer.data.images import is_image_name, read_image, save_index_mask
from paumer.device import choose_device
from paumer.errors import InputError, did_you_mean
from paumer.evaluate import inference_config
from paumer.files import make_folder, write_beside, write_folder_beside, write_text
from paumer.inference import InferenceConfig, segment_image
from paumer.model import Segmenter
from paumer.model.trace import Trace
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.video import VideoWriter, is_video, probe_video, read_frames
from paumer.visualize import Pixels, Rgb

ImageLike = str | Path | Image.Image | NDArray | Tensor

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


# --- one image -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PatchViews:
    """What became of the patches of one image. The grid (h, w) lies over the image as the model saw it."""

    size: tuple[int, int]  # (height, width) of the image that the model saw; its padding is beyond
    patch_size: int
    paused_at: NDArray[np.int64]  # (h, w), 0: ran to the end
    entropy: dict[int, NDArray[np.float32]]  # {layer: (h, w)} in nats, nan: paused before, or unknown

    @classmethod
    def from_trace(cls, trace: Trace, size: tuple[int, int], patch_size: int) -> PatchViews:
        entropy = {layer: trace.entropy(layer)[0].float().cpu().numpy() for layer in trace.layers}
        return cls(size, patch_size, trace.paused_at()[0].cpu().numpy(), entropy)

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
        _check_kinds([kind])
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
        _check_kinds([kind])
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
                f"no map of paused patches with {_describe(self.inference)}, where every view pauses its own: "
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


class Predictor:
    """A model, and how it is asked. Calls leave no state: each may name another pause configuration.

    >>> predictor = Predictor("runs/camvid/best", pause="5:0.6")
    >>> prediction = predictor("photo.jpg")
    >>> prediction.mask.shape, prediction.shares()["road"]
    ((360, 480), 0.31)
    >>> prediction.plot().save("overlay.png")

    Args:
        model: a model folder, a hub repository, a foreign checkpoint file; or a model, which is put in
            evaluation mode.
        pause: for calls that name none.
        criterion: what ranks the patches: ``entropy``, ``max_prob``, ``margin``, ``random``.
        device: ``auto`` (CUDA if there is one; a model that is given stays where it is), ``cpu``, ``cuda:1``, ``mps``.
        inference: windows, scales, flip and resizing; by default what the model's configuration says.
        seed: for the criterion ``random``.

    Raises:
        InputError: no such model or device, a layer it does not have, a criterion that its heads cannot give.
    """

    def __init__(
        self,
        model: str | Path | Segmenter,
        pause: PauseConfig | str = NO_PAUSE,
        *,
        criterion: str = "entropy",
        device: str = "auto",
        inference: InferenceConfig | None = None,
        seed: int = 0,
    ) -> None:
        target = None if isinstance(model, Segmenter) and device == "auto" else choose_device(device)
        self.model = (model if isinstance(model, Segmenter) else open_segmenter(model)).to(target).eval()
        config = self.model.config
        self.pause = PauseConfig.parse(pause)
        self.criterion = criterion
        self.inference = inference or inference_config(self.model)
        self.seed = seed
        self.names = config.names or tuple(f"class {i}" for i in range(config.num_classes))
        self.palette = config.palette or distinct_palette(config.num_classes)
        # A wish that the model cannot fulfil is told now and not at each of ten thousand files.
        with torch.inference_mode():
            self.model(torch.zeros(1, 3, *self.model.patch_size, device=self.device), self.pause, criterion=criterion)

    @property
    def device(self) -> torch.device:
        return self.model.pixel_mean.device

    @property
    def shows_patches(self) -> bool:
        """Whether predictions know what became of the patches: the whole image goes through the model, once."""
        return self.inference.mode == "whole" and len(self.inference.scales) == 1 and not self.inference.flip

    @torch.inference_mode()
    def __call__(self, image: ImageLike, pause: PauseConfig | str | None = None) -> Prediction:
        """Segments one image.

        Args:
            image: a path; a PIL image; an array uint8 (H, W, 3) RGB or (H, W) grey; a tensor (3, H, W), uint8 or
                float in 0..1.
            pause: instead of the predictor's own.

        Raises:
            InputError: not a readable image, or one too large for the memory of the device.
        """
        pause = self.pause if pause is None else PauseConfig.parse(pause)
        pixels = as_image(image)
        seen: list[tuple[tuple[int, int], Trace]] = []

        def predict(images: Tensor) -> Tensor:
            output = self.model(images, pause, criterion=self.criterion, seeds=[self.seed] * len(images))
            seen.append((tuple(images.shape[-2:]), output.trace))
            return output.logits

        try:
            logits = segment_image(predict, pixels.to(self.device), self.inference)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"an image of {pixels.shape[1]}x{pixels.shape[2]} does not fit in the memory of {self.device}: "
                "make it smaller, or use the mode 'slide'"
            ) from error
        patches = None
        if self.shows_patches:
            (size, trace) = seen[0]
            patches = PatchViews.from_trace(trace, size, self.model.patch_size[0])
        return Prediction(
            image=_to_pixels(pixels),
            mask=logits.argmax(dim=0).cpu().numpy().astype(np.uint8 if len(self.names) <= 256 else np.int32),
            names=self.names,
            palette=self.palette,
            pause=pause,
            inference=self.inference,
            patches=patches,
            label_ids=self.model.config.label_ids,
        )


def as_image(image: ImageLike) -> Tensor:
    """Whatever is an image (see :meth:`Predictor.__call__`) -> a tensor (3, H, W), uint8 or float32 in 0..1."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _checked_tensor(image)
    raise InputError(f"an image is a path, a PIL image, an array or a tensor, got {type(image).__name__}")


def _from_pil(image: Image.Image) -> Tensor:
    # Pillow clips deep greyscale to 255 when it converts; our reader scales it, and takes a file.
    if image.mode == "F" or image.mode.startswith("I"):
        file = io.BytesIO()
        ImageOps.exif_transpose(image).save(file, format="TIFF")
        file.seek(0)
        return read_image(file)
    try:
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot make RGB of the PIL image of mode {image.mode} ({error}): convert it first"
        ) from error
    return _from_array(pixels)


def _from_array(array: NDArray) -> Tensor:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
        or not array.size
    ):
        raise InputError(
            f"an image array is uint8 (H, W, 3) RGB or (H, W) grey, got {array.dtype} {array.shape}: convert it first"
        )
    rgb = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    return torch.tensor(np.ascontiguousarray(rgb)).permute(2, 0, 1)


def _checked_tensor(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise InputError(f"an image tensor is (3, height, width), got {tuple(image.shape)}: permute or split it first")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise InputError(f"an image tensor is uint8, or float in 0..1, got {image.dtype}: convert it first")
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):  # written so that nan fails, too
        raise InputError(f"a float image lies in 0..1, got {low:g}..{high:g}: divide by 255, or do not normalise it")
    return image.float()


def _to_pixels(image: Tensor) -> Pixels:
    """(3, H, W) uint8 or float 0..1 -> uint8 (H, W, 3), on the CPU."""
    image = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


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


def _describe(inference: InferenceConfig) -> str:
    if inference.mode == "slide":
        return "sliding windows"
    return "flipped views" if inference.flip else "several scales"


def _check_kinds(kinds: Iterable[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"unknown kind of picture '{kind}': {did_you_mean(str(kind), KINDS)}")


# --- many files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictReport:
    """What became of the files: a record each (a line of ``predictions.jsonl``) or the reason why there is none.

    A damaged video is in both: what could be read of it is done.
    """

    done: tuple[dict[str, Any], ...]
    failed: tuple[tuple[str, str], ...]  # (path, reason)


@dataclass(frozen=True)
class _Source:
    path: Path
    name: str  # of its results, without suffix; may hold folders

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    kinds: Sequence[str] | None = None,
    label_ids: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> PredictReport:
    """Segments image and video files and writes ``out/masks/NAME.png`` and so on, and ``out/predictions.jsonl``.

    A file that cannot be read is reported and left out; the others are done. NAME is that of the file, below a folder
    its path inside that folder; if two files would get the same name, the later one's ends in ``_2``.

    Args:
        inputs: files, folders (with all that is in them) and globs (``photos/**/*.jpg``). Hidden files are left out.
        kinds: keys of :data:`KINDS`. None: for images mask and overlay, and with pausing, paused and entropy where
            they exist; for videos the overlay.
        label_ids: masks in the data set's own ids.
        overwrite: replace results that are there already.
        progress: a bar on stderr.

    Raises:
        InputError: no inputs, nowhere to write, results in the way, kinds that this predictor cannot show.
    """
    out = Path(out)
    sources, failed = _find_sources(inputs, out)
    if not sources:
        raise InputError(f"nothing to segment: {'; '.join(f'{path}: {reason}' for path, reason in failed)}")
    plan = {source: _choose_kinds(predictor, kinds, source) for source in sources}
    manifest = out / "predictions.jsonl"
    if not overwrite:
        _check_free([manifest, *(_target(out, source, kind) for source in sources for kind in plan[source])])
    make_folder(out)
    done: list[dict[str, Any]] = []
    lines = [{"input": path, "error": reason} for path, reason in failed]
    try:
        for source in tqdm(sources, desc="predicting", unit="file", disable=not progress):
            segment = _predict_video if source.is_video else _predict_image
            try:
                record = segment(predictor, source, out, plan[source], label_ids, progress)
                done.append(record)
            except InputError as error:
                record = {"input": str(source.path), "error": str(error)}
            lines.append(record)
            if "error" in record:
                failed.append((str(source.path), record["error"]))
    finally:  # an interrupted run still says what it has done
        write_text(manifest, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return PredictReport(tuple(done), tuple(failed))


def _find_sources(inputs: Sequence[str | Path], out: Path) -> tuple[list[_Source], list[tuple[str, str]]]:
    """Every file once, with a name of its own; and what gave no file, with the reason."""
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    found: dict[Path, tuple[Path, str]] = {}
    failed = []
    for text in inputs:
        files = list(_expand(Path(text), out))
        if not files:
            is_there = Path(text).exists()
            failed.append((str(text), "no images or videos in it" if is_there else "no such file, folder or match"))
        for path, name in files:
            found.setdefault(path.resolve(), (path, name))
    if not inputs:
        failed.append(("no inputs", "give image or video files, folders or globs"))
    return _name_apart(list(found.values())), failed


def _expand(path: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """The files that an input stands for, each with the name it would like its results to have."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            hidden = any(part.startswith(".") for part in inside.parts)
            if not hidden and _is_input(file) and not _is_result(file, out):
                yield file, inside.with_suffix("").as_posix()
    elif path.exists():
        yield path, path.stem  # named outright, so it is tried whatever its suffix is
    else:
        for file in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if _is_input(file) and not _is_result(file, out):
                yield file, file.stem


def _is_input(file: Path) -> bool:
    return (is_image_name(file.name) or is_video(file)) and file.is_file()


def _is_result(file: Path, out: Path) -> bool:
    """Whether it was written by an earlier run into the folder that is read now."""
    if not (out / "predictions.jsonl").is_file():
        return False
    return any(file.resolve().is_relative_to((out / folder).resolve()) for folder, _ in KINDS.values())


def _name_apart(files: Sequence[tuple[Path, str]]) -> list[_Source]:
    """Gives every file a name of its own, also on file systems that take ``A`` for ``a``."""
    taken: set[str] = set()
    names: dict[Path, str] = {}
    # Videos last: theirs is also a folder of masks, in which no image's may lie.
    for path, wish in sorted(files, key=lambda file: is_video(file[0])):
        name, count = wish, 1
        while name.casefold() in taken or any(other.startswith(name.casefold() + "/") for other in taken):
            count += 1
            name = f"{wish}_{count}"
        taken.add(name.casefold())
        names[path] = name
    return [_Source(path, names[path]) for path, _ in files]


def _choose_kinds(predictor: Predictor, kinds: Sequence[str] | None, source: _Source) -> list[str]:
    pauses = bool(predictor.pause.steps)
    scores = predictor.model.aux_head is not None
    if kinds is None:
        if source.is_video:
            return ["overlay"]
        shown = pauses and predictor.shows_patches
        return ["mask", "overlay", *(["paused"] if shown else []), *(["entropy"] if shown and scores else [])]
    if not kinds:
        raise InputError(f"no kind of result is asked for: name some of {', '.join(KINDS)}")
    _check_kinds(kinds)
    if source.is_video and "figure" in kinds:
        raise InputError(f"no 'figure' can be drawn for the video {source.path}: ask for overlay, paused or entropy")
    for kind in {"paused", "entropy"} & set(kinds):
        if not pauses:
            raise InputError(f"'{kind}' shows nothing while nothing pauses: give a pause such as '5:0.6'")
        if not predictor.shows_patches:
            raise InputError(
                f"'{kind}' cannot be shown with {_describe(predictor.inference)}, where every view pauses its own "
                "patches: use the mode 'whole', one scale and no flip"
            )
        if kind == "entropy" and not scores:
            raise InputError("'entropy' is unknown: this model has no auxiliary head; train it with pausing")
    return list(dict.fromkeys(kinds))


def _target(out: Path, source: _Source, kind: str) -> Path:
    folder, suffix = KINDS[kind]
    if source.is_video:
        suffix = "" if kind == "mask" else ".mp4"  # masks are a folder of frames
    return out / folder / f"{source.name}{suffix}"


def _check_free(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} is there already: give another folder to write to, or allow to overwrite it")


def _predict_image(
    predictor: Predictor, source: _Source, out: Path, kinds: Sequence[str], label_ids: bool, progress: bool
) -> dict[str, Any]:
    start = time.perf_counter()
    prediction = predictor(source.path)
    seconds = time.perf_counter() - start
    targets = {kind: _target(out, source, kind) for kind in kinds}
    for kind, path in targets.items():
        prediction.save(path, kind, label_ids=label_ids)
    return {
        "input": str(source.path),
        **{kind: path.relative_to(out).as_posix() for kind, path in targets.items()},
        "seconds": round(seconds, 4),  # to read and to segment
        **prediction.to_dict(),
    }


def _predict_video(
    predictor: Predictor, source: _Source, out: Path, kinds: Sequence[str], label_ids: bool, progress: bool
) -> dict[str, Any]:
    start = time.perf_counter()
    info = probe_video(source.path)
    damage: list[str] = []
    frames = _readable_frames(source.path, damage)
    frames = tqdm(frames, source.path.name, info.num_frames, unit="frame", leave=False, disable=not progress)
    targets = {kind: _target(out, source, kind) for kind in kinds}
    shares = np.zeros(predictor.model.config.num_classes)
    num_frames, size = 0, (0, 0)
    with ExitStack() as stack:
        writers: dict[str, VideoWriter] = {}
        masks: Path | None = None
        for frame in frames:
            prediction = predictor(frame)
            if not num_frames:
                size = prediction.mask.shape
                for kind in kinds:
                    if kind == "mask":
                        masks = stack.enter_context(write_folder_beside(targets[kind]))
                    else:
                        writers[kind] = stack.enter_context(VideoWriter(targets[kind], info.fps, size))
            num_frames += 1
            shares += np.bincount(prediction.mask.ravel(), minlength=len(shares)) / prediction.mask.size
            for kind, writer in writers.items():
                writer.write(np.asarray(prediction.plot(kind)))
            if masks is not None:
                prediction.save(masks / f"{num_frames:06d}.png", label_ids=label_ids)
    if not num_frames:
        raise InputError(damage[0])
    found = zip(predictor.names, (shares / num_frames).round(6).tolist(), strict=True)
    return {
        "input": str(source.path),
        **{kind: path.relative_to(out).as_posix() for kind, path in targets.items()},
        "seconds": round(time.perf_counter() - start, 4),
        "width": size[1],
        "height": size[0],
        "frames": num_frames,
        "fps": float(info.fps),
        "pause": str(predictor.pause),
        "shares": {name: share for name, share in found if share},
        **({"error": damage[0]} if damage else {}),
    }


def _readable_frames(path: Path, damage: list[str]) -> Iterator[Tensor]:
    """The frames that can be decoded; what is wrong with the video, if anything, is put into ``damage`` at the end."""
    try:
        for _, _, frame in read_frames(path):
            yield frame
    except InputError as error:
        damage.append(str(error))
