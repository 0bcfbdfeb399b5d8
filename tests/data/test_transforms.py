"""Augmentation against NumPy and colorsys, one pixel at a time where need be."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from paumer.data.transforms import (
    Distortion,
    TrainTransform,
    distort,
    draw_distortion,
    largest_class_share,
    pad_to,
    photometric_distortion,
    random_crop,
    resize_mask,
    resize_to,
    sample_generator,
    scaled_size,
)
from paumer.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int, num_classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    image = torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8)
    return image, torch.randint(0, num_classes, (height, width), generator=g, dtype=torch.uint8)


def coordinates(height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image whose red is the column and green the row, and the mask of its columns; sides up to 200."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8).expand(height, width)
    return torch.stack([columns, rows, torch.zeros_like(rows)]), columns.clone()


ALL_COLOURS = torch.stack(torch.meshgrid(*[torch.arange(0, 256, 15)] * 3, indexing="ij")).flatten(2).to(torch.uint8)


# --- sample_generator ------------------------------------------------------------------------------------------------


def draws(*key: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=sample_generator(*key)).tolist())


def test_sample_generator_repeats_itself():
    assert draws(3, 70_000, 5) == draws(3, 70_000, 5)


def test_sample_generator_tells_every_triple_apart():
    keys = [(seed, step, sample) for seed in range(8) for step in range(8) for sample in range(8)]
    keys += [(2**32, 0, 1), (2**40, 1, 0), (0, 2**32, 0)]
    assert len({draws(*key) for key in keys}) == len(keys)


def test_neighbouring_samples_are_uncorrelated_and_uniform():
    first = np.array([draws(0, step, sample)[0] for step in range(100) for sample in range(10)])
    assert abs(first.mean() - 0.5) < 0.04 and abs(first.std() - 12**-0.5) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
    assert abs(np.corrcoef(first[:-10], first[10:])[0, 1]) < 0.1


def test_negative_numbers_are_refused():
    with pytest.raises(InputError, match="0 or more"):
        sample_generator(0, -1, 0)


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "long_short", "expected"),
    [
        ((1024, 2048), (2048, 1024), (1024, 2048)),
        ((360, 480), (2048, 512), (512, 683)),  # short side binds: 480 * 512/360 = 682.67
        ((100, 1000), (2048, 512), (205, 2048)),  # long side binds: 204.8
        ((1000, 100), (2048, 512), (2048, 205)),
        ((4, 5), (2, 2), (2, 2)),  # 1.6 -> 2
        ((5, 2), (3, 1), (3, 1)),  # factor 0.5: 2.5 rounds half up
        ((3, 900), (90, 90), (1, 90)),  # 0.3 would vanish
    ],
)
def test_scaled_size_is_the_keep_aspect_rule(size: tuple[int, int], long_short: tuple[int, int], expected: tuple):
    assert scaled_size(*size, *long_short) == expected


def bilinear_1d(size_in: int, size_out: int) -> np.ndarray:
    """Matrix (size_out, size_in) of half-pixel-centred linear interpolation without antialiasing."""
    matrix = np.zeros((size_out, size_in))
    for i in range(size_out):
        x = min(max((i + 0.5) * size_in / size_out - 0.5, 0), size_in - 1)
        left = min(int(x), size_in - 2)
        matrix[i, left], matrix[i, left + 1] = 1 - (x - left), x - left
    return matrix


@pytest.mark.parametrize("long_short", [(60, 40), (17, 12), (24, 20)])
def test_resize_is_bilinear_for_images_and_nearest_for_masks(long_short: tuple[int, int]):
    image, mask = noise(20, 30)
    height, width = scaled_size(20, 30, *long_short)
    new_image, new_mask = resize_to(image, mask, long_short)
    rows, columns = bilinear_1d(20, height), bilinear_1d(30, width)
    assert np.abs(rows @ image.numpy() @ columns.T - new_image.numpy()).max() <= 1  # integer arithmetic rounds
    nearest_row = [int((i + 0.5) * 20 / height) for i in range(height)]
    nearest_column = [int((j + 0.5) * 30 / width) for j in range(width)]
    assert np.array_equal(new_mask.numpy(), mask.numpy()[np.ix_(nearest_row, nearest_column)])
    assert new_image.dtype == new_mask.dtype == torch.uint8


def test_antialias_averages_when_shrinking():
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::4] = 200
    mask = stripes[0]
    plain, _ = resize_to(stripes, mask, (16, 16))
    smooth, _ = resize_to(stripes, mask, (16, 16), antialias=True)
    assert plain.float().std() == 0 and plain.max() == 0  # 4k + 1.5: every stripe is missed
    assert abs(smooth[:, :, 2:-2].float().mean() - 50) < 2


@pytest.mark.parametrize("size", [(13, 17), (40, 80), (7, 200)])
def test_labels_gain_no_new_ids(size: tuple[int, int]):
    mask = torch.tensor([0, 7, 200, 255], dtype=torch.uint8)[torch.randint(0, 4, (31, 33), generator=generator())]
    assert set(resize_mask(mask, size).unique().tolist()) <= {0, 7, 200, 255}


# --- crop and padding ------------------------------------------------------------------------------------------------


def test_largest_class_share_counts_only_labelled_pixels():
    mask = torch.tensor([[0, 0, 0, 1], [255, 255, 255, 255]], dtype=torch.uint8)
    assert largest_class_share(mask) == 0.75
    assert largest_class_share(mask, ignore_index=0) == 0.8
    assert largest_class_share(torch.full((3, 3), 255, dtype=torch.uint8)) == 1


def test_crop_is_a_window_and_reaches_every_place():
    image, mask = coordinates(9, 12)
    corners = set()
    for seed in range(300):
        window, labels = random_crop(image, mask, (7, 10), generator(seed), cat_max_ratio=1)
        left, top = window[:2, 0, 0].tolist()
        assert torch.equal(window, image[:, top : top + 7, left : left + 10])
        assert torch.equal(labels, mask[top : top + 7, left : left + 10])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_crop_avoids_windows_of_one_class():
    """Classes meet at column 50 of 200: few windows of 20 columns are mixed, far more are after redrawing."""
    image, mask = noise(20, 200)
    mask[:, :50], mask[:, 50:] = 0, 1
    shares = {
        ratio: [
            largest_class_share(random_crop(image, mask, (20, 20), generator(seed), ratio)[1]) for seed in range(400)
        ]
        for ratio in (1, 0.75)
    }
    mixed = {ratio: np.mean(np.array(values) < 0.75) for ratio, values in shares.items()}
    # 9 of 181 windows hold 6 to 14 columns of each class; eleven tries (one and ten redraws) find one in 1-(1-p)^11.
    chance = 9 / 181
    assert abs(mixed[1] - chance) < 0.04
    assert abs(mixed[0.75] - (1 - (1 - chance) ** 11)) < 0.08


def test_crop_ends_where_no_window_is_mixed():
    image, mask = noise(30, 30, num_classes=1)
    assert random_crop(image, mask, (10, 10), generator())[1].shape == (10, 10)


def test_crop_takes_first_window_that_meets_the_ratio():
    image, mask = noise(30, 30)  # five classes in equal parts: every window passes
    free, kept = (random_crop(image, mask, (10, 10), generator(3), ratio)[0] for ratio in (1, 0.75))
    assert torch.equal(free, kept)


def test_padding_is_right_and_bottom_with_fill_and_ignore():
    image, mask = noise(4, 6)
    padded, labels = pad_to(image, mask, (7, 9), (10, 20, 30), ignore_index=254)
    expected = np.empty((3, 7, 9), np.uint8)
    expected[:] = np.array([10, 20, 30])[:, None, None]
    expected[:, :4, :6] = image
    assert np.array_equal(padded, expected)
    assert np.array_equal(labels, np.pad(mask.numpy(), ((0, 3), (0, 3)), constant_values=254))
    assert padded.dtype == labels.dtype == torch.uint8


# --- colour ----------------------------------------------------------------------------------------------------------


def distort_by_colorsys(image: Tensor, distortion: Distortion) -> np.ndarray:
    """The same chain on (3, 1, n) pixels, one pixel at a time, through real HSV."""

    def contrast(pixel: list[float]) -> list[float]:
        return [min(max(value * distortion.contrast, 0), 255) for value in pixel]

    def colour(pixel: list[float]) -> list[float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        saturation = min(saturation * distortion.saturation, 1)
        return list(colorsys.hsv_to_rgb((hue + distortion.hue / 180) % 1, saturation, value))

    result = []
    for pixel in image.flatten(1).T.tolist():
        pixel = [min(max(value + distortion.brightness, 0), 255) for value in pixel]
        for change in (contrast, colour) if distortion.contrast_first else (colour, contrast):
            pixel = change(pixel)
        result.append(pixel)
    return np.array(result).T.reshape(image.shape)


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(brightness=32),
        Distortion(brightness=-31.5),
        Distortion(contrast=0.5),
        Distortion(contrast=1.5),
        Distortion(saturation=0.5),
        Distortion(saturation=1.5),
        Distortion(hue=17),
        Distortion(hue=-18),
        Distortion(hue=100),
        Distortion(hue=-175),
        Distortion(20, 1.4, 1.3, 11, contrast_first=True),
        Distortion(-20, 1.4, 0.6, -9, contrast_first=False),
    ],
    ids=str,
)
def test_distort_matches_colorsys_on_all_colours(distortion: Distortion):
    difference = np.abs(distort(ALL_COLOURS, distortion).numpy() - distort_by_colorsys(ALL_COLOURS, distortion))
    assert difference.max() <= 0.501  # rounding to uint8 is all


def opencv_hsv(rgb: np.ndarray) -> np.ndarray:
    """8-bit HSV as OpenCV documents it: (n, 3) uint8 -> (n, 3) with H in 0..179, S and V in 0..255."""
    rgb = rgb.astype(float)
    value, chroma = rgb.max(1), rgb.max(1) - rgb.min(1)
    safe = np.where(chroma == 0, 1, chroma)
    red, green, blue = rgb.T
    degrees = np.where(value == green, 120 + 60 * (blue - red) / safe, 240 + 60 * (red - green) / safe)
    degrees = np.where(value == red, 60 * (green - blue) / safe, degrees) % 360
    saturation = np.where(value == 0, 0, 255 * chroma / np.where(value == 0, 1, value))
    return np.stack([np.rint(degrees / 2) % 180, np.rint(saturation), value], 1)


def test_saturation_and_hue_follow_the_8_bit_arithmetic_of_opencv():
    """Against mmseg's way: quantised HSV, S scaled and cut to uint8, H turned modulo 180."""
    pixels = ALL_COLOURS.flatten(1).T.numpy()
    hue, saturation, value = opencv_hsv(pixels).T
    saturation = np.clip(saturation * 1.3, 0, 255).astype(np.uint8)
    hue = (hue.astype(int) - 13) % 180
    expected = [colorsys.hsv_to_rgb(h / 180, s / 255, float(v)) for h, s, v in zip(hue, saturation, value, strict=True)]
    got = distort(ALL_COLOURS, Distortion(saturation=1.3, hue=-13)).flatten(1).T.numpy()
    # Half a unit of OpenCV's hue is 255/60 levels, of its saturation (twice rounded) up to 2.
    assert np.abs(got - np.array(expected)).max() <= 7
    assert abs((got - np.array(expected)).mean()) < 0.5


