"""Figures: what lines, markers, violins and pictures hold is compared with the numbers that they are drawn of."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from synthetic_sweep import BASELINE, make_sweep
from tiny import random_images, tiny_model

from paumer.entropy_study import EntropyStudy
from paumer.errors import InputError, MissingExtraError
from paumer.inference import InferenceConfig
from paumer.plot import (
    Comparison,
    Series,
    draw_architectures,
    draw_entropy,
    draw_greedy,
    draw_grid,
    draw_pauses,
    draw_tradeoff,
    figure_paths,
    require_matplotlib,
    save_figure,
)
from paumer.plot.labels import place_labels
from paumer.plot.style import FONT_SIZE, add_footnote, new_figure, style
from paumer.predictor import Predictor

# {configuration: (speed-up, mIoU)}. Of Table 1: 5:0.2 is beaten by 3:0.2, and 3:0.6 by 5:0.8.
POINTS = {
    "none": (1.0, 67.0),
    "3:0.2": (1.1, 66.5),
    "5:0.2": (1.05, 66.0),
    "5:0.6": (1.4, 66.8),
    "3:0.6": (1.6, 60.0),
    "5:0.8": (1.65, 63.0),
    "4:0.5": (1.45, 66.7),
    "6:0.5,8:0.5": (1.7, 62.0),
}
TABLE_1 = ["none", "3:0.2", "5:0.2", "5:0.6", "3:0.6", "5:0.8"]


def sweep_of(path: Path, points: dict[str, tuple[float, float]] = POINTS, *, half: float = 0.01, subsets=None, **info):
    numbers = [(pause, speedup, half, 1.0, (miou,)) for pause, (speedup, miou) in points.items()]
    return make_sweep(path, numbers, names=["everything"], subsets=subsets, **info)


@pytest.fixture
def series(tmp_path) -> Series:
    sweep_of(tmp_path / "ours")
    return Series.read(tmp_path / "ours")


def at(*pauses: str, points: dict[str, tuple[float, float]] = POINTS) -> list[tuple[float, float]]:
    """Where the configurations belong in a figure: images per second and mIoU."""
    return [(points[pause][0] / BASELINE, points[pause][1]) for pause in pauses]


def skyline_of(pauses, points=POINTS) -> list[str]:
    """By definition: those that no other one is at least as good as in both and better in one."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    best = [pause for pause in pauses if not any(beats(points[other], points[pause]) for other in pauses)]
    return sorted(best, key=lambda pause: points[pause][0])


def joined(axes) -> list:
    """The lines of an axes that join points."""
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def markers(axes) -> list:
    """The lines of an axes that are one marker each."""
    return [line for line in axes.lines if len(line.get_xdata()) == 1]


def places(lines) -> list[tuple[float, float]]:
    return sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def footnote(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def assert_xy(line, expected) -> None:
    np.testing.assert_allclose(np.column_stack(line.get_data()), expected)


# -- a series ----------------------------------------------------------------------------------------------------------


def test_a_series_is_called_like_its_folder_unless_told_otherwise(tmp_path, series):
    assert series.label == "ours"
    assert Series.read(tmp_path / "ours", "PAUMER").label == "PAUMER"


def test_a_sweep_with_nothing_scored_cannot_be_drawn(tmp_path):
    sweep_of(tmp_path / "timed", subsets={"all": []})
    with pytest.raises(InputError, match="nothing in .*timed is timed and scored yet: go on with its sweep"):
        Series.read(tmp_path / "timed")


def test_what_is_scored_on_a_part_only_is_not_drawn_as_if_on_everything(tmp_path):
    sweep_of(tmp_path / "searched", subsets={"search": list(POINTS)})
    with pytest.raises(InputError, match="nothing of searched is scored on the whole split yet"):
        draw_tradeoff([Series.read(tmp_path / "searched")])


def test_points_below_the_smallest_miou_are_left_out_and_the_figure_says_so(tmp_path, series):
    assert "left out" not in footnote(draw_tradeoff([series]))
    cut = draw_tradeoff([replace(series, min_miou=65)])
    assert "Points with less than 65 are left out." in footnote(cut)
    assert places(markers(cut.axes[0])) == sorted(at("none", "3:0.2", "5:0.2", "5:0.6"))
    with pytest.raises(InputError, match="no mIoU of ours is 99 or more: the best is 67.00"):
        draw_tradeoff([replace(series, min_miou=99)])


# -- Fig. 4 ------------------------------------------------------------------------------------------------------------


def test_tradeoff_marks_table_1_and_joins_what_no_other_point_beats(series):
    axes = draw_tradeoff([series]).axes[0]
    assert places(markers(axes)) == sorted(at(*TABLE_1))
    (line,) = joined(axes)
    assert_xy(line, at(*skyline_of(TABLE_1)))
    assert axes.get_xlabel() == "images per second" and axes.get_ylabel() == "mIoU (%)"


def test_tradeoff_front_takes_everything_and_draws_what_is_off_the_line_faint(series):
    axes = draw_tradeoff([series], front=True).axes[0]
    best = skyline_of(POINTS)
    (line,) = joined(axes)
    assert_xy(line, at(*best))
    full = [marker for marker in markers(axes) if marker.get_markerfacecolor() == line.get_color()]
    faint = [marker for marker in markers(axes) if marker not in full]
    assert places(full) == sorted(at(*best))
    assert places(faint) == sorted(at(*(set(POINTS) - set(best))))
    assert all(sum(to_rgb(marker.get_markerfacecolor())) > sum(to_rgb(line.get_color())) for marker in faint)


def test_baselines_are_dashed_and_every_series_has_its_own_colour_and_marker(tmp_path, series):
    sweep_of(tmp_path / "other", {pause: (speed, miou - 2) for pause, (speed, miou) in POINTS.items()})
    other = Series.read(tmp_path / "other", "random", dashed=True)
    axes = draw_tradeoff([series, other]).axes[0]
    ours, theirs = joined(axes)
    assert (ours.get_linestyle(), theirs.get_linestyle()) == ("-", "--")
    assert_xy(theirs, [(speed, miou - 2) for speed, miou in at(*skyline_of(TABLE_1))])
    assert ours.get_color() != theirs.get_color()
    assert len({marker.get_marker() for marker in markers(axes)}) == 2
    entries = axes.get_legend().get_lines()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "random"]
    assert [entry.get_linestyle() for entry in entries] == ["-", "--"]
    assert [entry.get_marker() for entry in entries] == ["o", "s"]


