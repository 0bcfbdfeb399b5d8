"""What stands and moves in a street: lamps, signs, people, cyclists, cars.

Knows nothing of where in the street they are put, nor of their surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paumer.data.scenes.stage import (
    BICYCLIST,
    BLACK,
    BLUES,
    CAR,
    EARTHS,
    GREENS,
    GREYS,
    PAINT_BOX,
    PEDESTRIAN,
    POLE,
    SIGN,
    SKINS,
    VIVID,
    WHITE,
    Colour,
    Point,
    Stage,
    hull,
)


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
        start, end = ((foot_x + squeeze * u * scale, foot_y - v * scale) for u, v in (a, b))
        stage.capsule(start, end, max(radius * scale, 0.9 * stage.unit), stage.lit(colour, ahead, 0.7), label)

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
