"""Image and mask files, in and out: any odd file becomes plain RGB or plain ids, or an :class:`InputError` naming it.

Knows nothing of datasets, classes or models.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from paumer.errors import InputError
from paumer.files import write_beside

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

# Where Pillow itself refuses to go on; a larger picture is a mistake or an attack ("decompression bomb").
MAX_PIXELS = 178_956_970

# Named, because Pillow also knows formats that start other programs (EPS calls Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")

# What Pillow's decoders are known to raise on broken files, whatever the format.
_BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def list_images(folder: str | Path) -> list[Path]:
    """The image files directly in ``folder`` (by their extension), sorted by name; hidden files are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder of images: {folder}")
    files = [f for f in folder.iterdir() if is_image_name(f.name) and f.is_file()]
    if not files:
        raise InputError(f"no images in {folder}: looked for {', '.join(sorted(IMAGE_EXTENSIONS))}")
    return sorted(files)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones are not: macOS leaves ``._a.jpg`` beside files."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_EXTENSIONS


def read_image(source: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Tensor:
    """An image file (or an open one) -> RGB, uint8 (3, H, W), turned upright by its EXIF orientation.

    Raises :class:`InputError` if it cannot be read, is cut off, or has more than ``max_pixels`` (at most Pillow's own
    limit, :data:`MAX_PIXELS`); the latter is known before decoding.
    """
    image = _open(source, max_pixels)
    return torch.from_numpy(_rgb_array(image, _name_of(source))).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path, colors: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A label file -> ids, int32 (H, W): greyscale values, or palette indices. RGB files -> uint8 (H, W, 3).

    With ``colors`` every file gives its colours, (H, W, 3), a palette file too. Alpha is dropped. Errors as
    :func:`read_image`.
    """
    image = _open(path, max_pixels)
    if colors or image.mode in ("RGB", "RGBA"):
        return _rgb_array(image, str(path))
    if image.mode == "LA":
        image = image.convert("L")
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return np.array(image).astype(np.int32)
    raise InputError(f"cannot read labels from {path} (mode {image.mode}): save 8- or 16-bit ids, a palette, or RGB")


def save_index_mask(path: str | Path, mask: np.ndarray | Tensor, palette: Sequence[Sequence[int]]) -> None:
    """Write ids (H, W) as a palette PNG, value ``i`` shown in ``palette[i]`` and values beyond the palette in black.

    Ids above 255 do not fit a palette: such a mask becomes a 16-bit greyscale PNG.
    """
    path, ids = Path(path), np.asarray(mask)
    if path.suffix.lower() != ".png":
        raise InputError(f"masks are written as .png (JPEG would blur the ids), got {path}")
    if ids.ndim != 2 or ids.size == 0 or ids.min() < 0 or ids.max() > 65535:
        raise InputError(f"cannot write {path}: need a (H, W) mask of ids 0..65535, got {_describe(ids)}")
    if ids.max() > 255:
        image = Image.fromarray(ids.astype(np.uint16))
    else:
        colors = np.zeros((256, 3), np.uint8)
        colors[: min(len(palette), 256)] = np.asarray(palette[:256], np.uint8).reshape(-1, 3)
        image = Image.fromarray(ids.astype(np.uint8))
        image.putpalette(colors.tobytes())
    with write_beside(path) as beside:
        image.save(beside, format="PNG")


def _describe(ids: np.ndarray) -> str:
    return f"shape {ids.shape}" + (f", values {ids.min()}..{ids.max()}" if ids.size else "")


def _name_of(source: str | Path | BinaryIO) -> str:
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the image"))


def _open(source: str | Path | BinaryIO, max_pixels: int) -> Image.Image:
    """Open, guard against bombs, decode, and turn upright."""
    name = _name_of(source)
    if isinstance(source, str | Path):
        _check_file(Path(source))
    try:
        image = Image.open(source, formats=_FORMATS)
    except _BOMB as error:
        raise InputError(f"{name} is too large to read ({error}): make it smaller") from error
    except _BROKEN_FILE as error:
        raise InputError(
            f"cannot read {name} as an image ({_reason(error)}): give a whole PNG, JPEG or TIFF"
        ) from error
    with image:
        width, height = image.size
        if width < 1 or height < 1:
            raise InputError(f"{name} has no pixels: its size is {width}x{height}")
        if width * height > max_pixels:
            raise InputError(f"{name} is too large to read: {width}x{height} pixels, the limit is {max_pixels}")
        try:
            return ImageOps.exif_transpose(image)  # decodes; a copy, so the file can be closed
        except _BROKEN_FILE as error:
            raise InputError(f"cannot decode {name} ({_reason(error)}): the file is damaged or cut off") from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")


def _reason(error: BaseException) -> str:
    return "unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__


def _rgb_array(image: Image.Image, name: str) -> np.ndarray:
    """Any mode -> uint8 (H, W, 3). Transparency is dropped: the colours stored under it are kept as they are."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _grey_to_8_bit(np.asarray(image), image.mode, name)
        return np.repeat(grey[..., None], 3, axis=2)
    try:
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise InputError(f"cannot make RGB of {name} (mode {image.mode}): save it as an 8-bit RGB image") from error


def _grey_to_8_bit(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Integers are taken as 16-bit (65535 is white); floats as 0..1, or as 0..255 if any is above 1."""
    low, high = float(values.min()), float(values.max())
    white = 65535 if mode != "F" else 1 if high <= 1 else 255
    if not (low >= 0 and high <= white):  # written so that NaN fails, too
        raise InputError(
            f"cannot make RGB of {name}: values {low:g}..{high:g} are beyond 0..{white}; save it with 8 bits"
        )
    return np.floor(values * (255 / white) + 0.5).astype(np.uint8)