def test_upper_axis_tells_the_speedup_over_the_first_series_unpaused_model(tmp_path, series):
    sweep_of(tmp_path / "slow", {"none": (0.5, 69.0), "5:0.6": (0.7, 68.0)})
    figure = draw_tradeoff([series, Series.read(tmp_path / "slow")])
    figure.draw_without_rendering()
    (upper,) = figure.axes[0].child_axes
    np.testing.assert_allclose(upper.get_xlim(), np.array(figure.axes[0].get_xlim()) * BASELINE)
    assert upper.get_xlabel() == "speed-up over not pausing (ours)"


def test_relative_speeds_count_from_each_ones_own_unpaused_model(tmp_path, series):
    points = tuple(replace(point, images_per_second=point.images_per_second / 3) for point in series.points)
    slow = replace(series, label="slow", points=points)  # the same on a machine that was busy
    figure = draw_tradeoff([series, slow], relative=True)
    ours, theirs = joined(figure.axes[0])
    assert_xy(theirs, at(*skyline_of(TABLE_1)))
    assert_xy(ours, at(*skyline_of(TABLE_1)))
    assert figure.axes[0].child_axes[0].get_xlabel() == "speed-up over not pausing"
    assert "Speed-ups are over each one's own unpaused model." in footnote(figure)
    sweep_of(tmp_path / "paused", {pause: POINTS[pause] for pause in TABLE_1[1:]})
    with pytest.raises(InputError, match="the unpaused model of paused is not scored: add 'none' to its sweep"):
        draw_tradeoff([Series.read(tmp_path / "paused"), slow], relative=True)


def test_without_an_unpaused_model_there_is_no_upper_axis(tmp_path):
    sweep_of(tmp_path / "paused", {pause: POINTS[pause] for pause in TABLE_1[1:]})
    assert not draw_tradeoff([Series.read(tmp_path / "paused")]).axes[0].child_axes


def test_the_unpaused_model_is_large_and_a_speedup_within_its_noise_hollow(tmp_path):
    sweep_of(tmp_path / "noisy", half=0.03)  # quartiles 0.06 apart: more than the 0.05 of 5:0.2
    figure = draw_tradeoff([Series.read(tmp_path / "noisy")])
    marked = {places([marker])[0]: marker for marker in markers(figure.axes[0])}
    hollow = [place for place, marker in marked.items() if marker.get_markerfacecolor() == "white"]
    assert hollow == at("5:0.2")
    sizes = {place: marker.get_markersize() for place, marker in marked.items()}
    assert [place for place, size in sizes.items() if size > min(sizes.values())] == at("none")
    assert "Large: not pausing. Hollow: speed-up within its noise." in footnote(figure)


def test_a_single_point_is_drawn_without_a_line(tmp_path):
    sweep_of(tmp_path / "single", {"none": POINTS["none"]})
    for front in (False, True):
        figure = draw_tradeoff([Series.read(tmp_path / "single")], front=front)
        assert places(markers(figure.axes[0])) == at("none")
        assert joined(figure.axes[0]) == []
        save_figure(figure, tmp_path / "single.png")


def test_a_sweep_without_table_1_says_how_to_draw_it(tmp_path):
    sweep_of(tmp_path / "own", {"4:0.5": POINTS["4:0.5"]})
    with pytest.raises(InputError, match="no configuration of Table 1 is scored in own: draw its front .*--front"):
        draw_tradeoff([Series.read(tmp_path / "own")])


def test_sweeps_on_different_data_are_not_drawn_together(tmp_path, series):
    sweep_of(tmp_path / "camvid", data="camvid", split="test")
    with pytest.raises(InputError, match="ours was scored on scenes val, camvid on camvid test"):
        draw_tradeoff([series, Series.read(tmp_path / "camvid")])


