from __future__ import annotations

import pytest
import timm
import torch
import yaml
from reference_segmenter import (
    HALF,
    IMAGENET,
    mmseg_checkpoint,
    mmseg_logits,
    rstrudel_checkpoint,
    rstrudel_logits,
    rstrudel_variant,
)

from paumer.convert import BACKBONES, convert_file, from_mmseg, from_rstrudel, recognise
from paumer.errors import InputError
from paumer.model import Segmenter, SegmenterConfig


@pytest.fixture(scope="module")
def mmseg_mask():
    return mmseg_checkpoint()["state_dict"]


@pytest.fixture(scope="module")
def rstrudel_mask():
    return rstrudel_checkpoint()["model"]


@pytest.fixture
def images():
    # Neither square, nor a multiple of 16, nor the stored grid of 4 x 4.
    return torch.rand(2, 3, 50, 83, generator=torch.Generator().manual_seed(0))


def our_logits(converted, images):
    model = Segmenter(SegmenterConfig(**converted.config)).eval()
    model.load_state_dict(converted.state, strict=True)
    return model(images).logits


# Every preset differs from the right one by more than 5e-3 here, and the right one agrees to 5e-6.
TOLERANCE = {"atol": 1e-4, "rtol": 0}


@torch.inference_mode()
@pytest.mark.parametrize(("decoder", "distilled"), [("mask", False), ("linear", False), ("mask", True)])
def test_converted_rstrudel_computes_what_seg_repo_computes(images, decoder, distilled):
    state = rstrudel_checkpoint(decoder, distilled)["model"]
    converted = from_rstrudel(state, rstrudel_variant(decoder, distilled))
    expected = rstrudel_logits(state, images, IMAGENET if distilled else HALF)
    torch.testing.assert_close(our_logits(converted, images), expected, **TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_converted_mmseg_computes_what_mmseg_computes(images, decoder):
    state = mmseg_checkpoint(decoder)["state_dict"]
    expected = mmseg_logits(state, images)
    torch.testing.assert_close(our_logits(from_mmseg(state), images), expected, **TOLERANCE)


def test_config_says_what_the_weights_and_variant_say():
    converted = from_rstrudel(rstrudel_checkpoint(distilled=True)["model"], rstrudel_variant(distilled=True))
    assert converted.config == {
        "backbone": "deit_tiny_distilled_patch16_224",
        "num_classes": 5,
        "image_size": [64, 64],
        "decoder": "mask",
        "decoder_layers": 2,
        "preset": "segmenter",
        "mean": list(IMAGENET[0]),
        "std": list(IMAGENET[1]),
    }


def test_plain_deit_keeps_its_family(rstrudel_mask):
    variant = rstrudel_variant()
    variant["net_kwargs"]["backbone"] = "deit_tiny_patch16_224"
    assert from_rstrudel(rstrudel_mask, variant).config["backbone"] == "deit_tiny_patch16_224"


def test_mmseg_projections_are_transposed_and_attention_is_not(mmseg_mask):
    state = from_mmseg(mmseg_mask).state
    for ours, theirs in (("proj_patch", "patch_proj"), ("proj_classes", "classes_proj")):
        assert torch.equal(state[f"decoder.{ours}"], mmseg_mask[f"decode_head.{theirs}.weight"].T)
        assert state[f"decoder.{ours}"].is_contiguous()  # safetensors refuses views
    qkv = mmseg_mask["backbone.layers.3.attn.attn.in_proj_weight"]
    assert torch.equal(state["encoder.blocks.3.attn.qkv.weight"], qkv)


def test_mmseg_and_rstrudel_give_the_same_names(mmseg_mask, rstrudel_mask):
    from_theirs = from_rstrudel(rstrudel_mask, rstrudel_variant()).state
    assert {k: v.shape for k, v in from_mmseg(mmseg_mask).state.items()} == {k: v.shape for k, v in from_theirs.items()}


def test_rstrudel_loses_nothing_but_the_imagenet_heads():
    state = rstrudel_checkpoint(distilled=True)["model"]
    converted = from_rstrudel(state, rstrudel_variant(distilled=True)).state
    lost = {key for key in state if key not in converted}
    assert lost == {f"encoder.{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}
    assert all(torch.equal(converted[key], state[key]) for key in converted)


def test_mmseg_classifier_of_the_mask_head_may_be_absent(mmseg_mask):
    without = {key: value for key, value in mmseg_mask.items() if "conv_seg" not in key}
    assert from_mmseg(without).state.keys() == from_mmseg(mmseg_mask).state.keys()


def test_parallel_prefix_and_preprocessor_buffers_are_ignored(mmseg_mask):
    wrapped = {f"module.{key}": value for key, value in mmseg_mask.items()}
    wrapped["module.data_preprocessor.mean"] = torch.zeros(3, 1, 1)
    assert recognise({"state_dict": wrapped}) == "mmseg"
    assert from_mmseg(wrapped).state.keys() == from_mmseg(mmseg_mask).state.keys()


def test_half_precision_weights_become_float32(mmseg_mask):
    converted = from_mmseg({key: value.half() for key, value in mmseg_mask.items()})
    assert {value.dtype for value in converted.state.values()} == {torch.float32}


def test_converting_leaves_its_input_alone(mmseg_mask):
    before = {key: value.clone() for key, value in mmseg_mask.items()}
    first, second = from_mmseg(mmseg_mask), from_mmseg(mmseg_mask)
    assert mmseg_mask.keys() == before.keys()
    assert all(torch.equal(mmseg_mask[key], before[key]) for key in before)
    assert first.config == second.config
    assert all(torch.equal(first.state[key], second.state[key]) for key in first.state)


def test_every_backbone_exists_in_timm_with_that_size():
    for family in BACKBONES.values():
        for (width, depth, patch), name in family.items():
            with torch.device("meta"):
                vit = timm.create_model(name, num_classes=0, weight_init="skip")
            assert (vit.embed_dim, len(vit.blocks), vit.patch_embed.patch_size) == (width, depth, (patch, patch)), name
            assert vit.blocks[0].attn.num_heads == width // 64
            assert hasattr(vit, "dist_token") == ("distilled" in name)


# ------------------------------------------------------------------------------------------------------ what is refused


def test_left_over_weights_are_listed_up_to_eight_and_counted(mmseg_mask):
    strangers = {f"auxiliary_head.convs.{i}.weight": torch.zeros(1) for i in range(11)}
    with pytest.raises(InputError, match=r"auxiliary_head\.convs\.7\.weight, \.\.\. \(11 in all\)") as error:
        from_mmseg(mmseg_mask | strangers)
    assert "convs.8" not in str(error.value)


def test_missing_weights_are_listed_by_their_foreign_name(mmseg_mask):
    missing = ("backbone.layers.11.ffn.layers.1.bias", "decode_head.dec_proj.weight")
    with pytest.raises(InputError, match=r"lacks .*layers\.11\.ffn\.layers\.1\.bias, decode_head\.dec_proj\.weight;"):
        from_mmseg({key: value for key, value in mmseg_mask.items() if key not in missing})


def test_a_gap_in_the_layers_is_refused(rstrudel_mask):
    with pytest.raises(InputError, match=r"encoder\.blocks\.6\.norm1\.weight"):
        state = {k: v for k, v in rstrudel_mask.items() if not k.startswith("encoder.blocks.5.")}
        variant = rstrudel_variant()
        variant["net_kwargs"]["n_layers"] = 5
        from_rstrudel(state, variant)


def replaced(key, *shape):
    return lambda state: state | {key: torch.zeros(shape)}


def without(prefix):
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("backbone.pos_embed", 1, 1 + 12, 192), "12 patches, which is no square"),
        (replaced("backbone.pos_embed", 1, 1, 192), "0 patches, which is no square"),
        (replaced("backbone.pos_embed", 17, 192), r"pos_embed has the shape \(17, 192\); 3 dimensions"),
        (replaced("backbone.ln1.weight", 384), r"do not fit .*backbone\.ln1\.weight \(384,\)"),
        (replaced("backbone.patch_embed.projection.weight", 192, 4, 16, 16), r"do not fit .*\(192, 4, 16, 16\)"),
        (replaced("decode_head.cls_emb", 5, 192), r"cls_emb has the shape \(5, 192\)"),
        (without("backbone.cls_token"), "no backbone.cls_token"),
        (without("decode_head."), "no decoder of Segmenter"),
        (lambda state: state | {"backbone.step": 3}, "backbone.step among the weights: not a tensor"),
    ],
)
def test_weights_that_are_no_segmenter_are_refused(mmseg_mask, change, message):
    with pytest.raises(InputError, match=message):
        from_mmseg(change(mmseg_mask))


