"""Points of speed and mIoU on axes that several figures share: images per second, mIoU, and speed-up above.

Knows nothing of which points a figure is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from paumer.pause import NO_PAUSE, PauseConfig
from paumer.plot.series import Series, describe, miou_of
from paumer.plot.style import INK, Look, add_footnote, new_figure
from paumer.sweep_folder import SweepPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_speed_figure(width: float, height: float, series: Sequence[Series], subset: str = "all") -> tuple[Figure, Axes]:
    """Axes of images per second and mIoU; above them the speed-up over the first series' unpaused model, if scored."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set(xlabel="images per second", ylabel="mIoU (%)")
    if unpaused := series[0].unpaused(subset):
        base = unpaused.images_per_second
        upper = axes.secondary_xaxis("top", functions=(partial(_divide, base), partial(_multiply, base)))
        upper.set_xlabel("speed-up over not pausing" + (f" ({series[0].label})" if len(series) > 1 else ""))
    return figure, axes


def _divide(base: float, speed: Any) -> Any:
    return speed / base


def _multiply(base: float, ratio: Any) -> Any:
    return ratio * base


def xy(points: Sequence[SweepPoint], subset: str = "all") -> tuple[list[float], list[float]]:
    """Their images per second and their mIoU."""
    return [point.images_per_second for point in points], [miou_of(point, subset) for point in points]


def draw_line(
    axes: Axes, points: Sequence[SweepPoint], look: Look, subset: str = "all", *, dashed: bool = False
) -> None:
    """A line through the points; none through a single one."""
    if len(points) > 1:
        axes.plot(*xy(points, subset), color=look.color, ls="--" if dashed else "-")


def draw_points(axes: Axes, points: Sequence[SweepPoint], look: Look, subset: str = "all", size: float = 4.5) -> None:
    """Markers: hollow where the speed-up is within its noise, large where nothing pauses."""
    for point in points:
        unpaused = point.pause == NO_PAUSE
        axes.plot(
            *xy([point], subset),
            ls="none",
            marker=look.marker,
            ms=1.6 * size if unpaused else size,
            mec=INK if unpaused else look.color,
            mfc="white" if is_hollow(point) else look.color,
        )


def draw_bars(
    axes: Axes, points: Sequence[SweepPoint], deviations: Mapping[PauseConfig, float], look: Look, subset: str = "all"
) -> None:
    """Up and down from each point by its deviation; nothing where there are none."""
    if deviations:
        heights = [deviations[point.pause] for point in points]
        axes.errorbar(*xy(points, subset), yerr=heights, fmt="none", ecolor=look.color, elinewidth=0.8, capsize=2)


def is_hollow(point: SweepPoint) -> bool:
    """Whether the speed-up could be none at all; that of not pausing is 1 and no question."""
    return point.pause != NO_PAUSE and not point.decided


def add_conditions(
    figure: Figure, series: Sequence[Series], drawn: Sequence[SweepPoint], *notes: str, subset: str = "all"
) -> None:
    """The footnote: conditions, then ``notes``, then what large and hollow markers mean if there are any."""
    large = "Large: not pausing." if any(point.pause == NO_PAUSE for point in drawn) else ""
    hollow = "Hollow: speed-up within its noise." if any(is_hollow(point) for point in drawn) else ""
    add_footnote(figure, " ".join(part for part in (describe(series, subset), *notes, large, hollow) if part))