def test_the_footnote_holds_the_conditions_and_where_they_differ_both(tmp_path, series):
    sweep_of(tmp_path / "random", criterion="random", attention="eager")
    note = footnote(draw_tradeoff([series, Series.read(tmp_path / "random")]))
    assert note.startswith(
        "Speed: Test CPU, 2 threads, float32, attention auto / attention eager, batch 1, 48x64 pixels, median of "
        "7 rounds, torch 2.14.1. mIoU: scenes val, 50 images, whole images, criterion entropy / random."
    )


# -- several seeds -----------------------------------------------------------------------------------------------------

SHIFTS = np.array([0.0, 1.0, -2.5])  # of a seed's mIoU
LOADS = np.array([1.0, 1.5, 0.9])  # how much longer a seed's images took


def seeds_of(folder: Path, shifts=SHIFTS, loads=LOADS, **info) -> list[Series]:
    """Sweeps that differ in mIoU, more so where more pauses, and in the speed of the machine."""
    for seed, (shift, load) in enumerate(zip(shifts, loads, strict=True)):
        points = {pause: (speed, miou + shift * speed**2) for pause, (speed, miou) in POINTS.items()}
        sweep_of(folder / f"ours-{seed}", points, model_id=f"{seed:016x}", model=f"runs/{seed}", load=load, **info)
        times = folder / f"ours-{seed}" / "times.jsonl"
        rows = [json.loads(line) for line in times.read_text().splitlines()]
        times.write_text("".join(json.dumps({**row, "baseline_seconds": BASELINE * load}) + "\n" for row in rows))
    return [Series.read(folder / f"ours-{seed}") for seed in range(len(shifts))]


def without(series: Series, *pauses: str) -> Series:
    return replace(series, points=tuple(point for point in series.points if str(point.pause) not in pauses))


def test_seeds_are_drawn_as_their_means_with_bars_of_their_deviation(tmp_path):
    figure = draw_tradeoff([Series.join(seeds_of(tmp_path), "PAUMER")])
    speeds = {pause: np.mean(POINTS[pause][0] / (BASELINE * LOADS)) for pause in TABLE_1}
    mious = {pause: POINTS[pause][1] + SHIFTS * POINTS[pause][0] ** 2 for pause in TABLE_1}
    expected = {(speeds[pause], mious[pause].mean()): mious[pause].std(ddof=1) for pause in TABLE_1}
    (axes,) = figure.axes
    (bars,) = (artist for artist in axes.collections if isinstance(artist, LineCollection))
    segments = np.array(bars.get_segments())  # (6, 2, 2): low and high end of each
    assert len(segments) == len(TABLE_1)
    found = {tuple(segment.mean(axis=0).round(9)): np.ptp(segment[:, 1]) / 2 for segment in segments}
    assert found.keys() == {(round(x, 9), round(y, 9)) for x, y in expected}
    for (x, y), deviation in expected.items():
        assert found[round(x, 9), round(y, 9)] == pytest.approx(deviation)
    drawn = np.array(places(marker for marker in markers(axes) if marker.get_marker() == "o"))
    np.testing.assert_allclose(drawn, sorted(expected))
    means = {pause: (speeds[pause], mious[pause].mean()) for pause in TABLE_1}
    assert_xy(next(line for line in joined(axes)), [means[pause] for pause in skyline_of(TABLE_1, means)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PAUMER, 3 seeds"]
    assert "Of several seeds: means; bars: mIoU ± one standard deviation." in footnote(figure)


def test_relative_speeds_of_seeds_are_means_of_each_ones_own_speedup(tmp_path, series):
    figure = draw_tradeoff([series, Series.join(seeds_of(tmp_path))], relative=True)
    (bars,) = (artist for artist in figure.axes[0].collections if isinstance(artist, LineCollection))
    found = sorted(segment[0][0] for segment in bars.get_segments())
    np.testing.assert_allclose(found, sorted(POINTS[pause][0] / BASELINE for pause in TABLE_1))


def test_a_single_sweep_has_no_bars(series):
    figure = draw_tradeoff([series, series])
    assert not figure.axes[0].collections
    assert "seeds" not in texts(figure)


def test_seeds_are_called_by_what_their_folders_begin_with(tmp_path):
    seeds = seeds_of(tmp_path)
    assert Series.join(seeds).label == "ours"
    assert Series.join([replace(seeds[0], label="a"), replace(seeds[1], label="b")]).label == "a, b"


def test_seeds_of_a_search_share_what_is_drawn_or_are_refused(tmp_path):
    first, second, third = seeds_of(tmp_path)
    fewer = without(second, "4:0.5")
    with pytest.raises(InputError, match="4:0.5 is not scored on the whole split in ours-1; add it by"):
        Series.join([first, fewer, third])
    table_1 = [point.pause for point in first.points if str(point.pause) in TABLE_1]
    kept = Series.join([first, fewer, third], needed=table_1)
    assert {str(point.pause) for point in kept.points} == POINTS.keys() - {"4:0.5"}
    with pytest.raises(InputError, match="5:0.6 is not scored on the whole split in ours-2"):
        Series.join([first, second, without(third, "5:0.6")], needed=table_1)
    with pytest.raises(InputError, match="no configuration is scored on the whole split in all of ours-0, ours-1"):
        Series.join([without(first, *TABLE_1), without(second, *(POINTS.keys() - set(TABLE_1)))], needed=[])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "camvid"}, "differ in data: 'scenes' and 'camvid'"),
        ({"criterion": "random"}, "differ in criterion: 'entropy' and 'random'"),
        ({"device_name": "Other CPU"}, "differ in device_name: 'Test CPU' and 'Other CPU'"),
        ({"num_images": 12}, "differ in num_images: 50 and 12"),
        ({"model_id": "0" * 16}, "two of ours-0, ours-1 are of the same weights and seed"),
    ],
)
def test_what_differs_in_more_than_the_seed_is_refused(tmp_path, changes, message):
    first, second, _ = seeds_of(tmp_path)
    with pytest.raises(InputError, match=message):
        Series.join([first, replace(second, info={**second.info, **changes})])


