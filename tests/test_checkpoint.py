from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from reference_segmenter import rstrudel_checkpoint, rstrudel_logits, rstrudel_variant
from safetensors.torch import load_file, save_file
from tiny import BACKBONE, random_images, tiny_model

from paumer.checkpoint import convert_checkpoint, load_backbone, num_parameters, open_segmenter, start_from
from paumer.errors import InputError
from paumer.model import Segmenter, create_model


@pytest.fixture(scope="module")
def classifier():
    """timm's own model with its ImageNet head, at another size than ours."""
    torch.manual_seed(7)
    vit = timm.create_model(BACKBONE, img_size=96, dynamic_img_size=True).eval()
    torch.nn.init.normal_(vit.pos_embed)
    return vit


@pytest.fixture
def weights(classifier, tmp_path):
    save_file(classifier.state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


@torch.no_grad()
def test_a_backbone_computes_what_timm_computes(classifier, weights):
    model = tiny_model(decoder="linear")
    load_backbone(model, weights)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    # timm resizes the positions at each call, we when loading.
    assert torch.equal(model.encoder.forward_features(images), classifier.forward_features(images))


@pytest.mark.parametrize(("preset", "mode"), [("segmenter", "bilinear"), ("mmseg", "bicubic")])
@torch.no_grad()
def test_positions_of_a_backbone_are_resized_as_the_preset_says(classifier, weights, preset, mode):
    model = tiny_model(preset=preset)
    load_backbone(model, weights)
    expected = resized(classifier.pos_embed, 6, 4, mode, antialias=False)
    torch.testing.assert_close(model.encoder.pos_embed, expected, atol=1e-5, rtol=1e-5)


def resized(positions, old, new, mode, antialias):
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def test_loading_a_backbone_leaves_the_decoder_alone(weights):
    model = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_backbone(model, weights)
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"encoder"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224_augreg.safetensors"),
        ("deit_tiny_patch16_224", "deit_tiny_patch16_224.safetensors"),
    ],
)
@torch.no_grad()
def test_real_weights_compute_what_timm_computes(shared_data, name, file):
    path = shared_data / "weights" / file
    model = create_model(name, num_classes=3, image_size=(64, 96), decoder="linear").eval()
    load_backbone(model, path)
    vit = timm.create_model(name, dynamic_img_size=True).eval()
    vit.load_state_dict(load_file(path))
    images = random_images(1, 64, 96).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in timm_statistics(name))
    expected = vit.forward_features((images - mean) / std)
    torch.testing.assert_close(model.encoder.forward_features(model.normalize(images)), expected, atol=1e-4, rtol=1e-4)


def timm_statistics(name):
    half, imagenet = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return imagenet if name.startswith("deit") else half


def test_weights_of_another_backbone_are_refused(tmp_path):
    save_file(timm.create_model("test_vit3", img_size=64).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors are of another architecture"):
        load_backbone(tiny_model(), tmp_path / "other.safetensors")


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*gone\.safetensors: give a \.safetensors"):
        load_backbone(tiny_model(), tmp_path / "gone.safetensors")


def test_truncated_weights_are_refused(weights):
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"vit\.safetensors .*damaged"):
        load_backbone(tiny_model(), weights)


def test_hub_weights_without_network_are_refused(monkeypatch):
    def unreachable(name, pretrained, num_classes):
        assert (name, pretrained) == ("test_vit", True)
        raise ConnectionError("offline")

    model = tiny_model()
    monkeypatch.setattr("paumer.checkpoint.timm.create_model", unreachable)
    with pytest.raises(InputError, match=r"weights of test_vit from the hub \(ConnectionError\); give a local file"):
        load_backbone(model, "hub")


# -- fine-tuning -------------------------------------------------------------------------------------------------------


def saved(tmp_path, **options):
    model = tiny_model(seed=1, **options)
    model.save_pretrained(tmp_path / "source")
    return model, tmp_path / "source"


@torch.no_grad()
def test_starting_from_the_same_model_copies_everything(tmp_path):
    source, path = saved(tmp_path)
    model = tiny_model(seed=2)
    assert start_from(model, path) == []
    assert torch.equal(model(random_images(), "2:0.4").logits, source(random_images(), "2:0.4").logits)


@torch.no_grad()
def test_another_number_of_classes_starts_the_class_tensors_afresh(tmp_path):
    source, path = saved(tmp_path)
    model = tiny_model(7, seed=2)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    fresh = start_from(model, path)
    assert set(fresh) == {
        "decoder.cls_emb",
        "decoder.mask_norm.weight",
        "decoder.mask_norm.bias",
        "aux_head.weight",
        "aux_head.bias",
    }
    for key, value in model.state_dict().items():
        assert torch.equal(value, own[key] if key in fresh else source.state_dict()[key]), key


