"""The front as an SVG drawing: mIoU over images per second, with the speed-up as a second scale.

Knows nothing of sweeps, pages or files. Shapes and filling tell what colours tell, for print and the colour-blind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

# Around (0, 0), of about equal area.
SHAPES = {
    "unpaused": "M-5 -5H5V5H-5Z",
    "paper": "M0 -7L7 0L0 7L-7 0Z",
    "other": "M-5.6 0A5.6 5.6 0 1 0 5.6 0A5.6 5.6 0 1 0 -5.6 0Z",
}

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Mark:
    """One configuration: where it lies, how it is drawn, and what is told of it.

    ``low`` and ``high`` are the quartiles of ``x``; ``index`` is its number on the page.
    """

    index: int
    name: str
    text: str
    x: float
    low: float
    high: float
    y: float
    shape: str  # a key of SHAPES
    on_front: bool


@dataclass(frozen=True)
class Layout:
    """Size of a drawing in units of its own, where its text is 13 high (so that phones get a drawing of their own)."""

    name: str
    width: int
    height: int
    num_ticks: int
    left: int = 58
    right: int = 16
    top: int = 46
    bottom: int = 52


LAYOUTS = (Layout("wide", 880, 470, 8), Layout("narrow", 400, 390, 4))


def draw_chart(marks: Sequence[Mark], x_label: str, y_label: str, unit: float, layout: Layout) -> str:
    """An ``<svg>`` of the marks, given from slow to fast; ``unit`` is the x of the unpaused model, where 1× is."""
    frame = _Frame.around(marks, layout)
    parts = [*_grid(frame, unit), *_titles(layout, x_label, y_label), _front_line(frame, marks)]
    # What lies on the front is drawn last, and so on top.
    parts += [_mark(frame, mark) for mark in sorted(marks, key=lambda mark: mark.on_front)]
    parts += _names(frame, marks)
    label = f"{y_label} over {x_label}, {len(marks)} configurations; the table has the numbers"
    return (
        f'<svg class="chart {layout.name}" viewBox="0 0 {layout.width} {layout.height}" role="img" '
        f'aria-label="{escape(label)}">\n' + "\n".join(parts) + "\n</svg>"
    )


def draw_shape(shape: str, on_front: bool) -> str:
    """One mark by itself, for a legend."""
    kind = "front" if on_front else "beaten"
    return (
        f'<svg class="key" viewBox="-9 -9 18 18" aria-hidden="true"><g class="mark {kind}">'
        f'<path class="shape" d="{SHAPES[shape]}"/></g></svg>'
    )


@dataclass(frozen=True)
class _Frame:
    """The data's range, and the units it is drawn to."""

    layout: Layout
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, marks: Sequence[Mark], layout: Layout) -> _Frame:
        xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
        return cls(layout, _widen(min(xs), max(xs), 0.06), _widen(min(ys), max(ys), 0.06))

    def to_x(self, value: float) -> float:
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return self.layout.left + share * (self.layout.width - self.layout.left - self.layout.right)

    def to_y(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.layout.height
            - self.layout.bottom
            - share * (self.layout.height - self.layout.top - self.layout.bottom)
        )

    @property
    def box(self) -> Box:
        return self.to_x(self.x[0]), self.to_y(self.y[1]), self.to_x(self.x[1]), self.to_y(self.y[0])


