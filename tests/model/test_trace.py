from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference_pausing import entropies
from tiny import random_images, tiny_model

from paumer.model import PauseStep, Trace
from paumer.pause import PauseConfig

# 2x3 patches: 5 and 0 pause after layer 2; of the others, 3 after layer 4.
AUX = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LATER = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
STEPS = (
    PauseStep(2, torch.arange(6), torch.arange(6.0), AUX, torch.tensor([5, 0])),
    PauseStep(4, torch.tensor([1, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4]), LATER, torch.tensor([3])),
)
TRACE = Trace((2, 3), 1, STEPS)


def test_paused_at_names_the_layer_of_each_patch():
    assert TRACE.paused_at().tolist() == [[[2, 0, 0], [4, 0, 2]]]


def test_paused_at_is_zero_everywhere_without_pausing():
    assert Trace((2, 3), 2).paused_at().tolist() == [[[0] * 3] * 2] * 2


def test_scores_are_on_the_grid_and_nan_where_paused_before():
    scores = TRACE.scores(4)[0]
    assert np.array_equal(scores, [[math.nan, np.float32(0.1), np.float32(0.2)],
                                   [np.float32(0.3), np.float32(0.4), math.nan]], equal_nan=True)  # fmt: skip
    assert TRACE.scores(2)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_entropy_is_that_of_the_auxiliary_logits_whatever_ranked():
    np.testing.assert_allclose(TRACE.entropy(2)[0].flatten(), entropies(AUX), rtol=1e-5)
    later = TRACE.entropy(4)[0].flatten()
    np.testing.assert_allclose(later[1:5], entropies(LATER), rtol=1e-5)
    assert later[[0, 5]].isnan().all()


def test_entropy_is_nan_without_an_auxiliary_head():
    step = PauseStep(2, torch.arange(6), torch.rand(6), None, torch.tensor([5, 0]))
    assert Trace((2, 3), 1, (step,)).entropy(2).isnan().all()


def test_aux_logits_keep_the_prediction_with_which_a_patch_paused():
    assert torch.equal(TRACE.aux_logits(2), AUX[None])
    later = TRACE.aux_logits(4)[0]
    for position, expected in enumerate([AUX[0], *LATER, AUX[5]]):
        assert torch.equal(later[position], expected)


def test_images_that_pause_different_numbers():
    # Two images of 1x3 patches: 2 and 3 pause after layer 1, which leaves 2 and 2; then 0 of the first.
    steps = (
        PauseStep(1, torch.arange(6), torch.arange(6.0), None, torch.tensor([2, 3])),
        PauseStep(3, torch.tensor([0, 1, 4, 5]), torch.tensor([0.1, 0.2, 0.3, 0.4]), None, torch.tensor([0])),
    )
    trace = Trace((1, 3), 2, steps)
    assert trace.paused_at().tolist() == [[[3, 0, 1]], [[1, 0, 0]]]
    assert trace.num_running(4).tolist() == [[3, 2, 2, 1], [3, 2, 2, 2]]
    assert np.array_equal(
        trace.scores(3).flatten(), np.float32([0.1, 0.2, math.nan, math.nan, 0.3, 0.4]), equal_nan=True
    )


def test_every_token_runs_without_pausing():
    assert Trace((2, 3), 2).num_running(3).tolist() == [[6] * 3] * 2


def test_layers_lists_the_steps_and_an_unknown_layer_fails():
    assert TRACE.layers == (2, 4)
    with pytest.raises(ValueError):
        TRACE.scores(3)


def test_paused_patches_of_a_model_are_its_surest():
    trace = tiny_model()(random_images(3), "1:0.4,2:0,4:0.5").trace
    assert trace.layers == (1, 2, 4)
    at = trace.paused_at()
    assert [(at == layer).sum().item() for layer in (1, 2, 4)] == [3 * 6, 0, 3 * 5]
    for layer in (1, 4):
        for paused_at, scores in zip(at, trace.entropy(layer), strict=True):
            running = (paused_at == 0) | (paused_at > layer)
            assert scores[paused_at == layer].max() <= scores[running].min()


def test_every_patch_is_counted_once():
    trace = tiny_model()(random_images(2), "1:0.4,3:0.4,5:0.4").trace
    counts = PauseConfig.parse("1:0.4,3:0.4,5:0.4").counts(16, depth=6)
    at = trace.paused_at()
    assert {layer: (at[0] == layer).sum().item() for layer in counts} == counts
    assert (at[0] == 0).sum() == 16 - sum(counts.values())
