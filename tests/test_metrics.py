from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from paumer.errors import InputError
from paumer.metrics import MIOU_CONVENTION, SegmentationMeter


def random_masks(num_classes: int, batch: int = 3, seed: int = 0, ignored: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(num_classes, (batch, 20, 30), generator=generator)
    target = torch.randint(num_classes, (batch, 20, 30), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return prediction, target


def scores_of(prediction, target, num_classes: int):
    meter = SegmentationMeter(num_classes)
    meter.update(torch.as_tensor(prediction), torch.as_tensor(target))
    return meter.compute()


def numpy_iou(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> list[float]:
    keep = target != 255
    p, t = prediction[keep], target[keep]
    unions = [((p == c) | (t == c)).sum() for c in range(num_classes)]
    hits = [((p == c) & (t == c)).sum() for c in range(num_classes)]
    return [100 * h / u if u else math.nan for h, u in zip(hits, unions, strict=True)]


def test_iou_equals_numpy_reference_with_absent_classes_and_ignored_pixels():
    prediction, target = random_masks(5)  # of 8 classes, three never occur
    scores = scores_of(prediction, target, 8)
    reference = numpy_iou(prediction.numpy(), target.numpy(), 8)
    np.testing.assert_allclose(scores.iou, reference, rtol=1e-12)
    assert scores.miou == pytest.approx(np.nanmean(reference), rel=1e-12)


def test_accuracies_equal_numpy_reference():
    prediction, target = random_masks(4)
    scores = scores_of(prediction, target, 4)
    p, t = prediction.numpy(), target.numpy()
    recall = [100 * (p[t == c] == c).mean() for c in range(4)]
    np.testing.assert_allclose(scores.accuracy, recall, rtol=1e-12)
    assert scores.mean_accuracy == pytest.approx(np.mean(recall))
    assert scores.pixel_accuracy == pytest.approx(100 * (p == t)[t != 255].mean())
    assert scores.pixels == tuple((t == c).sum() for c in range(4))


def test_miou_equals_torchmetrics_jaccard_where_every_class_is_present():
    prediction, target = random_masks(6)
    jaccard = MulticlassJaccardIndex(6, average="macro", ignore_index=255)(prediction, target)
    assert scores_of(prediction, target, 6).miou == pytest.approx(100 * jaccard.item(), rel=1e-5)


def test_absent_class_is_nan_and_left_out_of_the_mean():
    scores = scores_of([[0, 0, 1, 1]], [[0, 0, 1, 0]], 3)
    assert math.isnan(scores.iou[2]) and math.isnan(scores.accuracy[2])
    assert scores.miou == pytest.approx((100 * 2 / 3 + 50) / 2)


def test_class_predicted_but_not_present_counts_as_zero():
    scores = scores_of([[0, 0, 0, 2]], [[0, 0, 0, 0]], 3)
    assert scores.iou[2] == 0 and math.isnan(scores.accuracy[2])
    assert scores.miou == pytest.approx((75 + 0) / 2)
    assert scores.mean_accuracy == pytest.approx(75)


def test_predictions_on_ignored_pixels_do_not_count():
    target = torch.tensor([[0, 1, 255, 255]])
    assert scores_of(torch.tensor([[0, 1, 0, 0]]), target, 2) == scores_of(torch.tensor([[0, 1, 1, 0]]), target, 2)
    assert scores_of(torch.tensor([[0, 1, 2, 2]]), target, 2).miou == 100


def test_wholly_ignored_image_changes_nothing():
    prediction, target = random_masks(3)
    meter = SegmentationMeter(3)
    meter.update(prediction, target)
    before = meter.compute()
    meter.update(prediction, torch.full_like(target, 255))
    assert meter.compute() == before


def test_nothing_but_ignored_pixels_gives_nan_and_json_null():
    scores = scores_of(torch.zeros(4, 4, dtype=torch.uint8), torch.full((4, 4), 255, dtype=torch.uint8), 2)
    assert math.isnan(scores.miou)
    written = json.dumps(scores.to_dict(["a", "b"]), allow_nan=False)
    assert json.loads(written)["miou"] is None


def test_one_batch_equals_images_one_by_one():
    prediction, target = random_masks(5)
    meter = SegmentationMeter(5)
    for p, t in zip(prediction, target, strict=True):
        meter.update(p, t)
    assert meter.compute() == scores_of(prediction, target, 5)


def test_miou_is_of_the_set_and_not_the_mean_over_images():
    prediction = torch.tensor([[[0, 0, 0, 0]], [[0, 1, 1, 1]]])
    target = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, 1]]])
    assert scores_of(prediction, target, 2).miou == pytest.approx(100 * (4 / 5 + 3 / 4) / 2)


def test_uint8_masks_count_as_int64_ones():
    prediction, target = random_masks(150)  # 149 * 150 + 149 does not fit into uint8
    assert scores_of(prediction.byte(), target.byte(), 150).iou == pytest.approx(
        scores_of(prediction, target, 150).iou, nan_ok=True
    )


def test_confusion_has_truth_in_rows():
    meter = SegmentationMeter(3)
    meter.update(torch.tensor([[2, 2, 1]]), torch.tensor([[0, 0, 1]]))
    assert meter.confusion().tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_to_dict_names_classes_even_if_two_share_a_name():
    result = scores_of([[0, 1]], [[0, 0]], 2).to_dict(["door", "door"])
    assert [entry["name"] for entry in result["classes"]] == ["door", "door"]
    assert [entry["iou"] for entry in result["classes"]] == [50, 0]
    assert result["classes"][1]["accuracy"] is None and result["convention"] == MIOU_CONVENTION


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 3]], [[0, 1]], "prediction holds the class id 3"),
        ([[0, 1]], [[0, 7]], "mask holds the class id 7"),
        ([[0, 1]], [[-1, 1]], "mask holds the class id -1"),
        ([[0, 1]], [[0, 1, 1]], "resize the logits"),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction, target, message):
    with pytest.raises(InputError, match=message):
        scores_of(prediction, target, 3)


def test_names_must_fit_the_classes():
    with pytest.raises(InputError, match="2 classes with 1 names"):
        scores_of([[0, 1]], [[0, 1]], 2).to_dict(["road"])