def _widen(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with some room on both sides; a single value gets a tenth of itself."""
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """At most ``count`` round values (steps of 1, 2 or 5 times a power of ten) in low..high, with their texts."""
    exponent = floor(log10((high - low) / count))
    step = next(f * 10.0**exponent for f in (1, 2, 5, 10) if (high - low) / (f * 10.0**exponent) < count)
    digits = max(0, -floor(log10(step)))
    return [(i * step, f"{i * step:.{digits}f}") for i in range(ceil(low / step), floor(high / step) + 1)]


def _grid(frame: _Frame, unit: float) -> Iterator[str]:
    left, top, right, bottom = frame.box
    for value, text in ticks(*frame.y, frame.layout.num_ticks):
        y = frame.to_y(value)
        yield f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>'
        yield f'<text class="tick" x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for value, text in ticks(*frame.x, frame.layout.num_ticks):
        x = frame.to_x(value)
        yield f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{text}</text>'
    for value, text in ticks(frame.x[0] / unit, frame.x[1] / unit, frame.layout.num_ticks):
        x = frame.to_x(value * unit)
        yield f'<path class="axis" d="M{x:.1f} {top - 5:.1f}V{top:.1f}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{top - 9:.1f}" text-anchor="middle">{text}&times;</text>'
    yield f'<path class="axis" d="M{left:.1f} {top:.1f}H{right:.1f}M{left:.1f} {bottom:.1f}H{right:.1f}"/>'


def _titles(layout: Layout, x_label: str, y_label: str) -> Iterator[str]:
    middle = (layout.left + layout.width - layout.right) / 2
    yield f'<text class="title" x="{middle:.1f}" y="{layout.height - 10}" text-anchor="middle">{escape(x_label)}</text>'
    yield f'<text class="title" x="{middle:.1f}" y="16" text-anchor="middle">speed-up over not pausing</text>'
    place = f"translate(15 {(layout.top + layout.height - layout.bottom) / 2:.1f}) rotate(-90)"
    yield f'<text class="title" transform="{place}" text-anchor="middle">{escape(y_label)}</text>'


def _front_line(frame: _Frame, marks: Sequence[Mark]) -> str:
    front = [mark for mark in marks if mark.on_front]
    path = "L".join(f"{frame.to_x(mark.x):.1f} {frame.to_y(mark.y):.1f}" for mark in front)
    return f'<path class="line" d="M{path}"/>'


def _mark(frame: _Frame, mark: Mark) -> str:
    x, y = frame.to_x(mark.x), frame.to_y(mark.y)
    low, high = (min(max(frame.to_x(value), frame.box[0]), frame.box[2]) - x for value in (mark.low, mark.high))
    kind = "front" if mark.on_front else "beaten"
    return (
        f'<g class="mark {kind}" data-point="{mark.index}" transform="translate({x:.1f} {y:.1f})">'
        f"<title>{escape(mark.text)}</title>"
        f'<path class="spread" d="M{low:.1f} 0H{high:.1f}"/><path class="shape" d="{SHAPES[mark.shape]}"/></g>'
    )


def _names(frame: _Frame, marks: Sequence[Mark]) -> Iterator[str]:
    """The names of what lies on the front, as far as there is room; the ends of the front first."""
    front = [mark for mark in marks if mark.on_front]
    taken = [_around(frame.to_x(mark.x), frame.to_y(mark.y), 7) for mark in marks]
    taken += [_around(x, y, 2) for one, other in pairwise(front) for x, y in _between(frame, one, other)]
    for mark in [front[0], front[-1], *front[1:-1]][: len(front)]:
        x, y, width = frame.to_x(mark.x), frame.to_y(mark.y), 6.4 * len(mark.name)
        for anchor, left, base in (
            ("start", x + 9, y - 7),
            ("end", x - 9 - width, y + 14),
            ("end", x - 11 - width, y - 7),
        ):
            box = (left, base - 11, left + width, base + 3)
            if _inside(box, frame.box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = f'x="{left if anchor == "start" else left + width:.1f}" y="{base:.1f}" text-anchor="{anchor}"'
                yield f'<text class="name" {at}>{escape(mark.name)}</text>'
                break


def _between(frame: _Frame, one: Mark, other: Mark, steps: int = 40) -> Iterator[tuple[float, float]]:
    """Places along the straight line from one mark to another."""
    for share in (step / steps for step in range(steps + 1)):
        yield (
            frame.to_x(one.x + share * (other.x - one.x)),
            frame.to_y(one.y + share * (other.y - one.y)),
        )


def _around(x: float, y: float, room: float) -> Box:
    return x - room, y - room, x + room, y + room


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
