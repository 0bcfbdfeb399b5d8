"""The points of a sweep under a name, ready to be drawn, and their conditions in words.

Knows nothing of how they are drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from paumer.errors import InputError
from paumer.front import Point, skyline
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.sweep_folder import FREE_ON_RESUME, SweepFolder, SweepPoint, shorten

# What may differ between the sweeps of one series: the weights of another training, and what chance drew in it.
_FREE_OF_SEED = (*FREE_ON_RESUME, "model_id", "seed")


@dataclass(frozen=True)
class Series:
    """One sweep in a figure, or the mean of several that differ in their seed alone.

    Args:
        label: what the legend calls it.
        points: everything that was timed, from slow to fast.
        info: what was swept under which conditions (see :attr:`SweepFolder.info`).
        dashed: a baseline.
        stages: of the greedy search, as :attr:`SweepFolder.greedy` gives them.
        min_miou: points below are left out, so that one collapsed configuration does not flatten all others.
        num_seeds: sweeps that ``points`` are the means of.
        deviations: sample standard deviation of the mIoU over these, in points; empty for a single sweep.
    """

    label: str
    points: tuple[SweepPoint, ...]
    info: dict[str, Any]
    dashed: bool = False
    stages: tuple[dict[str, Any], ...] = ()
    min_miou: float = 0.0
    num_seeds: int = 1
    deviations: Mapping[PauseConfig, float] = field(default_factory=dict)

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

    @classmethod
    def join(
        cls, seeds: Sequence[Series], label: str | None = None, *, needed: Collection[PauseConfig] | None = None
    ) -> Series:
        """Sweeps of trainings that differ in their seed alone, as one: at each configuration mean speed and mIoU.

        Args:
            seeds: at least two; the first one tells the conditions, and whether it is dashed.
            label: by default what the labels of all begin with.
            needed: configurations that all must have if one has them; others are left out where one lacks them.
                None: whatever any of them has.

        Raises:
            InputError: sweeps of other data, networks or conditions, a seed given twice, or other configurations.
        """
        first, *others = seeds
        for other in others:
            _check_same_but_seed(first, other)
        if len({(one.info["model_id"], one.info.get("seed")) for one in seeds}) < len(seeds):
            raise InputError(f"two of {_names(seeds)} are of the same weights and seed: the spread would be too small")
        found = [{point.pause: point for point in one.points if "all" in point.scores} for one in seeds]
        points = [_mean([points[pause] for points in found]) for pause in _common(seeds, found, needed)]
        return replace(
            first,
            label=label or _beginning(seeds),
            points=tuple(sorted(points, key=lambda point: point.images_per_second)),
            stages=(),  # each seed searched its own way
            num_seeds=len(seeds),
            deviations={
                point.pause: statistics.stdev(miou_of(points[point.pause]) for points in found) for point in points
            },
        )

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


def _check_same_but_seed(first: Series, other: Series) -> None:
    for key in first.info:
        if key not in _FREE_OF_SEED and other.info.get(key) != first.info[key]:
            raise InputError(
                f"{first.label} and {other.label} are no seeds of one series, since they differ in {key}: "
                f"{shorten(first.info[key])} and {shorten(other.info.get(key))}; give them as series of their own"
            )
    gflops = {point.pause: point.gflops for point in first.points}
    for point in other.points:
        if not math.isclose(point.gflops, gflops.get(point.pause, point.gflops), rel_tol=1e-6):
            raise InputError(
                f"{first.label} and {other.label} are of different networks: {gflops[point.pause]:.2f} and "
                f"{point.gflops:.2f} GFLOP at {point.pause}; give them as series of their own"
            )


def _common(
    seeds: Sequence[Series], found: Sequence[Mapping[PauseConfig, SweepPoint]], needed: Collection[PauseConfig] | None
) -> list[PauseConfig]:
    """The configurations that all seeds have."""
    for pause in {pause: None for points in found for pause in points}:
        lacking = [one.label for one, points in zip(seeds, found, strict=True) if pause not in points]
        if lacking and (needed is None or pause in needed):
            raise InputError(
                f"seeds of one series need the same configurations: {pause} is not scored on the whole split in "
                f"{', '.join(lacking)}; add it by  paumer sweep … --pauses {pause} --search none"
            )
    common = [pause for pause in found[0] if all(pause in points for points in found)]
    if not common:
        raise InputError(f"no configuration is scored on the whole split in all of {_names(seeds)}")
    return common


def _mean(points: Sequence[SweepPoint]) -> SweepPoint:
    """The same configuration of several sweeps."""

    def mean(value: Callable[[SweepPoint], float]) -> float:
        return statistics.mean(value(point) for point in points)

    return SweepPoint(
        points[0].pause,
        mean(lambda point: point.seconds),
        mean(lambda point: point.speedup),
        mean(lambda point: point.speedup_low),
        mean(lambda point: point.speedup_high),
        mean(lambda point: point.images_per_second),
        points[0].gflops,
        {"all": {"miou": mean(miou_of), "num_images": points[0].scores["all"]["num_images"]}},
    )


def _names(series: Sequence[Series]) -> str:
    return ", ".join(one.label for one in series)


def _beginning(series: Sequence[Series]) -> str:
    """``entropy`` for ``entropy-0`` and ``entropy-1``; all labels where they have nothing in common."""
    letters = takewhile(lambda column: len(set(column)) == 1, zip(*(one.label for one in series), strict=False))
    return "".join(first for first, *_ in letters).rstrip("0123456789-_.") or _names(series)


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
