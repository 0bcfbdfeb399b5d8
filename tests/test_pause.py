from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paumer.errors import InputError
from paumer.pause import (
    NO_PAUSE,
    PAPER_CONFIGS,
    BatchShare,
    PauseConfig,
    RandomPause,
    Threshold,
    num_to_pause,
    parse_pauses,
)

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


# --- budgets that follow the image -----------------------------------------------------------------------------------

SHARES = st.floats(0, 1, exclude_max=True)
BATCH_SHARES = st.tuples(SHARES, SHARES, SHARES).map(sorted).map(lambda three: BatchShare(three[1], three[0], three[2]))
THRESHOLDS = st.tuples(st.floats(0, allow_infinity=False, allow_nan=False), SHARES, SHARES).map(
    lambda values: Threshold(values[0], *sorted(values[1:]))
)
MIXED_STEPS = st.dictionaries(st.integers(1, 99), SHARES | BATCH_SHARES | THRESHOLDS, max_size=5)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("5:0.6@batch", ((5, BatchShare(0.6)),)),
        ("5:0.6@batch[0.1-0.95]", ((5, BatchShare(0.6, 0.1, 0.95)),)),
        ("5:0.3nats", ((5, Threshold(0.3)),)),
        ("5:0.3nats[0.1-0.8]", ((5, Threshold(0.3, 0.1, 0.8)),)),
        ("5:2nats[0.5-0.5]", ((5, Threshold(2.0, 0.5, 0.5)),)),
        ("5:1e-3nats[1e-2-5e-1]", ((5, Threshold(0.001, 0.01, 0.5)),)),  # three minus signs and a dash
        ("7:.5nats, 3:0.2 ,5:.4@batch[0-.5]", ((3, 0.2), (5, BatchShare(0.4, 0.0, 0.5)), (7, Threshold(0.5)))),
    ],
)
def test_budgets_are_written_behind_the_layer(text, steps):
    pause = PauseConfig.parse(text)
    assert pause.steps == steps
    assert pause.layers == tuple(layer for layer, _ in steps)


@settings(deadline=None)
@given(MIXED_STEPS)
def test_text_round_trip_of_budgets_and_ratios(steps):
    pause = PauseConfig(tuple(steps.items()))
    again = PauseConfig.parse(str(pause))
    assert again == pause and hash(again) == hash(pause) and str(again) == str(pause)
    assert again.steps == tuple(sorted(steps.items(), key=lambda step: step[0]))


def test_usual_bounds_are_not_printed():
    assert str(PauseConfig.parse("5:.60@batch[0-.9]")) == "5:0.6@batch"
    assert str(PauseConfig.parse("5:0.3nats[0.0-0.90]")) == "5:0.3nats"
    assert str(PauseConfig.parse("5:0.3nats[0-0.8]")) == "5:0.3nats[0.0-0.8]"


def test_numbers_of_numpy_print_and_parse_like_any_other():
    for amount in (Threshold(np.float64(0.25), 0, np.float64(0.5)), BatchShare(np.float32(0.5), np.float32(0.25))):
        pause = PauseConfig(((np.int64(5), amount),))
        assert "np" not in str(pause) and PauseConfig.parse(str(pause)) == pause


def test_what_differs_in_kind_value_or_bounds_is_another_configuration():
    texts = ["none", "5:0.6", "5:0.6@batch", "5:0.6nats", "5:0.5nats", "5:0.6@batch[0.1-0.9]", "5:0.6@batch[0.0-0.8]",
             "5:0.6nats[0.1-0.9]", "6:0.6nats", "5:0.6nats,6:0.6nats"]  # fmt: skip
    pauses = [PauseConfig.parse(text) for text in texts]
    assert len(set(pauses)) == len({str(pause) for pause in pauses}) == len(texts)
    assert {pause: text for pause, text in zip(pauses, texts, strict=True)}[
        PauseConfig(((5, Threshold(0.6, 0.1)),))
    ] == "5:0.6nats[0.1-0.9]"
    assert parse_pauses([*texts, "5:0.60@batch[0-0.9]"]) == pauses  # written otherwise, the same