def test_seeds_of_other_networks_are_refused(tmp_path):
    first, second, _ = seeds_of(tmp_path)
    larger = replace(second, points=tuple(replace(point, gflops=4.0) for point in second.points))
    with pytest.raises(InputError, match="ours-0 and ours-1 are of different networks: 1.00 and 4.00 GFLOP at none"):
        Series.join([first, larger])


# -- Fig. 9 ------------------------------------------------------------------------------------------------------------

GRID = {
    "none": (1.0, 67.0),
    "3:0.9": (2.0, 50.0),
    "3:0.1": (1.05, 66.9),
    "3:0.5": (1.4, 64.0),
    "7:0.5": (1.2, 66.0),
    "7:0.1": (1.02, 67.1),
    "5:0.5,7:0.5": (1.5, 65.0),
}


def test_grid_has_a_line_for_each_layer_from_not_pausing_by_rising_ratio(tmp_path):
    sweep_of(tmp_path / "grid", GRID)
    figure = draw_grid(Series.read(tmp_path / "grid"))
    axes = figure.axes[0]
    three, seven = joined(axes)
    assert_xy(three, at("none", "3:0.1", "3:0.5", "3:0.9", points=GRID))
    assert_xy(seven, at("none", "7:0.1", "7:0.5", points=GRID))
    labels = {note.get_text(): note.xy for note in axes.texts}
    assert labels == {"layer 3": at("3:0.9", points=GRID)[0], "layer 7": at("7:0.5", points=GRID)[0]}
    assert places(markers(axes)) == sorted(at(*(pause for pause in GRID if "," not in pause), points=GRID))
    assert len({marker.get_marker() for marker in markers(axes)[:-1]}) == 2
    assert "Along a line the ratio rises: 0.1, 0.5, 0.9." in footnote(figure)


def test_grid_is_drawn_of_the_search_unless_all_of_it_is_scored_on_everything(tmp_path):
    sweep_of(tmp_path / "part", GRID, subsets={"search": list(GRID), "all": ["none", "3:0.5"]})
    assert "10 images" in footnote(draw_grid(Series.read(tmp_path / "part")))
    sweep_of(tmp_path / "whole", GRID, subsets={"search": list(GRID), "all": list(GRID)})
    assert "50 images" in footnote(draw_grid(Series.read(tmp_path / "whole")))


def test_a_sweep_without_single_layers_has_no_grid(tmp_path):
    sweep_of(tmp_path / "none", {"none": (1.0, 67.0), "5:0.5,7:0.5": (1.5, 65.0)})
    with pytest.raises(InputError, match="no single-layer configuration of none is scored: .*--search grid"):
        draw_grid(Series.read(tmp_path / "none"))


# -- Fig. 10 -----------------------------------------------------------------------------------------------------------

SEARCH = {
    "none": (1.0, 67.0),
    "3:0.5": (1.4, 64.0),
    "5:0.5": (1.3, 66.5),
    "3:0.5,5:0.5": (1.6, 65.0),
    "5:0.5,7:0.5": (1.5, 66.0),
    "3:0.5,5:0.5,7:0.5": (1.65, 60.0),
}
STAGES = [
    {"fixed": "none", "candidates": ["3:0.5", "5:0.5"], "chosen": "5:0.5", "subset": "search"},
    {"fixed": "5:0.5", "candidates": ["3:0.5,5:0.5", "5:0.5,7:0.5"], "chosen": "5:0.5,7:0.5", "subset": "search"},
    {"fixed": "5:0.5,7:0.5", "candidates": ["3:0.5,5:0.5,7:0.5"], "chosen": None, "subset": "search"},
]


def searched(path: Path, stages=STAGES) -> Series:
    sweep_of(path, SEARCH, subsets={"search": list(SEARCH), "all": ["none"]}).save_greedy(stages)
    return Series.read(path)


