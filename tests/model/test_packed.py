"""Blocks on packed tokens against the same blocks on each image alone."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, ParallelScalingBlock, ResPostBlock
from torch._subclasses.fake_tensor import FakeTensorMode

from paumer.model import packed

LENGTHS = (5, 9, 2)


def tokens(width=48, seed=0):
    return torch.randn(1, sum(LENGTHS), width, generator=torch.Generator().manual_seed(seed))


def each_alone(block, x):
    return torch.cat([block(part) for part in x.split(LENGTHS, dim=1)], dim=1)


def make(block=Block, **options):
    torch.manual_seed(1)
    made = block(48, num_heads=3, qkv_bias=True, **options).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize(
    "options",
    [{}, {"qk_norm": True}, {"init_values": 0.5}, {"scale_attn_norm": True}, {"scale_mlp_norm": True}],
    ids=lambda options: ",".join(options) or "plain",
)
@torch.no_grad()
def test_equals_the_block_on_each_image(options, monkeypatch):
    block = make(**options)
    expected = each_alone(block, tokens())
    calls = []
    monkeypatch.setattr(Block, "forward", lambda *_: calls.append(1))  # the packed way does not come here
    torch.testing.assert_close(packed.run_packed(block, tokens(), LENGTHS), expected, atol=1e-4, rtol=1e-4)
    assert not calls


@torch.no_grad()
def test_equals_gated_attention():
    torch.manual_seed(0)
    attention = Attention(48, num_heads=3, gated=True).eval()
    expected = torch.cat([attention(part[None])[0] for part in tokens()[0].split(LENGTHS)])
    torch.testing.assert_close(packed.attend(attention, tokens()[0], LENGTHS), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_that_is_not_fused_is_written_out(monkeypatch):
    block = make()
    block.attn.fused_attn = False
    expected = each_alone(block, tokens())
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    torch.testing.assert_close(packed.run_packed(block, tokens(), LENGTHS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [ResPostBlock, ParallelScalingBlock])
@torch.no_grad()
def test_other_blocks_are_called_for_each_image(kind):
    block = make(kind)
    assert torch.equal(packed.run_packed(block, tokens(), LENGTHS), each_alone(block, tokens()))


def test_stochastic_depth_drops_whole_images_in_training():
    block = make(drop_path=0.5).train()
    torch.manual_seed(0)
    outputs = [packed.run_packed(block, tokens(), LENGTHS) for _ in range(40)]
    dropped = {
        tuple(torch.equal(a, b) for a, b in zip(y.split(LENGTHS, 1), tokens().split(LENGTHS, 1), strict=True))
        for y in outputs
    }
    assert len(dropped) > 2  # images of one batch share no fate


def test_gradients_equal_those_of_each_image():
    block = make()
    weight = tokens(seed=5)
    found = []
    for run in (lambda: packed.run_packed(block, tokens(), LENGTHS), lambda: each_alone(block, tokens())):
        block.zero_grad()
        (run() * weight).sum().backward()
        found.append({name: p.grad.clone() for name, p in block.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-3, rtol=1e-3, msg=name)


def reference_varlen(q, k, v, starts_q, starts_k, max_q, max_k):
    """Image by image, from the numbers that the kernel is given."""
    assert starts_q.dtype == torch.int32 and torch.equal(starts_q, starts_k)
    assert max_q == max_k == int((starts_q[1:] - starts_q[:-1]).max())
    parts = []
    for i, j in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
        weights = torch.einsum("qhd,khd->hqk", q[i:j], k[i:j]) * q.shape[-1] ** -0.5
        parts.append(torch.einsum("hqk,khd->qhd", weights.softmax(-1), v[i:j]))
    return torch.cat(parts)


@torch.no_grad()
def test_one_call_of_variable_length_where_the_device_has_it(monkeypatch):
    block = make()
    expected = each_alone(block, tokens())
    kernel = ModuleType("varlen")
    kernel.varlen_attn = reference_varlen
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", kernel)
    monkeypatch.setattr(packed, "_has_varlen", lambda q: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    torch.testing.assert_close(packed.run_packed(block, tokens(), LENGTHS), expected, atol=1e-4, rtol=1e-4)


def test_the_kernel_of_this_torch_takes_what_it_is_given():
    """Names and types of arguments, through the kernel's own checks; without a GPU nothing is computed."""
    pytest.importorskip("torch.nn.attention.varlen")
    with FakeTensorMode():
        q, k, v = (torch.empty(sum(LENGTHS), 3, 16, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        y = packed._attend_varlen(q, k, v, LENGTHS)
    assert (y.shape, y.dtype, y.device.type) == (q.shape, torch.bfloat16, "cuda")


class OnCuda:
    """What is asked of a tensor before a kernel is chosen."""

    device = torch.device("cuda")

    def __init__(self, dtype):
        self.dtype = dtype


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that has what it takes, and nothing said yet."""
    packed.warn_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")


def test_a_dtype_that_the_kernel_cannot_take_is_said_once(caplog, gpu):
    assert not packed._has_varlen(torch.ones(1))  # on a CPU nothing is missing
    with caplog.at_level(logging.WARNING):
        assert not packed._has_varlen(OnCuda(torch.float32))
        assert not packed._has_varlen(OnCuda(torch.float32))
        assert packed._has_varlen(OnCuda(torch.bfloat16)) and packed._has_varlen(OnCuda(torch.float16))
    assert [record.message for record in caplog.records] == [
        "attention of variable length needs bfloat16 or float16 on CUDA: attending image by image"
    ]


def test_a_gpu_that_is_too_old_is_said_once(caplog, gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with caplog.at_level(logging.WARNING):
        assert not packed._has_varlen(OnCuda(torch.float16))
    assert "Old GPU has no attention of variable length" in caplog.text


def test_a_torch_without_the_kernel_is_said_once(caplog, gpu, monkeypatch):
    monkeypatch.setattr(packed, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert not packed._has_varlen(OnCuda(torch.bfloat16))
        assert not packed._has_varlen(OnCuda(torch.bfloat16))
    assert len(caplog.records) == 1 and "no attention of variable length" in caplog.text


@torch.no_grad()
def test_no_row_is_computed_for_nothing():
    """The linear layers see as many rows as there are tokens, whatever the longest image has."""
    block, rows = make(), []
    for module in block.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, x, y: rows.append(x[0].numel() // x[0].shape[-1]))
    packed.run_packed(block, tokens(), LENGTHS)
    assert rows == [sum(LENGTHS)] * 4


def test_the_blocks_of_the_usual_vits_are_those_that_pack():
    for name in ("vit_tiny_patch16_384", "deit_tiny_patch16_224", "vit_small_patch14_dinov2"):
        with torch.device("meta"):
            vit = timm.create_model(name)
        assert {type(block) for block in vit.blocks} == {Block}
        assert {type(block.attn) for block in vit.blocks} == {Attention}
