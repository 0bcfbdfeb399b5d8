from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paumer.errors import InputError
from paumer.inference import (
    InferenceConfig,
    base_scale,
    enlarged_size,
    multi_scale_inference,
    scaled_size,
    segment_image,
    slide_inference,
    whole_inference,
    window_boxes,
)

WEIGHT = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
KERNEL = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(2))


def pixelwise(images):
    """Looks at nothing but the pixel itself."""
    return torch.einsum("kc,bchw->bkhw", WEIGHT, images)


def contextual(images):
    """Depends on the neighbours and on the window as a whole, as a transformer does."""
    return F.conv2d(images, KERNEL, padding=1) + images.mean((1, 2, 3), keepdim=True)


def random_image(height, width, batch=1, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def brute_force_slide(image, crop, stride):
    """The mean over windows, pixel by pixel, with windows enumerated naively."""
    height, width = image.shape[-2:]
    tops = sorted({min(top, height - crop[0]) for top in range(0, height, stride[0])})
    lefts = sorted({min(left, width - crop[1]) for left in range(0, width, stride[1])})
    total, count = np.zeros((5, height, width)), np.zeros((height, width))
    for top in tops:
        for left in lefts:
            window = image[:, :, top : top + crop[0], left : left + crop[1]]
            total[:, top : top + crop[0], left : left + crop[1]] += contextual(window)[0].double().numpy()
            count[top : top + crop[0], left : left + crop[1]] += 1
    return total / count


@pytest.mark.parametrize(
    ("size", "crop", "stride"), [((20, 31), (8, 10), (8, 6)), ((17, 9), (8, 8), (3, 8)), ((24, 24), (8, 8), (8, 8))]
)
def test_every_pixel_is_covered_by_windows_of_full_size(size, crop, stride):
    seen = np.zeros(size, dtype=int)
    for top, left, bottom, right in window_boxes(*size, crop, stride):
        assert (bottom - top, right - left) == crop and top >= 0 and left >= 0
        seen[top:bottom, left:right] += 1
    assert seen.shape == size and seen.min() >= 1


def test_last_window_is_shifted_inside():
    assert window_boxes(10, 7, (4, 4), (4, 4)) == [
        (0, 0, 4, 4),
        (0, 3, 4, 7),
        (4, 0, 8, 4),
        (4, 3, 8, 7),
        (6, 0, 10, 4),
        (6, 3, 10, 7),
    ]


@pytest.mark.parametrize("length", range(8, 40))
def test_number_of_windows_is_that_of_mmseg(length):
    crop, stride = 8, 5
    num_windows = max(length - crop + stride - 1, 0) // stride + 1
    assert len(window_boxes(length, 8, (crop, 8), (stride, 8))) == num_windows


def test_box_of_a_small_image_is_the_image():
    assert window_boxes(5, 20, (8, 16), (8, 16)) == [(0, 0, 5, 16), (0, 4, 5, 20)]


def test_one_window_equals_whole():
    images = random_image(12, 18)
    slid = slide_inference(contextual, images, (12, 18), (12, 18))
    assert torch.equal(slid, whole_inference(contextual, images))


@pytest.mark.parametrize(("crop", "stride"), [((8, 8), (5, 5)), ((10, 6), (4, 6)), ((8, 12), (8, 12))])
def test_overlaps_are_averaged_as_by_brute_force(crop, stride):
    image = random_image(21, 30)
    slid = slide_inference(contextual, image, crop, stride)
    np.testing.assert_allclose(slid[0].numpy(), brute_force_slide(image, crop, stride), atol=1e-5)


def test_pixelwise_predictor_gives_the_same_whole_and_in_windows():
    images = random_image(23, 37, batch=2)
    torch.testing.assert_close(slide_inference(pixelwise, images, (8, 12), (5, 7)), pixelwise(images))


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_windows_at_once_do_not_change_the_result_nor_exceed_the_limit(batch_size):
    images, sizes = random_image(21, 30, batch=2), []

    def counting(windows):
        sizes.append(len(windows))
        return contextual(windows)

    together = slide_inference(counting, images, (8, 8), (5, 5), batch_size)
    torch.testing.assert_close(together, slide_inference(contextual, images, (8, 8), (5, 5)))
    assert max(sizes) <= batch_size and sum(sizes) == 2 * len(window_boxes(21, 30, (8, 8), (5, 5)))


def test_half_precision_windows_are_summed_in_float32():
    logits = slide_inference(lambda x: pixelwise(x).half(), random_image(12, 12), (8, 8), (2, 2))
    assert logits.dtype == torch.float32


def test_small_image_is_enlarged_to_the_window_and_its_logits_brought_back():
    image, seen = random_image(6, 9), []

    def watching(windows):
        seen.append(tuple(windows.shape[-2:]))
        return contextual(windows)

    slid = slide_inference(watching, image, (12, 12), (12, 12))
    assert set(seen) == {(12, 12)} and slid.shape == (1, 5, 6, 9)
    enlarged = F.interpolate(image, size=(12, 18), mode="bilinear")
    expected = F.interpolate(slide_inference(contextual, enlarged, (12, 12), (12, 12)), size=(6, 9), mode="bilinear")
    torch.testing.assert_close(slid, expected)


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((6, 9), (12, 12), (12, 18)),
        ((9, 6), (12, 12), (18, 12)),
        ((20, 30), (12, 12), (20, 30)),
        ((20, 6), (12, 12), (40, 12)),
        ((10, 10), (8, 20), (20, 20)),
        ((7, 11), (16, 16), (16, 25)),
    ],
)
def test_enlarging_keeps_the_aspect_and_fits_the_window(size, crop, expected):
    assert enlarged_size(size, crop) == expected


