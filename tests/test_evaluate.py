from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_pausing import mean_iou
from tiny import DEPTH, random_images, tiny_model

from paumer import evaluate as module
from paumer.data import DatasetSpec, Sample
from paumer.errors import InputError
from paumer.evaluate import batches_of_one_size, evaluate
from paumer.inference import InferenceConfig
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.segment import inference_config

PAUSES = [PauseConfig.parse(text) for text in ("2:0.6", "none", "1:0.4,3:0.4")]


SIZES = ((48, 64), (40, 50), (48, 64), (64, 33))


class Made:
    """Random images of a few sizes, whose masks are noise around what the model sees, with ignored pixels."""

    spec = DatasetSpec("made", tuple("abcde"), tuple((i, i, i) for i in range(5)))

    def __init__(self, model, sizes=SIZES):
        self.samples = []
        for i, (height, width) in enumerate(sizes):
            image = random_images(1, height, width, seed=i)[0]
            generator = torch.Generator().manual_seed(i)
            with torch.no_grad():
                mask = model(image[None]).logits[0].argmax(0)
            noise = torch.randint(0, 4, mask.shape, generator=generator)  # class 4 is in no mask but may be predicted
            mask = torch.where(torch.rand(mask.shape, generator=generator) < 0.3, noise, mask.clamp(max=3))
            mask[torch.rand(mask.shape, generator=generator) < 0.2] = 255
            self.samples.append(Sample(image, mask.to(torch.uint8), f"{i}"))
        self.read = []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.samples[index]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def dataset(model):
    return Made(model)


@torch.no_grad()
def predictions(model, dataset, pause, indices=range(4), **options):
    seed = options.pop("seed", None)
    seeds = {} if seed is None else {i: [seed + i] for i in indices}
    return [
        model(dataset.samples[i].image[None], pause, seeds=seeds.get(i), **options).logits[0].argmax(0) for i in indices
    ]


def masks(dataset, indices=range(4)):
    return [dataset.samples[i].mask for i in indices]


def test_miou_equals_numpy_at_every_configuration(model, dataset):
    results = evaluate(model, dataset, PAUSES)
    assert [result.pause for result in results] == PAUSES
    for result in results:
        expected = mean_iou(predictions(model, dataset, result.pause), masks(dataset), 5)
        assert result.miou == pytest.approx(expected, abs=1e-4)
        assert result.num_images == 4
    assert len({result.miou for result in results}) == 3


def test_several_configurations_equal_separate_runs_and_read_each_image_once(model, dataset):
    together = evaluate(model, dataset, PAUSES)
    assert dataset.read == [0, 1, 2, 3]
    for pause, result in zip(PAUSES, together, strict=True):
        assert written([result]) == written(evaluate(model, dataset, [pause]))


def written(results):
    return [result.to_dict("abcde") for result in results]  # nan, which equals nothing, becomes None


def test_ignored_pixels_count_nowhere(model, dataset):
    scores = evaluate(model, dataset)[0].scores
    expected = [sum(int((mask == c).sum()) for mask in masks(dataset)) for c in range(5)]
    assert list(scores.pixels) == expected
    assert sum(scores.pixels) < sum(mask.numel() for mask in masks(dataset))


def test_a_part_of_the_dataset_can_be_scored(model, dataset):
    result = evaluate(model, dataset, [PAUSES[0]], indices=[3, 1])[0]
    expected = mean_iou(predictions(model, dataset, PAUSES[0], [3, 1]), masks(dataset, [3, 1]), 5)
    assert result.miou == pytest.approx(expected, abs=1e-4)
    assert result.num_images == 2 and dataset.read == [3, 1]


def test_random_pausing_of_an_image_depends_on_its_index_alone(model, dataset):
    options = dict(criterion="random", seed=11)
    for indices in (range(4), [2], [3, 2]):
        result = evaluate(model, dataset, [PAUSES[0]], indices=indices, **options)[0]
        expected = predictions(model, dataset, PAUSES[0], indices, **options)
        assert result.miou == pytest.approx(mean_iou(expected, masks(dataset, indices), 5), abs=1e-4)
        assert result.criterion == "random"
    by_seed = [evaluate(model, dataset, PAUSES[:1], criterion="random", seed=seed)[0].miou for seed in (11, 12)]
    assert by_seed[0] != by_seed[1]


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_brought_back(model, dataset, training):
    expected = written(evaluate(model.eval(), dataset))
    model.train(training)
    assert written(evaluate(model, dataset)) == expected  # no stochastic depth while evaluating
    assert model.training == training and model.encoder.blocks[0].training == training
    model.eval()


def test_the_training_mode_is_brought_back_after_a_failure(model, dataset):
    model.train()
    with pytest.raises(IndexError):
        evaluate(model, dataset, indices=[99])
    assert model.training
    model.eval()


def test_another_number_of_classes_is_refused(dataset):
    with pytest.raises(InputError, match="the model predicts 7 classes, made has 5"):
        evaluate(tiny_model(num_classes=7), dataset)
    assert dataset.read == []


