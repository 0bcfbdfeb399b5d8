"""The classes of pixels against torch's bilinear interpolation of all logits, written out and compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_pausing import bilinear
from torch.utils._python_dispatch import TorchDispatchMode

from paumer.model import upsample as module
from paumer.model.upsample import upsampled_argmax

SCALES = [(16, 16), (14, 14), (8, 8), (7, 7), (3, 3), (2, 2), (1, 1), (16, 14), (1, 5), (4, 1), (3, 8)]


def random_logits(batch_size=2, num_classes=7, h=5, w=6, seed=0):
    return torch.randn(batch_size, num_classes, h, w, generator=torch.Generator().manual_seed(seed))


def patchy_logits(batch_size=2, num_classes=7, h=5, w=6, seed=0):
    """Sure of one class in large areas, as a trained model is, and uniform in some images."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, num_classes, (batch_size, -(-h // 3), -(-w // 3)), generator=generator)
    classes = classes.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)[:, :h, :w]
    sure = 3.0 * F.one_hot(classes, num_classes).movedim(-1, 1)
    return sure + 0.1 * torch.randn(batch_size, num_classes, h, w, generator=generator)


def interpolated(logits, scale):
    return F.interpolate(logits.float(), scale_factor=scale, mode="bilinear", align_corners=False)


def assert_argmax_of(labels, logits, tolerance=1e-5):
    """Equal, but where the two best classes are as good as equally likely."""
    assert labels.shape == (logits.shape[0], *logits.shape[2:]) and labels.dtype == torch.int64
    best, second = logits.topk(2, dim=1).values.unbind(1)
    chosen = logits.gather(1, labels[:, None])[:, 0]
    assert (chosen >= best - tolerance).all()
    clear = best - second > tolerance
    assert torch.equal(labels[clear], logits.argmax(dim=1)[clear])


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("make", [random_logits, patchy_logits])
def test_equals_the_argmax_of_interpolated_logits(scale, make):
    logits = make()
    assert_argmax_of(upsampled_argmax(logits, scale), interpolated(logits, scale))


@pytest.mark.parametrize("patch", [16, 14, 5])
def test_equals_the_argmax_of_interpolation_written_out(patch):
    logits = random_logits(1, 4, 3, 5)
    labels = upsampled_argmax(logits, (patch, patch))
    assert_argmax_of(labels, torch.from_numpy(bilinear(logits, patch)))


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([random_logits, patchy_logits]),
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(1, 7),
    st.integers(1, 7),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.integers(0, 999),
)
def test_equals_interpolation_for_every_grid_and_scale(make, batch_size, num_classes, h, w, scale, seed):
    logits = make(batch_size, num_classes, h, w, seed)
    assert_argmax_of(upsampled_argmax(logits, scale), interpolated(logits, scale))


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (1, 6)])
@pytest.mark.parametrize("scale", [(16, 16), (3, 2), (1, 1)], ids=str)
def test_the_smallest_grids(grid, scale):
    logits = random_logits(3, 4, *grid)
    assert_argmax_of(upsampled_argmax(logits, scale), interpolated(logits, scale))


def test_a_bunch_smaller_than_one_cell_is_one_cell(monkeypatch):
    monkeypatch.setitem(module._BUNCH, "cpu", 1)
    logits = random_logits(2, 5, 3, 3)
    assert_argmax_of(upsampled_argmax(logits, (4, 4)), interpolated(logits, (4, 4)))


