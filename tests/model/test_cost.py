"""The closed formula against torch's counter, to the last digit, and against the paper's models by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import random_images, tiny_model
from torch import nn

from paumer.errors import InputError
from paumer.model import Segmenter, SegmenterConfig
from paumer.model.cost import count_call, count_flops, flop_formula
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig

# GMAC of one 512x512 image, two decimals: ViT-Ti and ViT-S with 150 classes (ADE20K) and 19 (Cityscapes), worked out
# apart from this code. (backbone, classes): none, then Table 1 in its order.
GMACS = {
    ("vit_tiny_patch16_384", 150): "12.64 10.56 8.72 7.18 11.03 9.60 8.40 7.42 9.42 8.25 7.33 8.85 7.68 6.84",
    ("vit_tiny_patch16_384", 19): "12.27 10.16 8.33 6.78 10.63 9.20 8.00 7.03 9.01 7.83 6.92 8.42 7.26 6.42",
    (
        "vit_small_patch16_384",
        150,
    ): "38.40 32.61 27.31 22.59 33.91 29.79 26.12 22.90 29.32 25.84 22.99 27.61 24.05 21.38",
    (
        "vit_small_patch16_384",
        19,
    ): "37.42 31.58 26.28 21.56 32.88 28.76 25.09 21.87 28.25 24.77 21.93 26.50 22.96 20.30",
}
PAUSES = (NO_PAUSE, *PAPER_CONFIGS)


def on_meta(**config) -> Segmenter:
    """A model without values, so that its size costs nothing."""
    with torch.device("meta"):
        return Segmenter(SegmenterConfig(**{"aux_head": "shared", **config})).eval()


@pytest.fixture(scope="module", params=GMACS, ids=lambda key: f"{key[0]}-{key[1]}")
def paper_model(request):
    backbone, num_classes = request.param
    return on_meta(backbone=backbone, num_classes=num_classes), GMACS[request.param].split()


def test_formula_gives_the_table_of_the_papers_models(paper_model):
    model, gmacs = paper_model
    assert [f"{flop_formula(model, pause, (512, 512)) / 2e9:.2f}" for pause in PAUSES] == gmacs


def test_formula_equals_the_counter_to_the_last_digit(paper_model):
    model, gmacs = paper_model
    # One model at all configurations, the others at one of each number of pausing layers: counting takes its time.
    for pause in PAUSES if gmacs[0] == "12.64" else PAUSES[::4]:
        assert flop_formula(model, pause, (512, 512)) == count_flops(model, pause, (512, 512)), pause


@pytest.mark.parametrize(
    "config",
    [
        {"backbone": "test_vit", "decoder": "linear"},
        {"backbone": "test_vit", "decoder_layers": 3, "num_classes": 2},
        {"backbone": "test_vit", "aux_head": "per_layer"},
        {"backbone": "test_vit3"},  # average pooling, no class token
        {"backbone": "deit_tiny_distilled_patch16_224"},  # two prefix tokens
        {"backbone": "vit_small_patch14_reg4_dinov2"},  # five prefix tokens, another patch, layer scale
        {"backbone": "vit_betwixt_patch16_reg1_gap_256"},  # another mlp ratio
        {"backbone": "vit_giant_patch14_dinov2", "decoder": "linear"},  # gated mlp (SwiGLU)
    ],
    ids=str,
)
def test_formula_equals_the_counter_for_every_kind_of_model(config):
    model = on_meta(**{"num_classes": 7, "image_size": (112, 112), **config})
    pause, image_size = PauseConfig.parse("1:0.0,2:0.3,4:0.6"), (50, 133)  # padded to whole patches
    assert flop_formula(model, pause, image_size) == count_flops(model, pause, image_size)


def test_only_an_auxiliary_head_costs_at_a_pausing_layer():
    pausing, plain = tiny_model(), tiny_model(aux_head="none")
    pause = PauseConfig.parse("2:0.5,4:0.5")  # of 16 patches 16 are scored, then 8
    more = flop_formula(pausing, pause, (64, 64)) - flop_formula(plain, pause, (64, 64))
    assert more == 2 * (16 + 8) * 64 * 5
    assert flop_formula(plain, pause, (64, 64)) == count_flops(plain, pause, (64, 64), criterion="random")
    assert flop_formula(pausing, pause, (64, 64)) == count_flops(pausing, pause, (64, 64), criterion="random")


@torch.no_grad()
def test_fused_attention_is_counted_on_the_cpu_too():
    model, pause = tiny_model(), PauseConfig.parse("2:0.5")
    assert model.encoder.blocks[0].attn.fused_attn
    assert count_call(lambda: model(random_images(1), pause)) == count_flops(model, pause, (64, 64))


@torch.no_grad()
def test_neither_weights_nor_images_change_the_count():
    pause, counts = PauseConfig.parse("1:0.3,3:0.6"), set()
    for seed in range(3):
        model = tiny_model(seed=seed)
        for parameter in model.parameters():
            parameter.mul_(10.0**seed)
        counts.add(count_call(lambda model=model, seed=seed: model(random_images(1, seed=seed), pause)))
    assert counts == {flop_formula(model, pause, (64, 64))}


def test_counting_leaves_the_model_as_it_was():
    model = tiny_model().train()
    before = copy.deepcopy(model.state_dict())
    count_flops(model, PauseConfig.parse("2:0.5"), (64, 64))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.pixel_mean.device.type == "cpu"


@pytest.mark.parametrize("cost", [flop_formula, count_flops])
def test_a_layer_that_is_not_there_is_refused(cost):
    with pytest.raises(InputError, match="layers 1..6"):
        cost(tiny_model(), PauseConfig.parse("7:0.5"), (64, 64))


def test_formula_refuses_attention_that_it_does_not_know():
    model = tiny_model()
    model.encoder.blocks[2] = nn.Linear(64, 64)
    with pytest.raises(InputError, match="softmax attention only, not that of Linear"):
        flop_formula(model, NO_PAUSE, (64, 64))
