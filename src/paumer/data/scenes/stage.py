"""What a scene is painted on and with: classes, colours, dice, camera, light, and antialiased shapes with their labels.

Knows nothing of streets' contents. NumPy in IEEE basic operations only (no libm, no sums), so that bytes never differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
IGNORE = 255
# fmt: off
SCENE_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)
SCENE_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)
# fmt: on
MIN_SIDE = 32

Colour = tuple[float, float, float]
Point = tuple[float, float]

# Everything that is painted takes its colour from one box, so that colour alone does not tell the classes apart.
GREYS: tuple[Colour, ...] = (
    (0.20, 0.20, 0.22),
    (0.33, 0.33, 0.34),
    (0.47, 0.47, 0.47),
    (0.62, 0.63, 0.65),
    (0.82, 0.82, 0.81),
)
EARTHS: tuple[Colour, ...] = (
    (0.36, 0.26, 0.17),
    (0.52, 0.40, 0.27),
    (0.50, 0.27, 0.20),
    (0.62, 0.40, 0.30),
    (0.80, 0.72, 0.57),
)
GREENS: tuple[Colour, ...] = ((0.17, 0.27, 0.13), (0.28, 0.38, 0.16), (0.40, 0.44, 0.20), (0.38, 0.47, 0.38))
BLUES: tuple[Colour, ...] = ((0.45, 0.58, 0.74), (0.62, 0.72, 0.82), (0.13, 0.24, 0.52), (0.12, 0.14, 0.22))
VIVID: tuple[Colour, ...] = ((0.66, 0.13, 0.11), (0.82, 0.62, 0.13), (0.10, 0.42, 0.40), (0.78, 0.38, 0.12))
PAINT_BOX = GREYS + EARTHS + GREENS + BLUES + VIVID
WHITE: Colour = (0.90, 0.90, 0.88)
BLACK: Colour = (0.07, 0.07, 0.08)
SKINS: tuple[Colour, ...] = ((0.80, 0.62, 0.50), (0.62, 0.44, 0.32), (0.36, 0.24, 0.17))


class Dice:
    """The only randomness of a scene: uniform draws of PCG64; everything else is exact arithmetic on them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def below(self, limit: int) -> int:
        return int(self.rng.random() * limit)

    def count(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        return float(self.rng.random()) < share

    def pick(self, options: Sequence):
        return options[self.below(len(options))]

    def colour(self, options: Sequence[Colour] = PAINT_BOX, jitter: float = 0.06) -> Colour:
        """One colour of the box, each channel and the whole moved a little."""
        gain = self.between(0.85, 1.15)
        r, g, b = (min(max(c * gain + self.between(-jitter, jitter) / 2, 0.02), 1.0) for c in self.pick(options))
        return r, g, b

    def field(self, *shape: int) -> np.ndarray:
        return self.rng.random(shape, dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera: metres right, up and ahead of it to pixels; (x, y) is the vanishing point."""

    focal: float
    x: float
    y: float
    height: float

    def project(self, right: float, up: float, ahead: float) -> Point:
        return self.x + self.focal * right / ahead, self.y + self.focal * (self.height - up) / ahead


@dataclass(frozen=True)
class Light:
    """Colour of the light on sunny and shaded faces, and of the haze that far things fade to."""

    sun: Colour
    shade: Colour
    haze: Colour
    haze_metres: float
    zenith: Colour
    side: int  # -1: the sun stands left of the street
    night: bool
    clouds: float


@dataclass(frozen=True)
class Street:
    """The ground plan, in metres right of the camera; `planes` are the building lines left and right."""

    kerbs: tuple[float, float]
    planes: tuple[float, float]
    crossing: tuple[float, float]  # stretch ahead that a side street takes
    town: float  # 0 gardens and trees .. 1 closed building lines


@dataclass(frozen=True)
class View:
    """A rectangle of the canvas: its slices and the pixel centres, xs (1, w) and ys (h, 1)."""

    rows: slice
    cols: slice
    xs: np.ndarray
    ys: np.ndarray


class Stage:
    """Canvas, camera and light of one scene. Shapes are signed distances in pixels (negative inside): an edge is
    antialiased in the image, while the mask takes the pixels with a centre inside; hence both fit exactly."""

    def __init__(self, dice: Dice, size: tuple[int, int], camera: Camera, light: Light) -> None:
        self.dice, self.size, self.camera, self.light = dice, size, camera, light
        self.image = np.zeros((*size, 3), np.float32)
        self.mask = np.full(size, IGNORE, np.uint8)
        self.unit = min(size[0], size[1] / 1.5) / 256  # 1 at 256x384: lengths given in pixels scale with it
        self.tile = make_tile(dice)

    def view(self, x0: float, y0: float, x1: float, y1: float) -> View | None:
        height, width = self.size
        left, right = max(int(x0) - 1, 0), min(int(x1) + 2, width)
        top, bottom = max(int(y0) - 1, 0), min(int(y1) + 2, height)
        if left >= right or top >= bottom:
            return None
        xs = np.arange(left, right, dtype=np.float32)[None] + 0.5
        ys = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
        return View(slice(top, bottom), slice(left, right), xs, ys)

    def paint(
        self, view: View, distance: np.ndarray, colour, label: int | None, opacity: float | np.ndarray = 1.0
    ) -> None:
        """Lay a colour, (3,) or (h, w, 3), over the inside of a shape; `label` None leaves the mask (shadows, glow)."""
        alpha = np.clip(0.5 - distance, 0, 1)
        patch = self.image[view.rows, view.cols]
        change = np.asarray(colour, np.float32) - patch
        change *= (alpha * opacity)[..., None]
        patch += change
        if label is not None:
            self.mask[view.rows, view.cols][distance <= 0] = label

    def lit(self, colour: Colour, ahead: float = 0.0, facing: float = 1.0) -> Colour:
        """The colour as the camera sees it: `facing` 1 in the sun .. 0 in the shade, faded by the haze."""
        haze = ahead / (ahead + self.light.haze_metres)
        lights = zip(colour, self.light.sun, self.light.shade, self.light.haze, strict=True)
        r, g, b = ((c * (dark + (sun - dark) * facing)) * (1 - haze) + far * haze for c, sun, dark, far in lights)
        return r, g, b

    def grain(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The noise tile, -1..1, looked up at texels u, v (any floats; it repeats)."""
        return self.tile[np.floor(v).astype(np.int32) & 255, np.floor(u).astype(np.int32) & 255]

    def polygon(
        self, corners: Sequence[Point], colour: Colour, label: int | None, opacity: float = 1.0, fade: float = 0.0
    ) -> None:
        """A convex polygon in pixels; its colour darkens by `fade` from top to bottom."""
        xs, ys = [p[0] for p in corners], [p[1] for p in corners]
        if (view := self.view(min(xs), min(ys), max(xs), max(ys))) is None:
            return
        distance = polygon_distance(view, corners)
        if distance is not None:
            self.paint(view, distance, self.textured(view, colour, fade), label, opacity)

    def textured(self, view: View, colour: Colour, fade: float = 0.0) -> np.ndarray:
        ramp = (view.ys - view.ys[0]) * (1.0 / len(view.ys)) - 0.5
        shade = 1 - fade * ramp + 0.07 * self.grain(view.xs / self.unit, view.ys / self.unit)
        return shade[..., None] * np.asarray(colour, np.float32)

    def capsule(
        self, a: Point, b: Point, radius: float, colour: Colour, label: int | None, opacity: float = 1.0
    ) -> None:
        """A thick line with round ends."""
        (ax, ay), (bx, by) = a, b
        view = self.view(min(ax, bx) - radius, min(ay, by) - radius, max(ax, bx) + radius, max(ay, by) + radius)
        if view is None:
            return
        dx, dy = bx - ax, by - ay
        along = np.clip(((view.xs - ax) * dx + (view.ys - ay) * dy) * (1.0 / max(dx * dx + dy * dy, 1e-6)), 0, 1)
        px, py = view.xs - ax - along * dx, view.ys - ay - along * dy
        self.paint(view, np.sqrt(px * px + py * py) - radius, self.textured(view, colour), label, opacity)

    def ellipse(
        self, centre: Point, rx: float, ry: float, colour: Colour, label: int | None, opacity: float = 1.0
    ) -> None:
        (cx, cy), rx, ry = centre, max(rx, 0.6), max(ry, 0.6)
        if (view := self.view(cx - rx, cy - ry, cx + rx, cy + ry)) is None:
            return
        px, py = (view.xs - cx) * (1.0 / rx), (view.ys - cy) * (1.0 / ry)
        distance = (np.sqrt(px * px + py * py) - 1) * min(rx, ry)
        self.paint(view, distance, self.textured(view, colour), label, opacity)

    def shadow(self, right: float, ahead: float, half_width: float, half_depth: float, strength: float = 0.5) -> None:
        """A soft dark patch on the ground."""
        x, y = self.camera.project(right, 0, ahead)
        scale = self.camera.focal / ahead
        ry = max(scale * half_depth * self.camera.height / ahead, 1.0)
        for grow in (1.25, 1.0, 0.8):
            self.ellipse((x, y), scale * half_width * grow, ry * grow, (0.03, 0.03, 0.05), None, strength / 3)


def polygon_distance(view: View, corners: Sequence[Point]) -> np.ndarray | None:
    """Signed distance to a convex polygon as the largest of its half-planes; None where it has no area."""
    pairs = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    area = 0.0
    for (x0, y0), (x1, y1) in pairs:
        area += x0 * y1 - x1 * y0
    if abs(area) < 0.5:
        return None
    sign, distance = (1.0 if area < 0 else -1.0), None
    for (x0, y0), (x1, y1) in pairs:
        dx, dy = x1 - x0, y1 - y0
        if (length := math.sqrt(dx * dx + dy * dy)) > 1e-3:
            side = (view.ys - y0) * (sign * dx / length) - (view.xs - x0) * (sign * dy / length)
            distance = side if distance is None else np.maximum(distance, side)
    return distance


def hull(points: Sequence[Point]) -> list[Point]:
    """Convex hull (monotone chain)."""
    chain: list[Point] = []
    for half in (sorted(points), sorted(points, reverse=True)):
        start = len(chain)
        for p in half:
            while len(chain) - start >= 2:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        chain.pop()
    return chain


def smooth_noise(dice: Dice, shape: tuple[int, int], cell: float, wrap: bool = False) -> np.ndarray:
    """Value noise 0..1 of bumps `cell` pixels wide; with `wrap` it tiles (cell must divide the shape)."""
    rows, cols = (int(n / cell) + 2 for n in shape)
    grid = dice.field(rows, cols)
    if wrap:
        grid[-2:], grid[:, -2:] = grid[:2], grid[:, :2]
    for axis, length in enumerate(shape):
        position = np.arange(length, dtype=np.float32) * (1.0 / cell)
        index = position.astype(np.int32)
        t = (position - index).reshape((-1, 1) if axis == 0 else (1, -1))
        t = t * t * (3 - 2 * t)
        grid = np.take(grid, index, axis) * (1 - t) + np.take(grid, index + 1, axis) * t
    return grid


def make_tile(dice: Dice) -> np.ndarray:
    """A repeating 256x256 texture, -1..1, of coarse and fine noise."""
    coarse, middle, fine = (smooth_noise(dice, (256, 256), cell, wrap=True) for cell in (32, 8, 2))
    return 1.6 * (0.3 * coarse + 0.3 * middle + 0.4 * fine) - 0.8
