"""The figures of the search, of sweeps that hold more than ratios: what follows the image has no place along a line."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_sweep import BASELINE, make_sweep

from paumer.errors import InputError
from paumer.plot import Series, draw_greedy, draw_grid
from paumer.sweep_folder import SweepFolder

# {configuration: (speed-up, mIoU)}
RATIOS = {"none": (1.0, 67.0), "3:0.5": (1.4, 64.0), "3:0.1": (1.05, 66.9), "7:0.5": (1.2, 66.0), "7:0.0": (1.0, 67.0)}
BUDGETS = {
    "3:0.6@batch": (1.5, 65.0),
    "7:0.3nats": (1.3, 66.5),
    "5:0.3nats[0.1-0.8]": (1.35, 66.4),  # of a layer that has no ratios at all
    "3:0.2,7:0.3nats": (1.45, 66.0),
}


def sweep_of(path, points, subsets=None):
    numbers = [(pause, speedup, 0.01, 1.0, (miou,)) for pause, (speedup, miou) in points.items()]
    make_sweep(path, numbers, names=["everything"], subsets=subsets)
    return Series.read(path)


def drawn(figure):
    """Points and texts of the first axes."""
    axes = figure.axes[0]
    places = sorted({(round(float(x), 6), round(float(y), 6)) for line in axes.lines for x, y in line.get_xydata()})
    return places, sorted(note.get_text() for note in axes.texts)


def at(pauses, points=RATIOS):
    return sorted({(round(points[pause][0] / BASELINE, 6), points[pause][1]) for pause in pauses})


def test_budgets_are_left_out_of_the_grid(tmp_path):
    plain, more = sweep_of(tmp_path / "plain", RATIOS), sweep_of(tmp_path / "more", {**RATIOS, **BUDGETS})
    figure = draw_grid(more)
    places, labels = drawn(figure)
    assert places == at(RATIOS) and labels == ["layer 3", "layer 7"]
    assert drawn(draw_grid(plain)) == (places, labels)
    assert "the ratio rises: 0, 0.1, 0.5." in figure.get_supxlabel().replace("\n", " ")


def test_a_budget_that_only_the_whole_split_scored_does_not_decide_what_the_grid_shows(tmp_path):
    everything = {**RATIOS, **BUDGETS}
    subsets = {"search": list(RATIOS), "all": ["none", *BUDGETS]}
    figure = draw_grid(sweep_of(tmp_path / "part", everything, subsets))
    assert "10 images" in figure.get_supxlabel().replace("\n", " ")
    subsets = {"search": everything, "all": list(RATIOS)}
    figure = draw_grid(sweep_of(tmp_path / "whole", everything, subsets))
    assert "50 images" in figure.get_supxlabel().replace("\n", " ")
    assert drawn(figure)[0] == at(RATIOS)


def test_budgets_alone_make_no_grid(tmp_path):
    series = sweep_of(tmp_path / "budgets", {"none": (1.0, 67.0), **BUDGETS})
    with pytest.raises(InputError, match="no single-layer configuration of budgets is scored: .*--search grid"):
        draw_grid(series)


def test_budgets_beside_a_greedy_search_are_not_part_of_it(tmp_path):
    stages = [{"fixed": "none", "candidates": ["3:0.5", "7:0.5"], "chosen": "7:0.5", "subset": "all"}]
    path = tmp_path / "greedy"
    sweep_of(path, {**RATIOS, **BUDGETS})
    SweepFolder(path).save_greedy(stages)
    places, labels = drawn(draw_greedy(Series.read(path)))
    assert places == at(["none", "3:0.5", "7:0.5"]) and labels == ["7:0.5"]
    assert np.isfinite(places).all()
