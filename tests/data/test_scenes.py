"""The made-up scenes: the same everywhere, rightly labelled, and too hard for colour and position alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from paumer.data.scenes import IGNORE, SCENE_CLASSES, SCENE_PALETTE, SceneDataset, render_scene
from paumer.errors import InputError

SMALL = (128, 192)
DIGESTS = {  # of image and mask; the shipped checkpoint was trained on these very bytes
    (0, (256, 384)): "af91ae2c52be89a2",
    (1, (256, 384)): "d978674e7658ff55",
    (7, (97, 131)): "6e6af5261ff556f3",
}


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Forty scenes of the train split, small."""
    train = SceneDataset("train", SMALL, 40)
    return [render_scene(train.seed(i), SMALL) for i in range(len(train))]


def digest(seed: int, size: tuple[int, int]) -> str:
    image, mask = render_scene(seed, size)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("seed", "size"), DIGESTS)
def test_a_seed_gives_the_bytes_it_always_gave(seed: int, size: tuple[int, int]):
    assert digest(seed, size) == DIGESTS[seed, size]


def test_numpy_integers_as_seed_and_size_change_nothing():
    image, mask = render_scene(3, (48, 64))
    same_image, same_mask = render_scene(np.int64(3), (np.int64(48), np.int64(64)))
    assert np.array_equal(image, same_image) and np.array_equal(mask, same_mask)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (181, 75), (64, 301)])
def test_any_size_is_filled_with_labels(size: tuple[int, int]):
    for seed in range(4):
        image, mask = render_scene(seed, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert mask.shape == size and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(SCENE_CLASSES)), IGNORE}
        assert (mask == IGNORE).mean() < 0.2


def test_every_class_is_common_enough_to_learn(scenes):
    present = np.stack([[(mask == c).any() for c in range(11)] for _, mask in scenes]).mean(0)
    pixels = np.stack([np.bincount(mask[mask != IGNORE], minlength=11) for _, mask in scenes]).sum(0)
    assert present.min() >= 0.35
    assert (pixels / pixels.sum()).min() >= 0.004


def test_scenes_differ_and_none_is_flat(scenes):
    assert len({image.tobytes() for image, _ in scenes}) == len(scenes)
    assert len({mask.tobytes() for _, mask in scenes}) == len(scenes)
    assert min(image.std() for image, _ in scenes) > 10


def edge_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean step of the image between horizontal neighbours of different labels."""
    steps = np.abs(np.diff(image.astype(np.int32), axis=1)).mean(-1)
    return float(steps[np.diff(mask.astype(np.int32), axis=1) != 0].mean())


def test_the_mask_lies_where_the_image_changes(scenes):
    exact = np.mean([edge_contrast(image, mask) for image, mask in scenes])
    for shift in (-2, 2):
        shifted = np.mean([edge_contrast(image, np.roll(mask, shift, axis=1)) for image, mask in scenes])
        assert exact > 1.3 * shifted
    interior = np.mean([np.abs(np.diff(image.astype(np.int32), axis=1)).mean() for image, _ in scenes])
    assert exact > 1.5 * interior


def table_miou(train: list, val: list, bins: tuple[int, ...] = (8, 8, 8, 4, 8)) -> float:
    """Dataset-level mIoU on `val` of the most frequent class per bin of (r, g, b, x, y) in `train`."""

    def pixels(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.nonzero(mask != IGNORE)
        values = [*(image[y, x].T / 256), x / mask.shape[1], y / mask.shape[0]]
        cells = np.ravel_multi_index([(v * n).astype(int) for v, n in zip(values, bins, strict=True)], bins)
        return cells, mask[y, x].astype(int)

    counts = np.zeros((np.prod(bins), 11))
    for scene in train:
        np.add.at(counts, pixels(*scene), 1)
    confusion = np.zeros((11, 11))
    for scene in val:
        cells, labels = pixels(*scene)
        np.add.at(confusion, (labels, counts[cells].argmax(1)), 1)
    hits = np.diag(confusion)
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


def test_colour_and_position_alone_stay_below_40_miou(scenes):
    val = SceneDataset("val", SMALL, 12)
    held_out = [render_scene(val.seed(i), SMALL) for i in range(len(val))]
    assert 0.15 < table_miou(scenes, held_out) < 0.40


def test_train_and_val_share_no_seed_however_many_images():
    train, val = SceneDataset("train", num_images=5000), SceneDataset("val", num_images=5000)
    assert not {train.seed(i) for i in range(5000)} & {val.seed(i) for i in range(5000)}
    assert len({train.seed(i) for i in range(5000)}) == 5000


def test_a_sample_is_the_scene_of_its_seed():
    dataset = SceneDataset("val", (40, 56), 3)
    sample = dataset[2]
    image, mask = render_scene(dataset.seed(2), (40, 56))
    assert torch.equal(sample.image, torch.from_numpy(image.transpose(2, 0, 1).copy()))
    assert torch.equal(sample.mask, torch.from_numpy(mask))
    assert sample.image.is_contiguous() and len({dataset[i].name for i in range(3)}) == 3


def test_iterating_a_dataset_ends_after_its_images():
    assert len(list(SceneDataset("train", (32, 32), 3))) == len(SceneDataset("train", (32, 32), 3)) == 3


def test_the_spec_has_eleven_classes_with_a_colour_each():
    spec = SceneDataset().spec
    assert spec.names == SCENE_CLASSES and spec.palette == SCENE_PALETTE and spec.num_classes == 11
    assert len(set(spec.palette)) == 11 and spec.ignore_index == IGNORE
    assert (len(SceneDataset("train")), len(SceneDataset("val"))) == (4000, 100)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: render_scene(0, (31, 64)), "31x64"),
        (lambda: render_scene(-1), "seed -1"),
        (lambda: SceneDataset("valid"), "did you mean 'val'"),
        (lambda: SceneDataset("val", num_images=0), "at least 1"),
    ],
)
def test_what_cannot_be_rendered_is_said(make, word: str):
    with pytest.raises(InputError, match=word):
        make()
