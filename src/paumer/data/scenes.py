"""Procedural street scenes with CamVid's 11 classes: labelled data that may be shipped, for the demo, the tests and CI.

Knows nothing of models; only `SceneDataset` knows tensors. The rendering is NumPy in IEEE basic operations (no libm,
no sums, no font, no rasteriser of others), so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paumer.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from paumer.data.datasets import Sample

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


# --- sky, ground -----------------------------------------------------------------------------------------------------


def draw_light(dice: Dice) -> Light:
    """Sunny, overcast, dusk or night."""
    kind = dice.pick(("sun", "sun", "sun", "overcast", "overcast", "dusk", "night"))
    g = dice.between(0.85, 1.1)
    side = dice.pick((-1, 1))
    metres = dice.between(60, 400)
    if kind == "sun":
        blue = dice.between(0.0, 1.0)
        zenith = (0.30 + 0.2 * blue, 0.48 + 0.15 * blue, 0.78 + 0.08 * blue)
        return Light(
            (1.15 * g, 1.1 * g, g), (0.5 * g, 0.54 * g, 0.62 * g), (0.74, 0.80, 0.86), metres, zenith, side, False, 0.6
        )
    if kind == "overcast":
        grey = dice.between(0.55, 0.85)
        tones = (0.8 * g, 0.8 * g, 0.82 * g), (0.66 * g, 0.67 * g, 0.70 * g), (grey, grey, grey + 0.02)
        return Light(*tones, metres / 2, (grey - 0.08, grey - 0.06, grey - 0.02), side, False, 0.25)
    if kind == "dusk":
        tones = (0.85 * g, 0.66 * g, 0.5 * g), (0.38 * g, 0.36 * g, 0.44 * g), (0.82, 0.58, 0.42)
        return Light(*tones, metres, (0.34, 0.38, 0.55), side, False, 0.5)
    tones = (0.58 * g, 0.53 * g, 0.47 * g), (0.36 * g, 0.37 * g, 0.45 * g), (0.22, 0.22, 0.30)
    return Light(*tones, metres, (0.07, 0.09, 0.17), side, True, 0.3)


def draw_street(dice: Dice) -> Street:
    kerbs = -dice.between(2.0, 5.5), dice.between(2.0, 5.5)
    green = dice.between(0, 1)  # suburbs are wider and greener than the town
    planes = kerbs[0] - dice.between(1.9, 4.0 + 3 * green), kerbs[1] + dice.between(1.9, 4.0 + 3 * green)
    start = dice.between(9, 30) if dice.chance(0.45) else 500.0
    return Street(kerbs, planes, (start, start + dice.between(5, 9)), 0.97 - 0.85 * green)


def paint_sky(stage: Stage) -> None:
    """A gradient from zenith to haze, with clouds."""
    height, width = stage.size
    view = stage.view(0, 0, width, height)
    t = np.clip(view.ys * (1.0 / max(stage.camera.y, 1.0)), 0, 1)[..., None]
    sky = np.asarray(stage.light.zenith, np.float32) * (1 - t) + np.asarray(stage.light.haze, np.float32) * t
    cloud = 0.55 * smooth_noise(stage.dice, stage.size, 70 * stage.unit) + 0.3 * smooth_noise(
        stage.dice, stage.size, 28 * stage.unit
    )
    cloud = cloud + 0.15 * smooth_noise(stage.dice, stage.size, 9 * stage.unit)
    cover = stage.dice.between(0.35, 0.75)
    cloud = (np.clip((cloud - cover) * 5, 0, 1) * stage.light.clouds)[..., None]
    bright = 0.25 if stage.light.night else stage.dice.between(0.75, 1.0)
    stage.image[:] = sky * (1 - cloud) + bright * cloud
    stage.mask[:] = SKY


def paint_ground(stage: Stage, street: Street) -> None:
    """Road with markings and patches, kerbs, slabbed pavements, and yards beyond the building lines."""
    camera, dice, light = stage.camera, stage.dice, stage.light
    view = stage.view(0, camera.y + 2, stage.size[1], stage.size[0])
    ahead = camera.focal * camera.height / np.maximum(view.ys - camera.y, 0.4)  # (h, 1)
    right = (view.xs - camera.x) * ahead * (1.0 / camera.focal)  # (h, w)
    scale = camera.focal / ahead  # pixels per metre across
    crossing = (ahead > street.crossing[0]) & (ahead < street.crossing[1])
    road = np.minimum(right - street.kerbs[0], street.kerbs[1] - right) * scale
    road = np.where(crossing, np.float32(9), road)
    yard = np.maximum(street.planes[0] - right, right - street.planes[1]) * scale
    lawn = dice.chance(0.75)
    near = 1 / (1 + ahead * 0.06)

    # Shares of the four materials in each pixel; they sum to the brightness there.
    worn = np.where(stage.grain(right * 12, ahead * 6) > dice.between(-0.9, -0.2), np.float32(1), np.float32(0.3))
    paint = np.where(crossing, np.float32(0), road_marks(dice, street, right, ahead, scale) * worn)
    shade = 1 + 0.28 * near * stage.grain(right * 45, ahead * 45) + 0.12 * stage.grain(right * 3, ahead * 2)
    shade *= (1 - ground_shadow(stage, street, right, ahead)) * (1 - ahead / (ahead + light.haze_metres))
    on_road = np.clip(road + 0.5, 0, 1)
    on_yard = np.clip(yard + 0.5, 0, 1) * (1 - on_road) * np.float32(lawn)
    slabs = (1 - on_road - on_yard) * slab_joints(dice, street, right, ahead, near) * shade
    tarmac = on_road * (1 - paint) * road_patches(dice, right, ahead) * shade
    shares = slabs, on_yard * shade, tarmac, on_road * paint * shade
    colours = dice.colour(GREYS[1:] * 2 + EARTHS[3:]), dice.colour(GREENS[:3]), dice.colour(GREYS[:4]), WHITE
    for channel in range(3):
        haze = ahead / (ahead + light.haze_metres) * light.haze[channel]
        for share, colour in zip(shares, colours, strict=True):
            haze = haze + share * (colour[channel] * light.sun[channel])
        stage.image[view.rows, :, channel] = haze
    stage.mask[view.rows] = np.where(road >= 0, ROAD, np.where((yard >= 0) & lawn, TREE, PAVEMENT))


def road_marks(dice: Dice, street: Street, right: np.ndarray, ahead: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """How far (0..1) paint covers the road: centre line (dashed or whole), edge lines, a zebra crossing."""
    left, edge = street.kerbs

    def line(position: float, half_width: float) -> np.ndarray:
        return np.clip((half_width - np.abs(right - position)) * scale + 0.5, 0, 1)

    dash, phase = dice.pick((3.0, 4.0, 6.0)), dice.between(0, 6)
    along = (ahead + phase) * (1.0 / dash)
    gap = (along - np.floor(along) > 0.5) & (not dice.chance(0.25))
    marks = np.where(gap, np.float32(0), line(left + (edge - left) * dice.between(0.4, 0.6), 0.09))
    if dice.chance(0.15):
        marks = np.zeros_like(marks)
    if dice.chance(0.5):
        marks = np.maximum(marks, np.maximum(line(left + 0.35, 0.06), line(edge - 0.35, 0.06)))
    if dice.chance(0.3):
        start, stripe = dice.between(5, 14), np.abs(right - np.floor(right) - 0.5)
        zebra = np.clip((0.25 - stripe) * scale + 0.5, 0, 1) * ((ahead > start) & (ahead < start + 2.6))
        marks = np.where((ahead > start - 0.6) & (ahead < start + 3.2), zebra, marks)
    return marks


def road_patches(dice: Dice, right: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Brightness of the asphalt: mended rectangles, a worn track."""
    shade = np.where(np.abs(np.abs(right) - 0.8) < 0.35, np.float32(1.06), np.float32(1))
    for _ in range(dice.count(0, 3)):
        x, z, tone = dice.between(-4, 3), dice.between(3, 20), dice.between(0.72, 1.2)
        inside = (right > x) & (right < x + dice.between(0.6, 2.5)) & (ahead > z) & (ahead < z + dice.between(1, 6))
        shade = np.where(inside, shade * tone, shade)
    return shade


