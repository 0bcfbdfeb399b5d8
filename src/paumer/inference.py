"""One image through a predictor: whole or in sliding windows, at one or several scales, with or without its mirror.

Knows nothing of models: a predictor is any callable from images (B, 3, H, W) to logits (B, C, h, w). Arithmetic of
mmsegmentation (windows, scales) and of rstrudel/segmenter (small images are enlarged to the window).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from paumer.errors import InputError, did_you_mean

Predict = Callable[[Tensor], Tensor]
Box = tuple[int, int, int, int]

MODES = ("whole", "slide")


@dataclass(frozen=True)
class InferenceConfig:
    """How an image goes through the predictor; all sizes are (height, width) in pixels, unless said otherwise.

    ``crop_size`` and ``stride`` (None: the crop size, so no overlap) are the windows of mode "slide", and
    ``window_batch`` of them go through the predictor at once: that changes speed and memory, not the result.
    ``base_size`` (long, short), in any orientation: the image is resized, keeping its aspect, to the largest size
    that fits; None leaves its size alone. ``scales`` multiply that size; ``flip`` adds the mirror image of each.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    base_size: tuple[int, int] | None = None
    window_batch: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"unknown inference mode '{self.mode}'; {did_you_mean(str(self.mode), MODES)}")
        if self.mode == "slide" and self.crop_size is None:
            raise InputError("mode 'slide' needs a crop_size (height, width), such as (512, 512); none was given")
        for name in ("crop_size", "stride", "base_size"):
            _check_pair(name, getattr(self, name))
        if self.stride and self.crop_size is None:
            raise InputError(f"a stride {self.stride} was given without a crop_size: give both or neither")
        if self.stride and self.crop_size:
            _check_stride(self.crop_size, self.stride)
        if self.base_size and self.base_size[0] < self.base_size[1]:
            raise InputError(f"base_size is (long, short), got {self.base_size}: give {self.base_size[::-1]}")
        if not self.scales or not all(isfinite(scale) and scale > 0 for scale in self.scales):
            raise InputError(f"scales must be positive numbers, got {self.scales}: give for example (0.75, 1.0, 1.25)")
        if self.window_batch < 1:
            raise InputError(f"window_batch must be at least 1, got {self.window_batch}: give 1 to save memory")

    @property
    def is_single_view(self) -> bool:
        """Whether an image goes through the predictor whole and once."""
        return self.mode == "whole" and len(self.scales) == 1 and not self.flip


def _check_pair(name: str, pair: tuple[int, int] | None) -> None:
    if pair is not None and (len(pair) != 2 or min(pair) < 1):
        raise InputError(f"{name} must be two sizes of at least 1 pixel, got {pair}: give for example (512, 512)")


def _check_stride(crop_size: tuple[int, int], stride: tuple[int, int]) -> None:
    if stride[0] > crop_size[0] or stride[1] > crop_size[1]:
        raise InputError(
            f"the stride {stride} is larger than the window {crop_size}, so pixels would be left out: "
            f"give a stride of at most {crop_size}"
        )


@torch.no_grad()
def segment_image(predict: Predict, image: Tensor, config: InferenceConfig | None = None) -> Tensor:
    """Logits (C, H, W) at the size of ``image`` (3, H, W), uint8 or float 0..1, RGB; ``predict`` is given float 0..1.

    With one scale and no flip these are the predictor's own logits. With more views they are the logarithm of the
    mean of the views' probabilities, so argmax and softmax mean the same in both cases.
    """
    config = config or InferenceConfig()
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise InputError(f"an image is a tensor (3, height, width), got shape {tuple(image.shape)}: permute it first")
    images = _as_float(image)[None]
    size = _size(images)
    infer = _whole_or_slide(predict, config)
    if len(config.scales) == 1 and not config.flip:
        logits = resize_images(infer(resize_images(images, view_size(size, config))), size)
    else:
        base = base_scale(size, config.base_size)
        scales = [base * scale for scale in config.scales]
        probabilities = multi_scale_inference(infer, images, size, scales, config.flip)
        logits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    return logits[0]


def _whole_or_slide(predict: Predict, config: InferenceConfig) -> Predict:
    if config.mode == "whole":
        return partial(whole_inference, predict)
    assert config.crop_size is not None  # the configuration has seen to it
    return partial(
        slide_inference,
        predict,
        crop_size=config.crop_size,
        stride=config.stride or config.crop_size,
        batch_size=config.window_batch,
    )


def whole_inference(predict: Predict, images: Tensor) -> Tensor:
    """Logits (B, C, H, W) of images (B, 3, H, W) in one call, resized bilinearly if the predictor's are smaller."""
    return resize_images(predict(images), _size(images))


