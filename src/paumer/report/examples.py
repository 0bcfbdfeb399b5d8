"""Images for the slider of a report: segmented at each configuration of the front, and turned into small pictures.

Knows nothing of HTML. A picture is the photo once, and for each configuration and view a transparent layer to lay over
it: flat colours, which PNG keeps exact in a few kilobytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from paumer.checkpoint import model_id
from paumer.data.datasets import Dataset
from paumer.data.images import read_image
from paumer.errors import InputError
from paumer.evaluate import spread_indices
from paumer.inference import InferenceConfig
from paumer.model import Segmenter
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.prediction import Prediction
from paumer.predictor import Predictor
from paumer.report.results import read_results
from paumer.sweep_folder import SweepFolder
from paumer.visualize import Pixels, Rgb, layer_colors, patches_to_pixels

MAX_SIDE = 480  # pixels of an embedded picture
_JPEG_QUALITY = 82

# What became of a pixel by pausing. Light, middle and dark, so that they also differ in grey; after Okabe and Ito.
CHANGED: Rgb = (213, 94, 0)
OUTCOMES: dict[str, Rgb] = {
    "wrong only with pausing": (213, 94, 0),
    "wrong with and without": (40, 40, 48),
    "wrong only without pausing": (86, 180, 233),
}


@dataclass(frozen=True, eq=False)
class Shot:
    """An image to show: (3, H, W) uint8, and its label (H, W) of train ids where there is one."""

    name: str
    image: Tensor
    label: NDArray | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """One image, segmented without pausing and at other configurations, from slow to fast."""

    name: str
    unpaused: Prediction
    predictions: tuple[Prediction, ...]
    label: NDArray | None = None  # (H, W); ids that are no class count nowhere

    @property
    def pauses(self) -> tuple[PauseConfig, ...]:
        return tuple(prediction.pause for prediction in self.predictions)


def split_shots(dataset: Dataset, count: int, num_classes: int) -> Iterator[Shot]:
    """``count`` labelled images, spread evenly over the split; :class:`InputError` if its classes are not as many."""
    if dataset.spec.num_classes != num_classes:
        raise InputError(
            f"the model predicts {num_classes} classes, {dataset.spec.name} has {dataset.spec.num_classes}: "
            "take images of the data set that was swept"
        )
    for index in spread_indices(len(dataset), count):
        sample = dataset[index]
        yield Shot(sample.name, sample.image, sample.mask.numpy())


def file_shots(paths: Iterable[str | Path]) -> Iterator[Shot]:
    """Image files, without labels."""
    for path in paths:
        yield Shot(Path(path).name, read_image(path))


def example_pauses(folder: SweepFolder) -> list[PauseConfig]:
    """The stops of the slider: no pause, then the front from slow to fast."""
    front = [point.pause for point in read_results(folder).front]
    return [NO_PAUSE, *(pause for pause in front if pause != NO_PAUSE)]


def segment_examples(
    folder: SweepFolder, model: Segmenter, shots: Iterable[Shot], pauses: Sequence[PauseConfig] | None = None
) -> list[Example]:
    """Segments images as the sweep in ``folder`` did, at ``pauses`` (by default :func:`example_pauses`).

    Raises:
        InputError: the model is not the one that was swept; an image that cannot be read.
    """
    info = folder.info
    if model_id(model) != info["model_id"]:
        raise InputError(
            f"this model has other weights than the one that was swept ({info['model']}, {info['model_id']}): "
            "give that one to show examples of it"
        )
    predictor = Predictor(
        model, criterion=info["criterion"], inference=_inference(info["inference"]), seed=info.get("seed", 0)
    )
    stops = example_pauses(folder) if pauses is None else list(pauses)
    return [_segment(predictor, shot, stops) for shot in shots]


def _segment(predictor: Predictor, shot: Shot, pauses: Sequence[PauseConfig]) -> Example:
    unpaused = predictor(shot.image, NO_PAUSE)
    predictions = tuple(unpaused if pause == NO_PAUSE else predictor(shot.image, pause) for pause in pauses)
    return Example(shot.name, unpaused, predictions, shot.label)


def _inference(values: dict[str, Any]) -> InferenceConfig:
    """JSON keeps tuples as lists."""
    settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return InferenceConfig(**settings)


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One panel at one configuration: the layer over the photo as a data URI, and a note in words."""

    layer: str
    note: str


