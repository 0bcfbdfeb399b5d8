"""The search for configurations: every single layer and ratio, and layer after layer. Source: PAUMER, Fig. 9 and 10.

Knows nothing of how the search goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from paumer.errors import InputError
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.plot.labels import place_labels
from paumer.plot.points import add_conditions, draw_line, draw_points, new_speed_figure
from paumer.plot.series import Series, miou_of
from paumer.plot.style import INK, MARKERS, PAGE, Look, ramp, style
from paumer.sweep_folder import SweepPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 3.6  # inches
_MARGIN = 0.09  # of the axes' width, for labels beside the outermost points
_UNPAUSED = Look(INK, "o")


@style()
def draw_grid(series: Series) -> Figure:
    """A line for each pausing layer, along which the ratio rises; all of them start at the unpaused model.

    Scores are those on the whole split where every single-layer configuration has one, else those of the search; the
    footnote says on how many images.

    Raises:
        InputError: no configuration with a single pausing layer is scored.
    """
    subset = _subset_of_grid(series)
    unpaused = [point for point in series.scored(subset) if point.pause == NO_PAUSE]
    lines = _lines(series.scored(subset))
    figure, axes = new_speed_figure(PAGE, _HEIGHT, [series], subset)
    axes.margins(x=_MARGIN)
    looks = [Look(color, MARKERS[i % len(MARKERS)]) for i, color in enumerate(ramp(len(lines)))]
    for look, points in zip(looks, lines.values(), strict=True):
        draw_line(axes, [*unpaused, *points], look, subset)
        draw_points(axes, points, look, subset)
    draw_points(axes, unpaused, _UNPAUSED, subset)
    single = [point for points in lines.values() for point in points]
    ratios = ", ".join(f"{ratio:g}" for ratio in sorted({_ratio(point.pause) for point in single}))
    note = f"Along a line the ratio rises: {ratios}."
    add_conditions(figure, [series], [*unpaused, *single], note, subset=subset)
    _label(axes, {f"layer {layer}": points[-1] for layer, points in lines.items()}, subset)
    return figure


def _subset_of_grid(series: Series) -> str:
    single = [point for point in series.points if _is_single(point.pause) and point.scores]
    if not single:
        raise InputError(f"no single-layer configuration of {series.label} is scored: sweep it with  --search grid")
    return "all" if all("all" in point.scores for point in single) else "search"


def _is_single(pause: PauseConfig) -> bool:
    """Whether one layer pauses, and a ratio there."""
    return len(pause.steps) == 1 and not pause.is_adaptive


def _ratio(pause: PauseConfig) -> float:
    (_, ratio), *_ = pause.steps
    assert isinstance(ratio, float)
    return ratio


def _lines(points: Sequence[SweepPoint]) -> dict[int, list[SweepPoint]]:
    """``{layer: its points by rising ratio}`` of those with a single pausing layer."""
    single = sorted(
        (point for point in points if _is_single(point.pause)),
        key=lambda point: (point.pause.layers, _ratio(point.pause)),
    )
    return {layer: list(line) for layer, line in groupby(single, key=lambda point: point.pause.steps[0][0])}


@style()
def draw_greedy(series: Series) -> Figure:
    """The stages of the greedy search: what was tried on top of what was fixed, and the choices that lead on.

    Raises:
        InputError: the sweep holds no greedy search.
    """
    if not series.stages:
        raise InputError(f"{series.label} holds no greedy search: sweep it with  --search greedy")
    subset = series.stages[0]["subset"]
    known = {point.pause: point for point in series.scored(subset)}
    figure, axes = new_speed_figure(PAGE, _HEIGHT, [series], subset)
    axes.margins(x=_MARGIN)
    unpaused = _known(known, ["none"])
    looks = [Look.number(number) for number in range(len(series.stages))]
    tried = [_known(known, stage["candidates"]) for stage in series.stages]
    for number, (look, stage, points) in enumerate(zip(looks, series.stages, tried, strict=True), start=1):
        draw_points(axes, points, look.light(), subset)
        axes.plot([], [], ls="none", marker=look.marker, color=look.color, label=_tell(number, stage))
    chosen = _known(known, [stage["chosen"] for stage in series.stages if stage["chosen"]])
    draw_line(axes, [*unpaused, *chosen], _UNPAUSED, subset)
    draw_points(axes, unpaused, _UNPAUSED, subset)
    for look, point in zip(looks, chosen, strict=False):  # the last stage may have chosen nothing
        draw_points(axes, [point], look, subset, size=8)
    axes.legend(loc="lower left")
    add_conditions(figure, [series], [*unpaused, *(point for points in tried for point in points)], subset=subset)
    _label(axes, {str(point.pause): point for point in chosen}, subset)
    return figure


def _known(points: dict[PauseConfig, SweepPoint], texts: Sequence[str]) -> list[SweepPoint]:
    pauses = [PauseConfig.parse(text) for text in texts]
    return [points[pause] for pause in pauses if pause in points]


def _tell(number: int, stage: dict[str, Any]) -> str:
    tried = "one layer" if stage["fixed"] == "none" else f"{stage['fixed']} and one more layer"
    return f"stage {number}: {tried}" + ("" if stage["chosen"] else ", no gain")


def _label(axes: Axes, points: dict[str, SweepPoint], subset: str) -> None:
    place_labels(axes, [(point.images_per_second, miou_of(point, subset), label) for label, point in points.items()])
