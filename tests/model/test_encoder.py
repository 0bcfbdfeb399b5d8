from __future__ import annotations

import weakref
from functools import lru_cache, partial

import pytest
import timm
import torch
import torch.nn.functional as F
from reference_pausing import pause_one_image
from tiny import BACKBONE, DEPTH, random_images, tiny_model

from paumer.errors import InputError
from paumer.model.encoder import create_vit, embed_patches, encode
from paumer.model.presets import PRESETS
from paumer.model.select import select_lowest, selectors
from paumer.pause import PauseConfig

TIMM = PRESETS["timm"]
BACKBONES = {  # number of prefix tokens: class, distillation, registers
    "vit_tiny_patch16_384": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "vit_small_patch14_dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5,
}


@lru_cache(maxsize=1)  # the tests of one backbone follow each other
def vit_and_timm(backbone):
    """Our encoder and timm's own model with the same weights, none of them at its trivial initial value."""
    torch.manual_seed(0)
    side = 4 * (14 if "patch14" in backbone else 16)
    with torch.device("meta"):  # drawing timm's initial weights would take most of the time
        vit = create_vit(backbone, (side, side), TIMM, drop_path_rate=0.1).eval()
        theirs = timm.create_model(backbone, img_size=side, dynamic_img_size=True, num_classes=0).eval()
    vit.to_empty(device="cpu")
    for parameter in vit.parameters():
        # The small ones are norms, biases, positions, prefix tokens, layer scales.
        torch.nn.init.normal_(parameter, std=0.3 if parameter.numel() < 20_000 else 0.03)
    theirs.load_state_dict(vit.state_dict(), assign=True)
    return vit, theirs, side


def score_by_sum(layer, tokens, lengths):
    return tokens.sum(dim=-1), None


def pausing(counts):
    """Fixed numbers of tokens: {layer: how many}."""
    return {layer: partial(select_lowest, num_paused=count) for layer, count in counts.items()}