def test_greedy_shows_each_stage_and_the_path_of_the_choices(tmp_path):
    figure = draw_greedy(searched(tmp_path / "search"))
    axes = figure.axes[0]
    (path,) = joined(axes)
    assert_xy(path, at("none", "5:0.5", "5:0.5,7:0.5", points=SEARCH))
    shapes = {shape: [marker for marker in markers(axes) if marker.get_marker() == shape] for shape in "os^"}
    chosen = at("5:0.5", "5:0.5,7:0.5", points=SEARCH)
    tried = [at(*stage["candidates"], points=SEARCH) for stage in STAGES]
    assert places(shapes["o"]) == sorted([*at("none", points=SEARCH), *tried[0], chosen[0]])
    assert places(shapes["s"]) == sorted([*tried[1], chosen[1]])
    assert places(shapes["^"]) == sorted(tried[2])
    assert {note.get_text(): note.xy for note in axes.texts} == {"5:0.5": chosen[0], "5:0.5,7:0.5": chosen[1]}
    large = [marker for marker in markers(axes) if marker.get_markersize() == 8]
    entries = [entry.get_color() for entry in axes.get_legend().get_lines()]
    assert places(large) == sorted(chosen)
    assert {marker.get_markerfacecolor() for marker in large} == set(entries[:2])
    faint = [marker for marker in shapes["s"] if marker not in large]
    assert faint and all(marker.get_markerfacecolor() not in entries for marker in faint)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "stage 1: one layer",
        "stage 2: 5:0.5 and one more layer",
        "stage 3: 5:0.5,7:0.5 and one more layer, no gain",
    ]
    assert "10 images" in footnote(figure)


def test_a_greedy_search_that_found_nothing_is_drawn(tmp_path):
    figure = draw_greedy(searched(tmp_path / "search", [{**STAGES[0], "chosen": None}]))
    assert joined(figure.axes[0]) == [] and not figure.axes[0].texts


def test_a_greedy_search_whose_choice_is_left_out_is_drawn(tmp_path):
    figure = draw_greedy(replace(searched(tmp_path / "search"), min_miou=66.2))
    assert_xy(joined(figure.axes[0])[0], at("none", "5:0.5", points=SEARCH))


def test_a_sweep_without_a_greedy_search_is_refused(series):
    with pytest.raises(InputError, match="ours holds no greedy search: sweep it with  --search greedy"):
        draw_greedy(series)


# -- Fig. 3 ------------------------------------------------------------------------------------------------------------

# Eight bins of half a nat; the figure puts four together.
EDGES = tuple(0.5 * b for b in range(9))
RIGHT = (8, 4, 2, 2, 1, 1, 1, 1)
WRONG = (0, 0, 0, 0, 3, 3, 0, 0)


def study_of(right=RIGHT, wrong=WRONG) -> EntropyStudy:
    known = {
        "model": "m",
        "data": "scenes",
        "split": "val",
        "num_images": 3,
        "num_classes": 11,
        "aux_head": "per_layer",
    }
    return EntropyStudy((2, 4), EDGES, {2: right, 4: right}, {2: wrong, 4: wrong}, known)


def halves(axes) -> list[np.ndarray]:
    """The corners of each half violin, in the order drawn: right and wrong tokens of a layer, then of the next."""
    return [body.get_paths()[0].vertices for body in axes.collections if isinstance(body, PolyCollection)]


def test_violins_are_as_wide_as_there_are_tokens_right_ones_left_and_wrong_ones_right():
    axes = draw_entropy(study_of()).axes[0]
    right, wrong = halves(axes)[2:]  # of the second layer, at place 1
    assert right[:, 0].max() == wrong[:, 0].min() == pytest.approx(1)
    width = {float(y): float(1 - x) for x, y in right if x < 1}
    # 16 tokens in the bins from 0 to 2 nats and 4 from 2 to 4: the middles are at 1 and 3.
    assert width[1.0] == pytest.approx(4 * width[3.0])
    assert width[0.0] == width[1.0] and width[4.0] == width[3.0]
    # Wrong tokens are only from 2 to 4 nats, and the half is as wide as any at its own peak.
    assert (wrong[:, 1].min(), wrong[:, 1].max()) == (2, 4)
    assert wrong[:, 0].max() - 1 == pytest.approx(max(width.values()))


def test_a_violin_is_as_wide_as_there_are_tokens_per_nat():
    # Nine bins make two full groups and a rest of one bin, which is a quarter as high.
    edges, counts = tuple(0.5 * b for b in range(10)), (4,) * 9
    study = replace(study_of(), edges=edges, right={2: counts, 4: counts}, wrong={2: counts, 4: counts})
    right = halves(draw_entropy(study).axes[0])[0]
    assert {round(float(x), 9) for x, _ in right if x < 0} == {-0.45}


def test_medians_are_those_of_the_tokens():
    axes = draw_entropy(study_of()).axes[0]
    bars = [bar for lines in axes.collections if isinstance(lines, LineCollection) for bar in lines.get_segments()]
    # Half of the 20 right tokens are the 8 below 0.5 nats and 2 of the 4 in the next bin.
    assert [bar[:, 1].tolist() for bar in bars] == [[0.75, 0.75], [2.5, 2.5]] * 2


def test_the_table_below_the_violins_holds_accuracy_and_auroc():
    axes = draw_entropy(study_of()).axes[0]
    right, wrong = (np.repeat(np.arange(8), counts) for counts in (RIGHT, WRONG))
    pairs = (wrong[:, None] > right) + 0.5 * (wrong[:, None] == right)
    expected = f"\n{100 * 20 / 26:.0f} %\n{pairs.mean():.2f}"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2" + expected, "4" + expected]
    assert axes.get_ylim() == (0, EDGES[-1])


