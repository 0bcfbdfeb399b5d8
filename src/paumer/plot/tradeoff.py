"""mIoU against images per second for several models. Source: PAUMER, Fig. 4.

Knows nothing of how anything was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from paumer.errors import InputError
from paumer.pause import NO_PAUSE, PAPER_CONFIGS
from paumer.plot.points import add_conditions, draw_bars, draw_line, draw_points, new_speed_figure
from paumer.plot.series import Series, check_comparable, front_of
from paumer.plot.style import COLUMN, Look, style
from paumer.sweep_folder import SweepPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@style()
def draw_tradeoff(series: Sequence[Series], *, front: bool = False, relative: bool = False) -> Figure:
    """A marker for each configuration of Table 1, and a line through those that no other beats; baselines are dashed.

    Series of several seeds (:meth:`Series.join`) have bars of one standard deviation of their mIoU up and down.

    Args:
        series: at least one; the upper axis tells the speed-up over the first one's unpaused model.
        front: everything that was scored instead of Table 1; what is off the line is faint.
        relative: each speed-up counted from the series' own unpaused model and drawn as if all of these were as fast as
            the first: for one network that was timed at different moments, when the machine was not equally fast.

    Raises:
        InputError: a series with nothing to draw, or scored on other data than the first one; ``relative`` without a
            score of the first one's unpaused model.
    """
    check_comparable(series)
    drawn = [one.scored() if front else _of_table_1(one) for one in series]
    if relative:
        drawn = [_at_the_speed_of(series[0], points) for points in drawn]
    # Counted each from its own, the speed-ups above are not over the first one's in particular.
    figure, axes = new_speed_figure(COLUMN, 2.8, series[:1] if relative else series)
    for index, (one, points) in enumerate(zip(series, drawn, strict=True)):
        _draw_series(axes, one, points, Look.number(index), faint=front)
    if len(series) > 1 or series[0].num_seeds > 1:
        axes.legend(handlelength=3)
    note = "Lines join what no other point beats in both speed and mIoU."
    if any(one.num_seeds > 1 for one in series):
        note += " Of several seeds: means; bars: mIoU ± one standard deviation."
    if relative:
        note += " Speed-ups are over each one's own unpaused model."
    add_conditions(figure, series, [point for points in drawn for point in points], note)
    return figure


def _at_the_speed_of(first: Series, points: Sequence[SweepPoint]) -> list[SweepPoint]:
    unpaused = first.unpaused()
    if unpaused is None:
        raise InputError(f"the unpaused model of {first.label} is not scored: add 'none' to its sweep")
    return [replace(point, images_per_second=point.speedup * unpaused.images_per_second) for point in points]


def _of_table_1(series: Series) -> list[SweepPoint]:
    points = [point for point in series.scored() if point.pause in (NO_PAUSE, *PAPER_CONFIGS)]
    if not points:
        raise InputError(f"no configuration of Table 1 is scored in {series.label}: draw its front instead (--front)")
    return points


def _draw_series(axes: Axes, series: Series, points: Sequence[SweepPoint], look: Look, faint: bool) -> None:
    front = front_of(points)
    others = [point for point in points if point not in front and point.pause != NO_PAUSE] if faint else []
    draw_points(axes, others, look.light(), size=3)
    draw_line(axes, front, look, dashed=series.dashed)
    full = [point for point in points if point not in others]
    draw_bars(axes, full, series.deviations, look)
    draw_points(axes, full, look)
    # The legend shows line and marker together, which in the axes are artists of their own.
    label = series.label if series.num_seeds == 1 else f"{series.label}, {series.num_seeds} seeds"
    axes.plot([], [], color=look.color, marker=look.marker, ls="--" if series.dashed else "-", label=label)