def slab_joints(dice: Dice, street: Street, right: np.ndarray, ahead: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Brightness of the pavement: joints between slabs, and the kerb stone."""
    pitch = dice.pick((0.45, 0.6, 0.9))
    u, v = right * (1.0 / pitch), ahead * (1.0 / pitch)
    joint = ((u - np.floor(u)) < 0.07) | ((v - np.floor(v)) < 0.09)
    kerb = np.minimum(np.abs(right - street.kerbs[0]), np.abs(right - street.kerbs[1])) < 0.16
    return np.where(kerb, dice.pick((0.72, 1.18)), 1 - 0.3 * near * joint)


def ground_shadow(stage: Stage, street: Street, right: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """0..0.5: what the houses on the sunny side throw on the ground, house by house."""
    if stage.light.sun[1] < 1.15 * stage.light.shade[1] or stage.dice.chance(0.25):
        return np.zeros((1, 1), np.float32)
    reach = stage.dice.field(64) * stage.dice.between(3, 9)
    house = reach[(ahead * (1.0 / stage.dice.between(6, 12))).astype(np.int32) & 63]
    plane = street.planes[0] if stage.light.side < 0 else street.planes[1]
    depth = (right - plane) if stage.light.side < 0 else (plane - right)
    return 0.55 * np.clip((house - depth) * 4, 0, 1)


# --- buildings, fences, trees ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facade:
    """How a house looks; lengths in metres."""

    colours: tuple[Colour, ...]  # wall, trim, glass, curtain or lit window, roof, shop, door
    height: float
    roof: str
    roof_height: float
    pitch: float
    storey: float
    window: Point  # share of the pitch and of the storey
    shop: bool
    bricks: bool


def draw_facade(stage: Stage) -> Facade:
    dice = stage.dice
    # Some walls have the colour of the sky behind them.
    wall = (
        dice.colour(GREYS[1:] + EARTHS + EARTHS)
        if dice.chance(0.75)
        else dice.colour((stage.light.haze, stage.light.zenith))
    )
    glass = dice.colour(GREYS[:2] + BLUES[1:], 0.03)
    window = (1.0, 0.78, 0.35) if stage.light.night else dice.colour((WHITE, GREYS[2], BLUES[1]))
    colours = (wall, dice.colour((WHITE, wall, GREYS[1])), glass, window, dice.colour(GREYS[:3] + EARTHS[:4]))
    storeys = dice.pick((1, 2, 2, 2, 3, 3, 4, 5))
    storey = dice.between(2.7, 3.4)
    return Facade(
        colours=(*colours, dice.colour(), dice.colour()),
        height=storeys * storey + 0.4,
        roof=dice.pick(("flat", "long", "long", "gable")),
        roof_height=dice.between(1.2, 3.0),
        pitch=dice.between(1.9, 3.6),
        storey=storey,
        window=(dice.between(0.3, 0.72), dice.between(0.35, 0.62)),
        shop=dice.chance(0.35),
        bricks=dice.chance(0.5),
    )


def roof_line(facade: Facade, u: np.ndarray) -> np.ndarray:
    """Height of the silhouette along the wall, in metres."""
    if facade.roof == "flat":
        return np.full_like(u, facade.height)
    if facade.roof == "gable":
        t = u * (1.0 / (2.5 * facade.pitch))
        return facade.height + facade.roof_height * (1 - np.abs(2 * (t - np.floor(t)) - 1))
    t = u * 0.14
    ridge = facade.height + facade.roof_height
    return np.where(t - np.floor(t) < 0.11, np.float32(ridge + 0.9), np.float32(ridge))  # with chimneys


def facade_colours(
    stage: Stage, facade: Facade, u: np.ndarray, y: np.ndarray, ahead: np.ndarray, facing: float
) -> np.ndarray:
    """Colours (h, w, 3) of a wall at u metres along it and y metres up, seen from `ahead` metres."""
    across, up = u * (1.0 / facade.pitch), y * (1.0 / facade.storey)
    column, floor = np.floor(across), np.floor(up)
    s, t = np.abs(across - column - 0.5), np.abs(up - floor - 0.55)
    ws, wt = facade.window[0] / 2, facade.window[1] / 2
    rows = (t < wt + 0.05) & (y < facade.height - 0.3) & (floor >= (1 if facade.shop else 0))
    glass = np.where(stage.grain(column * 37 + 11, floor * 61 + 5) > 0.12, np.int8(3), np.int8(2))
    kind = np.zeros(np.broadcast_shapes(u.shape, y.shape), np.int8)
    np.copyto(kind, 1, where=rows & (s < ws + 0.05))
    np.copyto(kind, glass, where=rows & (t < wt) & (s < ws) & (s > 0.015))
    if facade.shop:
        np.copyto(kind, glass, where=(s < 0.44) & (y > 0.5) & (y < 2.2))
        np.copyto(kind, 5, where=(floor == 0) & (y >= 2.2))
    np.copyto(kind, 6, where=(s < 0.17) & (y < 2.05) & (column.astype(np.int32) % 3 == 0))
    np.copyto(kind, 1, where=y > facade.height - 0.25)
    np.copyto(kind, 4, where=y >= facade.height)
    near = 1 / (1 + ahead * 0.08)
    shade = 1 + 0.3 * near * stage.grain(u * 24, y * 24) + 0.14 * stage.grain(u * 2, y * 2)
    if facade.bricks:
        row = y * 4.0
        shade -= 0.35 * near * ((kind == 0) & (row - np.floor(row) < 0.22))
    colours = np.asarray([stage.lit(c, 0.0, facing) for c in facade.colours], np.float32)
    if stage.light.night:
        colours[3] = facade.colours[3]
    haze = ahead / (ahead + stage.light.haze_metres)
    return (
        colours.take(kind, 0) * (shade * (1 - haze))[..., None]
        + np.asarray(stage.light.haze, np.float32) * haze[..., None]
    )


def paint_along(stage: Stage, plane: float, near: float, far: float, top: float, painter: Callable) -> None:
    """Paint a wall parallel to the street at `plane` metres right, from `near` to `far` metres ahead.

    `painter(u, y, ahead)` gives (height of its top, colours, label, opacity)."""
    camera = stage.camera
    (x0, y0), (x1, _) = camera.project(plane, top, near), camera.project(plane, top, far)
    bottom = camera.project(plane, 0, near)[1]
    if (view := stage.view(min(x0, x1), min(y0, camera.y), max(x0, x1), bottom)) is None:
        return
    ahead = camera.focal * plane / np.where(np.abs(view.xs - camera.x) < 0.25, 0.25, view.xs - camera.x)
    inside = np.where(ahead < near, near - ahead, np.where(ahead > far, ahead - far, -9.0))  # (1, w)
    ahead = np.clip(ahead, near, far)
    y = camera.height - (view.ys - camera.y) * ahead * (1.0 / camera.focal)
    line, colours, label, opacity = painter(ahead, y, ahead)
    scale = camera.focal / ahead
    distance = np.maximum(np.maximum((y - line) * scale, -y * scale), np.where(inside > 0, 1.0, -9.0))
    stage.paint(view, distance, colours, label, opacity)


def paint_across(stage: Stage, left: float, right: float, ahead: float, facade: Facade, facing: float) -> None:
    """Paint a house front that faces the camera."""
    camera = stage.camera
    top = facade.height + facade.roof_height + 1
    (x0, y0), (x1, y1) = camera.project(left, top, ahead), camera.project(right, 0, ahead)
    if (view := stage.view(x0, y0, x1, y1)) is None:
        return
    metres = ahead / camera.focal
    u = (view.xs - x0) * metres
    y = camera.height - (view.ys - camera.y) * metres
    depth = np.full((1, 1), ahead, np.float32)
    distance = np.maximum(y - roof_line(facade, u), -y) * (1.0 / metres)
    distance = np.maximum(distance, np.maximum(x0 - view.xs, view.xs - x1))
    stage.paint(view, distance, facade_colours(stage, facade, u, y, depth, facing), BUILDING)


def paint_house(stage: Stage, plane: float, near: float, far: float) -> None:
    """A house on the building line: the end wall towards the camera, then its front along the street."""
    facade = draw_facade(stage)
    side = 1 if plane > 0 else -1
    left, right = (plane, plane + 9) if side > 0 else (plane - 9, plane)
    paint_across(stage, left, right, near, facade, 0.55)
    facing = 0.15 if side == stage.light.side else 1.0

    def painter(u, y, ahead):
        return roof_line(facade, u), facade_colours(stage, facade, u, y, ahead, facing), BUILDING, 1.0

    paint_along(stage, plane, near, far, facade.height + facade.roof_height + 1, painter)


def leaf_colours(stage: Stage, view: View, colour: Colour, cell: float, ahead: float) -> np.ndarray:
    """Leafy texture (h, w, 3): lit from above and from the sun's side."""
    dice, texels = stage.dice, 2.0 / max(cell, 1.5)
    leaves = stage.grain(view.xs * texels + dice.below(256), view.ys * texels + dice.below(256))
    up = 1 - (view.ys - view.ys[0]) * (1.0 / len(view.ys))
    across = (view.xs - view.xs[0, 0]) * (1.0 / view.xs.shape[1])
    light = 0.6 + 0.6 * leaves + 0.3 * up + 0.2 * (across if stage.light.side > 0 else 1 - across)
    return light[..., None] * np.asarray(stage.lit(colour, ahead, 0.75), np.float32)


def paint_crown(stage: Stage, centre: Point, rx: float, ry: float, colour: Colour, ahead: float) -> None:
    """A leafy crown: some balls with a frayed edge."""
    dice, (cx, cy) = stage.dice, centre
    if (view := stage.view(cx - 1.3 * rx, cy - 1.3 * ry, cx + 1.3 * rx, cy + 1.3 * ry)) is None:
        return
    balls = [(0.0, 0.0, 0.75)]
    balls += [(dice.between(-0.65, 0.65), dice.between(-0.6, 0.6), dice.between(0.35, 0.6)) for _ in range(5)]
    distance = None
    for bx, by, size in balls:
        px, py = (view.xs - cx) * (1.0 / rx) - bx, (view.ys - cy) * (1.0 / ry) - by
        ball = np.sqrt(px * px + py * py) - size
        distance = ball if distance is None else np.minimum(distance, ball)
    fray = smooth_noise(dice, distance.shape, max(0.16 * rx, 2.5)) - 0.5
    distance = (distance + 0.3 * fray) * min(rx, ry)
    leaf = max(0.07 * stage.camera.focal / ahead, 1.5 * stage.unit)
    stage.paint(view, distance, leaf_colours(stage, view, colour, leaf, ahead), TREE)


def paint_tree(stage: Stage, right: float, ahead: float) -> None:
    """A trunk with a crown."""
    dice, camera = stage.dice, stage.camera
    height = dice.between(4, 9)
    radius = height * dice.between(0.2, 0.36)
    scale = camera.focal / ahead
    foot, top = camera.project(right, 0, ahead), camera.project(right, height - radius, ahead)
    stage.capsule(
        foot,
        top,
        max(dice.between(0.1, 0.22) * scale, 1.6 * stage.unit),
        stage.lit(dice.colour(EARTHS[:2] + GREYS[:3]), ahead, 0.6),
        TREE,
    )
    paint_crown(
        stage, top, radius * scale, radius * dice.between(0.8, 1.25) * scale, dice.colour(GREENS + EARTHS[1:2]), ahead
    )


def paint_hedge(stage: Stage, plane: float, near: float, far: float) -> None:
    """A clipped hedge along the building line; it is vegetation."""
    height, colour = stage.dice.between(0.8, 2.2), stage.dice.colour(GREENS)

    def painter(u, y, ahead):
        shade = 0.95 + 0.5 * stage.grain(u * 22, y * 22) + 0.35 * stage.grain(u * 4, y * 4)
        bumps = height + 0.12 * stage.grain(u * 5, u * 0)
        return bumps, shade[..., None] * np.asarray(stage.lit(colour, near, 0.6), np.float32), TREE, 1.0

    paint_along(stage, plane, near, far, height + 0.2, painter)


def paint_fence(stage: Stage, plane: float, near: float, far: float, style: str, height: float, colour: Colour) -> None:
    """Planks, railings or wire along the street. What shows between the bars is fence too, as annotators have it."""
    facing = 0.2 if (plane > 0) == (stage.light.side > 0) else 1.0
    pitch, bar = {"planks": (0.18, 0.86), "rails": (0.22, 0.42), "boards": (2.0, 0.07)}[style]

    def painter(u, y, ahead):
        t = u * (1.0 / pitch)
        upright = (t - np.floor(t)) < bar
        level = (np.abs(y - height * 0.88) < 0.07) | (np.abs(y - height * 0.25) < 0.07)
        if style == "boards":
            r = y * (3.0 / height)
            level = (r - np.floor(r)) < 0.6
        solid = upright | level
        fine = np.clip(stage.camera.focal * pitch / ahead - 2.0, 0, 1)  # bars merge into a veil where they get too fine
        veil = 0.92 if style == "planks" else 0.62
        gaps = 0.8 if style == "planks" else 0.22
        opacity = np.where(solid, np.float32(0.95), np.float32(gaps)) * fine + veil * (1 - fine)
        shade = (
            np.where(solid, np.float32(1), np.float32(0.55)) * fine
            + 0.85 * (1 - fine)
            + 0.2 * stage.grain(u * 20, y * 9)
        )
        return (
            np.full_like(u, height),
            shade[..., None] * np.asarray(stage.lit(colour, near, facing), np.float32),
            FENCE,
            opacity,
        )

    paint_along(stage, plane, near, far, height, painter)


def draw_fence(dice: Dice) -> tuple[str, float, Colour]:
    return (
        dice.pick(("planks", "planks", "rails", "boards")),
        dice.between(0.9, 1.9),
        dice.colour(EARTHS + GREYS + GREENS[:3] + BLUES[3:]),
    )


def paint_garden(stage: Stage, plane: float, near: float, far: float) -> None:
    """A plot without a house on the line: trees or a set-back house behind a fence or a hedge."""
    dice, side = stage.dice, (1 if plane > 0 else -1)
    if dice.chance(0.35):
        paint_house(stage, plane + side * dice.between(2.5, 5), near + 1, max(far - 1, near + 3))
    for ahead in sorted((dice.between(near + 1, far + 2) for _ in range(dice.count(1, 3))), reverse=True):
        paint_tree(stage, plane + side * dice.between(1.5, 4), max(ahead, 4.0))
    if dice.chance(0.7):
        paint_fence(stage, plane, near, far, *draw_fence(dice))
    elif dice.chance(0.7):
        paint_hedge(stage, plane, near, far)


def paint_side(stage: Stage, street: Street, plane: float) -> None:
    """All plots of one side of the street, the far ones first."""
    dice, plots, near = stage.dice, [], 1.2
    while near < 75:
        far = near + dice.between(6, 16)
        if far > street.crossing[0] and near < street.crossing[1]:
            far = max(street.crossing[0], near)
            if far - near > 2.5:
                plots.append((near, far))
            near = street.crossing[1]
            continue
        plots.append((near, far))
        near = far
    for near, far in reversed(plots):
        paint = paint_house if dice.chance(street.town) else paint_garden
        paint(stage, plane, near, far)


def paint_backdrop(stage: Stage, street: Street) -> None:
    """What closes the view: houses and woods far ahead."""
    dice, woods = stage.dice, stage.dice.between(0, 1)
    x = -80.0
    while x < 80:
        width = dice.between(8, 18)
        if dice.chance(woods):
            height = dice.between(5, 11)
            scale = stage.camera.focal / 85
            centre = stage.camera.project(x + width / 2, height * 0.4, 85)
            paint_crown(stage, centre, 0.8 * width * scale, height * 0.7 * scale, dice.colour(GREENS), 60)
        else:
            paint_across(stage, x, x + width, 80, draw_facade(stage), dice.between(0.3, 1))
        x += width * 0.9


# --- things in the street --------------------------------------------------------------------------------------------


def paint_lamp(stage: Stage, right: float, ahead: float) -> None:
    """A street lamp, a mast or a bollard: pole."""
    dice, camera = stage.dice, stage.camera
    scale = camera.focal / ahead
    radius = max(dice.between(0.1, 0.2) * scale, 2.4 * stage.unit)
    kind = dice.pick(("lamp", "lamp", "mast", "bollard"))
    height = {"lamp": dice.between(4.5, 7.5), "mast": dice.between(5, 9), "bollard": dice.between(0.9, 1.2)}[kind]
    colour = stage.lit(dice.colour(GREYS + GREENS[:1] + EARTHS[:2]), ahead, 0.7)
    top = camera.project(right, height, ahead)
    stage.capsule(camera.project(right, 0, ahead), top, radius * (1.4 if kind == "bollard" else 1), colour, POLE)
    if kind == "lamp":
        reach = (-1.2 if right > 0 else 1.2) * dice.between(0.6, 1.3)
        arm = camera.project(right + reach, height + 0.25, ahead)
        stage.capsule(top, arm, 0.75 * radius, colour, POLE)
        glow = (1.0, 0.9, 0.6) if stage.light.night else stage.lit(dice.colour(GREYS), ahead)
        stage.ellipse(arm, max(0.34 * scale, 3 * stage.unit), max(0.16 * scale, 2 * stage.unit), glow, POLE)


def paint_sign(stage: Stage, right: float, ahead: float) -> None:
    """A traffic sign or a traffic light on its post."""
    dice, camera = stage.dice, stage.camera
    scale = camera.focal / ahead
    height, size = dice.between(2.2, 3.2), max(dice.between(0.36, 0.62) * scale, 6 * stage.unit)
    post = stage.lit(dice.colour(GREYS), ahead, 0.7)
    centre = camera.project(right, height, ahead)
    foot = camera.project(right, 0, ahead)
    stage.capsule(foot, centre, max(0.09 * scale, 2.1 * stage.unit), post, POLE)
    rim = stage.lit(dice.colour((*VIVID[:2], *BLUES, WHITE)), ahead)
    field = stage.lit(dice.colour((WHITE, WHITE, BLUES[2], *VIVID[:3])), ahead)
    if dice.chance(0.15):
        rim = field = post  # seen from behind
    kind = dice.pick(("disc", "disc", "triangle", "plate", "plate", "diamond", "light"))
    (x, y), r = centre, size
    if kind == "light":
        paint_traffic_light(stage, centre, 0.8 * r, ahead)
        return
    wide = dice.between(0.9, 1.8) * r
    outline = {
        "disc": [],
        "triangle": [(x, y - 1.1 * r), (x + 1.1 * r, y + 0.8 * r), (x - 1.1 * r, y + 0.8 * r)],
        "plate": box(x, y, wide, 0.8 * r),
        "diamond": [(x, y - 1.2 * r), (x + 1.2 * r, y), (x, y + 1.2 * r), (x - 1.2 * r, y)],
    }[kind]
    if kind == "disc":
        stage.ellipse(centre, r, r, rim, SIGN)
        stage.ellipse(centre, 0.74 * r, 0.74 * r, field, SIGN)
    else:
        stage.polygon(outline, rim, SIGN)
        stage.polygon([(x + 0.78 * (px - x), y + 0.78 * (py - y)) for px, py in outline], field, SIGN)
    if rim != post:
        paint_glyph(stage, (x, y + 0.15 * r if kind == "triangle" else y), 0.5 * r, ahead)


def paint_glyph(stage: Stage, centre: Point, r: float, ahead: float) -> None:
    """What a sign says: bars, an arrow, a dot."""
    (x, y), dice = centre, stage.dice
    ink = stage.lit(dice.colour((BLACK, BLACK, WHITE)), ahead)
    kind = dice.pick(("bar", "bars", "arrow", "upright", "dot"))
    if kind == "arrow":
        stage.polygon([(x, y - r), (x + 0.7 * r, y), (x - 0.7 * r, y)], ink, SIGN)
    if kind == "dot":
        stage.ellipse(centre, 0.5 * r, 0.5 * r, ink, SIGN)
    if kind in ("upright", "arrow"):
        stage.polygon(box(x, y + 0.1 * r, 0.25 * r, 0.8 * r), ink, SIGN)
    for offset in {"bar": (0.0,), "bars": (-0.4, 0.4)}.get(kind, ()):
        stage.polygon(box(x, y + offset * r, 0.8 * r, 0.24 * r), ink, SIGN)


def paint_traffic_light(stage: Stage, centre: Point, r: float, ahead: float) -> None:
    """A dark case with three lamps, one of them on."""
    (x, y), on = centre, stage.dice.below(3)
    stage.polygon(box(x, y, 0.75 * r, 1.7 * r), stage.lit(BLACK, ahead), SIGN)
    for i, colour in enumerate(((0.95, 0.15, 0.1), (0.95, 0.7, 0.1), (0.15, 0.85, 0.45))):
        dim = 1.0 if i == on else 0.22
        lamp = colour[0] * dim, colour[1] * dim, colour[2] * dim
        stage.ellipse((x, y + (i - 1) * 1.05 * r), 0.45 * r, 0.45 * r, lamp, SIGN)


def box(x: float, y: float, half_width: float, half_height: float) -> list[Point]:
    w, h = half_width, half_height
    return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]


