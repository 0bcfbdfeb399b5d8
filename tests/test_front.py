from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paumer.errors import InputError
from paumer.front import Front, Point, choose_for_throughput, choose_within_drop, knee, skyline
from paumer.pause import NO_PAUSE, PauseConfig


def point(number: int, miou: float, rate: float) -> Point:
    """Configurations that differ, so that none is taken for another; number 0 is the unpaused one."""
    pause = NO_PAUSE if number == 0 else PauseConfig(((1 + number // 9, (number % 9) / 10),))
    return Point(pause, miou, rate, rate / 10)


FRONT = [point(0, 70.0, 10.0), point(1, 69.5, 14.0), point(2, 69.0, 18.0), point(3, 60.0, 20.0)]

# Few different values, so that ties are common.
clouds = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1, max_size=40).map(
    lambda pairs: [point(number, float(miou), float(rate)) for number, (miou, rate) in enumerate(pairs)]
)


def beats(one: Point, other: Point) -> bool:
    better = one.miou > other.miou or one.images_per_second > other.images_per_second
    return better and one.miou >= other.miou and one.images_per_second >= other.images_per_second


@given(clouds)
def test_skyline_is_what_brute_force_finds(points):
    unbeaten = [p for p in points if not any(beats(other, p) for other in points)]
    front = skyline(points)
    assert {(p.miou, p.images_per_second) for p in front} == {(p.miou, p.images_per_second) for p in unbeaten}
    assert len(front) == len({(p.miou, p.images_per_second) for p in front})  # of equals, one
    assert all(a.images_per_second < b.images_per_second and a.miou > b.miou for a, b in itertools.pairwise(front))


def test_of_equal_points_the_first_stays():
    first, second = point(1, 50.0, 5.0), point(2, 50.0, 5.0)
    assert skyline([first, second]) == [first]
    assert skyline([second, first]) == [second]


def test_knee_lies_highest_above_the_line_between_the_ends():
    # Heights above the chord, by hand: (69.5 - 60) / 10 - (1 - 0.4) = 0.35 and (69 - 60) / 10 - (1 - 0.8) = 0.7.
    assert knee(FRONT) == FRONT[2]


def test_knee_does_not_depend_on_the_units():
    scaled = [Point(p.pause, p.miou / 100, p.images_per_second * 60) for p in FRONT]
    assert knee(scaled).pause == knee(FRONT).pause


@pytest.mark.parametrize("points", [FRONT[:1], FRONT[:2]])
def test_knee_of_a_short_front_is_its_fastest_point(points):
    assert knee(points) == points[-1]


@given(clouds, st.floats(0.5, 9))
def test_target_gives_the_best_miou_that_is_fast_enough(points, target):
    fast = [p for p in points if p.images_per_second >= target]
    if not fast:
        with pytest.raises(InputError, match="out of reach"):
            choose_for_throughput(points, target)
        return
    choice = choose_for_throughput(points, target)
    assert choice in fast
    assert choice.miou == max(p.miou for p in fast)
    assert choice.images_per_second == max(p.images_per_second for p in fast if p.miou == choice.miou)


@given(clouds, st.floats(0, 9))
def test_drop_gives_the_fastest_that_loses_no_more(points, max_drop):
    unpaused = points[0]
    good = [p for p in points if unpaused.miou - p.miou <= max_drop]
    choice = choose_within_drop(points, max_drop)
    assert choice in good
    assert choice.images_per_second == max(p.images_per_second for p in good)


def test_a_loss_that_equals_the_limit_in_decimals_is_allowed():
    points = [point(0, 64.01, 10.0), point(1, 63.01, 12.0)]
    assert points[0].miou - points[1].miou > 1.0  # in binary
    assert choose_within_drop(points, 1.0) == points[1]


def test_an_unreachable_target_says_what_is_reachable():
    with pytest.raises(InputError, match=r"30 images/s are out of reach: the fastest of 4 .* with 20 images/s"):
        choose_for_throughput(FRONT, 30)
    with pytest.raises(InputError, match=r"the only configuration is none with 10 images/s"):
        choose_for_throughput(FRONT[:1], 30)


@pytest.mark.parametrize("target", [0, -3, math.nan, math.inf])
def test_a_target_is_a_positive_number(target):
    with pytest.raises(InputError, match="positive number of images per second"):
        choose_for_throughput(FRONT, target)


@pytest.mark.parametrize("max_drop", [-0.1, math.nan])
def test_a_loss_is_not_negative(max_drop):
    with pytest.raises(InputError, match="0 or more"):
        choose_within_drop(FRONT, max_drop)


def test_a_loss_needs_the_unpaused_model():
    with pytest.raises(InputError, match="add 'none'"):
        choose_within_drop(FRONT[1:], 1.0)


def test_a_front_comes_back_from_its_file(tmp_path):
    front = Front(tuple(FRONT), {"image_size": [360, 480], "device": "cpu"})
    front.save(tmp_path / "pareto.json")
    assert Front.load(tmp_path / "pareto.json") == front
    assert front.image_size == (360, 480)


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -3])
def test_a_front_that_was_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "pareto.json"
    Front(tuple(FRONT), {"image_size": [360, 480]}).save(path)
    path.write_text(path.read_text()[:cut])
    with pytest.raises(InputError, match="not a whole front"):
        Front.load(path)


@pytest.mark.parametrize("values", [[], {}, {"points": 3, "conditions": {}}, {"points": [{}], "conditions": {}}])
def test_something_else_is_no_front(tmp_path, values):
    (tmp_path / "pareto.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="not a whole front"):
        Front.load(tmp_path / "pareto.json")


def test_a_front_without_points_or_file_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="paumer sweep"):
        Front.load(tmp_path / "pareto.json")
    Front((), {"image_size": [1, 1]}).save(tmp_path / "pareto.json")
    with pytest.raises(InputError, match="has no points"):
        Front.load(tmp_path / "pareto.json")