def test_a_layer_that_is_always_right_has_half_a_violin(tmp_path):
    figure = draw_entropy(study_of(wrong=(0,) * 8))
    assert len(halves(figure.axes[0])) == 2
    assert figure.axes[0].get_xticklabels()[0].get_text() == "2\n100 %\n-"
    save_figure(figure, tmp_path / "right.svg")


def test_the_footnote_of_the_violins_tells_what_was_studied():
    assert footnote(draw_entropy(study_of())).startswith(
        "m, scenes val, 3 images, 26 tokens, an auxiliary head for each layer, nothing pauses."
    )


# -- Fig. 1 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictions():
    predictor = Predictor(tiny_model(), "2:0.5,4:0.5")
    return [predictor(image) for image in random_images(2, 64, 88)]


def test_pauses_show_image_segmentation_shares_and_entropies(predictions):
    figure = draw_pauses(predictions, "tiny, noise.")
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in panels]
    rows = [
        "input",
        "layer 2: 50 % paused",
        "layer 4: 75 % paused",
        "segmentation",
        "layer 2: entropy",
        "layer 4: entropy",
    ]
    assert titles == rows * 2
    np.testing.assert_array_equal(panels[0].images[0].get_array(), predictions[0].image)
    np.testing.assert_array_equal(panels[6].images[0].get_array(), predictions[1].image)
    paused = np.asarray(predictions[1].plot("paused", layer=2))
    np.testing.assert_array_equal(panels[7].images[0].get_array(), paused)
    assert footnote(figure).startswith("tiny, noise. Pause 2:0.5,4:0.5.")
    assert "entropy (nats)" in texts(figure)


def test_entropies_share_a_scale_lie_over_the_image_and_are_grey_where_paused(predictions):
    panels = [axes for axes in draw_pauses(predictions).axes if axes.get_title() == "layer 4: entropy"]
    for axes, prediction in zip(panels, predictions, strict=True):
        (image,) = axes.images
        shown = image.get_array()
        np.testing.assert_array_equal(shown.filled(np.nan), prediction.entropy[4])
        assert shown.mask.sum() == (prediction.paused_at == 2).sum() > 0
        assert image.get_clim() == (0, pytest.approx(math.log(5)))
        # 88 pixels are five and a half patches: the last column of patches is cut as the image is.
        assert tuple(image.get_extent()) == (0, 96, 64, 0) and axes.get_xlim() == (0, 88)


def test_without_auxiliary_heads_images_take_one_row():
    predictor = Predictor(tiny_model(aux_head="none"), "2:0.5", criterion="random")
    panels = [axes.get_title() for axes in draw_pauses([predictor(random_images(1)[0])]).axes]
    assert panels == ["input", "layer 2: 50 % paused"]


def test_what_shows_no_pauses_is_refused():
    predictor = Predictor(tiny_model())
    with pytest.raises(InputError, match="nothing pauses with 'none'"):
        draw_pauses([predictor(random_images(1)[0])])
    flipped = Predictor(tiny_model(), "2:0.5", inference=InferenceConfig(flip=True))
    with pytest.raises(InputError, match="no map of paused patches with flipped views"):
        draw_pauses([flipped(random_images(1)[0])])


# -- Fig. 5 ------------------------------------------------------------------------------------------------------------

SPEEDS = {
    "Segmenter-Ti": 8.0,
    "PAUMER-Ti 5:0.6": 12.0,
    "PAUMER-Ti 3:0.2": 9.0,
    "PAUMER-Ti 7:0.9": 14.0,
    "PAUMER-S 5:0.6": 5.0,
    "SegFormer-B0": 6.0,
    "UNet-R34": 2.0,
}
SCORES = [
    ("Segmenter-Ti", "ade20k", 39.99, ""),
    ("SegFormer-B0", "ade20k", 37.4, "another head"),
    ("SegFormer-B0", "cityscapes", 76.2, ""),
]


def tables(folder: Path, *, scores=SCORES, **changes: object) -> tuple[Path, Path]:
    """The two files as `benchmarks/` has them."""
    conditions = {
        "dataset": "ade20k",
        "device_name": "Test CPU",
        "threads": 2,
        "dtype": "float32",
        "batch_size": 1,
        "image_size": "512x512",
        "rounds": 15,
        "versions": json.dumps({"torch": "2.14.1"}).replace('"', '""'),
        **changes,
    }
    lines = ["architecture,family,images_per_second," + ",".join(conditions)]
    for name, speed in SPEEDS.items():
        values = ",".join(f'"{value}"' for value in conditions.values())
        lines.append(f'"{name}",{name.split("-")[0]},{speed},{values}')
    (folder / "speeds.csv").write_text("\n".join(lines) + "\n")
    rows = "".join(f"{name},{dataset},{miou},{differs},somewhere\n" for name, dataset, miou, differs in scores)
    (folder / "published.csv").write_text("architecture,dataset,miou,differs,source\n" + rows)
    return folder / "speeds.csv", folder / "published.csv"


def test_architectures_join_speeds_and_published_scores(tmp_path):
    others = Comparison.read(*tables(tmp_path))
    assert [(one.name, one.images_per_second, one.miou, one.differs) for one in others.scored] == [
        ("Segmenter-Ti", 8.0, 39.99, ""),
        ("SegFormer-B0", 6.0, 37.4, "another head"),
    ]
    assert others.unscored == ("UNet-R34",)
    assert others.dataset == "ade20k"


