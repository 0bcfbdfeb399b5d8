"""The classes of a dataset: names, colours, and what the ids or colours in its mask files mean.

Knows nothing of files and folders.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from paumer.errors import InputError

IGNORE = 255  # the train id of pixels that count for nothing, in every mask of this package

Color = tuple[int, int, int]
Table = tuple[tuple[int, int], ...]  # (id in the file, train id) pairs
ColorTable = tuple[tuple[Color, int], ...]  # (colour in the file, train id) pairs


@dataclass(frozen=True)
class DatasetSpec:
    """The classes of a dataset and how its files write them down.

    ``label_ids`` is the dataset's own id of each class (None: the same as the train id) and ``ignore_label`` its own id
    of ignored pixels. ``table`` holds every id that a file may contain with its train id (None: what ``label_ids`` and
    ``ignore_label`` say); for colour-coded masks ``colors`` holds the colours instead.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = IGNORE
    label_ids: tuple[int, ...] | None = None
    ignore_label: int = IGNORE
    table: Table | None = None
    colors: ColorTable | None = None

    def __post_init__(self) -> None:
        assert len(self.palette) == len(self.names) == len(self.label_ids or self.names)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def label_palette(self) -> tuple[Color, ...]:
        """The palette by the dataset's own ids, for masks that went through :meth:`decode`; unused ids are black."""
        if self.label_ids is None:
            return self.palette
        colors = dict(zip(self.label_ids, self.palette, strict=True))
        return tuple(colors.get(i, (0, 0, 0)) for i in range(max(self.label_ids) + 1))

    @cached_property
    def id_table(self) -> Table:
        """Every id that the dataset's masks may hold, with its train id."""
        if self.table is not None:
            return self.table
        ids = self.label_ids or tuple(range(self.num_classes))
        return (*((label, i) for i, label in enumerate(ids)), (self.ignore_label, IGNORE))

    def encode(self, raw: np.ndarray, source: str | Path = "the mask", train_ids: bool = False) -> np.ndarray:
        """What a mask file holds -> train ids, uint8 (H, W): ids (H, W), or colours (H, W, 3) if the dataset has those.

        With ``train_ids`` the file holds train ids already. Raises :class:`InputError` on ids or colours that the
        dataset does not know, naming ``source``.
        """
        mask = self.look_up(raw, source, train_ids)
        if (mask < 0).any():
            unknown = self.count_unknown(raw, mask)
            found = ", ".join(f"{label} ({n} pixels)" for label, n in list(unknown.items())[:10])
            table = self._train_id_table if train_ids else self.id_table
            known = "the colours of its color_mapping" if self.colors else _ranges(sorted(label for label, _ in table))
            raise InputError(f"{source} holds labels that {self.name} does not know: {found}; known: {known}")
        return mask.astype(np.uint8)

    def look_up(self, raw: np.ndarray, source: str | Path = "the mask", train_ids: bool = False) -> np.ndarray:
        """As :meth:`encode`, but int16 with -1 where the dataset does not know the label."""
        if self.colors is not None:
            if raw.ndim != 3:
                raise InputError(
                    f"{source} holds ids of shape {raw.shape}, but {self.name} describes colours (H, W, 3)"
                )
            return _look_up_colors(raw, self.colors)
        if raw.ndim != 2:
            raise InputError(
                f"{source} is a colour picture, but {self.name} has label ids: describe it by 'color_mapping'"
            )
        low, lookup = _lookup_table(self._train_id_table if train_ids else self.id_table)
        return lookup.take(raw.astype(np.int64) - low + 1, mode="clip")

    def count_unknown(self, raw: np.ndarray, mask: np.ndarray) -> dict[str, int]:
        """The labels of ``raw`` that :meth:`look_up` did not know, as a person writes them, and their pixels."""
        values = raw[mask < 0]
        if self.colors is not None:
            counts = zip(*np.unique(_pack_colors(values), return_counts=True), strict=True)
            return {f"{c >> 16},{c >> 8 & 255},{c & 255}": int(n) for c, n in counts}
        return {str(i): int(n) for i, n in zip(*np.unique(values, return_counts=True), strict=True)}

    def decode(self, mask: np.ndarray | Tensor) -> np.ndarray:
        """Train ids (H, W) -> the dataset's own ids, uint8 or (ids above 255) uint16; the inverse of :meth:`encode`.

        Where several of the dataset's ids are one class, the first of them is written.
        """
        ids = self.label_ids or tuple(range(self.num_classes))
        dtype = np.uint8 if max(*ids, self.ignore_label) <= 255 else np.uint16
        table = np.full(256, self.ignore_label, dtype)
        table[: len(ids)] = ids
        return table[np.asarray(mask)]

    @cached_property
    def _train_id_table(self) -> Table:
        return (*((i, i) for i in range(self.num_classes)), (IGNORE, IGNORE))


@lru_cache(maxsize=32)
def _lookup_table(table: Table) -> tuple[int, np.ndarray]:
    """(smallest id ``low``, int16 train ids): id ``i`` stands at ``i - low + 1``, -1 where unknown and at both ends."""
    ids, train_ids = np.array(table, np.int64).T
    low = int(ids.min())
    lookup = np.full(int(ids.max()) - low + 3, -1, np.int16)
    lookup[ids - low + 1] = train_ids
    return low, lookup


def _look_up_colors(raw: np.ndarray, colors: ColorTable) -> np.ndarray:
    codes, train_ids = np.array(sorted((int(_pack_colors(np.array(color))), i) for color, i in colors)).T
    packed = _pack_colors(raw)
    places = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
    return np.where(codes[places] == packed, train_ids[places], -1).astype(np.int16)


def _pack_colors(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) -> one integer each, 0xRRGGBB."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue


def _ranges(ids: list[int]) -> str:
    """[0, 1, 2, 7] -> "0..2, 7"."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def distinct_palette(num_colors: int) -> tuple[Color, ...]:
    """Colours that tell classes apart, always the same ones: hues a golden ratio apart, five shades in turn.

    Consecutive hues of the golden-ratio walk are far from each other however many there are, and the shades separate
    those that come close again. Used where a dataset brings no colours of its own.
    """
    shades = ((0.75, 0.9), (0.5, 0.7), (1.0, 0.6), (0.35, 1.0), (0.9, 0.4))  # (saturation, value)
    golden = (5**0.5 - 1) / 2
    colors = (colorsys.hsv_to_rgb((i * golden) % 1, *shades[i % len(shades)]) for i in range(num_colors))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors)


def as_palette(palette: list[list[int]]) -> tuple[Color, ...]:
    """Colours as JSON and YAML hold them -> as a spec holds them."""
    return tuple((r, g, b) for r, g, b in palette)