def test_a_wrong_layer_is_told_before_the_first_image(model, dataset):
    with pytest.raises(InputError, match="after layer 9"):
        evaluate(model, dataset, [NO_PAUSE, PauseConfig.parse("9:0.1")])
    assert dataset.read == []


def test_windows_are_those_of_the_models_configuration_unless_given(dataset):
    model = tiny_model(mode="slide", crop_size=(32, 32), stride=(16, 32))
    assert inference_config(model) == InferenceConfig(mode="slide", crop_size=(32, 32), stride=(16, 32))
    assert inference_config(model, mode="whole", crop_size=None).mode == "whole"
    result = evaluate(model, dataset, [PAUSES[0]])[0]
    assert result.inference == inference_config(model)
    whole = evaluate(model, dataset, [PAUSES[0]], inference=InferenceConfig())[0]
    assert whole.inference.mode == "whole" and whole.scores != result.scores


def test_a_result_is_json_with_its_conditions(model, dataset):
    result = evaluate(model, dataset, [PAUSES[0]], indices=[0])[0]
    values = json.loads(json.dumps(result.to_dict(dataset.spec.names)))
    assert (values["pause"], values["criterion"], values["num_images"]) == ("2:0.6", "entropy", 1)
    assert values["inference"]["mode"] == "whole"
    assert values["miou"] == pytest.approx(result.miou)
    assert [entry["name"] for entry in values["classes"]] == list("abcde")


# --- several images at once ------------------------------------------------------------------------------------------

A, B, C = (48, 64), (40, 50), (64, 33)
MIXED = (A, B, A, C, A, B, A, A)
TOGETHER = [[0, 2, 4], [1, 5], [3], [6, 7]]  # with three of a size at once; the last ones in the order of their sizes
ADAPTIVE = [PauseConfig.parse(text) for text in ("2:0.5nats", "1:0.3,3:0.5nats[0.1-0.8]")]
SHARED = PauseConfig.parse("2:0.6@batch")


@pytest.fixture(scope="module")
def mixed(model):
    return Made(model, MIXED)


def stacked(dataset, indices):
    return torch.stack([dataset.samples[i].image for i in indices])


def assert_same_scores(one, other):
    """To a pixel or two, which rounding may decide."""
    np.testing.assert_allclose(one.scores.iou, other.scores.iou, atol=0.1)
    assert one.scores.pixels == other.scores.pixels
    assert one.scores.pixel_accuracy == pytest.approx(other.scores.pixel_accuracy, abs=0.02)
    assert one.tokens == pytest.approx(other.tokens, rel=1e-12)


def test_the_batch_size_changes_nothing_where_batch_mates_do_not_count(model, mixed):
    pauses = [*PAUSES, *ADAPTIVE]
    single, several = (evaluate(model, mixed, pauses, batch_size=batch_size) for batch_size in (1, 3))
    for one, other in zip(single, several, strict=True):
        assert_same_scores(one, other)
        assert (one.batch_size, other.batch_size) == (1, 3)
        assert one.num_images == other.num_images == 8


@torch.no_grad()
def test_a_share_of_the_batch_pauses_as_in_a_direct_call_with_the_same_images(model, mixed, monkeypatch):
    seen = []
    real = module.segment_images
    monkeypatch.setattr(
        module, "segment_images", lambda *args, **options: seen.append(real(*args, **options)) or seen[-1]
    )
    (result,) = evaluate(model, mixed, [SHARED], batch_size=3)
    labels, numbers = {}, []
    for batch, segmented in zip(TOGETHER, seen, strict=True):
        direct = model(stacked(mixed, batch), SHARED)
        assert torch.equal(segmented.trace.paused_at(), direct.trace.paused_at())
        numbers += segmented.trace.num_running(DEPTH)[:, -1].tolist()
        labels.update(zip(batch, direct.logits.argmax(dim=1), strict=True))
    expected = mean_iou([labels[i] for i in range(8)], masks(mixed, range(8)), 5)
    assert result.miou == pytest.approx(expected, abs=0.02)
    # Alone each image would keep 5 of its 12 patches; three of them keep 15, two keep 10, and hard ones more of these.
    assert [sum(numbers[:3]), sum(numbers[3:5]), numbers[5], sum(numbers[6:])] == [15, 10, 5, 10]
    assert len(set(numbers)) > 2


def test_a_share_of_a_batch_of_one_is_a_ratio(model, mixed):
    shared, fixed = evaluate(model, mixed, [SHARED, PauseConfig.parse("2:0.6")])
    assert_same_scores(shared, fixed)


def test_random_pausing_does_not_depend_on_the_batch_size(model, mixed):
    options = dict(criterion="random", seed=5)
    single, several = (evaluate(model, mixed, [PAUSES[0]], batch_size=size, **options)[0] for size in (1, 3))
    assert_same_scores(single, several)
    expected = predictions(model, mixed, PAUSES[0], range(8), **options)
    assert several.miou == pytest.approx(mean_iou(expected, masks(mixed, range(8)), 5), abs=0.02)