def test_a_front_on_other_data_has_a_panel_of_its_own(tmp_path, series):
    figure = draw_architectures(series, Comparison.read(*tables(tmp_path)))
    own, published = figure.axes
    # Speeds are those of the table; 3:0.2 is beaten by 5:0.6, and 7:0.9 is timed but not scored.
    assert_xy(joined(own)[0], [(8.0, 67.0), (12.0, 66.8)])
    assert {note.get_text(): note.xy for note in own.texts} == {"no pausing": (8.0, 67.0), "5:0.6": (12.0, 66.8)}
    assert own.get_ylabel() == "mIoU on scenes val (%)"
    assert {note.get_text(): note.xy for note in published.texts} == {
        "Segmenter-Ti": (8.0, 39.99),
        "SegFormer-B0*": (6.0, 37.4),
    }
    assert places(markers(published)) == [(6.0, 37.4), (8.0, 39.99)]
    assert published.get_ylabel() == "published mIoU on ade20k (%)"
    assert own.get_xlim() == published.get_xlim() and published.get_xscale() == "log"
    note = footnote(figure)
    assert "Test CPU, 2 threads, float32, batch 1, 512x512 pixels, median of 15 rounds, torch 2.14.1" in note
    assert "ours: scenes val, 50 images" in note and "*: not quite the network that was scored." in note


def test_a_front_on_the_same_data_shares_the_panel(tmp_path):
    sweep_of(tmp_path / "ade", data="ade20k")
    (axes,) = draw_architectures(Series.read(tmp_path / "ade"), Comparison.read(*tables(tmp_path))).axes
    assert {note.get_text() for note in axes.texts} == {"no pausing", "5:0.6", "Segmenter-Ti", "SegFormer-B0*"}


def test_the_size_of_the_swept_model_chooses_its_times(tmp_path, series):
    others = Comparison.read(*tables(tmp_path))
    own = draw_architectures(series, others, size="S").axes[0]
    assert {note.get_text(): note.xy for note in own.texts} == {"5:0.6": (5.0, 66.8)}
    with pytest.raises(InputError, match="no configuration of ours has a time as 'PAUMER-B CONFIGURATION'"):
        draw_architectures(series, others, size="B")


def test_tables_that_cannot_be_used_are_told(tmp_path):
    speeds, published = tables(tmp_path)
    with pytest.raises(InputError, match="holds no times for cityscapes"):
        Comparison.read(speeds, published, "cityscapes")
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.csv"):
        Comparison.read(tmp_path / "nowhere.csv", published)
    with pytest.raises(InputError, match="has no column 'family'"):
        Comparison.read(published, published)
    whole = speeds.read_text()
    speeds.write_text(whole.replace("float32", "bfloat16", 1))
    with pytest.raises(InputError, match=r"mixes times of several conditions \(dtype: bfloat16, float32\)"):
        Comparison.read(speeds, published)
    speeds.write_text(whole[: whole.rindex(",")])
    with pytest.raises(InputError, match="cut short or has no column 'versions'"):
        Comparison.read(speeds, published)
    speeds.write_text(whole.replace(",8.0,", ",fast,"))
    with pytest.raises(InputError, match="images_per_second of Segmenter-Ti is no number: 'fast'"):
        Comparison.read(speeds, published)
    speeds.write_text(whole.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="has no rows"):
        Comparison.read(speeds, published)


# -- what all figures share --------------------------------------------------------------------------------------------


def test_without_a_suffix_both_files_are_written_else_the_one(tmp_path, series):
    figure = draw_tradeoff([series])
    out = tmp_path / "deep" / "figures"
    assert save_figure(figure, out / "both") == [out / "both.png", out / "both.svg"]
    assert save_figure(figure, out / "one.SVG") == [out / "one.SVG"]
    assert sorted(path.name for path in out.iterdir()) == ["both.png", "both.svg", "one.SVG"]
    assert (out / "both.png").read_bytes().startswith(b"\x89PNG")


def test_another_suffix_is_refused_and_nothing_written(tmp_path, series):
    with pytest.raises(InputError, match="cannot draw into 'figure.jpg': end it in .png or .svg"):
        save_figure(draw_tradeoff([series]), tmp_path / "figure.jpg")
    assert not list(tmp_path.glob("*.*"))
    with pytest.raises(InputError):
        figure_paths("figure.v2")


def test_text_in_an_svg_is_text(tmp_path, series):
    (path,) = save_figure(draw_tradeoff([replace(series, label="costs $2 & <$3>")] * 2), tmp_path / "figure.svg")
    svg = path.read_text()
    assert ">images per second</text>" in svg and ">costs $2 &amp; &lt;$3&gt;</text>" in svg


