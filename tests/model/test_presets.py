from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_model
from torch import nn

from paumer.errors import InputError
from paumer.model.presets import PRESETS, get_preset

# facts.md 1: what each code base does (encoder eps, decoder eps, decoder dropout, drop path of the last decoder layer)
ORIGINS = {
    "timm": (1e-6, 1e-6, 0.0, 0.1),
    "segmenter": (1e-5, 1e-5, 0.1, 0.0),
    "mmseg": (1e-6, 1e-5, 0.0, 0.1),
}


def norms(module):
    return {layer.eps for layer in module.modules() if isinstance(layer, nn.LayerNorm)}


@pytest.mark.parametrize("preset", ORIGINS)
def test_layer_norms_have_the_eps_of_their_origin(preset):
    model = tiny_model(preset=preset)
    encoder_eps, decoder_eps, _, _ = ORIGINS[preset]
    assert norms(model.encoder) == {encoder_eps}
    assert norms(model.decoder) == {decoder_eps}


@pytest.mark.parametrize("preset", ORIGINS)
def test_decoder_is_regularised_as_by_its_origin(preset):
    _, _, dropout, drop_path = ORIGINS[preset]
    blocks = tiny_model(preset=preset, decoder_layers=3).decoder.blocks
    for block, rate in zip(blocks, np.linspace(0, drop_path, 3), strict=True):
        assert {block.attn.proj_drop.p, block.attn.attn_drop.p, block.mlp.drop1.p, block.mlp.drop2.p} == {dropout}
        for path in (block.drop_path1, block.drop_path2):
            assert getattr(path, "drop_prob", 0.0) == pytest.approx(rate)


@pytest.mark.parametrize("preset", ORIGINS)
def test_encoder_drop_path_rises_linearly_and_nothing_else_drops(preset):
    encoder = tiny_model(preset=preset, drop_path_rate=0.2).encoder
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.blocks]
    assert rates == pytest.approx(np.linspace(0, 0.2, len(encoder.blocks)).tolist())
    assert {layer.p for layer in encoder.modules() if isinstance(layer, nn.Dropout)} == {0.0}


@pytest.mark.parametrize(("preset", "cropped"), [("timm", True), ("segmenter", True), ("mmseg", False)])
def test_logits_grow_back_as_by_their_origin(preset, cropped):
    assert get_preset(preset).crop_logits == cropped


def test_there_are_three_presets():
    assert set(PRESETS) == set(ORIGINS)


def test_an_unknown_preset_gets_a_hint():
    with pytest.raises(InputError, match="unknown preset 'segmentor': did you mean 'segmenter'"):
        get_preset("segmentor")
