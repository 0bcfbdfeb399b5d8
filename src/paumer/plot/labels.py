"""Texts beside points, where they cover least.

Knows nothing of what the points are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from paumer.plot.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Places of a text around its point, the preferred ones first: distances in points, and angles in degrees.
_PLACES = [(distance, angle) for distance in (5, 11, 18, 27, 38) for angle in (0, 45, -45, 90, -90, 135, -135, 180)]
_DISTANCES = np.array([distance for distance, _ in _PLACES])
_DIRECTIONS = np.array([(np.cos(angle), np.sin(angle)) for angle in np.deg2rad([angle for _, angle in _PLACES])])
_NEAR = 6  # points: a text farther from its point gets a line to it

# What a place costs, in marks of lines or markers that the text would cover there.
_COST_OF_POINT, _COST_OF_LINE, _COST_OF_TEXT, _COST_OF_EDGE = 0.25, 30, 100, 1000
_MARGIN = 2  # pixels around a text that are better left free as well
_STEPS = 9  # looked at on the line between a point and its text
_ROUNDS = 4  # how often each text may move after the others have


def place_labels(axes: Axes, labels: Sequence[tuple[float, float, str]]) -> None:
    """A text beside each ``(x, y, text)``, where it covers least of the lines, markers and other texts in the axes.

    Call it last: it looks at what is drawn and at the size of the axes.
    """
    if not labels:
        return
    cast("Figure", axes.figure).draw_without_rendering()
    points = axes.transData.transform([(x, y) for x, y, _ in labels])
    scale = axes.figure.dpi / 72
    boxes = _boxes(points, np.array([_size(axes, text) for _, _, text in labels]), scale)
    places = _settle(boxes, _lines(points, scale), _costs(axes, boxes))
    for (x, y, text), place in zip(labels, places, strict=True):
        _write(axes, (x, y), text, place)


def _size(axes: Axes, text: str) -> NDArray:
    """(2,): width and height of a text in pixels."""
    trial = axes.annotate(text, (0, 0), xycoords="axes fraction")
    size = np.array(trial.get_window_extent().size)
    trial.remove()
    return size


def _boxes(points: NDArray, sizes: NDArray, scale: float) -> NDArray:
    """Points (L, 2) and sizes of texts (L, 2) in pixels -> corners (L, P, 2, 2): low and high, at each place."""
    middles = points[:, None] + scale * _DISTANCES[:, None] * _DIRECTIONS + sizes[:, None] / 2 * np.round(_DIRECTIONS)
    return np.stack([middles - sizes[:, None] / 2, middles + sizes[:, None] / 2], axis=2)


def _lines(points: NDArray, scale: float) -> NDArray:
    """Points (L, 2) in pixels -> (L, P, S, 2): steps on the line from each point to its text, at each place."""
    ends = scale * _DISTANCES[:, None] * _DIRECTIONS
    return points[:, None, None] + np.linspace(0, 1, _STEPS)[:, None] * ends[:, None]


def _costs(axes: Axes, boxes: NDArray) -> NDArray:
    """(L, P): how bad each place is, whatever the other texts do."""
    low, high = boxes[:, :, 0], boxes[:, :, 1]
    marks = _marks(axes)
    covered = ((marks > low[:, :, None] - _MARGIN) & (marks < high[:, :, None] + _MARGIN)).all(axis=-1).sum(axis=-1)
    texts = [_overlap(boxes, other) for other in _taken(axes)]
    (left, bottom), (_, top) = axes.bbox.get_points()
    right = axes.figure.bbox.x1  # beyond the axes there is often room
    outside = (low < (left, bottom)).any(axis=-1) | (high > (right, top)).any(axis=-1)
    return covered + _COST_OF_TEXT * sum(texts, np.zeros(1)) + _COST_OF_EDGE * outside + _COST_OF_POINT * _DISTANCES


def _marks(axes: Axes) -> NDArray:
    """(M, 2): markers, and places on lines a few pixels apart."""
    marks = [np.empty((0, 2))]
    for line in axes.lines:
        corners = line.get_transform().transform(np.column_stack(line.get_data()))
        marks.append(corners)
        if line.get_linestyle() != "None" and len(corners):
            along = np.append(0, np.hypot(*np.diff(corners, axis=0).T).cumsum())
            steps = np.arange(0, along[-1], 3)
            marks.append(np.column_stack([np.interp(steps, along, side) for side in corners.T]))
    return np.concatenate(marks)


def _taken(axes: Axes) -> list[NDArray]:
    """Corners (2, 2) of the texts that are there already, the legend among them."""
    legend = axes.get_legend()
    return [text.get_window_extent().get_points() for text in [*axes.texts, *([legend] if legend else [])]]


def _overlap(boxes: NDArray, other: NDArray) -> NDArray:
    """Corners (..., 2, 2) and (2, 2) -> (...): whether they overlap."""
    return ((boxes[..., 0, :] < other[1]) & (other[0] < boxes[..., 1, :])).all(axis=-1)


def _covers(boxes: NDArray, lines: NDArray) -> NDArray:
    """Corners (..., 2, 2) and lines (..., S, 2) -> (...): whether any of a line is in the box."""
    low, high = boxes[..., None, 0, :], boxes[..., None, 1, :]
    return np.any(np.all((lines > low) & (lines < high), axis=-1), axis=-1)


def _settle(boxes: NDArray, lines: NDArray, costs: NDArray) -> NDArray:
    """(L,) places: each text takes the best one, given where the others are and the lines to them."""
    places = costs.argmin(axis=1)
    for _ in range(_ROUNDS):
        for i in range(len(places)):
            clashes = np.zeros(len(_PLACES))
            for j in range(len(places)):
                if j != i:
                    box, line = boxes[j, places[j]], lines[j, places[j]]
                    struck = _covers(box, lines[i]) | _covers(boxes[i], line)
                    clashes += _COST_OF_TEXT * _overlap(boxes[i], box) + _COST_OF_LINE * struck
            places[i] = (costs[i] + clashes).argmin()
    return places


def _write(axes: Axes, point: tuple[float, float], text: str, place: int) -> None:
    (right, up), distance = np.round(_DIRECTIONS[place]), _DISTANCES[place]
    line = {"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
    note = axes.annotate(
        text,
        point,
        distance * _DIRECTIONS[place],
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[int(right)],
        va={1: "bottom", 0: "center", -1: "top"}[int(up)],
        arrowprops=line if distance > _NEAR else None,
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
        zorder=4,
    )
    note.set_in_layout(False)  # else the axes would shrink and all texts stand elsewhere
