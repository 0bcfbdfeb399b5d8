"""What all figures have in common: sizes, colours, markers, footnotes, and the files.

Knows nothing of what is drawn. matplotlib (the extra ``plot``) is imported only when a figure is made, and pyplot
never: a user's own figures and settings stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paumer.errors import InputError, MissingExtraError
from paumer.files import write_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
COLUMN, PAGE = 3.5, 7.0  # inches: one column of a two-column paper, and both
FONT_SIZE = 8  # points, at these widths
INK, GREY = "#222222", "#595959"

# Okabe and Ito (2008), the darkest first: yellow is too light for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")

_STYLE: dict[str, Any] = {
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text: searchable, and set in the reader's font
    "svg.hashsalt": "paumer",  # the same figure gives the same file
}


def require_matplotlib() -> None:
    """Raises :class:`MissingExtraError` where matplotlib is not installed: before anything is computed for a figure."""
    try:
        import matplotlib.style  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plotting", "plot") from error


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's own settings of matplotlib are; they are back afterwards.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib.style

    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches; :func:`add_footnote` makes it higher."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Look:
    """How a series is told from others: by colour and by marker, either of which is enough."""

    color: str
    marker: str

    @classmethod
    def number(cls, index: int) -> Look:
        # Seven colours and eleven markers meet again only after 77 series.
        return cls(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)])

    def light(self) -> Look:
        """The same for what stands in the background."""
        return Look(hex_color([0.4 * channel + 0.6 * 255 for channel in bytes.fromhex(self.color[1:])]), self.marker)


def hex_color(rgb: Sequence[float]) -> str:
    """Channels of 0..255 -> ``"#rrggbb"``."""
    return "#" + "".join(f"{round(channel):02x}" for channel in rgb)


def ramp(count: int) -> list[str]:
    """``count`` colours from dark to light, an order that is seen without colours as well."""
    import matplotlib
    from matplotlib.colors import to_hex

    # The light end is left out: it vanishes on white.
    return [to_hex(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 0.8, count))]


def add_footnote(figure: Figure, text: str) -> None:
    """Small grey lines below everything, for the conditions; the figure grows by what they need."""
    width, height = figure.get_size_inches()
    lines = _wrap(text, 0.96 * 72 * width)
    figure.set_size_inches(width, height + len(lines) * FONT_SIZE * 1.25 / 72)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=FONT_SIZE, color=GREY, linespacing=1.15)


def _wrap(text: str, width: float) -> list[str]:
    """Lines of at most ``width`` points, unless a single word is wider."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font, lines = FontProperties(size=FONT_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        fits = text_to_path.get_text_width_height_descent(longer, font, ismath=False)[0] <= width
        lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
    return lines


# -- files -------------------------------------------------------------------------------------------------------------


def figure_paths(path: str | Path) -> list[Path]:
    """The files that ``path`` stands for: itself, or both a PNG and an SVG if it has no suffix.

    Raises:
        InputError: another suffix.
    """
    path = Path(path)
    if not path.suffix:
        return [path.with_suffix(suffix) for suffix in SUFFIXES]
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"cannot draw into '{path.name}': end it in .png or .svg, or leave the end away to get both")
    return [path]


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Writes PNG (200 dpi) or SVG by the suffix, both without one; the same figure gives the same bytes.

    Returns:
        what was written.

    Raises:
        InputError: another suffix, or a place that cannot be written to.
    """
    paths = figure_paths(path)
    with style():
        for one in paths:
            # Neither a date nor a version of matplotlib's: a drawing that did not change is the same file.
            nameless = {"Date": None, "Creator": None} if one.suffix.lower() == ".svg" else {"Software": None}
            with write_beside(one) as beside:
                figure.savefig(beside, metadata=nameless)
    return paths
