"""Which samples make up which step: over ranks, workers and resumed runs."""

from __future__ import annotations

import pytest
import torch

from paumer.data.batches import StepBatches, StepSamples, create_loader, read_batches
from paumer.data.datasets import DatasetSpec, Sample
from paumer.data.transforms import TrainTransform
from paumer.errors import InputError

SPEC = DatasetSpec(name="numbered", names=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))


class Numbered:
    """Image i is filled with i, and one pixel in a corner tells whether it was mirrored."""

    spec = SPEC

    def __init__(self, size: int = 5, broken: bool = False) -> None:
        self.size, self.broken = size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if self.broken:
            raise InputError(f"cannot read image {index}: download it again")
        image = torch.full((3, 16, 16), index, dtype=torch.uint8)
        image[:, 0, 0] = 200
        return Sample(image, torch.zeros(16, 16, dtype=torch.uint8), str(index))


def create_samples(seed: int = 0, size: int = 5, samples_per_step: int = 4, **options) -> StepSamples:
    transform = TrainTransform(crop_size=(16, 16), scale=(1.0, 1.0), cat_max_ratio=1.0, photometric=False)
    return StepSamples(Numbered(size, **options), transform, seed, samples_per_step)


def image_numbers(samples: StepSamples, items: range) -> list[int]:
    return [int(samples[item][0][0, 8, 8]) for item in items]


def test_every_epoch_covers_each_image_once_in_an_order_of_its_own():
    samples = create_samples(size=20)
    epochs = [image_numbers(samples, range(20 * epoch, 20 * epoch + 20)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert image_numbers(create_samples(seed=1, size=20), range(20)) != epochs[0]


def test_an_item_depends_on_its_number_only():
    samples, other = create_samples(), create_samples()
    torch.manual_seed(1)
    forward = [samples[item] for item in range(12)]
    torch.manual_seed(2)
    backward = [other[item] for item in reversed(range(12))][::-1]
    for (image, mask), (image_again, mask_again) in zip(forward, backward, strict=True):
        assert torch.equal(image, image_again) and torch.equal(mask, mask_again)
    assert {bool(image[0, 0, 0] == 200) for image, _ in forward} == {True, False}  # some are mirrored, some not


def test_items_leave_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for _ in read_batches(create_loader(create_samples(), StepBatches(2, 0, 2), workers=0)):
        pass
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_ranks_share_out_the_items_of_each_step(accumulation):
    ranks = [list(StepBatches(2, 0, 5, accumulation, rank, world_size=4)) for rank in range(4)]
    per_step = 2 * accumulation * 4
    for step in range(5):
        batches = [batch for rank in ranks for batch in rank[step * accumulation : (step + 1) * accumulation]]
        assert sorted(item for batch in batches for item in batch) == list(
            range(step * per_step, (step + 1) * per_step)
        )
    assert all(len(batch) == 2 for rank in ranks for batch in rank)


def test_a_resumed_run_gets_the_tail_of_the_unbroken_one():
    whole, tail = (StepBatches(2, start, 7, accumulation=3, rank=1, world_size=2) for start in (0, 4))
    assert list(tail) == list(whole)[4 * 3 :]
    assert len(tail) == len(list(tail)) == 9 and len(whole) == 21


def test_workers_give_the_same_batches():
    alone, helped = (
        list(read_batches(create_loader(create_samples(), StepBatches(2, 1, 4, 2), workers))) for workers in (0, 2)
    )
    assert len(alone) == 6
    for (images, masks), (images_again, masks_again) in zip(alone, helped, strict=True):
        assert images.shape == (2, 3, 16, 16) and masks.shape == (2, 16, 16) and images.dtype == torch.uint8
        assert torch.equal(images, images_again) and torch.equal(masks, masks_again)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_raises_for_the_user_stays_one_sentence(workers):
    loader = create_loader(create_samples(broken=True), StepBatches(1, 0, 1), workers)
    with pytest.raises(InputError, match=r"^cannot read image \d: download it again$"):
        list(read_batches(loader))


def test_an_empty_data_set_is_refused():
    with pytest.raises(InputError, match="numbered has no training images"):
        create_samples(size=0)
