"""The points of a sweep under a name, ready to be drawn, and their conditions in words.

Knows nothing of how they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paumer.errors import InputError
from paumer.front import Point, skyline
from paumer.pause import NO_PAUSE
from paumer.sweep_folder import SweepFolder, SweepPoint


@dataclass(frozen=True)
class Series:
    """One sweep in a figure.

    Args:
        label: what the legend calls it.
        points: everything that was timed, from slow to fast.
        info: what was swept under which conditions (see :attr:`SweepFolder.info`).
        dashed: a baseline.
        stages: of the greedy search, as :attr:`SweepFolder.greedy` gives them.
        min_miou: points below are left out, so that one collapsed configuration does not flatten all others.
    """

    label: str
    points: tuple[SweepPoint, ...]
    info: dict[str, Any]
    dashed: bool = False
    stages: tuple[dict[str, Any], ...] = ()
    min_miou: float = 0.0

    @classmethod
    def read(cls, path: str | Path, label: str | None = None, *, dashed: bool = False, min_miou: float = 0.0) -> Series:
        """A sweep folder; by default under its own name.

        Raises:
            InputError: no sweep, a damaged one, or one in which nothing is scored yet.
        """
        folder = SweepFolder(path)
        info, points = folder.info, tuple(folder.points())
        if not any(point.scores for point in points):
            raise InputError(f"nothing in {path} is timed and scored yet: go on with its sweep")
        return cls(label or folder.path.resolve().name, points, info, dashed, tuple(folder.greedy), min_miou)

    def scored(self, subset: str = "all") -> list[SweepPoint]:
        """The points with a score on ``subset`` of at least ``min_miou``, from slow to fast.

        Raises:
            InputError: there are none.
        """
        points = [point for point in self.points if subset in point.scores]
        kept = [point for point in points if miou_of(point, subset) >= self.min_miou]
        if not points:
            what = "the whole split" if subset == "all" else "the part of the split that a search uses"
            raise InputError(f"nothing of {self.label} is scored on {what} yet: go on with its sweep")
        if not kept:
            best = max(miou_of(point, subset) for point in points)
            raise InputError(f"no mIoU of {self.label} is {self.min_miou:g} or more: the best is {best:.2f}")
        return kept

    def leaves_out(self, subset: str = "all") -> bool:
        """Whether a point is below ``min_miou``."""
        return any(miou_of(point, subset) < self.min_miou for point in self.points if subset in point.scores)

    def unpaused(self, subset: str = "all") -> SweepPoint | None:
        return next((point for point in self.scored(subset) if point.pause == NO_PAUSE), None)

    def num_images(self, subset: str = "all") -> int:
        return self.scored(subset)[0].scores[subset]["num_images"]


def front_of(points: Sequence[SweepPoint], subset: str = "all") -> list[SweepPoint]:
    """Their skyline, from slow to fast."""
    best = {
        point.pause
        for point in skyline(Point(point.pause, miou_of(point, subset), point.images_per_second) for point in points)
    }
    return [point for point in points if point.pause in best]


def miou_of(point: SweepPoint, subset: str = "all") -> float:
    """mIoU of a point that is known to be scored on ``subset``."""
    return point.scores[subset]["miou"]


def check_comparable(series: Sequence[Series]) -> None:
    """Raises :class:`InputError` where mIoU was measured on different data and heights would not compare."""
    first = series[0]
    for other in series[1:]:
        if _data(other.info) != _data(first.info):
            raise InputError(
                f"mIoU on different data does not compare: {first.label} was scored on {_data(first.info)}, "
                f"{other.label} on {_data(other.info)}; draw them in figures of their own"
            )


def _data(info: dict[str, Any]) -> str:
    return f"{info['data']} {info['split']}"


_VIEWS = {"whole": "whole images", "slide": "sliding windows"}

# What a timing depends on, in the order in which it is told.
_TIMING: tuple[Callable[[dict[str, Any]], str], ...] = (
    lambda info: info["device_name"],
    lambda info: f"{info['threads']} threads",
    lambda info: info["dtype"],
    lambda info: f"attention {info['attention']}",
    lambda info: f"batch {info['batch_size']}",
    lambda info: "{}x{} pixels".format(*info["image_size"]),
    lambda info: f"median of {info['rounds']} rounds",
    lambda info: f"torch {info['versions']['torch']}",
)


def describe(series: Sequence[Series], subset: str = "all") -> str:
    """The conditions of all series in words; where they differ the values stand side by side, in their order."""
    timing = [_together(tell(one.info) for one in series) for tell in _TIMING]
    return f"Speed: {', '.join(timing)}. mIoU: {describe_scores(series, subset)}"


def describe_scores(series: Sequence[Series], subset: str = "all") -> str:
    """That part of it which mIoU depends on."""
    parts = [
        _together(_data(one.info) for one in series),
        _together(f"{one.num_images(subset)} images" for one in series),
        _together(_VIEWS[one.info["inference"]["mode"]] for one in series),
        "criterion " + _together(one.info["criterion"] for one in series),
    ]
    left_out = [f" Points with less than {one.min_miou:g} are left out." for one in series if one.leaves_out(subset)]
    return f"{', '.join(parts)}.{_together(left_out)}"


def _together(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))