def test_predictor_on_a_coarser_grid_is_brought_to_the_size_of_the_image():
    def coarse(images):
        return F.avg_pool2d(pixelwise(images), 4)

    images = random_image(16, 24)
    assert whole_inference(coarse, images).shape == (1, 5, 16, 24)
    assert slide_inference(coarse, images, (8, 8), (4, 4)).shape == (1, 5, 16, 24)


def test_multi_scale_is_the_mean_of_softmaxes_of_every_view():
    images, size, scales = random_image(12, 16), (12, 16), (0.5, 1.0, 1.75)
    views = []
    for scale in scales:
        scaled = F.interpolate(images, size=(int(12 * scale), int(16 * scale)), mode="bilinear")
        for mirrored in (False, True):
            logits = contextual(torch.from_numpy(scaled.numpy()[..., ::-1].copy()) if mirrored else scaled)
            logits = F.interpolate(logits, size=size, mode="bilinear").numpy()
            logits = logits[..., ::-1] if mirrored else logits
            exp = np.exp(logits)
            views.append(exp / exp.sum(1, keepdims=True))
    result = multi_scale_inference(contextual, images, size, scales, flip=True)
    np.testing.assert_allclose(result.numpy(), np.mean(views, axis=0), atol=1e-6)


def test_probabilities_sum_to_one():
    result = multi_scale_inference(contextual, random_image(9, 14), (9, 14), (0.75, 1.25), flip=True)
    torch.testing.assert_close(result.sum(1), torch.ones(1, 9, 14))


def test_flip_changes_nothing_for_a_flip_equivariant_predictor():
    images = random_image(9, 14)
    flipped = multi_scale_inference(pixelwise, images, (9, 14), flip=True)
    torch.testing.assert_close(flipped, multi_scale_inference(pixelwise, images, (9, 14)))


def test_single_view_gives_the_predictors_own_logits():
    image = (random_image(9, 14)[0] * 255).byte()
    logits = segment_image(contextual, image)
    torch.testing.assert_close(logits, contextual(image[None].float() / 255)[0])


def test_single_view_ranks_classes_as_the_probabilities_do():
    images = random_image(9, 14)
    probabilities = multi_scale_inference(contextual, images, (9, 14))
    assert torch.equal(segment_image(contextual, images[0]).argmax(0), probabilities[0].argmax(0))