def test_the_linear_decoder_starts_afresh_with_its_classes(tmp_path):
    _, path = saved(tmp_path, decoder="linear", aux_head="none")
    model = tiny_model(7, decoder="linear", aux_head="none")
    assert sorted(start_from(model, path)) == ["decoder.head.bias", "decoder.head.weight"]


@pytest.mark.parametrize("aux_head", ["shared", "per_layer"])
def test_a_plain_segmenter_gets_a_fresh_auxiliary_head(tmp_path, aux_head):
    source, path = saved(tmp_path, aux_head="none")
    model = tiny_model(seed=2, aux_head=aux_head)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    fresh = start_from(model, path)
    assert fresh and all(key.startswith("aux_head.") for key in fresh)
    for key, value in model.state_dict().items():
        assert torch.equal(value, own[key] if key in fresh else source.state_dict()[key]), key


def test_a_pausing_model_becomes_a_plain_one(tmp_path):
    source, path = saved(tmp_path)
    model = tiny_model(seed=2, aux_head="none")
    assert start_from(model, path) == []
    assert torch.equal(model.decoder.cls_emb, source.decoder.cls_emb)


@pytest.mark.parametrize(("preset", "mode"), [("timm", "bicubic"), ("segmenter", "bilinear"), ("mmseg", "bicubic")])
def test_positions_are_resized_to_another_image_size(tmp_path, preset, mode):
    source, path = saved(tmp_path, preset=preset)
    model = tiny_model(seed=2, preset=preset, image_size=(96, 96))
    assert start_from(model, path) == []
    expected = resized(source.encoder.pos_embed, 4, 6, mode, antialias=preset == "timm")
    torch.testing.assert_close(model.encoder.pos_embed, expected, atol=1e-5, rtol=1e-5)


def test_other_pixel_statistics_are_refused(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(InputError, match=r"was trained with mean \(0\.5, 0\.5, 0\.5\) and std .*use them here as well"):
        start_from(tiny_model(mean=(0.4, 0.4, 0.4)), path)


def test_a_deeper_decoder_is_refused(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(InputError, match=r"of another architecture: missing decoder\.blocks\.2"):
        start_from(tiny_model(decoder_layers=3), path)


# -- foreign checkpoints -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_foreign_checkpoint_is_opened_and_converted_to_the_same_model(tmp_path):
    checkpoint = rstrudel_checkpoint()
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(yaml.safe_dump(rstrudel_variant()))
    opened = open_segmenter(tmp_path / "checkpoint.pth")
    written = convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "model").eval()
    loaded = Segmenter.from_pretrained(tmp_path / "model")
    images = random_images()
    expected = rstrudel_logits(checkpoint["model"], images.float() / 255)
    for model in (opened, written, loaded):
        torch.testing.assert_close(model(images).logits, expected, atol=1e-3, rtol=1e-3)


def test_converting_a_model_folder_keeps_its_card(tmp_path):
    source = tiny_model()
    source.save_pretrained(tmp_path / "model", card="how it was trained")
    convert_checkpoint(tmp_path / "model", tmp_path / "half", dtype=torch.float16)
    assert (tmp_path / "half" / "README.md").read_text() == "how it was trained"
    key = "decoder.cls_emb"
    assert torch.equal(load_file(tmp_path / "half" / "model.safetensors")[key], source.state_dict()[key].half())


def test_a_checkpoint_that_does_not_fit_writes_nothing(tmp_path):
    checkpoint = rstrudel_checkpoint()
    del checkpoint["model"]["decoder.proj_patch"]
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(yaml.safe_dump(rstrudel_variant()))
    with pytest.raises(InputError, match="proj_patch"):
        convert_checkpoint(tmp_path / "checkpoint.pth", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_num_parameters_of_vit_tiny_are_those_counted_by_hand():
    # ViT-Ti/16 at 384 px, without its classifier: counted by hand from facts.md 5.1.
    width, tokens = 192, 577
    block = (
        4 * width + (width + 1) * 3 * width + (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width
    )
    expected = width + tokens * width + (3 * 16 * 16 + 1) * width + 12 * block + 2 * width
    model = create_model(
        "vit_tiny_patch16_384", num_classes=19, image_size=(384, 384), decoder="linear", aux_head="none"
    )
    assert num_parameters(model.encoder) == expected
    assert num_parameters(model.decoder) == 19 * (width + 1)
