"""The choice of a pause by a target throughput: the stored front, timed anew here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from paumer import predictor as module
from paumer.checkpoint import model_id
from paumer.errors import InputError
from paumer.front import Front, Point
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.predictor import Predictor

# Where it was swept: 10, 14 and 18 images per second.
POINTS = (
    Point(NO_PAUSE, 70.0, 10.0, 1.0),
    Point(PauseConfig.parse("3:0.5"), 69.0, 14.0, 1.4),
    Point(PauseConfig.parse("2:0.8"), 60.0, 18.0, 1.8),
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def front(model):
    return Front(POINTS, {"image_size": [48, 64], "criterion": "entropy", "model_id": model_id(model)})


@pytest.fixture
def folder(model, front, tmp_path):
    model.save_pretrained(tmp_path / "model")
    front.save(tmp_path / "model" / "pareto.json")
    return tmp_path / "model"


@pytest.fixture
def slow_machine(monkeypatch):
    """Half as fast as where the front was made; remembers which images and pauses were timed."""
    timed = []

    def time_interleaved(calls, *, rounds, warmup, device):
        timed.append([(call.args[1], tuple(call.args[0].shape)) for call in calls])
        rates = {point.pause: point.images_per_second / 2 for point in POINTS}
        return [[1 / rates[call.args[1]]] * rounds for call in calls]

    monkeypatch.setattr(module, "time_interleaved", time_interleaved)
    return timed


@pytest.mark.parametrize(("target", "pause"), [(4.9, "none"), (5.1, "3:0.5"), (6.9, "3:0.5"), (7.5, "2:0.8")])
def test_the_target_holds_on_this_machine_and_not_where_it_was_swept(folder, slow_machine, target, pause):
    assert str(Predictor(folder, target_throughput=target).pause) == pause
    assert slow_machine[-1] == [(point.pause, (3, 48, 64)) for point in POINTS]


# Beside them two whose number of paused patches follows the image.
FOLLOWING = (
    Point(PauseConfig.parse("3:0.5@batch"), 69.5, 13.0, 1.3),
    Point(PauseConfig.parse("3:0.4nats"), 65.0, 16.0, 1.6),
)


def test_what_follows_the_image_has_the_unpaused_speed_here_times_its_speedup_there(model, front, slow_machine):
    both = replace(front, points=(*POINTS[:1], *FOLLOWING, *POINTS[1:]))
    points = Predictor(model).time_front(both)
    assert [(point.pause, point.miou, point.speedup) for point in points] == [
        (point.pause, point.miou, point.speedup) for point in both.points
    ]
    assert [point.images_per_second for point in points] == pytest.approx([5.0, 6.5, 8.0, 7.0, 9.0])
    # One image of zeros says nothing of them, so they are not run.
    assert [pause for pause, _ in slow_machine[-1]] == [point.pause for point in POINTS]


def test_the_unpaused_speed_is_measured_even_where_the_front_does_not_have_it(model, front, slow_machine):
    points = Predictor(model).time_front(replace(front, points=FOLLOWING))
    assert [point.images_per_second for point in points] == pytest.approx([6.5, 8.0])
    assert [pause for pause, _ in slow_machine[-1]] == [NO_PAUSE]


@pytest.mark.parametrize(("target", "pause"), [(6.4, "3:0.5@batch"), (7.9, "3:0.4nats"), (8.5, "2:0.8")])
def test_a_target_may_choose_what_follows_the_image(model, front, slow_machine, target, pause):
    both = replace(front, points=(POINTS[0], *FOLLOWING, POINTS[2]))
    assert str(Predictor(model, target_throughput=target, front=both).pause) == pause


def test_a_target_out_of_reach_says_what_this_machine_reaches(folder, slow_machine):
    with pytest.raises(InputError, match="fastest of 3 configurations is 2:0.8 with 9 images/s"):
        Predictor(folder, target_throughput=14)


def test_real_times_are_positive_and_the_prediction_is_that_of_the_choice(model, front):
    predictor = Predictor(model, target_throughput=0.01, front=front)
    assert predictor.pause == NO_PAUSE
    assert all(point.images_per_second > 0 for point in predictor.time_front(front))
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    assert (predictor(image).mask == Predictor(model)(image).mask).all()


def test_the_front_of_other_weights_is_refused(front, tmp_path):
    with pytest.raises(InputError, match="other weights"):
        Predictor(tiny_model(seed=1), target_throughput=1, front=front)


def test_the_front_of_another_criterion_is_refused(model, front):
    with pytest.raises(InputError, match="made with the criterion 'entropy', not 'random'"):
        Predictor(model, target_throughput=1, front=front, criterion="random")


@pytest.mark.parametrize("target", [0, -1, float("nan"), float("inf")])
def test_a_target_is_a_positive_number(folder, target):
    with pytest.raises(InputError, match="positive number"):
        Predictor(folder, target_throughput=target)


def test_target_and_pause_are_two_ways_to_say_it(folder):
    with pytest.raises(InputError, match="the target chooses the pause"):
        Predictor(folder, "3:0.5", target_throughput=3)
    with pytest.raises(InputError, match="without a target"):
        Predictor(folder, front=folder / "pareto.json")


def test_without_a_front_it_says_how_to_make_one(model, folder):
    with pytest.raises(InputError, match="no front to choose from"):
        Predictor(model, target_throughput=3)
    (folder / "pareto.json").unlink()
    with pytest.raises(InputError, match="paumer sweep"):
        Predictor(folder, target_throughput=3)


def test_a_front_cut_short_is_refused(folder):
    path = folder / "pareto.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="not a whole front"):
        Predictor(folder, target_throughput=3)


def test_the_identity_of_a_model_is_its_weights_and_its_architecture(model, tmp_path):
    assert model_id(model) == model_id(tiny_model()) != model_id(tiny_model(seed=1))
    assert model_id(tiny_model(preset="mmseg")) != model_id(model)
    model.save_pretrained(tmp_path / "copy")
    assert model_id(type(model).from_pretrained(tmp_path / "copy")) == model_id(model)
    assert json.dumps(model_id(model)).isascii() and len(model_id(model)) == 16