def limbs(stage: Stage, right: float, ahead: float, squeeze: float, label: int) -> Callable:
    """A pencil for figures: metres beside and above a point of the ground, seen edge-on by `squeeze` 1 (side) .. 0."""
    scale = stage.camera.focal / ahead
    foot_x, foot_y = stage.camera.project(right, 0, ahead)

    def line(a: Point, b: Point, radius: float, colour: Colour) -> None:
        ends = [(foot_x + squeeze * u * scale, foot_y - v * scale) for u, v in (a, b)]
        stage.capsule(*ends, max(radius * scale, 0.9 * stage.unit), stage.lit(colour, ahead, 0.7), label)

    return line


def paint_person(stage: Stage, right: float, ahead: float) -> None:
    """Somebody standing or walking, with a bag at times."""
    dice = stage.dice
    k = dice.between(0.92, 1.08) if dice.chance(0.88) else dice.between(0.62, 0.75)
    line = limbs(stage, right, ahead, dice.pick((-1, 1)), PEDESTRIAN)
    stride, coat, legs = dice.between(0.04, 0.34) * k, dice.colour(), dice.colour(GREYS[:3] + BLUES + EARTHS[:2])
    skin, swing, wide = dice.colour(SKINS, 0.03), dice.between(-0.3, 0.35), dice.between(0.17, 0.23)
    shoes = dice.colour(GREYS)
    for foot in (-stride, stride):
        line((0.4 * foot, 0.82 * k), (foot, 0.1 * k), 0.095 * k, legs)
        line((foot, 0.06 * k), (foot + 0.12 * k, 0.06 * k), 0.06 * k, shoes)
    line((-0.1 * k, 1.35 * k), (-0.2 * k - swing, 0.9 * k), 0.07 * k, coat)
    line((0, (0.6 if dice.chance(0.35) else 0.88) * k), (0.03 * k, 1.32 * k), wide * k, coat)
    line((0.1 * k, 1.35 * k), (0.2 * k + swing, 0.9 * k), 0.07 * k, tuple(0.85 * c for c in coat))
    line((0.2 * k + swing, 0.86 * k), (0.2 * k + swing, 0.84 * k), 0.06 * k, skin)
    line((0.03, 1.52 * k), (0.04, 1.64 * k), 0.1 * k, skin)
    line((-0.01, 1.64 * k), (0.04, 1.69 * k), 0.105 * k, dice.colour(GREYS[:2] + EARTHS[:2] + VIVID[:1]))
    if dice.chance(0.4):
        line((-0.24 * k, 0.75 * k), (-0.24 * k, 0.95 * k), 0.13 * k, dice.colour())


