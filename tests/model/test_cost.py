"""The closed formula against torch's counter, to the last digit, and against the paper's models by hand."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tiny import random_images, tiny_model
from torch import nn

from paumer.errors import InputError
from paumer.model import Segmenter, SegmenterConfig
from paumer.model.cost import count_call, count_flops, flop_formula, flops_of_trace
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


# --- work that follows the image -------------------------------------------------------------------------------------


def mixed_images() -> torch.Tensor:
    """A busy pattern, of which nothing is left in the first image, a half in the second, and all of it in the last."""
    images = random_images(1, 16, 16).repeat(4, 1, 4, 4)
    for image, rows in zip(images, (64, 32, 16, 0), strict=True):
        image[:, :rows] = 128
    return images


def knowing_grey(model: Segmenter) -> Segmenter:
    """Its auxiliary head is sure of grey patches and unsure of busy ones."""
    with torch.no_grad():
        model.encoder.pos_embed.zero_()  # so that only the image counts
        outputs = []
        hook = model.encoder.blocks[1].register_forward_hook(lambda *call: outputs.append(call[2][:, 1:]))
        model(mixed_images())
        hook.remove()
        grey, busy = outputs[0][0, 0], outputs[0][3, 0]
        direction = (grey - busy) / (grey - busy).square().sum()
        model.aux_head.weight.zero_()
        model.aux_head.bias.zero_()
        model.aux_head.weight[0] = 16 * direction
        model.aux_head.bias[0] = -8 * (grey + busy) @ direction  # logit 8 for grey, -8 for busy, and 0 for the others
    return model


ADAPTIVE = ["2:0.5@batch", "2:0.5nats", "1:0.3,3:0.4@batch,4:0.5", "2:0.4@batch[0.1-0.6],4:0.6nats", "1:0.4nats,4:0.4"]


@pytest.mark.parametrize("pause", ["none", "2:0.5", "1:0.0,2:0.3,4:0.6"])
@torch.no_grad()
def test_what_a_trace_cost_is_the_formula_where_numbers_are_fixed(pause):
    for options, criterion in (({}, "entropy"), ({"aux_head": "none", "decoder": "linear"}, "random")):
        model = tiny_model(**options)
        trace = model(random_images(3, 50, 70), pause, criterion=criterion).trace
        assert flops_of_trace(model, trace) == [flop_formula(model, PauseConfig.parse(pause), (50, 70))] * 3


@pytest.mark.parametrize("pause", ADAPTIVE)
@torch.no_grad()
def test_what_a_trace_cost_is_what_torch_counted(pause):
    model, images, outputs = knowing_grey(tiny_model()), mixed_images(), []
    counted = count_call(lambda: outputs.append(model(images, pause)))
    costs = flops_of_trace(model, outputs[0].trace)
    assert len(set(costs)) > 1  # images of one batch pause different numbers
    assert sum(costs) == counted


@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "linear"},
        {"aux_head": "per_layer"},
        {"backbone": "deit_tiny_distilled_patch16_224"},
        {"preset": "mmseg"},
    ],
    ids=str,
)
@torch.no_grad()
def test_what_a_trace_cost_is_what_torch_counted_for_other_models(options):
    model, outputs = tiny_model(**options), []
    counted = count_call(lambda: outputs.append(model(random_images(3, 50, 70), "1:0.5nats,3:0.5@batch")))
    costs = flops_of_trace(model, outputs[0].trace)
    assert len(set(costs)) > 1 and sum(costs) == counted


@torch.no_grad()
def test_what_a_trace_cost_without_an_auxiliary_head():
    model, outputs = tiny_model(aux_head="none"), []
    counted = count_call(lambda: outputs.append(model(random_images(3), "2:0.5@batch", criterion="random")))
    assert sum(flops_of_trace(model, outputs[0].trace)) == counted


@pytest.mark.parametrize("pause", ["2:0.5@batch", "2:0.5nats", "1:0.2,2:0.5nats"])
@pytest.mark.parametrize("cost", [flop_formula, count_flops])
def test_a_number_that_follows_the_image_has_no_cost_ahead(cost, pause):
    with pytest.raises(InputError, match="follows the image: only a run can tell"):
        cost(tiny_model(), PauseConfig.parse(pause), (64, 64))


# In each row fewer tokens run from left to right.
FALLING = {
    "one layer": [f"2:0.{tenths}" for tenths in (0, 1, 3, 5, 8, 9)],
    "earlier": [f"{layer}:0.5" for layer in (6, 5, 4, 3, 2, 1)],
    "more layers": ["2:0.4", "2:0.4,3:0.4", "2:0.4,3:0.4,4:0.4", "2:0.4,3:0.4,4:0.4,5:0.4"],
    "share of the batch": [f"2:0.{tenths}@batch" for tenths in (1, 3, 5, 8, 9)],
    "share of the batch within bounds": [f"2:0.{tenths}@batch[0.1-0.95]" for tenths in (1, 3, 5, 8, 9)],
    "shares of the batch, twice": [f"2:0.{tenths}@batch,4:0.{tenths}@batch" for tenths in (1, 3, 5, 8, 9)],
    "threshold": [f"2:{nats}nats[0-0.99]" for nats in (0.0, 0.1, 0.4, 0.8, 1.7)],
    "threshold, twice": [f"2:{nats}nats,4:{nats}nats" for nats in (0.0, 0.1, 0.4, 0.8, 1.7)],
    "ratio, then threshold": [f"1:0.3,3:{nats}nats" for nats in (0.0, 0.5, 0.9, 1.7)],
}


@pytest.mark.parametrize("row", FALLING)
@torch.no_grad()
def test_work_falls_with_the_number_of_running_tokens(row):
    model, images = tiny_model(), random_images(4)
    counted, running = [], []
    for pause in FALLING[row]:
        outputs = []
        counted.append(count_call(lambda outputs=outputs, pause=pause: outputs.append(model(images, pause))))
        running.append(int(outputs[0].trace.num_running(model.depth).sum()))
    assert all(more > fewer for more, fewer in pairwise(running)), running
    assert all(more > less for more, less in pairwise(counted)), counted


@pytest.mark.parametrize("pause", ["2:0.5nats", "2:0.5nats,4:0.5nats", "2:0.5nats[0.1-0.8]"])
@torch.no_grad()
def test_an_easy_image_costs_less_than_a_hard_one_below_a_threshold(pause):
    model = knowing_grey(tiny_model())
    grey, half, quarter, noise = (count_call(lambda i=i: model(mixed_images()[i : i + 1], pause)) for i in range(4))
    assert grey < half < quarter < noise <= flop_formula(model, PauseConfig.parse("2:0,4:0"), (64, 64))
    fixed = {count_call(lambda i=i: model(mixed_images()[i : i + 1], "2:0.5")) for i in range(4)}
    assert len(fixed) == 1  # which is what a ratio cannot do


@torch.no_grad()
def test_an_image_costs_the_same_alone_and_among_others_below_a_threshold():
    model, images, pause = knowing_grey(tiny_model()), mixed_images(), "2:0.5nats,4:0.3nats"
    alone = [count_call(lambda i=i: model(images[i : i + 1], pause)) for i in range(4)]
    assert count_call(lambda: model(images, pause)) == sum(alone)


def linear_work(model: Segmenter, images: torch.Tensor, pause: str) -> int:
    """Multiplications of all linear layers: rows times weights."""
    work, hooks = [], []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            count = lambda layer, x, _: work.append(x[0].numel() // x[0].shape[-1] * layer.weight.numel())  # noqa: E731
            hooks.append(module.register_forward_hook(count))
    model(images, pause)
    for hook in hooks:
        hook.remove()
    return sum(work)


@pytest.mark.parametrize("pause", ["2:0.5@batch", "2:0.3@batch[0.1-0.8],4:0.6@batch"])
@torch.no_grad()
def test_linear_layers_do_the_same_work_on_every_batch_at_a_share_of_it(pause):
    model = knowing_grey(tiny_model())
    batches = [mixed_images(), random_images(4, seed=5), torch.cat([mixed_images()[:1], random_images(3, seed=6)])]
    spreads = {tuple(model(images, pause).trace.num_running(6)[:, 2].tolist()) for images in batches}
    assert len(spreads) == 3  # though every batch spreads it over its images in its own way
    (work,) = {linear_work(model, images, pause) for images in batches}
    assert work < linear_work(model, mixed_images(), "none")


@torch.no_grad()
def test_linear_layers_work_as_much_at_a_share_of_the_batch_as_at_that_ratio():
    model = tiny_model()
    for share in (0.25, 0.5, 0.75):  # of 16 patches without remainder
        work = [linear_work(model, random_images(4), f"2:{share}{budget}") for budget in ("", "@batch")]
        assert work[0] == work[1]
