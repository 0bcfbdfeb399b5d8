"""From a seed to a photograph and its mask: furnish the street, paint it from far to near, develop it; and a dataset.

Knows nothing of how things look. Only `SceneDataset` knows tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from paumer.data.scenes.actors import HEADINGS, TURNS, paint_car, paint_cyclist, paint_lamp, paint_person, paint_sign
from paumer.data.scenes.stage import IGNORE, MIN_SIDE, SCENE_CLASSES, SCENE_PALETTE, Camera, Dice, Stage, Street
from paumer.data.scenes.surroundings import (
    draw_fence,
    draw_light,
    draw_street,
    paint_backdrop,
    paint_fence,
    paint_ground,
    paint_side,
    paint_sky,
    paint_tree,
)
from paumer.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from paumer.data.datasets import Sample


def furnish(stage: Stage, street: Street) -> list[tuple[float, Callable[[], None]]]:
    """Everything that stands or moves in the street, as (metres ahead, how to paint it)."""
    dice, things = stage.dice, []

    def put(paint: Callable, right: float, ahead: float, half_width: float, *options) -> None:
        def painter() -> None:
            stage.shadow(
                right - 0.3 * stage.light.side * half_width, ahead, 1.3 * half_width, max(half_width, 0.5), 0.4
            )
            paint(stage, right, ahead, *options)

        things.append((ahead, painter))

    for side in (0, 1):
        kerb, plane = street.kerbs[side], street.planes[side]
        out = 1 if side else -1

        def spread(low: float, high: float, kerb: float = kerb, plane: float = plane) -> float:
            """Across the pavement: 0 at the kerb, 1 at the building line."""
            return kerb + (plane - kerb) * dice.between(low, high)

        for _ in range(dice.count(0, 2)):
            put(paint_lamp, kerb + 0.45 * out, dice.between(6, 22), 0.3)
        for _ in range(dice.count(0, 2)):
            put(paint_sign, spread(0.1, 0.5), dice.between(5.5, 15), 0.3)
        for _ in range(dice.pick((0, 0, 1, 2))):
            put(paint_tree, spread(0.2, 0.6), dice.between(9, 40), 1.2)
        for _ in range(dice.pick((0, 1, 2, 2, 3))):
            put(paint_person, spread(0.1, 0.9), dice.between(4.5, 11.5), 0.4)
        if dice.chance(0.5):
            for i in range(dice.count(1, 5)):
                put(paint_car, kerb - 1.05 * out, 9 + dice.between(0, 3) + 6.2 * i, 1.2, dice.pick(HEADINGS))
        elif dice.chance(0.35):
            style, start = draw_fence(dice), dice.between(4, 12)
            for i in range(dice.count(3, 8)):
                near = start + 2 * i
                things.append(
                    (
                        near,
                        lambda near=near, kerb=kerb, out=out, style=style: paint_fence(
                            stage, kerb + 0.25 * out, near, near + 2, *style
                        ),
                    )
                )
    left, right = street.kerbs
    for _ in range(dice.pick((0, 1, 1, 2))):
        put(paint_car, dice.between(left + 1.2, right - 1.2), dice.between(8, 30), 1.2, dice.pick(HEADINGS))
    if dice.chance(0.3):
        put(paint_car, dice.between(left, right), dice.between(9, 20), 1.6, dice.pick(TURNS))
    for _ in range(dice.pick((0, 1, 1, 1, 2))):
        put(paint_cyclist, dice.between(left + 0.4, right - 0.4), dice.between(5, 13), 0.5)
    if dice.chance(0.3):
        put(paint_person, dice.between(left, right), dice.between(6, 13), 0.4)
    return things


# --- the photograph --------------------------------------------------------------------------------------------------


def paint_bonnet(stage: Stage) -> None:
    """The camera's own car at the lower edge: no class."""
    height, width = stage.size
    colour = stage.lit(stage.dice.colour(), 0, 0.8)
    stage.ellipse((width / 2, height * 1.06), width * 0.62, height * stage.dice.between(0.09, 0.14), colour, IGNORE)


def soften(image: np.ndarray, amount: float) -> np.ndarray:
    """A three-tap blur along both axes; the edges stay."""
    rows = image.copy()
    rows[1:-1] += (image[:-2] + image[2:] - 2 * image[1:-1]) * amount
    both = rows.copy()
    both[:, 1:-1] += (rows[:, :-2] + rows[:, 2:] - 2 * rows[:, 1:-1]) * amount
    return both


