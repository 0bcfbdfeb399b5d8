"""Entropies of right and wrong tokens: labels, histograms, AUROC against brute force; the file; what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tiny import random_images, tiny_model

from paumer.data import DatasetSpec, Sample
from paumer.data.transforms import resize_to
from paumer.entropy_study import NUM_BINS, EntropyStudy, entropy_counts, patch_labels, study_entropy
from paumer.errors import InputError

CLASSES = 5
SIZES = [(48, 64), (40, 50), (64, 33), (16, 16)]
EDGES = np.linspace(0, math.log(CLASSES), NUM_BINS + 1)


class Made:
    """Images of four sizes. Masks are the first head's predictions with noise, ignored pixels and an ignored corner."""

    spec = DatasetSpec("made", tuple("abcde"), tuple((i, i, i) for i in range(CLASSES)))

    def __init__(self, model, sizes=SIZES):
        self.samples, self.read = [], []
        for i, (height, width) in enumerate(sizes):
            generator = torch.Generator().manual_seed(i)
            image = random_images(1, height, width, seed=i)[0]
            with torch.no_grad():
                output = model(image[None], "2:0.0")
                patches = output.trace.aux_logits(2).argmax(-1).view(output.trace.grid)
            mask = patches.repeat_interleave(16, 0).repeat_interleave(16, 1)[:height, :width]
            blocks = torch.randint(0, CLASSES, (-(-height // 8), -(-width // 8)), generator=generator)
            blocks = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
            mask = torch.where(torch.rand(mask.shape, generator=generator) < 0.6, blocks, mask)
            mask[torch.rand(mask.shape, generator=generator) < 0.3] = 255
            if i < 3:
                mask[16:32, 16:40] = 255
            self.samples.append(Sample(image, mask.to(torch.uint8), f"{i}"))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.samples[index]


@pytest.fixture(scope="module", params=["per_layer", "shared"])
def model(request):
    return tiny_model(CLASSES, aux_head=request.param)


@pytest.fixture
def dataset(model):
    return Made(model)


def brute_force_labels(mask: np.ndarray, ph: int, pw: int) -> np.ndarray:
    """Patch by patch, pixel by pixel."""
    height, width = mask.shape
    labels = np.full((math.ceil(height / ph), math.ceil(width / pw)), 255)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            votes: dict[int, int] = {}
            for y in range(row * ph, min((row + 1) * ph, height)):
                for x in range(column * pw, min((column + 1) * pw, width)):
                    if mask[y, x] != 255:
                        votes[int(mask[y, x])] = votes.get(int(mask[y, x]), 0) + 1
            if votes:
                labels[row, column] = min(votes, key=lambda label: (-votes[label], label))
    return labels


def brute_force_tokens(model, sample, layer) -> tuple[np.ndarray, np.ndarray]:
    """(entropies of right tokens, of wrong ones), in double precision from the outputs of timm's blocks."""
    images = model.pad(model.normalize(sample.image[None]))
    with torch.no_grad():
        block = model.encoder.forward_intermediates(images, intermediates_only=True)[layer - 1][0]
    head = model.aux_head[str(layer)] if model.config.aux_head == "per_layer" else model.aux_head
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    logits = block.double().numpy().reshape(block.shape[0], -1).T @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    entropies = -(p * np.log(np.clip(p, 1e-300, None))).sum(1)
    labels = brute_force_labels(sample.mask.numpy(), 16, 16).reshape(-1)
    right = p.argmax(1) == labels
    return entropies[right], entropies[~right & (labels != 255)]


def pairwise_auroc(wrong: np.ndarray, right: np.ndarray) -> float:
    difference = np.asarray(wrong)[:, None] - np.asarray(right)[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def study_of(right: np.ndarray, wrong: np.ndarray) -> EntropyStudy:
    """One layer, from entropies."""
    counts = [tuple(np.histogram(values, EDGES)[0].tolist()) for values in (right, wrong)]
    return EntropyStudy((2,), tuple(EDGES), {2: counts[0]}, {2: counts[1]}, {"model": "made"})


@pytest.fixture
def entropies():
    generator = np.random.default_rng(0)
    top = math.log(CLASSES)
    return top * generator.beta(0.4, 2, 300), top * generator.beta(3, 2, 200)


# --- patch labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (5, 70), (16, 1)])
@pytest.mark.parametrize("patch_size", [(16, 16), (4, 8)])
def test_patch_labels_equal_brute_force(size, patch_size):
    generator = torch.Generator().manual_seed(sum(size))
    mask = torch.randint(0, CLASSES, size, generator=generator).to(torch.uint8)
    mask[torch.rand(size, generator=generator) < 0.5] = 255
    mask[: patch_size[0], : patch_size[1]] = 255
    labels = patch_labels(mask, patch_size, CLASSES)
    assert labels.dtype == torch.int64 and labels[0, 0] == 255
    assert np.array_equal(labels.numpy(), brute_force_labels(mask.numpy(), *patch_size))


def test_of_classes_with_equally_many_pixels_the_lowest_id_wins():
    mask = torch.tensor([[4, 1, 3, 3], [1, 4, 0, 0]], dtype=torch.uint8)
    assert patch_labels(mask, (2, 2), CLASSES).tolist() == [[1, 0]]


def test_one_labelled_pixel_outvotes_any_number_of_ignored_ones():
    mask = torch.full((17, 16), 255, dtype=torch.uint8)
    mask[16, 15] = 3
    assert patch_labels(mask, (16, 16), CLASSES).tolist() == [[255], [3]]


def test_the_ignored_id_may_be_another():
    mask = torch.tensor([[2, 2, 2, 0]])
    assert patch_labels(mask, (1, 4), CLASSES, ignore_index=2).tolist() == [[0]]


# --- histograms ------------------------------------------------------------------------------------------------------


def test_counts_hold_every_labelled_token_once_at_its_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, CLASSES, generator=generator)
    labels = torch.where(torch.rand(500, generator=generator) < 0.5, logits.argmax(1), 0)
    labels[::7] = 255
    p = logits.double().softmax(1).numpy()
    values, truth = -(p * np.log(p)).sum(1), labels.numpy()
    right = p.argmax(1) == truth
    wrong = ~right & (truth != 255)
    counts = entropy_counts(logits, labels).numpy()
    assert np.array_equal(counts[0], np.histogram(values[wrong], EDGES)[0])
    assert np.array_equal(counts[1], np.histogram(values[right], EDGES)[0])


def test_certainty_and_indifference_fall_into_the_outer_bins():
    certain = torch.tensor([[1000.0, 0, 0, 0, 0]])
    counts = entropy_counts(torch.cat([certain, torch.zeros(2, CLASSES)]), torch.tensor([0, 4, 4]))
    assert counts[1, 0] == 1 and counts[0, -1] == 2 and counts.sum() == 3


def test_mean_and_quartiles_are_those_of_the_values_up_to_a_bin(entropies):
    study, width = study_of(*entropies), EDGES[1]
    for values, counts in zip(entropies, (study.right[2], study.wrong[2]), strict=True):
        assert study.mean(counts) == pytest.approx(values.mean(), abs=width / 2)
        for share in (0.25, 0.5, 0.75):
            exact = np.quantile(values, share, method="inverted_cdf")
            assert study.quantile(counts, share) == pytest.approx(exact, abs=width)


def test_quantiles_are_linear_within_a_bin():
    study = EntropyStudy((2,), (0.0, 1.0, 2.0, 3.0), {2: (0, 4, 0)}, {2: (1, 0, 3)}, {})
    assert [study.quantile((0, 4, 0), share) for share in (0, 0.25, 0.5, 1)] == [1.0, 1.25, 1.5, 2.0]
    assert [study.quantile((1, 0, 3), share) for share in (0.25, 0.5, 1)] == pytest.approx([1.0, 2 + 1 / 3, 3.0])


def test_auroc_equals_that_of_all_pairs(entropies):
    right, wrong = entropies
    auroc = study_of(right, wrong).auroc[2]
    bins = [np.digitize(values, EDGES) for values in (wrong, right)]
    assert auroc == pytest.approx(pairwise_auroc(*bins), abs=1e-12)
    assert auroc == pytest.approx(pairwise_auroc(wrong, right), abs=1e-3)
    assert study_of(wrong, right).auroc[2] == pytest.approx(1 - auroc)
    assert 0.85 < auroc < 0.99


def test_without_right_or_wrong_tokens_there_is_no_auroc(entropies):
    nothing = np.empty(0)
    assert math.isnan(study_of(entropies[0], nothing).auroc[2]) and study_of(entropies[0], nothing).accuracy[2] == 100
    assert math.isnan(study_of(nothing, entropies[1]).auroc[2]) and study_of(nothing, entropies[1]).accuracy[2] == 0
    assert math.isnan(study_of(nothing, nothing).accuracy[2])


# --- a model on images -----------------------------------------------------------------------------------------------


def test_a_study_equals_brute_force_over_images_and_layers(model, dataset):
    study = study_entropy(model, dataset)
    assert study.layers == (2, 4, 6) and dataset.read == [0, 1, 2, 3]
    assert study.edges == pytest.approx(tuple(EDGES))
    for layer in study.layers:
        tokens = [brute_force_tokens(model, sample, layer) for sample in dataset.samples]
        right, wrong = (np.concatenate(group) for group in zip(*tokens, strict=True))
        assert len(right) and len(wrong)
        assert study.accuracy[layer] == pytest.approx(100 * len(right) / (len(right) + len(wrong)))
        assert study.auroc[layer] == pytest.approx(pairwise_auroc(wrong, right), abs=0.02)
        for counts, values in ((study.right[layer], right), (study.wrong[layer], wrong)):
            # In running sums a value that rounding takes over an edge counts once.
            assert np.abs(np.cumsum(counts) - np.cumsum(np.histogram(values, EDGES)[0])).max() <= 1
            assert sum(counts) == len(values)


def test_only_some_layers_and_images_may_be_studied(model, dataset):
    whole = study_entropy(model, dataset, indices=[1, 3])
    part = study_entropy(model, dataset, layers=[6, 1], indices=[3, 1])
    assert part.layers == (1, 6) and dataset.read == [1, 3, 3, 1]
    assert part.right[6] == whole.right[6] and part.wrong[6] == whole.wrong[6]
    assert set(part.right) == set(part.wrong) == {1, 6} and part.conditions["num_images"] == 2


def test_patches_without_a_label_are_left_out(model, dataset):
    study = study_entropy(model, dataset)
    labelled = sum((brute_force_labels(sample.mask.numpy(), 16, 16) != 255).sum() for sample in dataset.samples)
    patches = sum(math.ceil(height / 16) * math.ceil(width / 16) for height, width in SIZES)
    assert sum(study.right[2]) + sum(study.wrong[2]) == labelled < patches


def test_images_are_fitted_into_the_size_that_the_model_is_used_at(model):
    samples = Made(model).samples
    fitting = tiny_model(CLASSES, aux_head=model.config.aux_head, base_size=(80, 60))
    expected, given = Made(model, []), Made(model, [])
    for sample in samples:
        expected.samples.append(Sample(*resize_to(sample.image, sample.mask, (80, 60)), sample.name))
        given.samples.append(sample)
    fitted, whole = study_entropy(fitting, given), study_entropy(model, given)
    assert fitted.right == study_entropy(model, expected).right != whole.right


def test_conditions_say_what_was_studied(model, dataset):
    study = study_entropy(model, dataset, indices=[0], conditions={"model": "runs/x", "split": "val"})
    assert study.conditions == {
        "model": "runs/x",
        "split": "val",
        "data": "made",
        "num_images": 1,
        "num_classes": 5,
        "aux_head": model.config.aux_head,
    }
    unnamed = study_entropy(model, dataset, indices=[0]).conditions
    assert (unnamed["model"], unnamed["split"]) == ("test_vit", "unnamed split")


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_brought_back(model, dataset, training):
    expected = study_entropy(model.eval(), dataset)
    model.train(training)
    assert study_entropy(model, dataset) == expected  # no stochastic depth meanwhile
    assert model.training == training
    with pytest.raises(IndexError):
        study_entropy(model, dataset, indices=[99])
    assert model.training == training
    model.eval()


def test_what_cannot_be_studied_is_refused_before_the_first_image(model, dataset):
    with pytest.raises(InputError, match="no auxiliary heads to study: train them with paumer train --freeze"):
        study_entropy(tiny_model(CLASSES, aux_head="none"), dataset)
    with pytest.raises(InputError, match="the model predicts 7 classes, made has 5"):
        study_entropy(tiny_model(7), dataset)
    with pytest.raises(InputError, match=r"after layer 7: this encoder has layers 1\.\.6"):
        study_entropy(model, dataset, layers=[2, 7])
    assert dataset.read == []


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_study_is_read_as_it_was_saved(model, dataset, tmp_path):
    study = study_entropy(model, dataset, conditions={"split": "val"})
    study.save(tmp_path / "new" / "entropy.json")
    assert EntropyStudy.load(tmp_path / "new" / "entropy.json") == study


def test_the_file_says_in_words_what_follows_from_the_counts(entropies, tmp_path):
    study = study_of(*entropies)
    study.save(tmp_path / "entropy.json")
    (row,) = json.loads((tmp_path / "entropy.json").read_text())["layers"]
    assert (row["layer"], row["accuracy"], row["auroc"]) == (2, 60.0, study.auroc[2])
    assert (row["right"]["tokens"], row["wrong"]["tokens"]) == (300, 200)
    assert row["wrong"]["quartiles"] == [study.quantile(study.wrong[2], share) for share in (0.25, 0.5, 0.75)]


def test_a_study_without_labels_is_json_too(tmp_path):
    study_of(np.empty(0), np.empty(0)).save(tmp_path / "entropy.json")
    (row,) = json.loads((tmp_path / "entropy.json").read_text(), parse_constant=pytest.fail)["layers"]
    assert row["auroc"] is None and row["right"]["mean"] is None and row["right"]["quartiles"] == [None] * 3
    assert math.isnan(EntropyStudy.load(tmp_path / "entropy.json").accuracy[2])


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused(entropies, tmp_path, share):
    text = study_of(*entropies).to_json()
    (tmp_path / "entropy.json").write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match=r"entropy.json is cut short or no entropy study"):
        EntropyStudy.load(tmp_path / "entropy.json")


@pytest.mark.parametrize("text", ["[1, 2]", '{"points": []}', '{"kind": "another", "layers": []}', "3"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(InputError, match=r"points.json holds something else than an entropy study"):
        EntropyStudy.load(tmp_path / "points.json")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*nothing.json \(No such file"):
        EntropyStudy.load(tmp_path / "nothing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cut short or no entropy study"):
        EntropyStudy.load(tmp_path / "binary.json")
