from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paumer.errors import InputError
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig, RandomPause, parse_pauses

# facts.md 4.5: tokens left of 1024 (512 px) and 2304 (768 px) patches
TABLE = {
    "3:0.2": (820, 1844),
    "3:0.4": (615, 1383),
    "3:0.6": (410, 922),
    "5:0.2": (820, 1844),
    "5:0.4": (615, 1383),
    "5:0.6": (410, 922),
    "5:0.8": (205, 461),
    "3:0.2,5:0.2": (656, 1476),
    "3:0.3,5:0.3": (502, 1130),
    "3:0.4,5:0.4": (369, 830),
    "3:0.2,5:0.2,7:0.2": (525, 1181),
    "3:0.3,5:0.3,7:0.3": (352, 791),
    "3:0.4,5:0.4,7:0.4": (222, 498),
}
STEPS = st.dictionaries(st.integers(1, 99), st.floats(0, 1, exclude_max=True), max_size=6)


def test_paper_configs_are_the_columns_of_table_1():
    assert [str(pause) for pause in PAPER_CONFIGS] == list(TABLE)


@pytest.mark.parametrize("text", TABLE)
@pytest.mark.parametrize(("column", "num_tokens"), [(0, 1024), (1, 2304)])
def test_token_counts_are_those_of_table_1(text, column, num_tokens):
    running = PauseConfig.parse(text).num_running(num_tokens, depth=12)
    assert running[-1] == TABLE[text][column]
    assert running[:3] == [num_tokens] * 3  # "after layer 3": the third layer still sees every token


@settings(deadline=None)
@given(STEPS)
def test_text_round_trip(steps):
    pause = PauseConfig(tuple(steps.items()))
    assert PauseConfig.parse(str(pause)) == pause
    assert pause.steps == tuple(sorted(steps.items()))


@settings(deadline=None)
@given(STEPS, st.integers(1, 5000))
def test_counts_add_up_and_one_token_always_runs(steps, num_tokens):
    pause = PauseConfig(tuple(steps.items()))
    counts = pause.counts(num_tokens, depth=99)
    assert list(counts) == sorted(steps)
    assert all(count >= 0 for count in counts.values())
    assert sum(counts.values()) < num_tokens


def test_decimal_ratios_are_rounded_down_as_written():
    # 0.29 * 100 is 28.999999999999996 in binary; whole numbers know better.
    for percent in range(100):
        pause = PauseConfig(((1, percent / 100),))
        for num_tokens in (*range(1, 300), 900, 1024, 2304, 10000):
            assert pause.counts(num_tokens, 1) == {1: percent * num_tokens // 100}


def test_ratios_are_shares_of_the_tokens_still_running():
    assert PauseConfig.parse("1:0.5,2:0.5,4:0.5").counts(100, depth=4) == {1: 50, 2: 25, 4: 12}
    assert PauseConfig.parse("1:0.5,2:0.5,4:0.5").num_running(100, depth=5) == [100, 50, 25, 25, 13]


def test_a_ratio_of_zero_is_kept_and_pauses_nothing():
    assert PauseConfig.parse("3:0").counts(100, depth=12) == {3: 0}


def test_spaces_order_and_short_numbers_do_not_matter():
    assert PauseConfig.parse(" 5:0.40 , 3:.4") == PauseConfig.parse("3:0.4,5:0.4")
    assert PauseConfig.parse(" None ") == NO_PAUSE
    assert str(NO_PAUSE) == "none"


def test_a_config_is_parsed_as_itself():
    assert PauseConfig.parse(PAPER_CONFIGS[3]) is PAPER_CONFIGS[3]


def test_configs_are_frozen_and_keys_of_dicts():
    assert {PauseConfig.parse("3:0.4"): "graph"}[PauseConfig(((3, 0.4),))] == "graph"
    with pytest.raises(FrozenInstanceError):
        NO_PAUSE.steps = ((3, 0.4),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3:1", r"share of 1\.0 after layer 3: a ratio lies in \[0, 1\)"),
        ("3:-0.1", r"share of -0\.1 .*\[0, 1\)"),
        ("3:nan", r"share of nan .*\[0, 1\)"),
        ("3:inf", r"share of inf .*\[0, 1\)"),
        ("0:0.5", "after layer 0: layers count from 1"),
        ("3:0.2,3:0.4", "layer 3 is given twice"),
        ("3:many", "cannot read '3:many' in the pause configuration '3:many': write layer:ratio"),
        ("3.5:0.2", "cannot read '3.5:0.2'"),
        ("3", "cannot read '3'"),
        ("3:0.4,", "cannot read ''"),
        ("", "cannot read ''"),
    ],
)
def test_bad_texts_are_refused_in_one_sentence(text, message):
    with pytest.raises(InputError, match=message):
        PauseConfig.parse(text)


