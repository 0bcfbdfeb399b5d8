"""Augmentation of (image, mask) pairs: scale, crop, flip, colour; uint8 in, uint8 out, randomness by generator only.

Knows nothing of files, datasets, batches or normalisation. Follows the pipeline of mmseg that Segmenter trains with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from paumer.errors import InputError

CROP_REDRAWS = 10  # mmseg's RandomCrop gives up on cat_max_ratio after as many
MAX_BRIGHTNESS = 32.0  # added, on the 0..255 scale
COLOUR_FACTORS = (0.5, 1.5)  # of contrast and of saturation
MAX_HUE = 18  # in OpenCV's units: 180 make a full turn


# --- randomness ------------------------------------------------------------------------------------------------------


def sample_generator(seed: int, step: int, sample: int) -> Generator:
    """The CPU generator of sample ``sample`` of step ``step``: a function of the three numbers and of nothing else.

    So a run that is resumed, or spread over other workers or ranks, draws what the unbroken run would have drawn.
    The numbers (each >= 0, else InputError) are hashed to 64 bits by NumPy's ``SeedSequence``: neighbours share no
    pattern. (torch's CPU generator keeps the low 32 of them, so among millions of samples a few repeat their draws.)
    """
    if min(seed, step, sample) < 0:
        raise InputError(f"seed, step and sample must be 0 or more, got {(seed, step, sample)}")
    # spawn_key, not one long entropy list: a list runs together where a seed of more than 32 bits ends.
    (mixed,) = np.random.SeedSequence(seed, spawn_key=(step, sample)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(mixed))


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _coin(chance: float, generator: Generator) -> bool:
    return torch.rand((), generator=generator).item() < chance


def _integer(low: int, high: int, generator: Generator) -> int:
    """Uniform over low..high-1."""
    return int(torch.randint(low, high, (), generator=generator))


# --- size ------------------------------------------------------------------------------------------------------------


def scaled_size(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    """(height, width) after growing or shrinking, aspect kept, until one side meets its bound (mmcv's ``imrescale``).

    factor = min(long / longer side, short / shorter side); sides are rounded half up, and never below one pixel.
    """
    factor = min(long / max(height, width), short / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def resize_image(image: Tensor, size: tuple[int, int], antialias: bool = False) -> Tensor:
    """Bilinear: (3, H, W) uint8 -> (3, *size). Not antialiased by default, as in mmcv, so that weights see the same."""
    if image.shape[-2:] == size:
        return image
    return tvf.resize(image, list(size), InterpolationMode.BILINEAR, antialias=antialias)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest: (H, W) -> size; no id appears that was not there."""
    if mask.shape == size:
        return mask
    # "nearest-exact" samples at pixel centres as the bilinear image does; plain "nearest" sits half a pixel off.
    return tvf.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)[0]


def resize_to(
    image: Tensor, mask: Tensor, long_short: tuple[int, int], antialias: bool = False
) -> tuple[Tensor, Tensor]:
    """Both to ``scaled_size``: image (3, H, W) uint8 bilinear, mask (H, W) uint8 nearest."""
    height, width = mask.shape
    size = scaled_size(height, width, *long_short)
    return resize_image(image, size, antialias), resize_mask(mask, size)


# --- crop ------------------------------------------------------------------------------------------------------------


def largest_class_share(mask: Tensor, ignore_index: int = 255) -> float:
    """Share of the most frequent class among the pixels that are not ignored; 1.0 if there are none."""
    counts = torch.bincount(mask.flatten(), minlength=256)
    counts[ignore_index] = 0
    labelled = int(counts.sum())
    return int(counts.max()) / labelled if labelled else 1.0


def random_crop(
    image: Tensor,
    mask: Tensor,
    crop_size: tuple[int, int],
    generator: Generator,
    cat_max_ratio: float = 0.75,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor]:
    """A window of at most ``crop_size`` (height, width), less where the image is smaller; image (3, H, W), mask (H, W).

    It is redrawn up to ten times while one class fills ``cat_max_ratio`` of its labelled pixels or more; 1 turns
    that off. The tenth redraw is taken as it is.
    """
    height, width = (min(side, crop) for side, crop in zip(mask.shape, crop_size, strict=True))
    down, right = mask.shape[0] - height, mask.shape[1] - width  # how far the window can move
    redraws = CROP_REDRAWS if cat_max_ratio < 1 and (down or right) else 0
    for redraws_left in range(redraws, -1, -1):
        top, left = _integer(0, down + 1, generator), _integer(0, right + 1, generator)
        window = mask[top : top + height, left : left + width]
        if not redraws_left or largest_class_share(window, ignore_index) < cat_max_ratio:
            break
    return tvf.crop(image, top, left, height, width), window


def pad_to(
    image: Tensor, mask: Tensor, size: tuple[int, int], fill: tuple[int, int, int], ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Pad right and bottom to at least ``size``: the image with colour ``fill``, the mask with ``ignore_index``."""
    bottom, right = (max(wanted - side, 0) for side, wanted in zip(mask.shape, size, strict=True))
    if not (bottom or right):
        return image, mask
    padding = [0, 0, right, bottom]
    return tvf.pad(image, padding, fill=list(fill)), tvf.pad(mask[None], padding, fill=ignore_index)[0]


# --- colour ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distortion:
    """One drawn colour change (mmseg's PhotoMetricDistortion, fixed); the defaults change nothing.

    ``brightness`` is added to the 0..255 values, ``contrast`` multiplies them (about 0, not about the mean),
    ``saturation`` multiplies the S of HSV, ``hue`` turns the H, 180 being a full turn.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_first: bool = True  # contrast before saturation and hue, or after them


def draw_distortion(generator: Generator) -> Distortion:
    """Each of the four with probability one half, the place of the contrast by another coin."""
    # Every number is drawn, used or not: one sample then takes the same stretch of the stream whatever the coins say.
    coins = [_coin(0.5, generator) for _ in range(5)]
    brightness = _uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS, generator)
    contrast, saturation = _uniform(*COLOUR_FACTORS, generator), _uniform(*COLOUR_FACTORS, generator)
    hue = _integer(-MAX_HUE, MAX_HUE, generator)
    return Distortion(
        brightness=brightness if coins[0] else 0.0,
        contrast=contrast if coins[1] else 1.0,
        saturation=saturation if coins[2] else 1.0,
        hue=hue if coins[3] else 0,
        contrast_first=coins[4],
    )


def distort(image: Tensor, distortion: Distortion) -> Tensor:
    """Apply it: (3, H, W) uint8 RGB -> the same; clipped to 0..255 after each change, rounded once at the end.

    mmseg rounds to uint8 after every change, and its hue to 2 degrees; beyond that rounding the results are equal.
    """
    pixels = image.float()
    if distortion.brightness:
        pixels = pixels.add_(distortion.brightness).clamp_(0, 255)
    if distortion.contrast_first:
        pixels = scale_contrast(pixels, distortion.contrast)
    pixels = scale_saturation(pixels, distortion.saturation)
    pixels = turn_hue(pixels, distortion.hue)
    if not distortion.contrast_first:
        pixels = scale_contrast(pixels, distortion.contrast)
    return pixels.round().to(torch.uint8)


def photometric_distortion(image: Tensor, generator: Generator) -> Tensor:
    """A random ``Distortion`` of an image: (3, H, W) uint8 RGB -> the same."""
    return distort(image, draw_distortion(generator))


def scale_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Multiply the raw values: (3, H, W) float in 0..255 -> the same, clipped."""
    return pixels if factor == 1 else (pixels * factor).clamp_(0, 255)


def scale_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Multiply the S of HSV, clipped at 1: (3, H, W) float in 0..255 -> the same."""
    if factor == 1:
        return pixels
    value, chroma = _value_and_chroma(pixels)
    # torchvision's adjust_saturation blends with grey, which is another thing. Here H and V stay, so each channel's
    # distance to V grows like S = chroma / V, which may not pass 1.
    growth = (value / chroma.clamp(min=1e-6)).clamp_(max=factor)
    return value - (value - pixels) * growth


def turn_hue(pixels: Tensor, turn: float) -> Tensor:
    """Turn the H of HSV by ``turn`` / 180 of a circle: (3, H, W) float in 0..255 -> the same; S and V stay."""
    half_turns = ((turn + 90) % 180 - 90) / 180  # torchvision takes -0.5..0.5
    return pixels if turn == 0 else tvf.adjust_hue(pixels / 255, half_turns) * 255


def _value_and_chroma(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """V of HSV, and V minus the smallest channel: (3, H, W) -> twice (H, W)."""
    red, green, blue = pixels
    value = torch.maximum(torch.maximum(red, green), blue)
    return value, value - torch.minimum(torch.minimum(red, green), blue)


# --- the two pipelines -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop, flip, colour and padding, in mmseg's order.

    ``crop_size`` is (height, width). The image is fitted into ``base_size`` (long side, short side; None: its own
    size) times a factor drawn from ``scale``. ``fill`` pads the image and should be the colour that normalisation
    takes to 0. Raises InputError on settings that cannot work.
    """

    crop_size: tuple[int, int]
    base_size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    ignore_index: int = 255
    fill: tuple[int, int, int] = (127, 127, 127)

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise InputError(f"crop_size must be two positive pixel counts (height, width), got {self.crop_size}")
        _check_base_size(self.base_size)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}: (0.5, 2.0) is usual")
        if not 0 < self.cat_max_ratio <= 1:
            raise InputError(f"cat_max_ratio must lie in (0, 1], got {self.cat_max_ratio}: 1 turns it off")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is a probability between 0 and 1, got {self.flip}")
        if not 0 <= self.ignore_index <= 255:
            raise InputError(f"ignore_index must fit uint8 masks, 0 to 255, got {self.ignore_index}: 255 is usual")
        if len(self.fill) != 3 or not all(0 <= value <= 255 for value in self.fill):
            raise InputError(f"fill must be three values from 0 to 255 (red, green, blue), got {self.fill}")

    def __call__(self, image: Tensor, mask: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 RGB and (H, W) uint8 ids -> (3, *crop_size) and crop_size, same types; inputs unchanged."""
        height, width = mask.shape
        long, short = self.base_size or (max(height, width), min(height, width))
        factor = _uniform(*self.scale, generator)
        image, mask = resize_to(image, mask, (int(long * factor), int(short * factor)))
        image, mask = random_crop(image, mask, self.crop_size, generator, self.cat_max_ratio, self.ignore_index)
        if _coin(self.flip, generator):
            image, mask = tvf.horizontal_flip(image), tvf.horizontal_flip(mask)
        if self.photometric:
            image = photometric_distortion(image, generator)
        image, mask = pad_to(image, mask, self.crop_size, self.fill, self.ignore_index)
        # Cloned, for what is still a view would keep the whole source alive, and be written to with it.
        return image.clone(memory_format=torch.contiguous_format), mask.clone(memory_format=torch.contiguous_format)


def _check_base_size(base_size: tuple[int, int] | None) -> None:
    if base_size is not None and not base_size[0] >= base_size[1] >= 1:
        raise InputError(f"base_size must be (long side, short side) in pixels, long >= short >= 1, got {base_size}")