def slide_inference(
    predict: Predict, images: Tensor, crop_size: tuple[int, int], stride: tuple[int, int], batch_size: int = 1
) -> Tensor:
    """Logits (B, C, H, W) of images (B, 3, H, W) seen through windows; where windows overlap, their mean.

    ``batch_size`` windows are predicted at once. Each window is an image of its own, hence also for pausing: the
    same share of *its* patches is paused. An image smaller than the window is enlarged to it first.
    """
    _check_stride(crop_size, stride)
    size = _size(images)
    images = resize_images(images, enlarged_size(size, crop_size))
    boxes = window_boxes(*_size(images), crop_size, stride)
    jobs = [(i, box) for i in range(len(images)) for box in boxes]
    total: Tensor | None = None
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        windows = torch.stack([images[i, :, top:bottom, left:right] for i, (top, left, bottom, right) in batch])
        logits = whole_inference(predict, windows)
        if total is None:  # only now are the number of classes and the device known
            # Half precision is good enough for one window, not for sums of them.
            dtype = torch.promote_types(logits.dtype, torch.float32)
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[-2:], dtype=dtype)
        for (i, (top, left, bottom, right)), window_logits in zip(batch, logits, strict=True):
            total[i, :, top:bottom, left:right] += window_logits
    assert total is not None  # there is a window
    count = torch.zeros_like(total[:1, :1])
    for top, left, bottom, right in boxes:
        count[..., top:bottom, left:right] += 1
    return resize_images(total / count, size)


def multi_scale_inference(
    infer: Predict, images: Tensor, size: tuple[int, int], scales: Sequence[float] = (1.0,), flip: bool = False
) -> Tensor:
    """Mean class probabilities (B, C, *size) over the scales of images (B, 3, H, W) and, with ``flip``, their mirrors.

    ``infer`` gives logits at the size of its images, e.g. :func:`slide_inference` with its options bound. Order of
    mmsegmentation: logits -> resized to ``size`` -> un-flipped -> softmax -> mean.
    """
    views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    total = torch.zeros(())  # a scalar takes on the type and the device of what is added
    for scale, mirrored in views:
        view = resize_images(images, scaled_size(_size(images), scale))
        logits = resize_images(infer(view.flip(-1) if mirrored else view), size)
        total = total + (logits.flip(-1) if mirrored else logits).softmax(dim=1)
    return total / len(views)


def window_boxes(height: int, width: int, crop_size: tuple[int, int], stride: tuple[int, int]) -> list[Box]:
    """Windows (top, left, bottom, right) in rows; the last of each row and column is shifted inside the image.

    Where the image is smaller than the window, so is the box.
    """
    tops = _window_starts(height, crop_size[0], stride[0])
    lefts = _window_starts(width, crop_size[1], stride[1])
    return [
        (top, left, min(top + crop_size[0], height), min(left + crop_size[1], width)) for top in tops for left in lefts
    ]


def _window_starts(length: int, crop: int, stride: int) -> list[int]:
    room = max(length - crop, 0)
    num_windows = -(-room // stride) + 1
    return [min(i * stride, room) for i in range(num_windows)]


def enlarged_size(size: tuple[int, int], crop_size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size with the aspect of ``size`` into which a window fits (rounded down); ``size`` if it does."""
    (height, width), (crop_height, crop_width) = size, crop_size
    if height >= crop_height and width >= crop_width:
        return height, width
    if crop_height * width >= crop_width * height:  # the height is what is short
        return crop_height, width * crop_height // height
    return height * crop_width // width, crop_width


def base_scale(size: tuple[int, int], base_size: tuple[int, int] | None) -> float:
    """By how much to resize ``size`` so that it just fits into ``base_size`` (long, short); 1 if that is None."""
    if base_size is None:
        return 1.0
    return min(base_size[0] / max(size), base_size[1] / min(size))


def view_size(size: tuple[int, int], config: InferenceConfig) -> tuple[int, int]:
    """(height, width) to which an image of ``size`` is resized for the first of the scales."""
    return scaled_size(size, base_scale(size, config.base_size) * config.scales[0])


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """``size`` times ``scale``, rounded half up as mmcv does, at least one pixel each way."""
    return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _as_float(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear: images or logits (B, C, h, w) -> (B, C, *size), as they are where that is their size."""
    if _size(images) == size:
        return images
    # No antialiasing, as in both code bases whose numbers we compare with.
    return F.interpolate(_as_float(images), size=size, mode="bilinear", align_corners=False)