def test_a_linear_head_with_a_larger_kernel_is_refused():
    state = mmseg_checkpoint("linear")["state_dict"] | {"decode_head.conv_seg.weight": torch.zeros(5, 192, 3, 3)}
    with pytest.raises(InputError, match=r"decode_head\.conv_seg\.weight \(5, 192, 3, 3\)"):
        from_mmseg(state)


def test_a_depth_that_timm_does_not_have_is_refused(mmseg_mask):
    shallow = without("backbone.layers.11.")(mmseg_mask)
    with pytest.raises(InputError, match="width 192, 11 layers and patches of 16 px; known: vit_tiny_patch16_384"):
        from_mmseg(shallow)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("d_model", 384, "d_model is 384 there and 192 in the weights"),
        ("n_layers", 24, "n_layers is 24"),
        ("n_heads", 6, "n_heads is 6 there and 3"),
        ("patch_size", 32, "patch_size is 32"),
        ("n_cls", 150, "n_cls is 150 there and 5"),
        ("image_size", (512, 512), r"image_size is \(512, 512\) there and \[64, 64\]"),
        ("distilled", True, "distilled is True there and False"),
        ("decoder", {"name": "linear"}, "decoder.name is linear there and mask_transformer"),
        ("decoder", {"name": "mask_transformer", "n_layers": 1}, "decoder.n_layers is 1 there and 2"),
        ("normalization", "dei", r"normalization 'dei'; did you mean 'deit'\?"),
        ("normalization", ["vit"], "normalization"),
    ],
)
def test_a_variant_that_is_not_of_these_weights_is_refused(rstrudel_mask, key, value, message):
    variant = rstrudel_variant()
    variant["net_kwargs"][key] = value
    with pytest.raises(InputError, match=message):
        from_rstrudel(rstrudel_mask, variant)