def test_every_image_is_treated_as_if_it_were_alone():
    logits = torch.cat([random_logits(1, seed=1), patchy_logits(1, seed=2), random_logits(1, seed=3)])
    together = upsampled_argmax(logits, (8, 8))
    for i in range(3):
        assert torch.equal(together[i : i + 1], upsampled_argmax(logits[i : i + 1], (8, 8)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_mixed_in_float32(dtype):
    logits = (5 * random_logits(2, 9, 6, 6)).to(dtype)
    # A pixel between patches may tie in half precision; in float32 it seldom does.
    assert_argmax_of(upsampled_argmax(logits, (16, 16)), interpolated(logits, (16, 16)))


def test_a_wide_memory_layout_does_not_matter():
    logits = random_logits()
    for other in (logits.contiguous(memory_format=torch.channels_last), logits.transpose(2, 3).contiguous().mT):
        assert not other.is_contiguous()
        assert torch.equal(upsampled_argmax(other, (4, 4)), upsampled_argmax(logits, (4, 4)))


def test_class_ids_beyond_those_of_a_byte_come_back_whole():
    logits = torch.full((1, 1000, 2, 3), -1.0)
    ids = torch.tensor([[999, 257, 998], [0, 256, 512]])
    logits.scatter_(1, ids[None, None], 1.0)
    assert torch.equal(upsampled_argmax(logits, (1, 1))[0], ids)
    corners = upsampled_argmax(logits, (8, 8))[0][::15, ::23]  # where nothing is mixed
    assert torch.equal(corners, ids[:, ::2])


# --- work and memory -------------------------------------------------------------------------------------------------


class Recorder(TorchDispatchMode):
    """The sizes of all tensors that are made, and how often numbers are mixed."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.mixed_cells = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.largest = max(self.largest, tensor.numel())
        if func is torch.ops.aten.bmm.default or func is torch.ops.aten.mm.default:
            self.mixed_cells += out.numel()
        return out


def recorded(logits, scale):
    with Recorder() as recorder:
        upsampled_argmax(logits, scale)
    return recorder


def mixed_cells(logits, scale):
    """Interpolated cells between four patches: numbers that come out of products, by classes and pixels of a cell."""
    products = recorded(logits, scale).mixed_cells - _corner_products(scale)
    return products / (scale[0] * scale[1] * logits.shape[1])


def _corner_products(scale):
    with Recorder() as recorder:
        torch.einsum("ay,bx->yxab", torch.ones(2, scale[0]), torch.ones(2, scale[1]))
    return recorder.mixed_cells


@pytest.mark.parametrize("scale", [(16, 16), (3, 5)], ids=str)
def test_where_classes_agree_nothing_is_interpolated(scale):
    uniform = random_logits(2, 5, 6, 7)
    uniform[:, 3] += 20
    assert mixed_cells(uniform, scale) == 0
    assert (upsampled_argmax(uniform, scale) == 3).all()


def test_only_cells_between_different_classes_are_interpolated():
    logits = torch.zeros(2, 5, 6, 8)
    logits[0, 1] = 1  # the first image is of one class
    logits[1, 2, :, :4] = logits[1, 3, :, 4:] = 1  # the second has a vertical border
    assert mixed_cells(logits, (8, 8)) == 6 + 1  # a cell for each row of patches, and one more at the edges
    logits[1, :, 2, 6], logits[1, 4, 2, 6] = 0, 1  # and an island: the four cells around it
    assert mixed_cells(logits, (8, 8)) == 6 + 1 + 4


def test_random_logits_are_interpolated_nearly_everywhere():
    logits = random_logits(2, 30, 6, 8)
    cells = 2 * 7 * 9
    corners = 2 * 4  # there all four patches are one
    assert 0.8 * cells < mixed_cells(logits, (4, 4)) <= cells - corners


@pytest.mark.parametrize("make", [random_logits, patchy_logits])
def test_logits_of_all_pixels_are_never_written(make):
    batch_size, num_classes, h, w = 1, 60, 12, 16
    logits = make(batch_size, num_classes, h, w)
    full = num_classes * (h * 16) * (w * 16)
    assert recorded(logits, (16, 16)).largest < full / 10
    with Recorder() as recorder:  # the same eye sees them where they are written
        interpolated(logits, (16, 16)).argmax(dim=1)
    assert recorder.largest >= full


def test_more_images_do_not_make_the_bunches_larger():
    sizes = [recorded(random_logits(batch_size, 150, 4, 4), (16, 16)).largest for batch_size in (1, 4)]
    assert sizes[0] == sizes[1] <= module._BUNCH["cpu"]