def paint_cyclist(stage: Stage, right: float, ahead: float) -> None:
    """Rider and bicycle, from the side to nearly head-on. A wheel counts whole, spokes and what shows between them."""
    dice = stage.dice
    squeeze = dice.pick((-1, 1)) * dice.pick((1.0, 0.9, 0.6, 0.35, 0.2))
    line = limbs(stage, right, ahead, squeeze, BICYCLIST)
    scale = stage.camera.focal / ahead
    frame, coat, trousers, skin = (
        dice.colour(),
        dice.colour(),
        dice.colour(GREYS[:3] + BLUES + EARTHS[:2]),
        dice.colour(SKINS, 0.03),
    )
    tyre = stage.lit(BLACK, ahead)
    for u in (-0.52, 0.52):
        x, y = stage.camera.project(right, 0.35, ahead)
        centre, rx = (x + squeeze * u * scale, y), (0.35 * abs(squeeze) + 0.05) * scale
        stage.ellipse(centre, rx, 0.35 * scale, tyre, BICYCLIST, 0.85)
        stage.ellipse(centre, rx - 0.06 * scale, 0.29 * scale, stage.lit(GREYS[2], ahead), BICYCLIST, 0.6)
    joints = {
        "rear": (-0.52, 0.35),
        "crank": (-0.05, 0.32),
        "seat": (-0.2, 0.88),
        "bar": (0.42, 0.95),
        "front": (0.52, 0.35),
    }
    for a, b in (
        ("rear", "crank"),
        ("rear", "seat"),
        ("crank", "seat"),
        ("crank", "bar"),
        ("seat", "bar"),
        ("front", "bar"),
    ):
        line(joints[a], joints[b], 0.032, frame)
    pedal = dice.between(0.12, 0.4)
    for knee, foot in (((0.12, 0.62), (-0.02, 0.52 - pedal)), ((0.2, 0.78), (0.05, pedal))):
        line((-0.2, 0.95), knee, 0.085, trousers)
        line(knee, foot, 0.07, trousers)
        line(foot, (foot[0] + 0.13, foot[1]), 0.05, BLACK)
    line((-0.18, 1.0), (0.14, 1.42), 0.185, coat)
    line((0.16, 1.42), (0.44, 1.02), 0.065, tuple(0.85 * c for c in coat))
    line((0.24, 1.62), (0.26, 1.7), 0.105, skin)
    line((0.18, 1.74), (0.3, 1.76), 0.1, dice.colour())


