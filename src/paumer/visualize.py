"""Pictures of masks, entropies and paused patches, and how to lay them out side by side.

Knows nothing of models, data sets or files: arrays and a palette come in, arrays (H, W, 3) uint8 or PIL images go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paumer.errors import InputError

Rgb = tuple[int, int, int]
Pixels = NDArray[np.uint8]  # (H, W, 3)

BLACK, WHITE, INK = (0, 0, 0), (255, 255, 255), (30, 30, 30)
UNKNOWN = (128, 128, 128)

# Lightness rises steadily from sure to unsure, so the map also reads in greyscale print.
_HEAT = np.array([(14, 16, 48), (62, 32, 112), (150, 44, 108), (222, 88, 62), (250, 172, 60), (255, 246, 200)])

# The colours of Okabe and Ito (2008), told apart by colour-blind readers too.
_DISTINCT: tuple[Rgb, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)


def colorize(mask: NDArray, palette: Sequence[Rgb]) -> Pixels:
    """Class ids (H, W) -> their colours (H, W, 3); ids outside the palette, such as 255 for ignored, are black."""
    table = np.array([*palette, BLACK], dtype=np.uint8)
    known = (mask >= 0) & (mask < len(palette))
    return table[np.where(known, mask, len(palette))]


def overlay(image: Pixels, mask: NDArray, palette: Sequence[Rgb], alpha: float = 0.55) -> Pixels:
    """The image (H, W, 3) tinted with its mask (H, W); ids outside the palette leave it clear. ``alpha`` 1 hides it."""
    _check_same_size(image, mask)
    return _tint(image, colorize(mask, palette), (mask >= 0) & (mask < len(palette)), alpha)


def entropy_map(
    entropy: NDArray, size: tuple[int, int], num_classes: int, patch_size: int, valid: NDArray | None = None
) -> Pixels:
    """Entropy of each patch (h, w) in nats -> heat (H, W, 3) on the fixed scale 0 (dark) .. ln C (bright).

    The scale does not depend on the image, so maps can be compared. Grey: nan, or not ``valid`` (h, w), e.g. paused.
    """
    known = np.isfinite(entropy) if valid is None else np.isfinite(entropy) & valid
    share = np.where(known, entropy, 0) / log(num_classes)
    colors = np.where(known[..., None], _heat(share), np.array(UNKNOWN, np.uint8))
    return patches_to_pixels(colors, patch_size, size)


def entropy_entries(num_classes: int, steps: int = 5) -> list[tuple[str, Rgb]]:
    """Entries for :func:`legend` that explain the colours of :func:`entropy_map`."""
    shares = np.linspace(0, 1, steps)
    labels = [f"{share * log(num_classes):.2f}" for share in shares]
    labels[0], labels[-1] = "0 (sure)", f"ln {num_classes} = {log(num_classes):.2f} nats (unsure)"
    return [(label, tuple(color.tolist())) for label, color in zip(labels, _heat(shares), strict=True)]


def _heat(share: NDArray) -> Pixels:
    """Shares 0..1 (...) -> colours (..., 3); beyond the ends the end colours."""
    anchors = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(share, anchors, channel) for channel in _HEAT.T], axis=-1).round().astype(np.uint8)


def layer_colors(layers: Sequence[int]) -> dict[int, Rgb]:
    """A colour of its own for each layer, by its place among ``layers``; each further round is darker."""
    colors = {}
    for i, layer in enumerate(sorted(set(layers))):
        lap, place = divmod(i, len(_DISTINCT))
        red, green, blue = (round(channel * 0.6**lap) for channel in _DISTINCT[place])
        colors[layer] = (red, green, blue)
    return colors


def patches_to_pixels(grid: NDArray, patch_size: int, size: tuple[int, int]) -> NDArray:
    """Values of patches (h, w, ...) -> of pixels (H, W, ...): each fills its square, cut where the image was padded."""
    height, width = size
    needed = (-(-height // patch_size), -(-width // patch_size))
    if grid.shape[:2] != needed:
        raise InputError(
            f"an image of {height}x{width} pixels has {needed[0]}x{needed[1]} patches of {patch_size}, got "
            f"{grid.shape[0]}x{grid.shape[1]}: give the image and patch size that the model saw"
        )
    return grid.repeat(patch_size, axis=0).repeat(patch_size, axis=1)[:height, :width]


def legend(entries: Sequence[tuple[str, Rgb]], width: int = 640, font_size: int = 14) -> Image.Image:
    """Coloured boxes with their labels, in lines of at most ``width`` pixels (one longer label widens the picture)."""
    font = ImageFont.load_default(font_size)
    gap = font_size // 2
    line_height = font_size + gap
    places, x, y, right = [], gap, gap, width
    for label, _ in entries:
        entry_width = font_size + gap // 2 + int(font.getlength(label)) + 1 + 2 * gap
        if x > gap and x + entry_width > width:
            x, y = gap, y + line_height
        places.append((x, y))
        x += entry_width
        right = max(right, x)
    picture = Image.new("RGB", (right, y + line_height), WHITE)
    draw = ImageDraw.Draw(picture)
    for (label, color), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + font_size - 1, y + font_size - 1), fill=color, outline=INK)
        draw.text((x + font_size + gap // 2, y + font_size // 2), label, fill=INK, font=font, anchor="lm")
    return picture


def hstack(panels: Sequence[tuple[str, Pixels | Image.Image]], gap: int = 8, font_size: int = 14) -> Image.Image:
    """Pictures side by side, each (caption, picture) with its caption above, all scaled to the first one's height."""
    pictures = [_as_pil(picture) for _, picture in panels]
    height = pictures[0].height
    pictures = [_scale_to_height(picture, height) for picture in pictures]
    font = ImageFont.load_default(font_size)
    bar = font_size + gap if any(caption for caption, _ in panels) else 0
    # A caption wider than its picture gets the room it needs.
    widths = [
        max(picture.width, int(font.getlength(caption)) + 1)
        for (caption, _), picture in zip(panels, pictures, strict=True)
    ]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), bar + height), WHITE)
    draw = ImageDraw.Draw(sheet)
    x = 0
    for (caption, _), picture, width in zip(panels, pictures, widths, strict=True):
        draw.text((x, bar // 2), caption, fill=INK, font=font, anchor="lm")
        sheet.paste(picture, (x, bar))
        x += width + gap
    return sheet


def vstack(pictures: Sequence[Pixels | Image.Image], gap: int = 8) -> Image.Image:
    """Pictures below each other, at their own sizes, flush left on white."""
    rows = [_as_pil(picture) for picture in pictures]
    height = sum(row.height for row in rows) + gap * (len(rows) - 1)
    sheet = Image.new("RGB", (max(row.width for row in rows), height), WHITE)
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + gap
    return sheet


def _as_pil(picture: Pixels | Image.Image) -> Image.Image:
    return picture.convert("RGB") if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _scale_to_height(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    return picture.resize((max(round(picture.width * height / picture.height), 1), height), Image.Resampling.BILINEAR)


def _tint(image: Pixels, colors: Pixels, where: NDArray, alpha: float) -> Pixels:
    mixed = (1 - alpha) * image + alpha * colors
    return np.where(where[..., None], mixed.round(), image).astype(np.uint8)


def _check_same_size(image: NDArray, mask: NDArray) -> None:
    if image.shape[:2] != mask.shape[:2]:
        raise InputError(
            f"the picture is {image.shape[0]}x{image.shape[1]} pixels and the mask {mask.shape[0]}x{mask.shape[1]}: "
            "resize the mask to the picture's size first"
        )
