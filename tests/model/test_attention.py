"""Attention in slices against torch's own, and where it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import random_images, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel

from paumer.model import attention, compile_segmenter, packed
from paumer.model.attention import attend_in_slices, slices_pay


@pytest.fixture
def processor(monkeypatch):
    """A CPU that has bfloat16 and no AMX; and whether attention was sliced."""
    has = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    has["calls"] = calls = []
    real = packed.attend_in_slices
    monkeypatch.setattr(packed, "attend_in_slices", lambda *qkv: calls.append(qkv[0].shape) or real(*qkv))
    return has


@pytest.mark.parametrize("weights", [1, 3000, 2**20])
@pytest.mark.parametrize("shape", [(2, 3, 50, 16), (1, 2, 33, 8), (3, 7, 4)])
def test_slices_equal_fused_attention(shape, weights, monkeypatch):
    monkeypatch.setattr(attention, "_SLICE_WEIGHTS", weights)
    monkeypatch.setattr(attention, "_SLICE_QUERIES", 4)
    q, k, v = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).unbind(0)
    torch.testing.assert_close(attend_in_slices(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_no_slice_has_more_weights_than_it_may(monkeypatch):
    monkeypatch.setattr(attention, "_SLICE_WEIGHTS", 3 * 100 * 10)
    monkeypatch.setattr(attention, "_SLICE_QUERIES", 4)
    sizes = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(tuple(x.shape)) or softmax(x, dim))
    q = torch.randn(1, 3, 100, 8)
    attend_in_slices(q, q, q)
    assert sizes == [(1, 3, 10, 100)] * 10


@torch.inference_mode()
def test_bfloat16_without_amx_is_sliced_and_segments_alike(processor, monkeypatch):
    model, images = tiny_model(decoder="mask").to(torch.bfloat16), random_images(2, 48, 96)
    sliced = model(images, "2:0.5")
    assert processor["calls"] and all(shape[0] == 1 for shape in processor["calls"])  # image by image
    assert len(processor["calls"]) == 2 * (6 + 2)  # every layer of encoder and decoder
    processor["amx_bf16"] = True
    processor["calls"].clear()
    fused = model(images, "2:0.5")
    assert not processor["calls"]
    assert (sliced.logits - fused.logits).abs().float().mean() < 0.02


@torch.inference_mode()
def test_budgets_on_packed_tokens_are_sliced_too(processor):
    model = tiny_model(seed=1).to(torch.bfloat16)
    images = torch.cat([random_images(3), random_images(1) // 16 + 100])
    output = model(images, "2:0.5@batch")
    assert len(set(output.trace.num_running(6)[:, -1].tolist())) > 1
    assert len({shape[-2] for shape in processor["calls"]}) >= 3


def test_elsewhere_it_is_torch_that_attends(processor):
    x = torch.zeros(1, dtype=torch.bfloat16)
    assert not slices_pay(x)  # gradients would keep the weights
    with torch.no_grad():
        assert slices_pay(x)
        assert not slices_pay(x.float()) and not slices_pay(x.half()) and not slices_pay(x.to("meta"))
        for named in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            with sdpa_kernel(named):
                assert not slices_pay(x)
        processor["avx512_bf16"] = False
        assert not slices_pay(x)


@torch.inference_mode()
def test_float32_and_attention_that_is_not_fused_stay_timms_own(processor):
    model = tiny_model()
    model(random_images(2), "2:0.5")
    model.to(torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    model(random_images(2), "2:0.5")
    assert not processor["calls"]


@torch.inference_mode()
def test_compiled_blocks_are_run(processor):
    own = compile_segmenter(tiny_model().to(torch.bfloat16), "block")
    for block in (*own.encoder.blocks, *own.decoder.blocks):
        block._compiled_call_impl = lambda x: x  # nothing is built
    own(random_images(2), "2:0.5")
    assert not processor["calls"]