def test_the_same_figure_is_the_same_file(tmp_path, series, predictions):
    draw = {
        "tradeoff.png": lambda: draw_tradeoff([series]),
        "grid.svg": lambda: draw_grid(series),
        "entropy.svg": lambda: draw_entropy(study_of()),
        "pauses.svg": lambda: draw_pauses(predictions[:1]),
    }
    for name, figure in draw.items():
        (first,), (second,) = (save_figure(figure(), tmp_path / folder / name) for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    assert "<dc:date>" not in (tmp_path / "a" / "grid.svg").read_text()


def test_users_settings_do_not_change_a_figure_and_are_back_afterwards(tmp_path, series):
    save_figure(draw_tradeoff([series]), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        save_figure(draw_tradeoff([series]), tmp_path / "red.png")
        assert matplotlib.rcParams["font.size"] == 20 and matplotlib.rcParams["axes.facecolor"] == "red"
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "red.png").read_bytes()


def test_all_text_is_large_enough_to_read(series, predictions, tmp_path):
    for figure in (
        draw_tradeoff([series, series]),
        draw_entropy(study_of()),
        draw_pauses(predictions),
        draw_grid(series),
    ):
        assert min(text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()) >= 8


def test_a_footnote_stays_in_the_figure_which_grows_by_it():
    with style():
        figure = new_figure(3.5, 2)
        add_footnote(figure, "iiii WWWW mmmm " * 30)
        figure.draw_without_rendering()
    (text,) = (text for text in figure.texts if "WWWW" in text.get_text())
    lines = text.get_text().split("\n")
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and len(lines) > 5
    assert figure.get_figheight() == pytest.approx(2 + len(lines) * FONT_SIZE * 1.25 / 72)
    assert " ".join(lines) == ("iiii WWWW mmmm " * 30).strip()


def test_labels_cover_neither_each_other_nor_markers():
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Four points within the width of a text, and two at the edges.
    points = [(0.5, 0.5), (0.51, 0.505), (0.5, 0.512), (0.512, 0.512), (1.0, 1.0), (0.0, 0.0)]
    for x, y in points:
        axes.plot([x], [y], "o")
    place_labels(axes, [(x, y, f"configuration {i}") for i, (x, y) in enumerate(points)])
    figure.draw_without_rendering()
    notes = [note for note in axes.texts if isinstance(note, Annotation)]
    assert [note.xy for note in notes] == points
    boxes = [matplotlib.text.Text.get_window_extent(note) for note in notes]
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for x, y in axes.transData.transform(points):
        assert not any(box.contains(x, y) for box in boxes)
    assert all(box.x0 >= axes.bbox.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= axes.bbox.y1 for box in boxes)


@pytest.mark.parametrize("seed", [10, 31, 52, 58])
def test_a_line_to_a_label_strikes_out_no_other_label(seed):
    points = (0.5 + 0.12 * np.random.default_rng(seed).standard_normal((9, 2))).round(2)
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for x, y in points:
        axes.plot([x], [y], "o")
    place_labels(axes, [(x, y, f"configuration {i}") for i, (x, y) in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [matplotlib.text.Text.get_window_extent(note) for note in axes.texts]
    for i, (note, start) in enumerate(zip(axes.texts, axes.transData.transform(points), strict=True)):
        line = start + np.linspace(0, 1, 50)[:, None] * np.array(note.xyann) * figure.dpi / 72
        assert not any(box.contains(x, y) for box in boxes[:i] + boxes[i + 1 :] for x, y in line)


def test_a_label_keeps_clear_of_a_line_through_its_point():
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1, 2], [0, 1, 1])  # to the right of the point, where a text would stand otherwise
    place_labels(axes, [(1, 1, "configuration")])
    figure.draw_without_rendering()
    box = matplotlib.text.Text.get_window_extent(axes.texts[0])
    assert not any(box.contains(x, y) for x, y in axes.transData.transform([(1 + i / 100, 1) for i in range(100)]))


def test_drawing_from_a_folder_needs_no_torch_and_no_pyplot(tmp_path):
    sweep_of(tmp_path / "sweep")
    code = (
        "import sys; from paumer.plot import Series, draw_tradeoff, save_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"save_figure(draw_tradeoff([Series.read({str(tmp_path / 'sweep')!r})]), {str(tmp_path / 'figure')!r})\n"
        "print(sorted({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_matplotlib_the_extra_is_named(monkeypatch, series):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    monkeypatch.delattr(matplotlib, "style", raising=False)
    for call in (require_matplotlib, lambda: draw_tradeoff([series])):
        with pytest.raises(MissingExtraError, match=r"plotting needs .*paumer\[plot\]"):
            call()


def test_relative_speeds_are_over_each_ones_own_unpaused_model(tmp_path):
    """One network timed twice, the second time on a machine half as fast: the same figure but for the labels."""
    for name in ("quiet", "busy"):
        sweep_of(tmp_path / name, {"none": (1.0, 70.0), "5:0.6": (1.4, 69.0)})
    times = tmp_path / "busy" / "times.jsonl"
    rows = [json.loads(line) for line in times.read_text().splitlines()]
    times.write_text(
        "".join(json.dumps({**row, "baseline_seconds": 2 * row["baseline_seconds"]}) + "\n" for row in rows)
    )
    series = [Series.read(tmp_path / "quiet"), Series.read(tmp_path / "busy")]

    def lines(figure):
        return [list(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 2]

    apart, together = lines(draw_tradeoff(series)), lines(draw_tradeoff(series, relative=True))
    assert apart[1] == pytest.approx([x / 2 for x in apart[0]])
    assert together == [pytest.approx(apart[0])] * 2
