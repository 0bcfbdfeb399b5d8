from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from reference_pausing import bilinear, entropies
from reference_segmenter import rstrudel_logits
from tiny import DEPTH, random_images, tiny_model

from paumer.errors import InputError
from paumer.model import Segmenter, SegmenterConfig, create_model
from paumer.pause import NO_PAUSE, PauseConfig

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PAUSE = "2:0.4,4:0.4"


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def same(a, b):
    return torch.equal(a.logits, b.logits) and torch.equal(a.trace.paused_at(), b.trace.paused_at())


# -- images in ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_uint8_equals_float_divided_by_255(model):
    images = random_images()
    assert same(model(images, PAUSE), model(images.float() / 255, PAUSE))


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("vit_tiny_patch16_224", HALF, HALF),
        ("vit_tiny_patch16_384.augreg_in21k_ft_in1k", HALF, HALF),
        ("deit_tiny_patch16_224", *IMAGENET),
        ("deit_tiny_distilled_patch16_224.fb_in1k", *IMAGENET),
        ("vit_small_patch14_dinov2", *IMAGENET),
    ],
)
def test_pixels_are_normalised_as_the_weights_of_the_backbone_expect(backbone, mean, std, monkeypatch):
    # Only the statistics matter here: the weights of the five backbones need not be drawn.
    encoder = tiny_model().encoder
    monkeypatch.setattr("paumer.model.segmenter.create_vit", lambda *_: encoder)
    model = create_model(backbone, num_classes=3, decoder="linear")
    image = random_images(1)
    expected = (image.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(model.normalize(image), expected, atol=1e-6)
    assert (model.config.mean, model.config.std) == (mean, std)


@torch.no_grad()
def test_mean_and_std_of_the_configuration_reach_the_encoder():
    mean, std = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
    given, plain = tiny_model(mean=mean, std=std), tiny_model(mean=(0.0,) * 3, std=(1.0,) * 3)
    images = random_images().float() / 255
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(given(images).logits, plain(shifted).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (50, 70), (1, 33), (128, 48)])
@torch.no_grad()
def test_logits_have_the_size_of_any_image(model, size):
    output = model(random_images(1, *size), "1:0.5")
    assert output.logits.shape == (1, 5, *size)
    assert output.logits.isfinite().all()
    assert output.trace.grid == (-(-size[0] // 16), -(-size[1] // 16))


@torch.no_grad()
def test_without_upsampling_the_logits_stay_on_the_patch_grid(model):
    images = random_images(2, 50, 70)
    full, small = model(images, PAUSE), model(images, PAUSE, upsample=False)
    assert small.logits.shape == (2, 5, 4, 5)
    np.testing.assert_allclose(full.logits, bilinear(small.logits, 16)[..., :50, :70], atol=1e-5)
    assert torch.equal(full.trace.paused_at(), small.trace.paused_at())


@torch.no_grad()
def test_padding_is_the_mean_colour_at_the_right_and_the_bottom(model):
    image = random_images(1, 50, 70).float() / 255
    padded = torch.full((1, 3, 64, 80), 0.5)
    padded[..., :50, :70] = image
    small, large = model(image, PAUSE), model(padded, PAUSE)
    assert torch.equal(small.logits, large.logits[..., :50, :70])
    assert torch.equal(small.trace.paused_at(), large.trace.paused_at())


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(model):
    images = random_images(4, 48, 80)
    for criterion in ("entropy", "max_prob", "margin", "random"):
        whole = model(images, PAUSE, criterion=criterion, seeds=[3, 1, 4, 1])
        for i, seed in enumerate([3, 1, 4, 1]):
            one = model(images[i : i + 1], PAUSE, criterion=criterion, seeds=[seed])
            assert torch.equal(one.trace.paused_at()[0], whole.trace.paused_at()[i])
            torch.testing.assert_close(one.logits[0], whole.logits[i], atol=1e-4, rtol=1e-4)


# -- logits out --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_equals_segmenter_when_nothing_pauses():
    model = tiny_model(backbone="vit_tiny_patch16_224", preset="segmenter", aux_head="none")
    images = random_images(2, 50, 90)
    expected = rstrudel_logits(model.state_dict(), images.float() / 255)
    torch.testing.assert_close(model(images).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_ratio_of_zero_changes_no_bit(model):
    images = random_images()
    assert torch.equal(model(images, "1:0,3:0,6:0").logits, model(images).logits)


@torch.no_grad()
def test_upsampling_is_bilinear_between_patch_centres(model):
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(model.upsample(maps, (60, 77)), bilinear(maps, 16)[..., :60, :77], atol=1e-5)


@torch.no_grad()
def test_logits_of_mmseg_are_stretched_instead_of_cropped():
    model = tiny_model(preset="mmseg")
    line = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 1, 3)
    # 3 patches over 40 pixels: pixel i lies at (i + 0.5) * 3 / 40 - 0.5 of the patch centres.
    expected = np.interp((np.arange(40) + 0.5) * 3 / 40 - 0.5, [0, 1, 2], [0, 1, 2])
    np.testing.assert_allclose(model.upsample(line, (16, 40))[0, 0, 5], expected, atol=1e-6)


# -- the class of each pixel -------------------------------------------------------------------------------------------

PAUSES = ["none", PAUSE, "2:0.5@batch", "2:0.5nats[0.1-0.8],4:0.3"]


def assert_argmax_of(labels, logits):
    """Equal, but where the two best classes are as good as equally likely."""
    best, second = logits.topk(2, dim=1).values.unbind(1)
    assert labels.shape == best.shape and labels.dtype == torch.int64
    assert (logits.gather(1, labels[:, None])[:, 0] >= best - 1e-4).all()
    clear = best - second > 1e-4
    assert clear.float().mean() > 0.99
    assert torch.equal(labels[clear], logits.argmax(dim=1)[clear])


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("preset", ["timm", "segmenter", "mmseg"])
@torch.no_grad()
def test_segments_as_the_argmax_of_its_logits(preset, pause):
    model = tiny_model(preset=preset)
    for size in ((64, 64), (50, 70), (33, 17), (1, 40)):
        images = random_images(3, *size)
        output, segmentation = model(images, pause), model.segment(images, pause)
        assert len(output.logits.argmax(dim=1).unique()) > 1
        assert_argmax_of(segmentation.labels, output.logits)
        assert_same_steps(segmentation.trace, output.trace)


def assert_same_steps(a, b):
    assert (a.grid, a.batch_size, a.layers) == (b.grid, b.batch_size, b.layers)
    for one, other in zip(a.steps, b.steps, strict=True):
        for name in ("index", "scores", "aux_logits", "paused"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@torch.no_grad()
def test_labels_of_mmseg_are_stretched_and_those_of_segmenter_cropped():
    images = random_images(1, 50, 70)
    grids, labels = [], []
    for preset in ("mmseg", "segmenter"):
        model = tiny_model(preset=preset)
        grids.append(model(images, upsample=False).logits[0])
        labels.append(model.segment(images).labels[0])
    stretched = [
        np.interp((np.arange(n) + 0.5) * g / n - 0.5, np.arange(g), np.arange(g)) for n, g in ((50, 4), (70, 5))
    ]
    cropped = [np.clip((np.arange(n) + 0.5) / 16 - 0.5, 0, g - 1) for n, g in ((50, 4), (70, 5))]
    for grid, found, (rows, columns) in zip(grids, labels, (stretched, cropped), strict=True):
        expected = _sample(grid.double().numpy(), rows, columns)
        best, second = np.sort(expected, axis=0)[:-3:-1]
        clear = best - second > 1e-4
        np.testing.assert_array_equal(found.numpy()[clear], expected.argmax(axis=0)[clear])


def _sample(maps, rows, columns):
    """(C, h, w) at fractional rows and columns, bilinear -> (C, H, W)"""
    for axis, places in ((1, rows), (2, columns)):
        before = np.minimum(np.floor(places).astype(int), maps.shape[axis] - 1)
        after = np.minimum(before + 1, maps.shape[axis] - 1)
        weight = (places - before).reshape([-1 if a == axis else 1 for a in range(3)])
        maps = maps.take(before, axis) * (1 - weight) + maps.take(after, axis) * weight
    return maps


@torch.no_grad()
def test_segmenting_takes_criteria_and_seeds_as_a_forward_pass_does(model):
    images = random_images(2, 50, 70)
    for criterion in ("max_prob", "margin", "random"):
        options = {"criterion": criterion, "seeds": [7, 8]}
        output, segmentation = model(images, PAUSE, **options), model.segment(images, PAUSE, **options)
        assert_argmax_of(segmentation.labels, output.logits)
        assert torch.equal(segmentation.trace.paused_at(), output.trace.paused_at())
    plain = model.segment(images, PAUSE, criterion="random")
    assert not torch.equal(plain.trace.paused_at(), segmentation.trace.paused_at())  # the place in the batch as a seed


@torch.no_grad()
def test_segments_in_half_precision():
    model = tiny_model().bfloat16()
    images = random_images(2, 50, 70)
    output, segmentation = model(images, PAUSE, upsample=False), model.segment(images, PAUSE)
    logits = torch.from_numpy(bilinear(output.logits.float(), 16)[..., :50, :70])
    assert_argmax_of(segmentation.labels, logits)


# -- pausing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["entropy", "max_prob", "margin"])
@torch.no_grad()
def test_the_surest_patches_pause(model, criterion):
    step = model(random_images(3), "3:0.4", criterion=criterion).trace.steps[0]
    logits = step.aux_logits.unflatten(0, (3, 16))
    p = np.sort(np.asarray(logits.double().softmax(-1)), axis=-1)
    uncertainty = {"entropy": entropies(logits), "max_prob": 1 - p[..., -1],
                   "margin": 1 - p[..., -1] + p[..., -2]}[criterion]  # fmt: skip
    for b in range(3):
        assert sorted((step.paused[6 * b : 6 * b + 6] - 16 * b).tolist()) == sorted(np.argsort(uncertainty[b])[:6])


@torch.no_grad()
def test_ties_pause_the_right_number():
    model = tiny_model()
    model.aux_head.weight.zero_()
    trace = model(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8), "2:0.4,3:0.5").trace
    assert trace.entropy(2).flatten().tolist() == pytest.approx([np.log(5)] * 32)
    for image in trace.paused_at():
        assert torch.bincount(image.flatten(), minlength=4).tolist() == [5, 0, 6, 5]


@torch.no_grad()
def test_the_auxiliary_head_sees_raw_block_outputs(model):
    made = []
    hook = model.encoder.blocks[2].register_forward_hook(lambda _, x, y: made.append(y[:, 1:]))
    step = model(random_images(), "3:0.5").trace.steps[0]
    hook.remove()
    expected = np.einsum("bnd,cd->bnc", made[0], model.aux_head.weight).reshape(-1, 5) + model.aux_head.bias.numpy()
    np.testing.assert_allclose(step.aux_logits, expected, atol=1e-4)


@torch.no_grad()
def test_each_layer_has_its_own_head_if_asked_for():
    model = tiny_model(aux_head="per_layer")
    assert list(model.aux_head) == [str(layer) for layer in range(1, DEPTH + 1)]
    before = model(random_images(), PAUSE).trace
    model.aux_head["4"].bias.add_(torch.tensor([9.0, 0, 0, 0, 0]))
    after = model(random_images(), PAUSE).trace
    assert torch.equal(before.steps[0].aux_logits, after.steps[0].aux_logits)
    torch.testing.assert_close(
        after.steps[1].aux_logits - before.steps[1].aux_logits,
        torch.tensor([9.0, 0, 0, 0, 0]).expand(20, 5), atol=1e-4, rtol=0,
    )  # fmt: skip
    for head in ("1", "3", "5", "6"):
        torch.nn.init.constant_(model.aux_head[head].weight, float("nan"))
    assert same_trace(model(random_images(), PAUSE).trace, after)


def same_trace(a, b):
    return torch.equal(a.paused_at(), b.paused_at())


@torch.no_grad()
def test_random_pausing_needs_no_auxiliary_head():
    model = tiny_model(aux_head="none")
    output = model(random_images(), PAUSE, criterion="random", seeds=[1, 2])
    assert (output.trace.paused_at() == 2).sum() == 2 * 6
    assert output.trace.steps[0].aux_logits is None
    other = model(random_images(), PAUSE, criterion="random", seeds=[1, 3])
    assert torch.equal(output.trace.paused_at()[0], other.trace.paused_at()[0])
    assert not torch.equal(output.trace.paused_at()[1], other.trace.paused_at()[1])


def test_ranking_without_an_auxiliary_head_is_refused():
    with pytest.raises(InputError, match=r"'entropy' needs an auxiliary head.*use the criterion 'random'"):
        tiny_model(aux_head="none")(random_images(), "3:0.4")


def test_a_layer_beyond_the_encoder_is_refused(model):
    with pytest.raises(InputError, match=r"after layer 7: this encoder has layers 1\.\.6"):
        model(random_images(), "7:0.1")


@pytest.mark.parametrize("criterion", ["random", "max_prob", "margin"])
@pytest.mark.parametrize("pause", ["3:0.4nats", "2:0.5,3:0.4nats"])
def test_a_threshold_in_nats_is_for_entropies_only(model, criterion, pause):
    for call in (model, model.segment):
        with pytest.raises(InputError, match=f"'{pause}' compares entropies .*'entropy' in place of '{criterion}'"):
            call(random_images(), pause, criterion=criterion)


def test_what_a_forward_pass_refuses_is_not_segmented(model):
    with pytest.raises(InputError, match=r"after layer 7: this encoder has layers 1\.\.6"):
        model.segment(random_images(), "7:0.1@batch")
    with pytest.raises(InputError, match="unknown criterion 'margins'"):
        model.segment(random_images(), criterion="margins")
    for pause in ("3:0.4@batch", "3:0.4nats"):
        with pytest.raises(InputError, match="'entropy' needs an auxiliary head"):
            tiny_model(aux_head="none").segment(random_images(), pause)


@torch.no_grad()
def test_a_share_of_the_batch_may_be_drawn_at_random(model):
    output = model(random_images(3), "2:0.5@batch", criterion="random", seeds=[1, 2, 3])
    assert (output.trace.paused_at() == 2).sum() == 24
    scores = torch.cat([torch.rand(16, generator=torch.Generator().manual_seed(seed * 1009 + 2)) for seed in (1, 2, 3)])
    assert torch.equal(output.trace.paused_at().flatten() == 2, scores <= scores.sort().values[23])


def test_an_unknown_criterion_is_refused_even_when_nothing_pauses(model):
    with pytest.raises(InputError, match="unknown criterion 'margins': did you mean 'margin'"):
        model(random_images(), criterion="margins")


# -- callers do not notice each other ----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_call_in_the_middle_of_another_does_not_disturb_it(model):
    images, others = random_images(seed=1), random_images(3, 32, 48, seed=2)
    alone, other_alone = model(images, PAUSE), model(others, "1:0.7", criterion="random")
    between = []

    def call_other(*_):
        if not between:
            between.append(None)
            between[0] = model(others, "1:0.7", criterion="random")

    hook = model.encoder.blocks[1].register_forward_hook(call_other)
    together = model(images, PAUSE)
    hook.remove()
    assert same(together, alone)
    assert same(between[0], other_alone)


@torch.no_grad()
def test_a_threshold_does_not_notice_batch_mates_and_a_share_of_the_batch_does(model):
    images = random_images(4, 50, 70)
    alone = [model(image[None], "2:0.5nats,4:0.3") for image in images]
    together = model(images, "2:0.5nats,4:0.3")
    for i, one in enumerate(alone):
        assert torch.equal(one.trace.paused_at()[0], together.trace.paused_at()[i])
        torch.testing.assert_close(one.logits[0], together.logits[i], atol=1e-4, rtol=1e-4)
    assert len({int((one.trace.paused_at() == 2).sum()) for one in alone}) > 1
    shared = model(images, "2:0.5@batch").trace.paused_at().flatten(1).bool().sum(dim=1)
    assert shared.sum() == 40 and (shared != 10).any()


@torch.no_grad()
def test_a_call_leaves_nothing_for_the_next(model):
    images = random_images()
    plain, state = model(images), {key: value.clone() for key, value in model.state_dict().items()}
    attributes = set(vars(model))
    model(images, PAUSE)
    assert same(model(images), plain)
    assert set(vars(model)) == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_threads_with_different_configurations_get_what_they_asked_for(model):
    images = random_images(1)

    @torch.no_grad()
    def call(pause):
        return model(images, pause)

    pauses = ["none", "1:0.5", "3:0.3,5:0.3", "6:0.9", "2:0.5nats", "2:0.5@batch"] * 3
    alone = {pause: call(pause) for pause in set(pauses)}
    with ThreadPoolExecutor(4) as pool:
        for pause, output in zip(pauses, pool.map(call, pauses), strict=True):
            assert same(output, alone[pause]), pause


# -- configuration -----------------------------------------------------------------------------------------------------


def test_config_survives_json_lists():
    config = SegmenterConfig(num_classes=2, names=("a", "b"), palette=((1, 2, 3), (4, 5, 6)), crop_size=(64, 64))
    as_lists = {key: _lists(value) for key, value in config.to_dict().items()}
    assert SegmenterConfig.from_dict(as_lists) == config
    assert hash(SegmenterConfig.from_dict(as_lists)) == hash(config)


def _lists(value):
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "masked"}, "unknown decoder 'masked': did you mean 'mask'"),
        ({"aux_head": "share"}, "unknown aux_head 'share': did you mean 'shared'"),
        ({"preset": "mmsegmentation"}, "unknown preset 'mmsegmentation'"),
        ({"num_classes": 1}, "at least 2 classes, got 1"),
        ({"num_classes": 3, "names": ("a", "b")}, "2 class names for 3 classes"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SegmenterConfig(**options)


def test_unknown_keys_get_a_hint():
    with pytest.raises(InputError, match=r"unknown key 'num_class' in config.json: did you mean 'num_classes'"):
        SegmenterConfig.from_dict({"num_class": 3}, origin="config.json")
    with pytest.raises(InputError, match="unknown option 'image_sizes': did you mean 'image_size'"):
        create_model("test_vit", num_classes=3, image_sizes=(64, 64))


def test_grid_counts_the_padding(model):
    assert model.grid_of(64, 64) == (4, 4)
    assert model.grid_of(65, 1) == (5, 1)
    assert model.patch_size == (16, 16) and model.depth == DEPTH


@torch.no_grad()
def test_linear_decoder_scores_each_patch_on_its_own():
    model = tiny_model(decoder="linear")
    logits = model(random_images(), NO_PAUSE).logits
    tokens = model.encoder.forward_features(model.normalize(random_images()))[:, 1:]
    maps = np.einsum("bnd,cd->bcn", tokens, model.decoder.head.weight).reshape(2, 5, 4, 4)
    np.testing.assert_allclose(logits, bilinear(maps, 16), atol=1e-4)


def test_weights_of_another_architecture_are_refused_by_name():
    from paumer.model import load_strictly

    state = tiny_model(num_classes=7).state_dict()
    del state["encoder.cls_token"]
    with pytest.raises(InputError, match=r"in w\.pth are of another architecture: missing encoder\.cls_token, .*more$"):
        load_strictly(tiny_model(), state, "w.pth")


def test_same_seed_same_weights_and_pause_objects_equal_texts(model):
    assert isinstance(model, Segmenter)
    with torch.no_grad():
        assert same(model(random_images(), PauseConfig.parse(PAUSE)), tiny_model()(random_images(), PAUSE))