@dataclass(frozen=True)
class Body:
    """A car as two boxes; metres, positions along the length as shares -0.5 (tail) .. 0.5 (nose)."""

    length: float
    width: float
    waist: float
    roof: float
    base: Point  # where the cabin stands on the body: tail and nose
    crest: Point  # the same at the roof


BODIES = (
    Body(4.2, 1.75, 0.88, 1.45, (-0.47, 0.24), (-0.36, 0.06)),
    Body(4.6, 1.80, 0.86, 1.42, (-0.38, 0.24), (-0.22, 0.07)),
    Body(4.4, 1.85, 0.98, 1.70, (-0.49, 0.26), (-0.43, 0.12)),
    Body(5.2, 1.95, 1.05, 2.25, (-0.50, 0.36), (-0.49, 0.22)),
)
HEADINGS = ((0.0, 1.0), (0.0, -1.0))
TURNS = ((1.0, 0.0), (-1.0, 0.0), (0.6, 0.8), (-0.6, 0.8), (0.8, -0.6), (-0.28, 0.96), (0.28, -0.96))


def paint_car(stage: Stage, right: float, ahead: float, heading: Point) -> None:
    """A car or van centred at (right, ahead), its nose towards `heading` (right, ahead)."""
    dice, camera, (hx, hz) = stage.dice, stage.camera, heading
    body = dice.pick(BODIES)
    colour = dice.colour(GREYS + PAINT_BOX)

    def at(t: float, w: float, up: float) -> Point:
        """Share of the length, share of the width (-0.5 .. 0.5), metres up -> pixels."""
        x = right + t * body.length * hx + w * body.width * hz
        z = ahead + t * body.length * hz - w * body.width * hx
        return camera.project(x, up, max(z, 0.8))

    def seen(nx: float, nz: float, reach: float) -> bool:
        """Whether the face with this outward normal, `reach` metres from the centre, looks to the camera."""
        return nx * (right + reach * nx) + nz * (ahead + reach * nz) < 0

    def shade(facing: float) -> Colour:
        return stage.lit(colour, ahead, facing)

    ends = [t for t in (-0.5, 0.5) if seen(2 * t * hx, 2 * t * hz, body.length / 2)]
    sides = [w for w in (-0.5, 0.5) if seen(2 * w * hz, -2 * w * hx, body.width / 2)]
    corners = [(t, w) for t in (-0.5, 0.5) for w in (-0.5, 0.5)]
    lower = [at(t, w, up) for t, w in corners for up in (0.22, body.waist)]
    cabin = [at(body.base[t > 0], w, body.waist) for t, w in corners]
    cabin += [at(body.crest[t > 0], 0.8 * w, body.roof) for t, w in corners]
    stage.polygon(
        hull([at(0.98 * t, 0.92 * w, up) for t, w in corners for up in (0.02, 0.4)]), stage.lit(BLACK, ahead), CAR
    )
    stage.polygon(hull(lower), shade(1.0), CAR)
    stage.polygon(hull(cabin), shade(0.9), CAR, fade=0.2)
    glass = stage.lit(dice.colour((BLACK, GREYS[0], BLUES[3], BLUES[0])), ahead, 0.8)
    for w in sides:
        stage.polygon(
            [at(-0.5, w, 0.22), at(-0.5, w, body.waist), at(0.5, w, body.waist), at(0.5, w, 0.22)],
            shade(0.45),
            CAR,
            fade=0.3,
        )
        paint_side_glass(stage, body, at, w, glass)
        for t in (-0.31, 0.31):
            paint_wheel(stage, at, t, w, body)
    for t in ends:
        stage.polygon(
            [at(t, -0.5, 0.22), at(t, -0.5, body.waist), at(t, 0.5, body.waist), at(t, 0.5, 0.22)],
            shade(0.7),
            CAR,
            fade=0.35,
        )
        paint_end(stage, body, at, t, glass, ahead)