def test_softmax_of_several_views_is_their_mean_probability():
    images = random_image(9, 14)
    logits = segment_image(contextual, images[0], InferenceConfig(scales=(0.5, 1.5), flip=True))
    expected = multi_scale_inference(contextual, images, (9, 14), (0.5, 1.5), flip=True)[0]
    torch.testing.assert_close(logits.softmax(0), expected)


def test_certain_views_stay_finite():
    logits = segment_image(lambda x: 1e4 * contextual(x), random_image(9, 14)[0], InferenceConfig(flip=True))
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        InferenceConfig(),
        InferenceConfig(base_size=(64, 16)),
        InferenceConfig(mode="slide", crop_size=(16, 16), base_size=(64, 16)),
        InferenceConfig(mode="slide", crop_size=(16, 12), stride=(10, 7), scales=(0.5, 1.0), flip=True, window_batch=3),
    ],
)
@pytest.mark.parametrize("size", [(13, 29), (29, 13), (1, 1)])
def test_result_has_the_size_of_the_input(config, size):
    image = (random_image(*size)[0] * 255).byte()
    assert segment_image(contextual, image, config).shape == (5, *size)


def test_base_size_is_what_the_predictor_sees():
    seen = []

    def watching(images):
        seen.append(tuple(images.shape[-2:]))
        return pixelwise(images)

    segment_image(watching, random_image(30, 40)[0], InferenceConfig(base_size=(2048, 60), scales=(1.0, 0.5)))
    segment_image(watching, random_image(100, 20)[0], InferenceConfig(base_size=(50, 40)))
    segment_image(watching, random_image(100, 20)[0], InferenceConfig(base_size=(50, 40), scales=(0.5,)))
    assert seen == [(60, 80), (30, 40), (50, 10), (25, 5)]


def test_base_scale_is_the_tighter_of_long_and_short_side():
    assert base_scale((1024, 2048), (2048, 512)) == 0.5
    assert base_scale((100, 1000), (500, 100)) == 0.5
    assert base_scale((1000, 100), (500, 100)) == 0.5
    assert base_scale((33, 77), None) == 1.0


def test_sizes_are_rounded_half_up_and_never_vanish():
    assert scaled_size((5, 7), 0.5) == (3, 4) and scaled_size((1, 100), 0.1) == (1, 10)


def test_slide_in_segment_image_is_slide_inference():
    image = random_image(21, 30)
    config = InferenceConfig(mode="slide", crop_size=(8, 8), stride=(5, 5))
    assert torch.equal(
        segment_image(contextual, image[0], config), slide_inference(contextual, image, (8, 8), (5, 5))[0]
    )


def test_no_gradients_are_kept():
    weight = WEIGHT.clone().requires_grad_()
    assert not segment_image(lambda x: torch.einsum("kc,bchw->bkhw", weight, x), random_image(4, 4)[0]).requires_grad


def test_config_is_frozen_and_hashable():
    config = InferenceConfig(mode="slide", crop_size=(8, 8))
    with pytest.raises(FrozenInstanceError):
        config.mode = "whole"
    assert config in {InferenceConfig(mode="slide", crop_size=(8, 8))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slid", "crop_size": (8, 8)}, "did you mean 'slide'"),
        ({"mode": "slide"}, "needs a crop_size"),
        ({"mode": "slide", "crop_size": (8, 0)}, "at least 1 pixel"),
        ({"mode": "slide", "crop_size": (8, 8), "stride": (8, 9)}, "left out"),
        ({"stride": (8, 8)}, "without a crop_size"),
        ({"scales": ()}, "positive numbers"),
        ({"scales": (1.0, -0.5)}, "positive numbers"),
        ({"scales": (float("nan"),)}, "positive numbers"),
        ({"base_size": (512, 2048)}, r"give \(2048, 512\)"),
        ({"window_batch": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        InferenceConfig(**options)


@pytest.mark.parametrize("shape", [(8, 9, 3), (1, 3, 8, 9), (8, 9), (3, 0, 9)])
def test_image_of_another_layout_is_refused(shape):
    with pytest.raises(InputError, match="permute it"):
        segment_image(pixelwise, torch.zeros(shape))