def test_a_number_that_yaml_made_of_it_is_explained():
    value = yaml.safe_load("pause: 3:0.4")["pause"]
    assert value == pytest.approx(180.4)  # base 60
    with pytest.raises(InputError, match=r"got the number 180\.4.*in quotes"):
        PauseConfig.parse(value)


def test_other_types_are_refused():
    with pytest.raises(InputError, match=r"a text such as '3:0.4,5:0.4' or 'none', got \[3, 0.4\]"):
        PauseConfig.parse([3, 0.4])


def test_a_layer_beyond_the_encoder_is_refused():
    with pytest.raises(InputError, match=r"after layer 13: this encoder has layers 1\.\.12"):
        PauseConfig.parse("3:0.2,13:0.2").counts(1024, depth=12)
    assert PauseConfig.parse("12:0.5").counts(10, depth=12) == {12: 5}


def test_paper_group_is_expanded_and_repeats_are_dropped():
    assert parse_pauses(["none", "@paper", "5:0.6"]) == [NO_PAUSE, *PAPER_CONFIGS]
    assert parse_pauses("@paper") == list(PAPER_CONFIGS)


def test_other_groups_are_refused():
    with pytest.raises(InputError, match="unknown group of pause configurations '@all'"):
        parse_pauses(["@all"])


def test_random_pause_draws_one_layer_and_ratio_in_range():
    pauses = [RandomPause().draw(step) for step in range(2000)]
    layers, ratios = zip(*(pause.steps[0] for pause in pauses), strict=True)
    assert all(len(pause.steps) == 1 for pause in pauses)
    assert set(layers) == {3, 4, 5, 6, 7, 8, 9}
    assert min(np.bincount(layers)[3:]) > 2000 / 7 * 0.75
    assert min(ratios) >= 0.2 and max(ratios) <= 0.8
    # Uniform: the mean of 2000 draws has a standard error of 0.6 / sqrt(12 * 2000) = 0.004.
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.02)
    assert np.std(ratios) == pytest.approx(0.6 / np.sqrt(12), abs=0.02)


def test_random_pause_is_a_function_of_seed_and_step():
    draws = [RandomPause(seed=3).draw(step) for step in range(50)]
    assert [RandomPause(seed=3).draw(step) for step in reversed(range(50))] == draws[::-1]
    assert RandomPause(seed=4).draw(0) != draws[0]
    assert len(set(draws)) == 50


def test_random_pause_is_the_same_in_every_process():
    code = "from paumer.pause import RandomPause; print(RandomPause(seed=7).draw(123))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(RandomPause(seed=7).draw(123))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, "count from 1"),
        ({"layers": (0, 3)}, "count from 1"),
        ({"ratios": (0.8, 0.2)}, "0 <= low <= high < 1"),
        ({"ratios": (0.2, 1.0)}, "0 <= low <= high < 1"),
        ({"ratios": (float("nan"), 0.5)}, "0 <= low <= high < 1"),
    ],
)
def test_impossible_random_pauses_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RandomPause(**options)