def test_a_variant_without_net_kwargs_is_refused(rstrudel_mask):
    with pytest.raises(InputError, match="no section net_kwargs, only amp"):
        from_rstrudel(rstrudel_mask, {"amp": False})


# -------------------------------------------------------------------------------------------------- whole checkpoints


def test_recognises_each_origin(mmseg_mask, rstrudel_mask):
    assert recognise({"model": rstrudel_mask, "epoch": 1}) == "rstrudel"
    assert recognise({"meta": {}, "state_dict": mmseg_mask}) == "mmseg"
    assert recognise(mmseg_mask) == "mmseg"
    assert recognise(from_mmseg(mmseg_mask).state) == "paumer"


@pytest.mark.parametrize(
    "checkpoint", [{}, {"model": {"cls_token": 0}}, {"state_dict": {"conv1.weight": 0}, "arch": 1}]
)
def test_other_checkpoints_are_not_recognised(checkpoint):
    with pytest.raises(InputError, match="not a Segmenter checkpoint"):
        recognise(checkpoint)


def test_rstrudel_file_finds_the_variant_beside_it(tmp_path, rstrudel_mask):
    torch.save(rstrudel_checkpoint(), tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=r"variant\.yml that was published beside it"):
        convert_file(tmp_path / "checkpoint.pth")
    variant = rstrudel_variant()
    variant["net_kwargs"]["image_size"] = (64, 64)  # written by seg-repo as !!python/tuple
    (tmp_path / "variant.yml").write_text(yaml.dump(variant))
    converted = convert_file(tmp_path / "checkpoint.pth")
    assert converted.config == from_rstrudel(rstrudel_mask, rstrudel_variant()).config
    assert torch.equal(converted.state["decoder.cls_emb"], rstrudel_mask["decoder.cls_emb"])

    (tmp_path / "variant.yml").rename(tmp_path / "other.yml")
    assert convert_file(tmp_path / "checkpoint.pth", tmp_path / "other.yml").config == converted.config


def test_mmseg_file_needs_no_variant(tmp_path):
    torch.save(mmseg_checkpoint("linear"), tmp_path / "segmenter.pth")
    config = convert_file(tmp_path / "segmenter.pth").config
    assert (config["preset"], config["decoder"], config["mean"]) == ("mmseg", "linear", [0.5, 0.5, 0.5])


def test_our_own_weights_are_not_converted_again(tmp_path, mmseg_mask):
    torch.save(from_mmseg(mmseg_mask).state, tmp_path / "model.pth")
    with pytest.raises(InputError, match="PAUMER's own names already"):
        convert_file(tmp_path / "model.pth")
