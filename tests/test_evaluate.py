from __future__ import annotations

import json

import pytest
import torch
from reference_pausing import mean_iou
from tiny import random_images, tiny_model

from paumer.data import DatasetSpec, Sample
from paumer.errors import InputError
from paumer.evaluate import evaluate
from paumer.inference import InferenceConfig
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.segment import inference_config

PAUSES = [PauseConfig.parse(text) for text in ("2:0.6", "none", "1:0.4,3:0.4")]


class Made:
    """Four random images of two sizes, whose masks are noise around what the model sees, with ignored pixels."""

    spec = DatasetSpec("made", tuple("abcde"), tuple((i, i, i) for i in range(5)))

    def __init__(self, model):
        self.samples = []
        for i, (height, width) in enumerate([(48, 64), (40, 50), (48, 64), (64, 33)]):
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