def photo(image: Pixels) -> str:
    """The image (H, W, 3) as a JPEG data URI."""
    picture = Image.fromarray(image)
    return _data_uri(picture.resize(_fit(picture.size), Image.Resampling.LANCZOS), "JPEG", quality=_JPEG_QUALITY)


def label_view(example: Example) -> View:
    """The truth of a labelled example."""
    assert example.label is not None
    known = 100 * float((example.label < example.unpaused.num_classes).mean())
    return View(_layer(example.label, example.unpaused.palette, 0.6), f"{known:.1f} % of the pixels are labelled")


def views(example: Example, prediction: Prediction, colors: dict[int, Rgb]) -> dict[str, View]:
    """The panels that change with the configuration; ``paused`` and ``wrong`` only where they can be known.

    Args:
        colors: of the pausing layers, the same at all configurations of a page.
    """
    found = {"segmentation": View(_layer(prediction.mask, prediction.palette, 0.6), "")}
    if prediction.patches is not None:
        found["paused"] = _paused_view(prediction, colors)
    changed = prediction.mask != example.unpaused.mask
    share = f"{100 * changed.mean():.1f} % of the pixels"
    found["changed"] = View(_layer(np.where(changed, 0, 255), [CHANGED], 0.95), share)
    if example.label is not None:
        found["wrong"] = _wrong_view(example.unpaused.mask, prediction.mask, example.label, prediction.num_classes)
    return found


def pausing_colors(examples: Sequence[Example]) -> dict[int, Rgb]:
    """A colour for each layer after which anything pauses, whichever configuration is shown."""
    pauses = {pause for example in examples for pause in example.pauses}
    return layer_colors([layer for pause in pauses for layer, _ in pause.steps])


def _paused_view(prediction: Prediction, colors: dict[int, Rgb]) -> View:
    patches = prediction.patches
    assert patches is not None
    places = {0: 255, **{layer: place for place, layer in enumerate(colors)}}
    grid = np.vectorize(places.__getitem__, otypes=[np.int32])(patches.paused_at)
    pixels = patches_to_pixels(grid, patches.patch_size, patches.size)
    shares = [f"{100 * (patches.paused_at == layer).mean():.0f} % after layer {layer}" for layer in patches.layers]
    size = prediction.mask.shape[1], prediction.mask.shape[0]
    return View(_layer(pixels, list(colors.values()), 0.65, size), ", ".join(shares) or "none")


def _wrong_view(unpaused: NDArray, paused: NDArray, label: NDArray, num_classes: int) -> View:
    known = label < num_classes
    before, after = known & (unpaused != label), known & (paused != label)
    outcome = np.select([after & ~before, after & before, before & ~after], [0, 1, 2], 255)
    if not known.any():
        return View(_layer(outcome, list(OUTCOMES.values()), 0.9), "nothing is labelled here")
    right = [f"{100 * (1 - wrong[known].mean()):.1f} %" for wrong in (after, before)]
    return View(
        _layer(outcome, list(OUTCOMES.values()), 0.9), f"{right[0]} of the labelled pixels right, {right[1]} unpaused"
    )


def _layer(ids: NDArray, colors: Sequence[Rgb], alpha: float, size: tuple[int, int] | None = None) -> str:
    """Ids (H, W) as a transparent PNG, clear where an id has no colour; ``size`` (width, height) of its photo."""
    table = np.zeros((len(colors) + 1, 4), np.uint8)
    table[:-1, :3] = np.array(colors, np.uint8).reshape(-1, 3)
    table[:-1, 3] = round(255 * alpha)
    picture = Image.fromarray(table[np.where(ids < len(colors), ids, len(colors))])
    return _data_uri(picture.resize(_fit(size or picture.size), Image.Resampling.NEAREST), "PNG", optimize=True)


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) with its longer side at most :data:`MAX_SIDE`."""
    scale = min(1.0, MAX_SIDE / max(size))
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
