from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_pausing import bilinear, pixel_cross_entropy
from tiny import random_images, tiny_model

from paumer.loss import cross_entropy, segmentation_loss

WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])


def random_target(batch=2, height=64, width=64, seed=5, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 5, (batch, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return target.to(torch.uint8)


def random_logits(batch=2, height=7, width=9):
    return 3 * torch.randn(batch, 5, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("average", ["valid", "all"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_equals_numpy(average, weight):
    logits, target = random_logits(), random_target(2, 7, 9)
    expected = pixel_cross_entropy(logits, target, weight=weight, average=average)
    assert cross_entropy(logits, target, weight=weight, average=average).item() == pytest.approx(expected, rel=1e-5)


def test_ignored_pixels_count_for_nothing():
    logits, target = random_logits(), random_target(2, 7, 9)
    before = cross_entropy(logits, target)
    logits = logits.clone().requires_grad_()
    ignored = (target == 255)[:, None].expand_as(logits)
    changed = torch.where(ignored, 50 * torch.randn(logits.shape), logits)
    assert cross_entropy(changed, target) == before
    cross_entropy(logits, target).backward()
    assert not logits.grad[ignored].any() and logits.grad[~ignored].all()


def test_another_ignore_index_is_honoured():
    logits, target = random_logits(), random_target(2, 7, 9)
    zero = torch.where(target == 255, 0, target)
    expected = pixel_cross_entropy(logits, zero, ignore=0)
    assert cross_entropy(logits, zero, ignore_index=0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("average", ["valid", "all"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_batch_without_a_labelled_pixel_gives_zero_and_no_gradient(average, weight):
    logits = random_logits().requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 7, 9), 255), weight=weight, average=average)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_half_precision_logits_are_summed_in_float32():
    logits = random_logits(2, 100, 100).half()
    target = random_target(2, 100, 100)
    assert cross_entropy(logits, target) == cross_entropy(logits.float(), target)


def every_patch(steps, num_tokens):
    """The latest prediction of each patch, by hand: (B, N, C)."""
    logits = np.full((len(steps[0].index), 5), np.nan)
    for step in steps:
        for i, position in enumerate(step.index.tolist()):
            logits[position] = step.aux_logits[i].tolist()
    return logits.reshape(-1, num_tokens, 5)


@pytest.mark.parametrize(("weight", "average"), [(None, "valid"), (WEIGHT, "all")])
@torch.no_grad()
def test_total_is_eq_3_over_all_patches(weight, average):
    model, target = tiny_model(), random_target(2, 48, 60)
    output = model(random_images(2, 48, 60), "1:0.5,3:0.5")
    loss = segmentation_loss(model, output, target, aux_weight=0.25, weight=weight, average=average)
    main = pixel_cross_entropy(output.logits, target, weight=weight, average=average)
    aux = 0.0
    for i in (1, 2):
        patches = every_patch(output.trace.steps[:i], 12)
        assert not np.isnan(patches).any()
        maps = bilinear(patches.transpose(0, 2, 1).reshape(2, 5, 3, 4), 16)[..., :48, :60]
        aux += pixel_cross_entropy(maps, target, weight=weight, average=average)
    assert loss.main.item() == pytest.approx(main, rel=1e-5)
    assert loss.aux.item() == pytest.approx(aux, rel=1e-5)
    assert loss.total.item() == pytest.approx(main + 0.25 * aux, rel=1e-5)


@torch.no_grad()
def test_lambda_is_a_tenth_unless_given():
    model = tiny_model()
    loss = segmentation_loss(model, model(random_images(), "2:0.4"), random_target())
    assert loss.total.item() == pytest.approx(loss.main.item() + 0.1 * loss.aux.item(), rel=1e-6)
    assert loss.aux > 0


@pytest.mark.parametrize(("aux_head", "pause"), [("shared", "none"), ("none", "2:0.5")])
@torch.no_grad()
def test_no_auxiliary_loss_without_a_pause_or_a_head(aux_head, pause):
    model = tiny_model(aux_head=aux_head)
    loss = segmentation_loss(model, model(random_images(), pause, criterion="random"), random_target())
    assert loss.aux == 0 and loss.total == loss.main


def test_auxiliary_loss_teaches_the_encoder_up_to_its_layer_and_the_head():
    model = tiny_model()
    output = model(random_images(), "3:0.4")
    segmentation_loss(model, output, random_target()).aux.backward()
    assert model.aux_head.weight.grad.abs().max() > 0
    for layer, block in enumerate(model.encoder.blocks, start=1):
        assert (block.mlp.fc1.weight.grad is not None) == (layer <= 3)


def test_paused_patches_teach_the_auxiliary_head():
    # Labels on paused patches only: a loss over the survivors would be nought.
    model = tiny_model()
    output = model(random_images(), "3:0.4")
    paused = (output.trace.paused_at() == 3).repeat_interleave(16, 1).repeat_interleave(16, 2)
    target = torch.where(paused, random_target(ignored=0), 255)
    loss = segmentation_loss(model, output, target)
    loss.aux.backward()
    assert loss.aux > 0 and model.aux_head.weight.grad.abs().max() > 0


@torch.no_grad()
def test_per_layer_heads_have_their_own_losses():
    model = tiny_model(aux_head="per_layer")
    for key, head in model.aux_head.items():
        if key not in ("1", "3"):
            head.weight.fill_(float("nan"))
    assert segmentation_loss(model, model(random_images(), "1:0.2,3:0.2"), random_target()).aux.isfinite()
