from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paumer.model.decoder import LinearDecoder, MaskTransformer
from paumer.model.presets import PRESETS

GRID, WIDTH, HEADS, CLASSES = (3, 5), 32, 2, 7
ERF = np.vectorize(math.erf)


def random_decoder(layers=2, preset="segmenter"):
    torch.manual_seed(0)
    decoder = MaskTransformer(WIDTH, HEADS, CLASSES, layers, PRESETS[preset]).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return decoder


def random_tokens(batch=2):
    return torch.randn(batch, GRID[0] * GRID[1], WIDTH, generator=torch.Generator().manual_seed(1))


def numpy_mask_transformer(state, tokens, eps, layers):
    """Segmenter's paper, section 3.2, in float64: one image, (N, D) -> (C, h, w)."""
    p = {key: value.double().numpy() for key, value in state.items()}

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(x, name):
        q, k, v = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        heads = []
        for i in range(HEADS):
            part = slice(i * WIDTH // HEADS, (i + 1) * WIDTH // HEADS)
            a = np.exp(q[:, part] @ k[:, part].T / math.sqrt(WIDTH // HEADS))
            heads.append(a / a.sum(-1, keepdims=True) @ v[:, part])
        return linear(np.concatenate(heads, axis=-1), f"{name}.proj")

    def gelu(x):
        return x * (1 + ERF(x / math.sqrt(2))) / 2

    x = np.concatenate([linear(tokens.double().numpy(), "proj_dec"), p["cls_emb"][0]])
    for i in range(layers):
        x = x + attention(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
        x = x + linear(gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")), f"blocks.{i}.mlp.fc2")
    x = norm(x, "decoder_norm")
    patches, classes = x[:-CLASSES] @ p["proj_patch"], x[-CLASSES:] @ p["proj_classes"]
    cosines = patches @ classes.T / np.outer(np.linalg.norm(patches, axis=1), np.linalg.norm(classes, axis=1))
    return norm(cosines, "mask_norm").T.reshape(CLASSES, *GRID)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("preset", ["timm", "segmenter"])
@torch.no_grad()
def test_mask_transformer_equals_numpy(layers, preset):
    decoder, tokens = random_decoder(layers, preset), random_tokens()
    masks = decoder(tokens, GRID)
    assert masks.shape == (2, CLASSES, *GRID)
    for mask, image in zip(masks, tokens, strict=True):
        expected = numpy_mask_transformer(decoder.state_dict(), image, PRESETS[preset].decoder_eps, layers)
        np.testing.assert_allclose(mask, expected, atol=2e-4)


@torch.no_grad()
def test_linear_decoder_equals_numpy():
    torch.manual_seed(0)
    decoder, tokens = LinearDecoder(WIDTH, CLASSES), random_tokens()
    decoder.head.bias.normal_()
    expected = np.einsum("bnd,cd->bcn", tokens, decoder.head.weight) + decoder.head.bias.numpy()[:, None]
    np.testing.assert_allclose(decoder(tokens, GRID), expected.reshape(2, CLASSES, *GRID), atol=1e-5)


@pytest.mark.parametrize("name", ["mask", "linear"])
def test_initial_weights_are_those_of_segmenter(name):
    torch.manual_seed(0)
    if name == "mask":
        decoder = MaskTransformer(192, 3, 19, 2, PRESETS["timm"])
        assert decoder.proj_patch.std().item() == pytest.approx(192**-0.5, rel=0.05)
        assert decoder.cls_emb.std().item() == pytest.approx(0.02, rel=0.1)
    else:
        decoder = LinearDecoder(192, 19)
    for key, parameter in decoder.named_parameters():
        if key.endswith("bias"):
            assert not parameter.any(), key
        elif "norm" in key:
            assert (parameter == 1).all(), key
        elif key.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), key
