"""What surrounds a street: light and ground plan, sky, ground, houses, fences, trees, the plots of both sides.

Knows nothing of what stands or moves in it, nor of the finished photograph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paumer.data.scenes.stage import (
    BLUES,
    BUILDING,
    EARTHS,
    FENCE,
    GREENS,
    GREYS,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    WHITE,
    Colour,
    Dice,
    Light,
    Point,
    Stage,
    Street,
    View,
    smooth_noise,
)

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
    assert view is not None  # the canvas is not empty
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
    assert view is not None  # the horizon is above the lower half
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
    distance = np.full((len(view.ys), view.xs.shape[1]), np.inf, np.float32)
    for bx, by, size in balls:
        px, py = (view.xs - cx) * (1.0 / rx) - bx, (view.ys - cy) * (1.0 / ry) - by
        distance = np.minimum(distance, np.sqrt(px * px + py * py) - size)
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