def normalised(batch, height, width, seed=0):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_without_pausing_equals_timm_bit_for_bit(backbone):
    vit, theirs, side = vit_and_timm(backbone)
    assert vit.num_prefix_tokens == BACKBONES[backbone]
    for height, width in ((side, side), (side, side * 3 // 2)):
        images = normalised(2, height, width)
        expected = theirs.forward_features(images)[:, theirs.num_prefix_tokens :]
        assert torch.equal(encode(vit, images, {}, score_by_sum, TIMM)[0], expected)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_scored_but_not_paused_equals_timm_bit_for_bit(backbone):
    vit, theirs, side = vit_and_timm(backbone)
    images = normalised(2, side, side)
    expected = theirs.forward_features(images)[:, theirs.num_prefix_tokens :]
    tokens, trace = encode(vit, images, pausing({1: 0, 3: 0, 12: 0}), score_by_sum, TIMM)
    assert torch.equal(tokens, expected)
    assert trace.layers == (1, 3, 12) and not trace.paused_at().any()


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_assembled_from_scattered_groups_equals_timm_bit_for_bit(backbone):
    # After the last layer nothing changes a token any more, so pausing there scatters and changes nothing.
    vit, theirs, side = vit_and_timm(backbone)
    images = normalised(3, side, side)
    expected = theirs.forward_features(images)[:, theirs.num_prefix_tokens :]
    tokens, trace = encode(vit, images, pausing({len(vit.blocks): 7}), score_by_sum, TIMM)
    paused = trace.steps[0].paused.view(3, 7) - 16 * torch.arange(3)[:, None]
    assert not torch.equal(paused[0].sort().values, paused[1].sort().values)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_prefix_tokens_are_never_scored_nor_paused(backbone):
    vit, _, side = vit_and_timm(backbone)
    num_prefix = BACKBONES[backbone]
    inputs, outputs, scored = [], [], []

    def record(_, x, y):
        inputs.append(x[0])
        outputs.append(y)

    hooks = [block.register_forward_hook(record) for block in vit.blocks]

    def score_tokens(layer, tokens, lengths):
        scored.append(tokens.unflatten(0, (2, -1)))
        return tokens.sum(dim=-1), None

    encode(vit, normalised(2, side, side), pausing({2: 6, 5: 9}), score_tokens, TIMM)
    for hook in hooks:
        hook.remove()
    assert [x.shape[1] - num_prefix for x in inputs] == [16] * 2 + [10] * 3 + [1] * 7
    for layer in range(1, len(vit.blocks)):
        assert torch.equal(inputs[layer][:, :num_prefix], outputs[layer - 1][:, :num_prefix])
    assert torch.equal(scored[0], outputs[1][:, num_prefix:])
    assert torch.equal(scored[1], outputs[4][:, num_prefix:])


CONFIGS = ["3:0.4", "1:0.5,2:0.5", "1:0.3,2:0.3,5:0.9", "2:0.0,4:0.6", "6:0.5"]


@pytest.mark.parametrize("text", CONFIGS)
@torch.no_grad()
def test_equals_the_image_by_image_reference(text):
    model = tiny_model(seed=1)
    images = model.normalize(random_images(3, 48, 96))  # 3 x 6 patches
    output = model(random_images(3, 48, 96), text)
    ratios = dict(PauseConfig.parse(text).steps)
    tokens, trace = encode(model.encoder, images, selectors(PauseConfig.parse(text), 18, DEPTH), scorer(model), TIMM)
    for i, image in enumerate(images):
        expected, paused_at = pause_one_image(model.encoder, image, ratios, model.aux_head.weight, model.aux_head.bias)
        assert trace.paused_at()[i].flatten().tolist() == paused_at
        assert output.trace.paused_at()[i].flatten().tolist() == paused_at
        torch.testing.assert_close(tokens[i], expected, atol=2e-5, rtol=1e-4)


ADAPTIVE = ["3:1.2nats", "1:0.9nats,3:1.3nats[0.1-0.8]", "2:1.2nats,4:0.5", "1:0.3,2:1.2nats[0.0-0.8],5:0.4"]


@pytest.mark.parametrize("text", ADAPTIVE)
@torch.no_grad()
def test_numbers_that_follow_the_image_equal_the_image_by_image_reference(text):
    model = tiny_model(seed=1)
    images = torch.cat([random_images(3, 48, 96), random_images(1, 48, 96) // 16 + 100])  # 3 x 6 patches
    output = model(images, text)
    amounts = dict(PauseConfig.parse(text).steps)
    for i, image in enumerate(model.normalize(images)):
        _, paused_at = pause_one_image(model.encoder, image, amounts, model.aux_head.weight, model.aux_head.bias)
        assert output.trace.paused_at()[i].flatten().tolist() == paused_at
        alone = model(images[i : i + 1], text)
        torch.testing.assert_close(output.logits[i], alone.logits[0], atol=2e-4, rtol=1e-3)
    numbers = output.trace.num_running(DEPTH)
    assert any(len(set(column)) > 1 for column in numbers.T.tolist())  # else nothing was packed


@torch.no_grad()
def test_a_share_of_the_batch_equals_the_reference_told_what_pauses():
    model, text = tiny_model(seed=1), "2:0.5@batch,4:0.4"
    images = torch.cat([random_images(3, 48, 96), random_images(1, 48, 96) // 16 + 100])
    trace = model(images, text).trace
    kept = trace.num_running(DEPTH)
    assert kept[:, 2].sum() == 4 * 18 // 2 and len(set(kept[:, 2].tolist())) > 1
    for i, image in enumerate(model.normalize(images)):
        # As many as the batch left to the image: then each image is a case of its own.
        amounts = {2: int(18 - kept[i, 2]), 4: 0.4}
        _, paused_at = pause_one_image(model.encoder, image, amounts, model.aux_head.weight, model.aux_head.bias)
        assert trace.paused_at()[i].flatten().tolist() == paused_at
    together = trace.scores(2)  # nothing that paused was surer than what ran on, but for the floor of each image
    paused = together[trace.paused_at() == 2].max()
    running = [scores[at != 2].min() for scores, at in zip(together, trace.paused_at(), strict=True)]
    assert all(lowest >= paused for lowest, n in zip(running, kept[:, 2].tolist(), strict=True) if n > 2)


def scorer(model):
    def score_tokens(layer, tokens, lengths):
        logits = model.aux_head(tokens)
        p = logits.softmax(dim=-1)
        return -(p * p.log()).sum(dim=-1), logits

    return score_tokens


@torch.no_grad()
def test_paused_tokens_leave_as_the_block_made_them():
    model = tiny_model()
    made = {}
    for layer, block in enumerate(model.encoder.blocks, start=1):
        block.register_forward_hook(lambda _, x, y, layer=layer: made.update({layer: y[:, 1:]}))
    tokens, trace = encode(model.encoder, normalised(2, 64, 64), pausing({2: 7, 4: 3}), scorer(model), TIMM)
    for step in trace.steps:
        home, before = step.index.tolist(), made[step.layer].flatten(0, 1)
        for position in step.paused.tolist():
            # Normalised like every other token: the decoder expects that.
            expected = model.encoder.norm(before[home.index(position)])
            torch.testing.assert_close(tokens.flatten(0, 1)[position], expected, atol=1e-6, rtol=1e-5)


def test_gradients_equal_those_of_the_reference():
    model = tiny_model(seed=1)
    images = normalised(2, 64, 64)
    weight = torch.randn(2, 16, model.encoder.embed_dim, generator=torch.Generator().manual_seed(3))
    text = "2:0.5,4:0.5"

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.encoder.named_parameters() if p.grad is not None}

    tokens, _ = encode(model.encoder, images, selectors(PauseConfig.parse(text), 16, DEPTH), scorer(model), TIMM)
    ours = gradients((tokens * weight).sum())
    ratios, head = dict(PauseConfig.parse(text).steps), model.aux_head
    reference = [pause_one_image(model.encoder, image, ratios, head.weight, head.bias)[0] for image in images]
    theirs = gradients((torch.stack(reference) * weight).sum())
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-3, rtol=1e-3, msg=name)


def test_paused_tokens_teach_the_layers_up_to_their_own_and_no_later_one():
    model = tiny_model()
    tokens, trace = encode(model.encoder, normalised(2, 64, 64), pausing({3: 8}), scorer(model), TIMM)
    paused = tokens.flatten(0, 1)[trace.steps[0].paused]
    (paused * torch.randn(paused.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    reached = [
        block.mlp.fc1.weight.grad is not None and bool(block.mlp.fc1.weight.grad.abs().max() > 0)
        for block in model.encoder.blocks
    ]
    assert reached == [True] * 3 + [False] * 3


def test_ranking_has_no_gradient():
    model = tiny_model()
    tokens, _ = encode(model.encoder, normalised(2, 64, 64), pausing({3: 8}), scorer(model), TIMM)
    tokens.square().sum().backward()
    assert model.aux_head.weight.grad is None


@pytest.mark.parametrize(("preset", "mode"), [("segmenter", "bilinear"), ("mmseg", "bicubic")])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
@torch.no_grad()
def test_positions_are_resized_as_by_their_origin(preset, mode, backbone):
    vit = create_vit(backbone, (64, 64), PRESETS[preset], 0.0).eval()
    vit.pos_embed.normal_()
    num_prefix = vit.num_prefix_tokens
    images = normalised(2, 96, 48)
    x, grid = embed_patches(vit, images, PRESETS[preset])
    assert grid == (6, 3)
    stored = vit.pos_embed[:, num_prefix:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    positions = F.interpolate(stored, size=(6, 3), mode=mode, align_corners=False).flatten(2).transpose(1, 2)
    patches = F.conv2d(images, vit.patch_embed.proj.weight, vit.patch_embed.proj.bias, stride=16)
    torch.testing.assert_close(x[:, num_prefix:], patches.flatten(2).transpose(1, 2) + positions, atol=1e-4, rtol=1e-4)
    prefix = [vit.cls_token, *([vit.dist_token] if num_prefix == 2 else [])]
    expected = torch.cat(prefix, dim=1) + vit.pos_embed[:, :num_prefix]
    torch.testing.assert_close(x[:, :num_prefix], expected.expand(2, -1, -1))


@torch.no_grad()
def test_positions_of_register_models_do_not_touch_the_prefix():
    vit, _, _ = vit_and_timm("vit_small_patch14_reg4_dinov2")
    x, _ = embed_patches(vit, normalised(1, 84, 56), PRESETS["segmenter"])
    assert torch.equal(x[:, :5], torch.cat([vit.cls_token, vit.reg_token], dim=1))


def test_an_unknown_backbone_gets_a_hint():
    with pytest.raises(
        InputError, match="unknown backbone 'vit_tiny_patch16_394': did you mean 'vit_tiny_patch16_384'"
    ):
        create_vit("vit_tiny_patch16_394", (64, 64), TIMM, 0.0)


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224", "test_vit_relpos"])
def test_what_is_not_a_plain_vit_is_refused(backbone):
    with pytest.raises(InputError, match=f"'{backbone}' is not a plain ViT"):
        create_vit(backbone, (224, 224), TIMM, 0.0)


def test_the_tag_of_weights_does_not_matter():
    vit = create_vit(f"{BACKBONE}.r160_in1k", (64, 64), TIMM, 0.0)
    assert len(vit.blocks) == DEPTH


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_images_are_freed_once_they_are_embedded(size):
    """They weigh as much as the widest layer of a large image."""
    model, alive = tiny_model(), []
    pad = model.pad

    def watch(x):
        padded = pad(x)
        alive.append(weakref.ref(padded))
        return padded

    model.pad = watch
    model.encoder.blocks[0].register_forward_pre_hook(lambda *_: alive.append(alive[0]() is None))
    with torch.inference_mode():
        model.segment(random_images(2, *size), "2:0.5")
    assert alive[1] is True