def paint_side_glass(stage: Stage, body: Body, at: Callable, w: float, glass: Colour) -> None:
    """Two side windows with a pillar between."""
    low, high = body.waist + 0.04, body.roof - 0.1
    (b0, b1), (c0, c1) = body.base, body.crest
    middle = (c0 + c1) / 2
    for bottom, top in (
        ((b0 + 0.05, middle - 0.015), (c0 + 0.03, middle - 0.015)),
        ((middle + 0.015, b1 - 0.05), (middle + 0.015, c1 - 0.02)),
    ):
        stage.polygon(
            [at(bottom[0], w, low), at(top[0], 0.84 * w, high), at(top[1], 0.84 * w, high), at(bottom[1], w, low)],
            glass,
            CAR,
            fade=0.5,
        )


def paint_wheel(stage: Stage, at: Callable, t: float, w: float, body: Body) -> None:
    """A wheel on the side of a car, as the ellipse it projects to."""
    radius = 0.33
    (x0, _), (x1, _) = at(t - radius / body.length, w, radius), at(t + radius / body.length, w, radius)
    (x, y0), (_, y1) = at(t, w, 0.0), at(t, w, 2 * radius)
    rx, ry = max(abs(x1 - x0) / 2, 1.0), abs(y0 - y1) / 2
    stage.ellipse((x, (y0 + y1) / 2), rx, ry, stage.lit(BLACK), CAR)
    stage.ellipse((x, (y0 + y1) / 2), 0.55 * rx, 0.55 * ry, stage.lit(GREYS[2], 0, 0.6), CAR)