def develop(stage: Stage) -> np.ndarray:
    """The camera's part: blur, exposure, colour cast, contrast, vignette, sensor noise, 8 bits."""
    dice, (height, width) = stage.dice, stage.size
    image = soften(stage.image, dice.between(0.02, 0.2))
    cast = [dice.between(0.92, 1.08) for _ in range(3)]
    image *= np.asarray(cast, np.float32) * dice.between(0.82, 1.18)
    fall = dice.between(0, 0.3)
    px = (np.arange(width, dtype=np.float32)[None] + 0.5) * (2.0 / width) - 1
    py = (np.arange(height, dtype=np.float32)[:, None] + 0.5) * (2.0 / height) - 1
    image *= (1 - fall * (px * px + py * py) * 0.5)[..., None]
    np.clip(image, 0, 1, out=image)
    image += dice.between(-0.1, 0.35) * image * (1 - image) * (2 * image - 1)
    noise = dice.field(height, width, 3)
    noise += dice.field(height, width, 1) - 1
    noise *= dice.between(0.01, 0.07)
    image += noise
    return np.floor(np.clip(image, 0, 1, out=image) * 255 + 0.5).astype(np.uint8)


def render_scene(seed: int, size: tuple[int, int] = (256, 384)) -> tuple[np.ndarray, np.ndarray]:
    """A street scene: (image (H, W, 3) uint8 RGB, mask (H, W) uint8 of class ids, 255 where there is no class).

    The same seed and size give the same bytes. Raises InputError for a negative seed or a side below 32 pixels.
    """
    # NumPy integers would turn the float32 arithmetic into float64, and with it the bytes.
    seed, height, width = int(seed), int(size[0]), int(size[1])
    if seed < 0 or min(height, width) < MIN_SIDE:
        raise InputError(
            f"cannot render seed {seed} at {height}x{width}: seeds start at 0 and sides at {MIN_SIDE} pixels"
        )
    dice = Dice(seed)
    focal = dice.between(0.92, 1.12) * min(1.1 * height, 0.73 * width)
    camera = Camera(focal, width * dice.between(0.3, 0.7), height * dice.between(0.36, 0.5), dice.between(1.4, 2.1))
    street = draw_street(dice)
    stage = Stage(dice, (height, width), camera, draw_light(dice))
    paint_sky(stage)
    paint_backdrop(stage, street)
    paint_ground(stage, street)
    for plane in street.planes:
        paint_side(stage, street, plane)
    for _, paint in sorted(furnish(stage, street), key=lambda thing: -thing[0]):
        paint()
    if dice.chance(0.15):
        paint_bonnet(stage)
    return develop(stage), stage.mask


class SceneDataset:
    """`num_images` scenes of one split (train 4000, val 100 by default). Train takes even seeds, val odd ones."""

    def __init__(self, split: str = "val", size: tuple[int, int] = (256, 384), num_images: int | None = None) -> None:
        from paumer.data.spec import DatasetSpec

        defaults = {"train": 4000, "val": 100}
        if split not in defaults:
            raise InputError(f"the scenes have no split '{split}'; {did_you_mean(split, defaults)}")
        self.split, self.size = split, (int(size[0]), int(size[1]))
        self.num_images = defaults[split] if num_images is None else num_images
        if self.num_images < 1:
            raise InputError(f"a dataset of {self.num_images} scenes is empty; ask for at least 1")
        self.spec = DatasetSpec(name="scenes", names=SCENE_CLASSES, palette=SCENE_PALETTE)

    def __len__(self) -> int:
        return self.num_images

    def seed(self, index: int) -> int:
        """The seed of an image: the splits can never share one, however many images they have."""
        return 2 * index + (self.split == "val")

    def __getitem__(self, index: int) -> Sample:
        import torch

        from paumer.data.datasets import Sample

        if not 0 <= index < self.num_images:
            raise IndexError(f"scene {index} of {self.num_images}")
        image, mask = render_scene(self.seed(index), self.size)
        image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Sample(image, torch.from_numpy(mask), f"scene_{self.seed(index):06d}")
