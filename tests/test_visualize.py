from __future__ import annotations

from math import log

import numpy as np
import pytest
from PIL import Image

from paumer.errors import InputError
from paumer.visualize import (
    UNKNOWN,
    colorize,
    entropy_entries,
    entropy_map,
    hstack,
    layer_colors,
    legend,
    overlay,
    patches_to_pixels,
    vstack,
)

PALETTE = ((10, 20, 30), (200, 100, 0), (0, 0, 255))


def random_picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def luminance(colors):
    return np.asarray(colors, dtype=float) @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_each_class_has_its_colour_and_ignored_is_black(dtype):
    colors = colorize(np.array([[0, 1, 255], [2, 2, 3]]).astype(dtype), PALETTE)
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0]], [[0, 0, 255], [0, 0, 255], [0, 0, 0]]]


def test_overlay_mixes_by_alpha_and_leaves_ignored_pixels_clear():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    mixed = overlay(image, np.array([[0, 1, 255]], dtype=np.uint8), PALETTE, alpha=0.25)
    assert mixed.tolist() == [[[78, 80, 82], [125, 100, 75], [100, 100, 100]]]


def test_overlay_at_its_ends_is_the_image_or_the_mask():
    image, mask = random_picture(5, 7), np.random.default_rng(1).integers(0, 3, (5, 7))
    assert np.array_equal(overlay(image, mask, PALETTE, alpha=0), image)
    assert np.array_equal(overlay(image, mask, PALETTE, alpha=1), colorize(mask, PALETTE))


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47), (17, 16), (5, 3)])
def test_each_pixel_shows_the_patch_it_lies_in(height, width):
    grid = np.arange(-(-height // 16) * -(-width // 16)).reshape(-(-height // 16), -1)
    pixels = patches_to_pixels(grid, 16, (height, width))
    assert pixels.shape == (height, width)
    assert all(pixels[y, x] == grid[y // 16, x // 16] for y in range(height) for x in range(width))


def test_grid_of_another_image_is_refused():
    with pytest.raises(InputError, match="3x2 patches of 16, got 2x3"):
        patches_to_pixels(np.zeros((2, 3)), 16, (33, 32))


def test_entropy_rises_in_lightness():
    entropy = np.linspace(0, log(19), 64)[None]
    heat = entropy_map(entropy, (1, 64), 19, patch_size=1)
    assert heat.dtype == np.uint8 and heat.shape == (1, 64, 3)
    assert (np.diff(luminance(heat[0])) > 0).all()


def test_entropy_scale_is_fixed_and_in_units_of_ln_c():
    low, high = np.array([[0.1, 0.2]]), np.array([[0.1, 2.9]])
    assert np.array_equal(entropy_map(low, (2, 4), 19, 2)[:, :2], entropy_map(high, (2, 4), 19, 2)[:, :2])
    half = [entropy_map(np.array([[log(c) / 2]]), (1, 1), c, 1) for c in (2, 19, 150)]
    assert np.array_equal(half[0], half[1]) and np.array_equal(half[0], half[2])


def test_unknown_entropies_are_grey():
    entropy = np.array([[np.nan, 1.0, 1.0]])
    heat = entropy_map(entropy, (1, 3), 19, 1, valid=np.array([[True, False, True]]))[0]
    assert heat[0].tolist() == heat[1].tolist() == list(UNKNOWN)
    assert heat[2].tolist() != list(UNKNOWN)


def test_entropy_legend_shows_the_colours_of_the_map():
    entries = entropy_entries(19, steps=3)
    heat = entropy_map(np.array([[0, log(19) / 2, log(19)]]), (1, 3), 19, 1)[0]
    assert [color for _, color in entries] == [tuple(color) for color in heat.tolist()]
    assert entries[1][0] == "1.47"


def test_layers_have_distinct_colours():
    for layers in ([3], [3, 5, 7], range(1, 25)):
        colors = layer_colors(layers)
        assert list(colors) == list(layers) and len(set(colors.values())) == len(colors)


def test_layer_colours_do_not_depend_on_order():
    assert layer_colors([7, 3, 5]) == layer_colors([3, 5, 7])


def test_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match="8x8 pixels and the mask 4x8"):
        overlay(random_picture(8, 8), np.zeros((4, 8), dtype=np.uint8), PALETTE)


def test_legend_wraps_and_shows_every_colour():
    entries = [(f"class number {i}", (i * 20 + 5, 100, 200)) for i in range(10)]
    narrow, wide = legend(entries, width=200), legend(entries, width=2000)
    assert narrow.width == 200 and narrow.height > 3 * wide.height
    for picture in (narrow, wide):
        assert {color for _, color in entries} <= {color for _, color in picture.getcolors(100_000)}


def test_legend_grows_for_a_label_wider_than_itself():
    assert legend([("a very long label indeed " * 5, (1, 2, 3))], width=50).width > 300


def test_panels_stand_side_by_side_below_their_captions():
    left, right = random_picture(20, 60), random_picture(20, 70, seed=1)
    sheet = np.asarray(hstack([("left", left), ("right", Image.fromarray(right))], gap=4))
    assert sheet.shape[1] == 60 + 4 + 70
    assert np.array_equal(sheet[-20:, :60], left) and np.array_equal(sheet[-20:, 64:], right)
    assert (sheet[:-20] < 100).any()  # ink of the captions


def test_panels_without_captions_have_no_bar():
    assert hstack([("", random_picture(20, 30)), ("", random_picture(10, 30))], gap=0).size == (30 + 60, 20)


def test_caption_wider_than_its_picture_does_not_run_into_the_next():
    sheet = hstack([("a caption of some length", random_picture(10, 10)), ("", random_picture(10, 10))], gap=6)
    assert sheet.width > 100


def test_pictures_are_stacked_with_a_white_gap():
    top, bottom = random_picture(5, 9), random_picture(3, 4, seed=1)
    sheet = np.asarray(vstack([top, bottom], gap=2))
    assert np.array_equal(sheet[:5, :9], top) and np.array_equal(sheet[7:, :4], bottom)
    assert (sheet[5:7] == 255).all() and (sheet[7:, 4:] == 255).all()