def test_contrast_multiplies_raw_values_and_not_about_the_mean():
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    assert (distort(grey, Distortion(contrast=1.5)) == 150).all()


def test_changes_are_clipped_one_by_one():
    image = torch.tensor([240, 10, 100], dtype=torch.uint8)[:, None, None]
    assert distort(image, Distortion(brightness=30, contrast=0.5)).flatten().tolist() == [128, 20, 65]


def test_distortion_that_changes_nothing_is_the_identity():
    assert torch.equal(distort(ALL_COLOURS, Distortion()), ALL_COLOURS)


def test_distort_leaves_its_input_alone():
    image = ALL_COLOURS.clone()
    distort(image, Distortion(20, 1.4, 1.3, 11))
    assert torch.equal(image, ALL_COLOURS)


DRAWN = [draw_distortion(sample_generator(0, step, 0)) for step in range(3000)]


@pytest.mark.parametrize(
    ("field", "neutral", "low", "high"),
    [("brightness", 0, -32, 32), ("contrast", 1, 0.5, 1.5), ("saturation", 1, 0.5, 1.5)],
)
def test_drawn_strength_is_uniform_and_used_half_the_time(field: str, neutral: float, low: float, high: float):
    values = np.array([getattr(distortion, field) for distortion in DRAWN])
    used = values[values != neutral]
    assert abs(len(used) / len(values) - 0.5) < 0.04
    width = high - low
    assert low <= used.min() < low + 0.01 * width and high - 0.01 * width < used.max() <= high
    assert abs(np.quantile(used, 0.25) - (low + 0.25 * width)) < 0.03 * width
    assert abs(np.quantile(used, 0.75) - (low + 0.75 * width)) < 0.03 * width


