"""PAUMER's front beside other architectures: their published mIoU over their measured speed. Source: PAUMER, Fig. 5.

Knows nothing of how architectures are built and timed; it reads the tables of ``benchmarks/architectures.py`` and
``benchmarks/published.csv``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paumer.errors import InputError
from paumer.front import Point, skyline
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.plot.labels import place_labels
from paumer.plot.series import Series, describe_scores, miou_of
from paumer.plot.style import COLORS, INK, MARKERS, PAGE, Look, add_footnote, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _OWN_HEIGHT = 4.2, 1.6  # inches: all on one scale or the others, PAUMER on a scale of its own
_OWN = Look.number(0)
_OWN_FAMILIES = ("Segmenter", "PAUMER")

# What all times of a table must have in common, and how it is told.
_TOLD = {
    "device_name": "{}",
    "threads": "{} threads",
    "dtype": "{}",
    "batch_size": "batch {}",
    "image_size": "{} pixels",
    "rounds": "median of {} rounds",
}


@dataclass(frozen=True)
class Architecture:
    """A network with its speed and its published mIoU in per cent.

    ``differs`` says in what the network that was timed is not quite the one that was scored; empty: in nothing.
    """

    name: str
    family: str
    images_per_second: float
    miou: float
    differs: str = ""


@dataclass(frozen=True)
class Comparison:
    """Networks that were timed together, and what is published of them on one data set.

    Args:
        dataset: of the published scores.
        speeds: images per second by name, the swept model's configurations among them.
        scored: the networks with a published score.
        unscored: names of those of others without one, which cannot be drawn.
        conditions: of the speeds, in words.
    """

    dataset: str
    speeds: dict[str, float]
    scored: tuple[Architecture, ...]
    unscored: tuple[str, ...]
    conditions: str

    @classmethod
    def read(cls, speeds: str | Path, published: str | Path, dataset: str | None = None) -> Comparison:
        """Joins times and published scores by the name of the architecture.

        Args:
            speeds: table with the columns ``architecture, family, dataset, images_per_second`` and the conditions.
            published: table with the columns ``architecture, dataset, miou, differs``.
            dataset: by default the one for whose number of classes was timed.

        Raises:
            InputError: a table that cannot be read, times of several conditions, none for the data set.
        """
        times = _read_table(speeds, ("architecture", "family", "dataset", "images_per_second", "versions", *_TOLD))
        scores = _read_table(published, ("architecture", "dataset", "miou", "differs"))
        dataset = dataset or times[0]["dataset"]
        times = [row for row in times if row["dataset"] == dataset]
        if not times:
            raise InputError(f"{speeds} holds no times for {dataset}: make it by benchmarks/architectures.py --dataset")
        known = {row["architecture"]: row for row in scores if row["dataset"] == dataset}
        scored = [_join(row, known[row["architecture"]]) for row in times if row["architecture"] in known]
        without = [row for row in times if row["architecture"] not in known and row["family"] not in _OWN_FAMILIES]
        return cls(
            dataset,
            {row["architecture"]: _number(row, "images_per_second") for row in times},
            tuple(scored),
            tuple(row["architecture"] for row in without),
            f"{_describe(times, speeds)} Published mIoU: sources in {Path(published).name}.",
        )


def _read_table(path: str | Path, columns: Iterable[str]) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a CSV file") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file of text: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows")
    for column in columns:
        if any(row.get(column) is None for row in rows):
            raise InputError(f"{path} is cut short or has no column '{column}': its first line is {','.join(rows[0])}")
    return rows


def _join(time: Mapping[str, str], score: Mapping[str, str]) -> Architecture:
    speed, miou = _number(time, "images_per_second"), _number(score, "miou")
    return Architecture(time["architecture"], time["family"], speed, miou, score["differs"])


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise InputError(f"{column} of {row['architecture']} is no number: '{row[column]}'") from None


def _describe(times: Sequence[Mapping[str, str]], path: str | Path) -> str:
    """The conditions of all times in words.

    Raises:
        InputError: they are not the same for all.
    """
    for column in _TOLD:
        values = {row[column] for row in times}
        if len(values) > 1:
            raise InputError(f"{path} mixes times of several conditions ({column}: {', '.join(sorted(values))})")
    first = times[0]
    parts = [told.format(first[column]) for column, told in _TOLD.items()]
    try:
        torch = json.loads(first["versions"])["torch"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the versions in {path} cannot be read: make it by benchmarks/architectures.py") from error
    return f"Speed of all: {', '.join(parts)}, torch {torch}, random weights, classes of {first['dataset']}."


@style()
def draw_architectures(series: Series, others: Comparison, size: str = "Ti") -> Figure:
    """The front of a sweep and single points of other architectures, all with the speeds of one table.

    mIoU on different data does not compare: if the sweep was scored on other data than the others, it gets a panel of
    its own above them, and they share only the scale of speed.

    Args:
        series: gives the mIoU of its configurations.
        others: gives the speeds of everything, among them those of the swept model as ``Segmenter-SIZE`` and
            ``PAUMER-SIZE CONFIGURATION``.
        size: of the swept model: ``Ti``, ``S`` or ``B``.

    Raises:
        InputError: no configuration is both scored in the sweep and timed in the table.
    """
    own = _own_points(series, others, size)
    figure, upper, lower = _new_panels(series, others)
    _draw_own(upper, series.label, own)
    _draw_others(lower, others.scored)
    lower.set_xlabel("images per second")
    star = " *: not quite the network that was scored." if any(one.differs for one in others.scored) else ""
    add_footnote(figure, f"{others.conditions} {series.label}: {describe_scores([series])}{star}")
    place_labels(upper, [(point.images_per_second, point.miou, _tell(point.pause)) for point in own])
    place_labels(lower, [(one.images_per_second, one.miou, _name(one)) for one in others.scored])
    return figure


def _own_points(series: Series, others: Comparison, size: str) -> list[Point]:
    """The scored configurations with the speeds of the table, their skyline and not pausing, from slow to fast."""
    points = [
        Point(point.pause, miou_of(point), others.speeds[name])
        for point in series.scored()
        if (name := _own_name(point.pause, size)) in others.speeds
    ]
    if not points:
        raise InputError(
            f"no configuration of {series.label} has a time as 'PAUMER-{size} CONFIGURATION': name those to time by "
            "benchmarks/architectures.py --pauses, or the size of the swept model by --size"
        )
    best = skyline(points)
    unpaused = [point for point in points if point.pause == NO_PAUSE and point not in best]
    return [*unpaused, *best]


def _own_name(pause: PauseConfig, size: str) -> str:
    return f"Segmenter-{size}" if pause == NO_PAUSE else f"PAUMER-{size} {pause}"


def _new_panels(series: Series, others: Comparison) -> tuple[Figure, Axes, Axes]:
    """One panel for both, as a figure and the same axes twice; or one for each, if mIoU is on different data."""
    from matplotlib.ticker import LogLocator

    together = series.info["data"] == others.dataset
    heights = [_HEIGHT] if together else [_OWN_HEIGHT, _HEIGHT]
    figure = new_figure(PAGE, sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.set_xscale("log")
        axes.margins(x=0.1, y=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    panels[0].set_ylabel(f"mIoU on {series.info['data']} {series.info['split']} (%)")
    panels[-1].set_ylabel("mIoU (%)" if together else f"published mIoU on {others.dataset} (%)")
    return figure, panels[0], panels[-1]


def _draw_own(axes: Axes, label: str, points: Sequence[Point]) -> None:
    front = skyline(points)
    speeds, mious = [point.images_per_second for point in front], [point.miou for point in front]
    axes.plot(speeds, mious, color=_OWN.color, marker=_OWN.marker, ms=5, label=label)
    for point in points:
        if point.pause == NO_PAUSE:
            axes.plot([point.images_per_second], [point.miou], color=_OWN.color, marker=_OWN.marker, ms=7, mec=INK)
    axes.legend(loc="lower left")


def _draw_others(axes: Axes, others: Sequence[Architecture]) -> None:
    families = list(dict.fromkeys(one.family for one in others))
    for one in others:
        number = families.index(one.family)
        color, marker = COLORS[1 + number % (len(COLORS) - 1)], MARKERS[1 + number % (len(MARKERS) - 1)]
        axes.plot([one.images_per_second], [one.miou], ls="none", color=color, marker=marker, ms=5)


def _tell(pause: PauseConfig) -> str:
    return "no pausing" if pause == NO_PAUSE else str(pause)


def _name(architecture: Architecture) -> str:
    return architecture.name + ("*" if architecture.differs else "")
