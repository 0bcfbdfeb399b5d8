"""From a photo to its segmentation: anything that is an image goes in, a prediction comes out.

Knows nothing of data sets, training, or how a prediction is drawn and saved.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from paumer.benchmark import is_out_of_memory, time_interleaved
from paumer.checkpoint import model_id, open_segmenter
from paumer.data.images import read_image
from paumer.data.spec import distinct_palette
from paumer.device import choose_device, keep_freed_memory
from paumer.errors import InputError
from paumer.front import FRONT_FILE, Front, Point, check_target, choose_for_throughput
from paumer.inference import InferenceConfig
from paumer.model import Segmenter, compile_segmenter
from paumer.model.folder import fetch_model_folder
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.prediction import PatchViews, Prediction
from paumer.segment import in_dtype, inference_config, segment_images
from paumer.visualize import Pixels

log = logging.getLogger(__name__)

ImageLike = str | Path | Image.Image | NDArray | Tensor


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
        dtype: of weights and activations: ``float32``, ``bfloat16``, ``float16``; ``auto`` is half precision where the
            device is known to gain by it. By default that of the model: float32 when it is opened here.
        inference: windows, scales, flip and resizing; by default what the model's configuration says.
        seed: for the criterion ``random``.
        target_throughput: images per second, in place of ``pause``: the configuration of the model's front with the
            best mIoU that is that fast here. The front is timed anew on this device, one image at a time and without
            reading files, which takes a few seconds.
        front: the front to choose from, by default ``pareto.json`` in the model folder, where `paumer sweep` puts it.
        compile: ``off``, ``block`` or ``full``, see :func:`paumer.compile_segmenter`. The first images wait for it.

    Raises:
        InputError: no such model, device or dtype, a layer it does not have, a criterion that its heads cannot give; no
            front, one of other weights, or a target that is out of reach.
    """

    def __init__(
        self,
        model: str | Path | Segmenter,
        pause: PauseConfig | str = NO_PAUSE,
        *,
        criterion: str = "entropy",
        device: str = "auto",
        dtype: str | None = None,
        inference: InferenceConfig | None = None,
        seed: int = 0,
        target_throughput: float | None = None,
        front: Front | str | Path | None = None,
        compile: str = "off",
    ) -> None:
        if target_throughput is not None:
            check_target(target_throughput)
            if PauseConfig.parse(pause) != NO_PAUSE:
                raise InputError(f"a pause ({pause}) and a target throughput were given: the target chooses the pause")
            front = front if isinstance(front, Front) else Front.load(front or front_file(model))
        elif front is not None:
            raise InputError("a front was given without a target throughput to choose by")
        target = None if isinstance(model, Segmenter) and device == "auto" else choose_device(device)
        given = (model if isinstance(model, Segmenter) else open_segmenter(model)).to(target).eval()
        self.model = in_dtype(given, dtype)
        if self.device.type == "cpu":
            keep_freed_memory()
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
        # Only now: no graph is made for that smallest of images.
        self.model = compile_segmenter(self.model, compile)
        if target_throughput is not None:
            assert isinstance(front, Front)
            self.pause = self._choose(front, target_throughput, model_id(given))

    @property
    def device(self) -> torch.device:
        return self.model.pixel_mean.device

    @property
    def shows_patches(self) -> bool:
        """Whether predictions know what became of the patches: the whole image goes through the model, once."""
        return self.inference.is_single_view

    def _choose(self, front: Front, target: float, weights: str) -> PauseConfig:
        """The best mIoU among the front's configurations that are fast enough here and now.

        ``weights`` is the id of the model before it was put into another dtype.
        """
        made_with = front.conditions.get("criterion")
        if made_with != self.criterion:
            raise InputError(
                f"the front was made with the criterion '{made_with}', not '{self.criterion}': sweep again"
            )
        if front.conditions.get("model_id") != weights:
            raise InputError("the front is of other weights than this model's: sweep again")
        choice = choose_for_throughput(self.time_front(front), target)
        log.info(
            "%s for at least %g images/s: %.3g here on images of %dx%d, mIoU %.2f where it was swept",
            *(choice.pause, target, choice.images_per_second, *front.image_size, choice.miou),
        )
        return choice.pause

    def time_front(self, front: Front) -> list[Point]:
        """The points of a front with the speed they have on this device, through this predictor, one image at a time.

        What is timed is a whole call with an image of the size that the front was made with. Rounds are as many as fit
        into three seconds, but at least one. Where the number of paused patches follows the image, no single image
        tells the speed: such a point is given the speed-up that it had over the images of the sweep, times the speed
        of not pausing here.
        """
        image = torch.zeros(3, *front.image_size, dtype=torch.uint8)
        fixed = [point.pause for point in front.points if not point.pause.is_adaptive]
        pauses = list(dict.fromkeys([NO_PAUSE, *fixed]))
        calls = [partial(self, image, pause) for pause in pauses]
        (first,) = time_interleaved(calls[:1], rounds=1, warmup=1, device=self.device)
        rounds = min(max(int(3 / (first[0] * len(calls))), 1), 15)
        seconds = time_interleaved(calls, rounds=rounds, warmup=1, device=self.device)
        rates = {pause: 1 / median(times) for pause, times in zip(pauses, seconds, strict=True)}
        return [
            replace(point, images_per_second=rates.get(point.pause, rates[NO_PAUSE] * point.speedup))
            for point in front.points
        ]

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
        return self.predict_batch([image], pause)[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[ImageLike], pause: PauseConfig | str | None = None) -> list[Prediction]:
        """Segments several images; those of the same size go through the model together.

        A result depends on the other images only where a share of the batch pauses (``5:0.6@batch``): hard images then
        keep more of their patches, at the same cost of the whole.

        Raises:
            InputError: as for one image.
        """
        pause = self.pause if pause is None else PauseConfig.parse(pause)
        pixels = [as_image(image) for image in images]
        together: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
        for place, image in enumerate(pixels):
            together.setdefault((image.shape, image.dtype), []).append(place)
        predictions: dict[int, Prediction] = {}
        for places in together.values():
            batch = torch.stack([pixels[place] for place in places])
            predictions.update(zip(places, self._predict(batch, pause), strict=True))
        return [predictions[place] for place in range(len(pixels))]

    def _predict(self, images: Tensor, pause: PauseConfig) -> list[Prediction]:
        """(B, 3, H, W) images as `as_image` makes them."""
        try:
            segmented = segment_images(
                self.model,
                images.to(self.device),
                pause,
                self.inference,
                criterion=self.criterion,
                seeds=[self.seed] * len(images),
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            count = f"a batch of {len(images)} images" if len(images) > 1 else "an image"
            raise InputError(
                f"{count} of {images.shape[2]}x{images.shape[3]} does not fit in the memory of {self.device}: "
                "make it smaller, or use the mode 'slide'"
            ) from error
        masks = segmented.labels.cpu().numpy().astype(np.uint8 if len(self.names) <= 256 else np.int32)
        trace, patch_size = segmented.trace, self.model.patch_size[0]
        return [
            Prediction(
                image=_to_pixels(image),
                mask=mask,
                names=self.names,
                palette=self.palette,
                pause=pause,
                inference=self.inference,
                patches=None if trace is None else PatchViews.from_trace(trace, segmented.seen, patch_size, place),
                label_ids=self.model.config.label_ids,
            )
            for place, (image, mask) in enumerate(zip(images, masks, strict=True))
        ]


def front_file(model: str | Path | Segmenter) -> Path:
    """Where the front of a model is, given as to :class:`Predictor`."""
    if isinstance(model, Segmenter):
        raise InputError("a model without a folder has no front to choose from: give one by front=")
    if Path(model).is_file():
        return Path(model).parent / FRONT_FILE
    return fetch_model_folder(model) / FRONT_FILE


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