def test_drawn_hue_is_every_integer_from_minus_18_to_17():
    hues = [distortion.hue for distortion in DRAWN]
    assert set(hues) == set(range(-18, 18))
    assert abs(np.mean([hue != 0 for hue in hues]) - 0.5 * 35 / 36) < 0.04


def test_the_coins_are_independent():
    used = np.array(
        [[d.brightness != 0, d.contrast != 1, d.saturation != 1, d.hue != 0, d.contrast_first] for d in DRAWN]
    )
    correlation = np.corrcoef(used.T.astype(float)) - np.eye(5)
    assert np.abs(correlation).max() < 0.08
    assert abs(used[:, 4].mean() - 0.5) < 0.04


def test_brightness_on_grey_reaches_32_levels_and_no_further():
    grey = torch.full((3, 1, 1), 128, dtype=torch.uint8)
    shifts = [int(distort(grey, Distortion(brightness=d.brightness))[0]) - 128 for d in DRAWN]
    assert min(shifts) == -32 and max(shifts) == 32


def test_channels_are_never_permuted():
    """A turn of 36 degrees cannot move a pure primary's largest channel, whatever else is drawn."""
    primaries = torch.eye(3)[:, :, None].mul(200).to(torch.uint8)
    for step in range(300):
        changed = photometric_distortion(primaries, sample_generator(1, step, 0))[:, :, 0]
        assert changed.argmax(0).tolist() == [0, 1, 2]


