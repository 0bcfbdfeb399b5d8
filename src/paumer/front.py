"""The configurations worth having: points of speed and mIoU, their skyline, and the choice of one. Pure Python.

Knows nothing of how speed or mIoU were measured. Source: PAUMER, section 4.1 ("Choosing pause configurations").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paumer.errors import InputError
from paumer.files import write_text
from paumer.pause import NO_PAUSE, PauseConfig

FRONT_FILE = "pareto.json"


@dataclass(frozen=True)
class Point:
    """One configuration: its mIoU in per cent, images per second, and speed over that of not pausing."""

    pause: PauseConfig
    miou: float
    images_per_second: float
    speedup: float = 1.0


def skyline(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both speed and mIoU (the Pareto front), from slow to fast.

    Of points that are equal in both the one that comes first stays.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.images_per_second, -point.miou)):
        if not front or point.miou > front[-1].miou:
            front.append(point)
    return front[::-1]


def knee(front: Sequence[Point]) -> Point:
    """The point of a skyline that lies highest above the straight line between its ends.

    Speed and mIoU are scaled to 0..1 between the ends first, so that neither's unit counts. Before the knee speed is
    cheap, behind it every image per second costs more than on average. With fewer than three points: the fastest.
    """
    first, last = front[0], front[-1]
    if len(front) < 3:
        return last

    def height(point: Point) -> float:
        along = (point.images_per_second - first.images_per_second) / (last.images_per_second - first.images_per_second)
        return (point.miou - last.miou) / (first.miou - last.miou) - (1 - along)

    return max(front, key=height)


def choose_for_throughput(points: Sequence[Point], target: float) -> Point:
    """The best mIoU among the points with at least ``target`` images per second ("time first").

    Raises:
        InputError: no positive target, or none of the points is that fast; the message says what is reachable.
    """
    check_target(target)
    fast = [point for point in points if point.images_per_second >= target]
    if not fast:
        best = max(points, key=lambda point: point.images_per_second)
        known = "the only configuration" if len(points) == 1 else f"the fastest of {len(points)} configurations"
        raise InputError(
            f"{target:g} images/s are out of reach: {known} is {best.pause} with "
            f"{best.images_per_second:.3g} images/s (mIoU {best.miou:.2f}); ask for at most that, or sweep further"
        )
    return max(fast, key=lambda point: (point.miou, point.images_per_second))


def choose_within_drop(points: Sequence[Point], max_drop: float) -> Point:
    """The fastest point that loses at most ``max_drop`` mIoU points against not pausing.

    Raises:
        InputError: a negative loss, or the points do not hold the unpaused model to compare with.
    """
    check_drop(max_drop)
    reference = [point for point in points if point.pause == NO_PAUSE]
    if not reference:
        raise InputError("a loss of mIoU is counted from the unpaused model, which was not scored: add 'none'")
    # The small term: 64.01 - 63.01 is 1.000000000000007.
    good = [point for point in points if reference[0].miou - point.miou <= max_drop + 1e-9]
    return max(good, key=lambda point: (point.images_per_second, point.miou))


def check_target(target: float) -> None:
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"a target throughput is a positive number of images per second, got {target:g}: try 30")


def check_drop(max_drop: float) -> None:
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"a loss of mIoU is a number of points, 0 or more, got {max_drop:g}: try 1.0")


@dataclass(frozen=True)
class Front:
    """A skyline with the conditions it was measured under; ``pareto.json`` of a model folder.

    ``conditions`` are those of the sweep: device, dtype, threads, batch and image size, data set, split, versions.
    """

    points: tuple[Point, ...]
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that were timed."""
        height, width = self.conditions["image_size"]
        return height, width

    def save(self, path: str | Path) -> None:
        points = [
            {
                "pause": str(point.pause),
                "miou": round(point.miou, 4),
                "images_per_second": round(point.images_per_second, 4),
                "speedup": round(point.speedup, 4),
            }
            for point in self.points
        ]
        write_text(path, json.dumps({"format": 1, "points": points, "conditions": self.conditions}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Front:
        """Reads what :meth:`save` wrote.

        Raises:
            InputError: no such file, one that was cut short, or something else than a front.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no {path}: make one by  paumer sweep MODEL --data DATA --out runs/sweep")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            points = tuple(
                Point(
                    PauseConfig.parse(row["pause"]),
                    float(row["miou"]),
                    float(row["images_per_second"]),
                    float(row["speedup"]),
                )
                for row in values["points"]
            )
            conditions = dict(values["conditions"])
            conditions["image_size"][1]
        except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} is not a whole front ({type(error).__name__}: {error}); make it anew by  paumer sweep"
            ) from error
        if not points:
            raise InputError(f"the front in {path} has no points; make it anew by  paumer sweep")
        return cls(points, conditions)
