"""The paper's figures, drawn from what was measured: each function takes values and returns a matplotlib figure."""

from paumer.plot.architectures import Architecture, Comparison, draw_architectures
from paumer.plot.entropy import draw_entropy
from paumer.plot.pauses import draw_pauses
from paumer.plot.search import draw_greedy, draw_grid
from paumer.plot.series import Series
from paumer.plot.style import figure_paths, require_matplotlib, save_figure
from paumer.plot.tradeoff import draw_tradeoff

__all__ = [
    "Architecture",
    "Comparison",
    "Series",
    "draw_architectures",
    "draw_entropy",
    "draw_greedy",
    "draw_grid",
    "draw_pauses",
    "draw_tradeoff",
    "figure_paths",
    "require_matplotlib",
    "save_figure",
]
