from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference_pausing import entropies

from paumer.errors import InputError
from paumer.model import criterion
from paumer.model.criterion import CRITERIA, CRITERION_NAMES, check_criterion, entropy, margin, max_prob, random_scores

CPU = torch.device("cpu")


def random_logits(num_classes=19, scale=3.0):
    return scale * torch.randn(2, 50, num_classes, generator=torch.Generator().manual_seed(num_classes))


def numpy_softmax(logits):
    z = np.asarray(logits, dtype=np.float64)
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 19, 150])
@pytest.mark.parametrize("scale", [0.01, 3.0, 15.0])
def test_entropy_equals_float64_numpy(num_classes, scale):
    logits = random_logits(num_classes, scale)
    np.testing.assert_allclose(entropy(logits), entropies(logits), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_entropy_of_uniform_logits_is_ln_k(num_classes):
    assert entropy(torch.full((1, 1, num_classes), 7.0)).item() == pytest.approx(math.log(num_classes), rel=1e-6)


def test_entropy_of_certainty_is_zero_however_large_the_logits():
    logits = torch.tensor([[[1e4, 0.0, -1e4], [-3e4, -3e4, 3e4]]])
    assert entropy(logits).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_logits_are_computed_in_float32(dtype):
    logits = random_logits(150).to(dtype)
    for score in CRITERIA.values():
        assert torch.equal(score(logits), score(logits.float()))


def test_max_prob_equals_numpy():
    logits = random_logits()
    np.testing.assert_allclose(max_prob(logits), 1 - numpy_softmax(logits).max(-1), atol=1e-6)


def test_margin_equals_numpy():
    logits = random_logits()
    p = np.sort(numpy_softmax(logits), axis=-1)
    np.testing.assert_allclose(margin(logits), 1 - (p[..., -1] - p[..., -2]), atol=1e-6)


@pytest.mark.parametrize("name", CRITERIA)
def test_the_surer_patch_scores_lower(name):
    sure, unsure = torch.tensor([5.0, 0.0, -1.0]), torch.tensor([1.0, 0.9, -1.0])
    scores = CRITERIA[name](torch.stack([sure, unsure])[None])
    assert scores[0, 0] < scores[0, 1]


def test_random_scores_do_not_depend_on_batch_mates():
    lengths = (30, 12, 5)
    batch = random_scores(lengths, [4, 9, 2], layer=3, device=CPU)
    for row, length, seed in zip(batch.split(lengths), lengths, [4, 9, 2], strict=True):
        assert torch.equal(row, random_scores([length], [seed], layer=3, device=CPU))


def test_random_scores_differ_by_seed_and_layer():
    rows = [random_scores([30], [seed], layer, CPU) for seed in range(5) for layer in range(1, 25)]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_random_scores_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    random_scores([30, 30], [1, 2], 3, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_criterion_gets_a_hint():
    with pytest.raises(InputError, match="unknown criterion 'entorpy': did you mean 'entropy'"):
        check_criterion("entorpy")
    assert [check_criterion(name) for name in CRITERION_NAMES] == ["entropy", "max_prob", "margin", "random"]


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_taken_in_slices_are_those_of_all_at_once(name, monkeypatch):
    logits = torch.randn(103, 7, generator=torch.Generator().manual_seed(0))
    sizes = []
    score = CRITERIA[name]
    monkeypatch.setitem(CRITERIA, name, lambda part: sizes.append(len(part)) or score(part))
    monkeypatch.setattr(criterion, "_SLICE", 70)
    assert torch.equal(criterion.score_logits(name, logits), score(logits))
    assert sizes == [10] * 10 + [3]
