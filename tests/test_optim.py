"""Optimiser groups, learning rate and weight average, against formulas written out again."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_model
from torch import nn

from paumer.errors import InputError
from paumer.optim import OPTIMIZERS, create_ema, create_optimizer, poly_lr, set_lr


def test_poly_lr_follows_the_schedule_of_mmseg():
    steps, lr, floor = 160, 1e-2, 1e-4
    expected = (1 - np.arange(steps) / steps) ** 0.9 * (lr - floor) + floor
    np.testing.assert_allclose([poly_lr(step, steps, lr, floor) for step in range(steps)], expected, rtol=1e-12)
    assert poly_lr(0, steps, lr, floor) == lr
    assert poly_lr(steps, steps, lr, floor) == floor


def test_warm_up_rises_linearly_and_then_leaves_the_schedule_alone():
    plain = [poly_lr(step, 100, 1.0, 0.0, power=0.0) for step in range(100)]
    warm = [poly_lr(step, 100, 1.0, 0.0, power=0.0, warmup_steps=4) for step in range(100)]
    np.testing.assert_allclose(warm[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert warm[4:] == plain[4:]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group_with_its_decay_and_scale(name):
    model = tiny_model()
    optimizer = create_optimizer(model, name, lr=1.0, weight_decay=0.1, momentum=0.9, decoder_lr_scale=2.0)
    set_lr(optimizer, 0.5)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(list(model.parameters()))
    for key, parameter in model.named_parameters():
        lr, decay = found[id(parameter)]
        assert lr == (0.5 if key.startswith("encoder.") else 1.0), key
        is_matrix = key.endswith(
            ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "proj_patch", "aux_head.weight")
        )
        if is_matrix:
            assert decay == 0.1, key
        if key.endswith(("bias", "pos_embed", "cls_token", "cls_emb")) or "norm" in key:
            assert decay == 0.0, key


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_sgd_follows_its_update_rule(name):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = create_optimizer(layer, name, lr=0.1, weight_decay=0.0, momentum=0.9, decoder_lr_scale=1.0)
    weight, velocity = 1.0, 0.0
    for step in range(3):
        optimizer.zero_grad()
        (layer.weight**2).sum().backward()
        optimizer.step()
        gradient = 2 * weight
        velocity = gradient if step == 0 else 0.9 * velocity + gradient
        weight -= 0.1 * (gradient + 0.9 * velocity if name == "nesterov" else velocity)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-5)


def test_an_unknown_optimizer_is_told_the_near_match():
    with pytest.raises(InputError, match="unknown optimizer 'adam': did you mean 'adamw'"):
        create_optimizer(nn.Linear(1, 1), "adam", 0.1, 0.0, 0.9, 1.0)


def test_ema_starts_at_the_first_weights_and_decays():
    layer = nn.Linear(1, 1, bias=False)
    ema = create_ema(layer, 0.75)
    expected = None
    for value in (1.0, 5.0, -3.0):
        nn.init.constant_(layer.weight, value)
        ema.update_parameters(layer)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
        assert ema.module.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_ema_decay_outside_the_unit_interval_is_refused(decay):
    with pytest.raises(InputError, match="0 turns it off"):
        create_ema(nn.Linear(1, 1), decay)
