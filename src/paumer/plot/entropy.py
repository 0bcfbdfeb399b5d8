"""Split violins of token entropy: how far entropy tells right tokens from wrong ones. Source: PAUMER, Fig. 3.

Knows nothing of how entropies were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from paumer.plot.style import COLORS, COLUMN, FONT_SIZE, INK, add_footnote, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paumer.entropy_study import EntropyStudy

_HEADS = {"shared": "one auxiliary head for all layers", "per_layer": "an auxiliary head for each layer"}
_WIDTH = 0.9  # of the place that a layer has
_TICK_PAD = 3.5  # points between an axis and the labels of its ticks, as matplotlib has them
_BINS_TOGETHER = 4  # of a study's fine bins, whose noise would hide the shape


@style()
def draw_entropy(study: EntropyStudy) -> Figure:
    """A violin for each layer: its left half are the tokens predicted rightly, its right half the others.

    Each half is as wide as any at its own peak, since late layers have few wrong tokens; below stand the share of right
    tokens, and the chance that a wrong token has a higher entropy than a right one (AUROC).
    """
    from matplotlib.patches import Patch

    figure = new_figure(COLUMN, 2.6)
    axes = figure.add_subplot()
    for place, layer in enumerate(study.layers):
        _draw_half(axes, study, study.right[layer], place, "low", COLORS[0])
        _draw_half(axes, study, study.wrong[layer], place, "high", COLORS[1])
    _add_table(axes, study)
    axes.set_ylabel("entropy (nats)")
    axes.set_ylim(0, study.edges[-1])
    axes.set_xlim(-0.6, len(study.layers) - 0.4)
    axes.grid(False, axis="x")
    boxes = [Patch(color=COLORS[0], label="right tokens (left)"), Patch(color=COLORS[1], label="wrong tokens (right)")]
    figure.legend(handles=boxes, loc="outside upper center", ncols=2)
    add_footnote(figure, _describe(study))
    return figure


def _draw_half(
    axes: Axes, study: EntropyStudy, counts: Sequence[int], place: int, side: Literal["low", "high"], color: str
) -> None:
    if not any(counts):
        return
    coords, values = _outline(study.edges, counts)
    # Of what a violin may tell only the median is shown; the other places must be filled all the same.
    ends = {"mean": study.mean(counts), "min": coords[0], "max": coords[-1], "median": study.quantile(counts, 0.5)}
    violin = {"coords": coords, "vals": values, **ends}
    parts: Any = axes.violin([violin], [place], widths=_WIDTH, showextrema=False, showmedians=True, side=side)
    parts["bodies"][0].set(facecolor=color, edgecolor=color, alpha=1, linewidth=0.4)
    parts["cmedians"].set(color=INK, linewidth=1.5)


def _outline(edges: Sequence[float], counts: Sequence[int]) -> tuple[NDArray, NDArray]:
    """(n,) entropies and (n,) tokens per nat there, from where a histogram's first token is to its last."""
    firsts = np.arange(0, len(counts), _BINS_TOGETHER)
    sums, bounds = np.add.reduceat(counts, firsts), np.append(np.array(edges)[firsts], edges[-1])
    filled = np.flatnonzero(sums)
    shown = slice(filled[0], filled[-1] + 1)
    low, high = bounds[:-1][shown], bounds[1:][shown]
    density = sums[shown] / (high - low)
    # The ends are as wide as the bins there: a spike at 0 stands on the axis.
    return np.concatenate([low[:1], (low + high) / 2, high[-1:]]), np.pad(density, 1, mode="edge")


def _add_table(axes: Axes, study: EntropyStudy) -> None:
    """Layer, accuracy and AUROC below each violin, as the labels of its tick."""
    rows = [(str(layer), _percent(study.accuracy[layer]), _decimal(study.auroc[layer])) for layer in study.layers]
    axes.set_xticks(range(len(rows)), ["\n".join(row) for row in rows])
    axes.tick_params(axis="x", length=0)
    axes.annotate(
        "layer\nright\nAUROC",
        (0, 0),
        (-4, -_TICK_PAD),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=FONT_SIZE,
    )


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f} %"


def _decimal(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _describe(study: EntropyStudy) -> str:
    known: dict[str, Any] = study.conditions
    tokens = sum(study.right[study.layers[0]]) + sum(study.wrong[study.layers[0]])
    parts = [known["model"], f"{known['data']} {known['split']}", f"{known['num_images']} images"]
    classes = known["num_classes"]
    return (
        f"{', '.join(parts)}, {tokens} tokens, {_HEADS[known['aux_head']]}, nothing pauses. Each half is scaled to its "
        f"own peak; bars: medians. Top: ln {classes} = {math.log(classes):.2f}, all classes equally likely."
    )