def test_grey_stays_grey():
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    for step in range(50):
        red, green, blue = photometric_distortion(grey, sample_generator(2, step, 0))
        assert torch.equal(red, green) and torch.equal(green, blue)


# --- TrainTransform --------------------------------------------------------------------------------------------------

GEOMETRY = TrainTransform((60, 90), photometric=False, cat_max_ratio=1)


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (40, 30), (60, 90), (20, 400), (1, 1)])
@pytest.mark.parametrize("base_size", [None, (160, 80)])
def test_output_is_the_crop_size_for_every_input(size: tuple[int, int], base_size: tuple[int, int] | None):
    transform = TrainTransform((60, 90), base_size)
    for seed in range(5):
        image, mask = transform(*noise(*size), generator(seed))
        assert image.shape == (3, 60, 90) and mask.shape == (60, 90)
        assert image.dtype == mask.dtype == torch.uint8
        assert image.is_contiguous() and mask.is_contiguous()


def test_same_generator_same_sample_and_another_generator_another():
    transform, pair = TrainTransform((60, 90)), noise(100, 120)
    first, again, other = (transform(*pair, sample_generator(0, step, 3)) for step in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_global_random_numbers_are_neither_used_nor_moved():
    transform, pair = TrainTransform((60, 90)), noise(100, 120)
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, _ = transform(*pair, sample_generator(0, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(2)
    second, _ = transform(*pair, sample_generator(0, 0, 0))
    assert torch.equal(first, second)


def test_inputs_are_left_alone():
    image, mask = noise(60, 90)
    copies = image.clone(), mask.clone()
    for step in range(10):
        new_image, new_mask = TrainTransform((60, 90), scale=(1, 1))(image, mask, sample_generator(0, step, 0))
        new_image.zero_()
        new_mask.zero_()
        assert torch.equal(image, copies[0]) and torch.equal(mask, copies[1])


@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
def test_image_and_mask_stay_aligned(axis: int):
    """Where a channel is the source coordinate, the label (the nearest one) is within a pixel of it, flipped or not."""
    image, _ = coordinates(120, 200)
    for seed in range(30):
        new_image, new_mask = GEOMETRY(image, image[axis].clone(), generator(seed))
        labelled = new_mask != 255
        difference = (new_image[axis].int() - new_mask.int())[labelled].abs()
        assert labelled.any() and difference.max() <= 1


def test_scale_stays_in_bounds_and_is_uniform():
    """Measured on the image: a column of the source is `factor` columns wide in the result."""
    image, mask = coordinates(100, 160)
    transform = TrainTransform((400, 400), photometric=False)  # more than any scaled image: the padding shows its size
    widths = []
    for step in range(400):
        _, labels = transform(image, mask, sample_generator(5, step, 0))
        height, width = int((labels != 255).any(1).sum()), int((labels != 255).any(0).sum())
        assert abs(height - width * 100 / 160) <= 1
        widths.append(width / 160)
    assert 0.49 <= min(widths) < 0.53 and 1.97 < max(widths) <= 2
    assert abs(np.median(widths) - 1.25) < 0.12


def test_base_size_sets_the_size_at_scale_one():
    image, mask = noise(30, 40)
    transform = TrainTransform((400, 400), base_size=(200, 90), scale=(1, 1), photometric=False)
    labels = transform(image, mask, generator())[1]
    assert (labels[:90, :120] != 255).all() and int((labels != 255).sum()) == 90 * 120


def test_transform_hands_its_ratio_and_ignored_id_to_the_crop():
    """Id 9 everywhere but for a corner of classes 0 and 1: a mixed window is found only where 9 does not count."""
    image, mask = noise(40, 40, num_classes=2)
    mask[:, 14:], mask[14:] = 9, 9
    plain = TrainTransform((20, 20), scale=(1, 1), flip=0, photometric=False)

    def mixed(**settings: float) -> int:
        transform = dataclasses.replace(plain, **settings)
        labels = [transform(image, mask, sample_generator(0, step, 0))[1] for step in range(100)]
        return sum(bool((window != 9).any()) for window in labels)

    untouched, ignoring = mixed(cat_max_ratio=1, ignore_index=9), mixed(cat_max_ratio=0.75, ignore_index=9)
    strict, counting = mixed(cat_max_ratio=0.3), mixed(cat_max_ratio=0.999)
    assert untouched < 60 and ignoring > 95 and counting > 95
    assert strict < 60  # 9 counts as a class and no window is below 0.3: the last redraw is kept, as good as any


@pytest.mark.parametrize(("flip", "expected"), [(0, 0), (0.5, 0.5), (1, 1)])
def test_flip_is_horizontal_and_as_frequent_as_asked(flip: float, expected: float):
    image, mask = coordinates(10, 20)
    transform = TrainTransform((10, 20), scale=(1, 1), flip=flip, photometric=False)
    flipped = 0
    for step in range(300):
        new_image, new_mask = transform(image, mask, sample_generator(0, step, 0))
        is_flipped = bool(new_image[0, 0, 0] == 19)
        assert np.array_equal(new_image, np.flip(image.numpy(), 2) if is_flipped else image)
        assert np.array_equal(new_mask, np.flip(mask.numpy(), 1) if is_flipped else mask)
        flipped += is_flipped
    assert abs(flipped / 300 - expected) < 0.1


def test_padding_is_not_distorted():
    transform = TrainTransform((50, 50), scale=(1, 1), fill=(124, 116, 104), ignore_index=254)
    for step in range(20):
        image, mask = transform(*noise(30, 20), sample_generator(0, step, 0))
        assert (mask[30:] == 254).all() and (mask[:, 20:] == 254).all() and (mask[:30, :20] < 5).all()
        assert (image[:, mask == 254] == torch.tensor([[124], [116], [104]])).all()


def test_photometric_changes_the_image_and_never_the_mask():
    pair = noise(60, 90)
    plain = dataclasses.replace(GEOMETRY, photometric=False, scale=(1, 1))
    vivid = dataclasses.replace(plain, photometric=True)
    changed = 0
    for step in range(20):
        (image, mask), (other, same) = (t(*pair, sample_generator(0, step, 0)) for t in (plain, vivid))
        assert torch.equal(mask, same)
        changed += not torch.equal(image, other)
    assert changed >= 14  # 15/16 are expected to


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_size": (0, 4)},
        {"base_size": (512, 2048)},
        {"scale": (0, 2)},
        {"scale": (2, 0.5)},
        {"cat_max_ratio": 0},
        {"flip": 1.5},
        {"ignore_index": 256},
        {"fill": (0, 0, 256)},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_named(settings: dict):
    with pytest.raises(InputError, match=next(iter(settings))):
        TrainTransform(**{"crop_size": (4, 4), **settings})