@torch.no_grad()
def test_tokens_are_the_mean_share_that_a_layer_processes(model, mixed):
    # Of each image: its patches, padded to whole ones, and how many of them each of the six layers has.
    patches = {A: 3 * 4, B: 3 * 4, C: 4 * 3}
    results = evaluate(model, mixed, [*PAUSES, *ADAPTIVE, SHARED], batch_size=3)
    for result in results[:3]:
        shares = [np.mean(result.pause.num_running(patches[size], DEPTH)) / patches[size] for size in MIXED]
        assert result.tokens == pytest.approx(np.mean(shares))
    assert results[1].tokens == 1  # nothing pauses
    for result in results[3:5]:
        running = [model(stacked(mixed, [i]), result.pause).trace.num_running(DEPTH)[0] for i in range(8)]
        shares = [np.mean(own.numpy()) / patches[size] for own, size in zip(running, MIXED, strict=True)]
        assert result.tokens == pytest.approx(np.mean(shares)) and len({tuple(own.tolist()) for own in running}) > 1
    running = torch.cat([model(stacked(mixed, batch), SHARED).trace.num_running(DEPTH) for batch in TOGETHER])
    assert results[5].tokens == pytest.approx(running.double().mean().item() / 12)


@pytest.mark.parametrize("setting", [{"mode": "slide", "crop_size": (32, 32)}, {"flip": True}, {"scales": (1.0, 1.5)}])
def test_tokens_are_unknown_in_windows_and_several_views(model, dataset, setting):
    single, several = (
        evaluate(model, dataset, [PAUSES[0]], inference=InferenceConfig(**setting), batch_size=size)[0]
        for size in (1, 3)
    )
    assert single.tokens is several.tokens is None
    assert single.to_dict("abcde")["tokens"] is None
    assert single.scores.iou[:4] == several.scores.iou[:4]  # such images go one by one


def test_resized_images_go_in_batches_too(model, mixed):
    inference = InferenceConfig(base_size=(80, 80))
    single, several = (evaluate(model, mixed, PAUSES[:1], inference=inference, batch_size=n)[0] for n in (1, 3))
    assert_same_scores(single, several)
    assert single.tokens != evaluate(model, mixed, PAUSES[:1])[0].tokens  # of another number of patches


def test_a_result_tells_its_batch_and_its_tokens(model, dataset):
    row = evaluate(model, dataset, [SHARED], batch_size=2)[0].to_dict("abcde")
    assert row["batch_size"] == 2 and 0.5 < row["tokens"] < 1 and row["pause"] == "2:0.6@batch"
    assert json.loads(json.dumps(row))["tokens"] == row["tokens"]


@pytest.mark.parametrize("batch_size", [0, -3])
def test_an_empty_batch_is_refused_before_the_first_image(model, dataset, batch_size):
    with pytest.raises(InputError, match=f"a batch has at least 1 image, got {batch_size}"):
        evaluate(model, dataset, batch_size=batch_size)
    assert dataset.read == []


def test_a_threshold_with_another_criterion_is_refused(model, dataset):
    with pytest.raises(InputError, match="compares entropies"):
        evaluate(model, dataset, [ADAPTIVE[0]], criterion="margin")


class Blank:
    """Images of given widths, of which it is known how many were read."""

    def __init__(self, widths):
        self.widths, self.num_read = widths, 0

    def __getitem__(self, index):
        self.num_read += 1
        return Sample(torch.zeros(3, 1, self.widths[index]), torch.zeros(1, self.widths[index]), f"{index}")


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=120), st.integers(1, 4), st.data())
def test_batches_hold_every_image_once_and_one_size_each(widths, batch_size, data):
    dataset = Blank(widths)
    indices = data.draw(st.permutations(range(len(widths))))
    batches, waiting = [], []
    for batch in batches_of_one_size(dataset, indices, batch_size):
        batches.append([index for index, _ in batch])
        waiting.append(dataset.num_read - sum(map(len, batches)))
        assert all(sample.name == f"{index}" for index, sample in batch)
    assert sorted(chain(*batches)) == sorted(indices)
    assert all(len({widths[index] for index in batch}) == 1 and len(batch) <= batch_size for batch in batches)
    # Of one size in the order of the indices, within a batch and from batch to batch.
    for width in set(widths):
        own = [index for index in chain(*batches) if widths[index] == width]
        assert own == [index for index in indices if widths[index] == width]
    assert max(waiting, default=0) <= 8 * batch_size


def test_images_of_one_size_come_in_their_order():
    batches = [[index for index, _ in batch] for batch in batches_of_one_size(Blank([7] * 8), range(8), 3)]
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7]]
    batches = [[index for index, _ in batch] for batch in batches_of_one_size(Blank([7, 8, 7]), [2, 1, 0], 1)]
    assert batches == [[2], [1], [0]]


def test_the_size_that_has_waited_longest_goes_first():
    widths = [9, *range(10, 27)]  # two at a time, and never two of a size
    batches = [index for batch in batches_of_one_size(Blank(widths), range(18), 2) for index, _ in batch]
    assert batches == list(range(18))
    dataset = Blank(widths)
    next(batches_of_one_size(dataset, range(18), 2))
    assert dataset.num_read == 17  # sixteen go on waiting