def paint_end(stage: Stage, body: Body, at: Callable, t: float, glass: Colour, ahead: float) -> None:
    """Windscreen, lamps, bumper and number plate of the nose or the tail."""
    base, crest = body.base[t > 0], body.crest[t > 0]
    low, high = body.waist + 0.05, body.roof - 0.09
    stage.polygon(
        [at(base, -0.4, low), at(crest, -0.34, high), at(crest, 0.34, high), at(base, 0.4, low)], glass, CAR, fade=0.5
    )
    lamp: Colour = (0.95, 0.92, 0.8) if t > 0 else (0.75, 0.08, 0.06)
    if not stage.light.night:
        lamp = stage.lit(lamp, ahead, 0.9)
    top = body.waist - 0.1
    for w in (-0.46, 0.32):
        stage.polygon([at(t, w, top), at(t, w + 0.14, top), at(t, w + 0.14, top - 0.2), at(t, w, top - 0.2)], lamp, CAR)
    stage.polygon(
        [at(t, -0.47, 0.42), at(t, 0.47, 0.42), at(t, 0.47, 0.27), at(t, -0.47, 0.27)],
        stage.lit(GREYS[0], ahead, 0.6),
        CAR,
    )
    stage.polygon(
        [at(t, -0.15, 0.6), at(t, 0.15, 0.6), at(t, 0.15, 0.48), at(t, -0.15, 0.48)], stage.lit(WHITE, ahead, 0.7), CAR
    )


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
        from paumer.data.datasets import DatasetSpec

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