def test_budgets_are_frozen():
    for amount, name in ((BatchShare(0.5), "ratio"), (Threshold(0.5), "nats")):
        with pytest.raises(FrozenInstanceError):
            setattr(amount, name, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5:0.6@batches", "cannot read '5:0.6@batches' .*'5:0.6@batch', '5:0.3nats"),
        ("5:@batch", "cannot read '5:@batch'"),
        ("5:nats", "cannot read '5:nats'"),
        ("5:0.3 nats", "cannot read '5:0.3 nats'"),
        ("5:-0.3nats", "cannot read '5:-0.3nats'"),
        ("5:nannats", "cannot read '5:nannats'"),
        ("5:infnats", "cannot read '5:infnats'"),
        ("x:0.3nats", "cannot read 'x:0.3nats'"),
        ("0.3nats", "cannot read '0.3nats'"),
        ("5:0.3nats[0.1]", "cannot read '5:0.3nats\\[0.1\\]'"),
        ("5:0.3nats[0.1,0.8]", "cannot read '5:0.3nats\\[0.1' in the pause configuration '5:0.3nats\\[0.1,0.8\\]'"),
        ("5:0.6[0.1-0.8]", "cannot read '5:0.6\\[0.1-0.8\\]'"),
        ("0:0.3nats", "after layer 0: layers count from 1"),
        ("5:0.3nats,5:0.6@batch", "layer 5 is given twice"),
        ("5:1e999nats", "an entropy of 0 nats or more, got inf"),
        ("5:0.3nats[0.8-0.1]", r"0 <= low <= high < 1, got 0\.8-0\.1: write for example '5:0\.3nats\[0\.1-0\.8\]'"),
        ("5:0.3nats[0-1]", "0 <= low <= high < 1, got 0.0-1.0"),
        ("5:0.6@batch[0.7-0.2]", r"got 0\.7-0\.2: write for example '5:0\.6@batch\[0\.1-0\.8\]'"),
        ("5:0.95@batch", r"a share of 0\.95 of the batch lies outside 0\.0-0\.9, .*write the bounds"),
        ("5:0.1@batch[0.2-0.8]", r"a share of 0\.1 of the batch lies outside 0\.2-0\.8"),
        ("5:1@batch", r"a share of 1\.0 of the batch lies outside"),
    ],
)
def test_bad_budgets_are_refused_in_one_sentence(text, message):
    with pytest.raises(InputError, match=message) as caught:
        PauseConfig.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nats", [-0.1, float("nan"), float("inf"), float("-inf")])
def test_a_threshold_is_an_entropy(nats):
    with pytest.raises(InputError, match=f"an entropy of 0 nats or more, got {nats}"):
        Threshold(nats)


@pytest.mark.parametrize("bounds", [(-0.1, 0.5), (0.5, 0.4), (0.0, 1.0), (float("nan"), 0.5), (0.0, float("nan"))])
def test_bounds_are_shares_that_leave_a_token(bounds):
    for make in (BatchShare, Threshold):
        with pytest.raises(InputError, match="0 <= low <= high < 1"):
            make(0.3, *bounds)


@pytest.mark.parametrize("share", [0.05, 0.85, -0.1, 1.0, float("nan")])
def test_a_share_of_the_batch_lies_within_its_bounds(share):
    with pytest.raises(InputError, match=r"lies outside 0\.1-0\.8"):
        BatchShare(share, 0.1, 0.8)


@pytest.mark.parametrize(
    ("text", "adaptive", "on_batch", "entropy"),
    [
        ("none", False, False, False),
        ("3:0.4,5:0.4", False, False, False),
        ("5:0", False, False, False),
        ("5:0.6@batch", True, True, False),
        ("5:0.3nats", True, False, True),
        ("3:0.4,5:0.3nats", True, False, True),
        ("3:0.3nats,5:0.5@batch", True, True, True),
    ],
)
def test_a_configuration_knows_what_it_depends_on(text, adaptive, on_batch, entropy):
    pause = PauseConfig.parse(text)
    assert (pause.is_adaptive, pause.depends_on_batch) == (adaptive, on_batch)
    pause.check_criterion("entropy")
    if not entropy:
        pause.check_criterion("margin")
        return
    with pytest.raises(InputError, match=r"a threshold in nats: take the criterion 'entropy' in place of 'margin'"):
        pause.check_criterion("margin")


@pytest.mark.parametrize("text", ["12:0.5", "12:0.5@batch", "12:0.5nats", "2:0.1,12:0.5nats"])
def test_the_depth_is_checked_whatever_pauses(text):
    pause = PauseConfig.parse(text)
    pause.check_depth(12)
    with pytest.raises(InputError, match=r"after layer 12: this encoder has layers 1\.\.11"):
        pause.check_depth(11)


@pytest.mark.parametrize("text", ["5:0.5@batch", "5:0.5nats", "3:0.4,5:0.5nats"])
def test_numbers_that_follow_the_image_are_not_known_ahead(text):
    pause = PauseConfig.parse(text)
    for number in (pause.counts, pause.num_running):
        with pytest.raises(InputError, match="follows the image: only a run can tell"):
            number(1024, depth=12)
        with pytest.raises(InputError, match=r"layers 1\.\.4"):  # what is wrong in any case comes first
            number(1024, depth=4)


def test_counts_are_known_up_to_the_first_budget():
    counts = PauseConfig.parse("2:0.5,4:0.4,6:0.1nats,8:0.5").counts_ahead(101)
    assert counts == {2: 50, 4: 20}
    assert PauseConfig.parse("1:0.5@batch,4:0.5").counts_ahead(101) == {}
    assert NO_PAUSE.counts_ahead(101) == {}


@settings(deadline=None)
@given(STEPS, st.integers(1, 5000))
def test_counts_ahead_of_ratios_alone_are_all_counts(steps, num_tokens):
    pause = PauseConfig(tuple(steps.items()))
    assert pause.counts_ahead(num_tokens) == pause.counts(num_tokens, depth=99)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 5000))
def test_a_share_is_rounded_down_in_decimal_and_leaves_a_token(thousandths, num_running):
    exact = int(Fraction(thousandths, 1000) * num_running)
    assert num_to_pause(thousandths / 1000, num_running) == min(exact, num_running - 1)


# --- random pauses of training ---------------------------------------------------------------------------------------


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
