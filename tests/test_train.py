"""The training loop: exact resume, what is drawn and logged, what is refused, several processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from forked import start_forked, wait_for
from safetensors.torch import load_file
from tiny import tiny_model

import paumer.train as train_module
from paumer.errors import InputError
from paumer.model import Segmenter
from paumer.pause import PauseConfig
from paumer.train import TrainConfig, build_model, train

# Everything that has a state or draws random numbers, so that exact resume means something.
STATEFUL = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "drop_path_rate": 0.3,
    "ema_decay": 0.9,
    "accumulation": 2,
    "clip_grad": 1.0,
    "warmup_steps": 2,
}
# Without these a batch in parts gives the gradients of the whole batch.
DETERMINISTIC = {"decoder": "linear", "drop_path_rate": 0.0, "loss_average": "all"}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are killed in forked processes")


def tiny(out: Path, **changes) -> TrainConfig:
    """Four steps that take under a second."""
    values = {
        "out": str(out),
        "data": "scenes",
        "scene_size": (64, 96),
        "scene_images": 8,
        "backbone": "test_vit",
        "weights": "none",
        "crop_size": (64, 64),
        "pause_layers": (2, 3, 4),
        "val_images": 2,
        "steps": 4,
        "batch_size": 2,
        "save_every": 2,
        "workers": 0,
        "device": "cpu",
        "log_with": "none",
    }
    return TrainConfig(**{**values, **changes})


def weights_of(config: TrainConfig) -> bytes:
    return (Path(config.out) / "last" / "model.safetensors").read_bytes()


def log_of(config: TrainConfig) -> list[dict]:
    return [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> TrainConfig:
    config = tiny(tmp_path_factory.mktemp("unbroken") / "run", **STATEFUL)
    train(config)
    return config


def kill_before_file_operation(number: int) -> None:
    """Kills this process at the ``number``-th operation of those that together write a checkpoint or a model."""
    left = [number]

    def killing(function: Callable) -> Callable:
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    import shutil

    for module, name in ((os, "replace"), (os, "rename"), (shutil, "rmtree"), (torch, "save")):
        setattr(module, name, killing(getattr(module, name)))


@needs_fork
@pytest.mark.parametrize("operation", [1, 2, 8, 9, 12, 16, 19, 22, 23, 24, 27])
def test_a_run_killed_at_any_file_operation_ends_with_the_same_weights(unbroken, tmp_path, operation):
    # Two rounds of saving, the second of which replaces `last` and deletes the older checkpoint.
    config = tiny(tmp_path / "run", **STATEFUL, keep=1, resume=True)

    def killed_run() -> None:
        kill_before_file_operation(operation)
        train(config)

    assert wait_for(start_forked(killed_run)) == -signal.SIGKILL
    train(config)
    assert weights_of(config) == weights_of(unbroken)
    steps = [line["step"] for line in log_of(config) if "loss" in line]
    assert steps == sorted(set(steps))
    assert not [path for path in tmp_path.rglob(".*")]


@needs_fork
def test_a_run_killed_at_a_random_moment_ends_with_the_same_weights(unbroken, tmp_path):
    config = tiny(tmp_path / "run", **STATEFUL, save_every=1, workers=1, resume=True)
    pid = start_forked(lambda: train(config))
    for _ in range(600):
        if list(tmp_path.glob("run/checkpoints/step_*")) or os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.1)
    time.sleep(random.uniform(0, 0.3))
    os.kill(pid, signal.SIGKILL)
    wait_for(pid)
    train(config)
    assert weights_of(config) == weights_of(unbroken)


def test_workers_change_nothing(unbroken, tmp_path):
    config = tiny(tmp_path / "run", **STATEFUL, workers=2)
    train(config)
    assert weights_of(config) == weights_of(unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_resume_goes_on_from_it(unbroken, tmp_path, monkeypatch, number):
    config = tiny(tmp_path / "run", **STATEFUL, save_every=3)
    original = train_module._Training._train_step

    def step_with_signal(self, batches):
        if self.step == 0:
            os.kill(os.getpid(), number)
        return original(self, batches)

    monkeypatch.setattr(train_module._Training, "_train_step", step_with_signal)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1; go on with --resume"):
        train(config)
    assert signal.getsignal(number) is before
    train(tiny(tmp_path / "run", **STATEFUL, save_every=3, resume=True))
    assert weights_of(config) == weights_of(unbroken)


def test_a_signal_stops_a_run_that_saves_at_every_step(tmp_path, monkeypatch):
    original = train_module._Training._train_step

    def step_with_signal(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, batches)

    monkeypatch.setattr(train_module._Training, "_train_step", step_with_signal)
    with pytest.raises(KeyboardInterrupt, match="step 1"):
        train(tiny(tmp_path / "run", save_every=1))


def test_resuming_a_finished_run_returns_its_result_at_once(tmp_path, monkeypatch):
    result = train(tiny(tmp_path / "run"))
    monkeypatch.setattr(train_module._Training, "_train_step", None)
    assert train(tiny(tmp_path / "run", resume=True)) == result
    assert result["step"] == 4 and set(result["miou"]) == {"none", "5:0.6"}


def test_resume_needs_no_initial_weights(tmp_path):
    tiny_model(num_classes=11).save_pretrained(tmp_path / "start")
    config = tiny(tmp_path / "run", init=str(tmp_path / "start"), resume=True)
    train(config)
    (tmp_path / "start" / "model.safetensors").unlink()
    train(config)


def test_resume_with_another_configuration_is_refused(tmp_path):
    train(tiny(tmp_path / "run", steps=1))
    with pytest.raises(InputError, match=r"lr was 0.001 and is now 0.5"):
        train(tiny(tmp_path / "run", steps=1, lr=0.5, resume=True))
    train(tiny(tmp_path / "run", steps=1, log_every=7, workers=1, keep=5, resume=True))


def test_an_existing_run_is_not_overwritten(tmp_path):
    train(tiny(tmp_path / "run", steps=1))
    before = weights_of(tiny(tmp_path / "run"))
    with pytest.raises(InputError, match="already holds a run: go on with it by --resume"):
        train(tiny(tmp_path / "run", steps=1, seed=1))
    assert weights_of(tiny(tmp_path / "run")) == before


# --- what a step computes --------------------------------------------------------------------------------------------


def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path):
    whole = tiny(tmp_path / "whole", **DETERMINISTIC, steps=1, lr=0.1, batch_size=4)
    parts = tiny(tmp_path / "parts", **DETERMINISTIC, steps=1, lr=0.1, batch_size=2, accumulation=2)
    train(whole), train(parts)
    start = build_model(whole, train_module._create_dataset(whole, "train")).state_dict()
    expected, got = (load_file(Path(config.out) / "last" / "model.safetensors") for config in (whole, parts))
    for key, value in expected.items():
        moved = (value - start[key]).abs().max()
        assert (got[key] - value).abs().max() <= 1e-4 * moved + 1e-7, key


def test_every_batch_of_a_step_pauses_as_was_drawn_for_the_step(tmp_path, monkeypatch):
    seen = []
    forward = Segmenter.forward

    def spy(self, images, pause=train_module.NO_PAUSE, **options):
        if self.training:
            seen.append(pause)
        return forward(self, images, pause, **options)

    monkeypatch.setattr(Segmenter, "forward", spy)
    config = tiny(tmp_path / "run", accumulation=2)
    train(config)
    assert seen == [config.pause_at(step) for step in range(4) for _ in range(2)]
    assert len(set(seen)) == 4


def test_one_layer_and_one_ratio_are_drawn_uniformly_per_step():
    config = TrainConfig(out="unused")
    draws = [config.pause_at(step).steps for step in range(2000)]
    assert all(len(steps) == 1 for steps in draws)
    layers = torch.tensor([layer for ((layer, _),) in draws])
    ratios = torch.tensor([ratio for ((_, ratio),) in draws])
    assert set(layers.tolist()) == set(range(3, 10))
    assert layers.bincount(minlength=10)[3:].min() > 2000 / 7 * 0.8
    assert 0.2 <= ratios.min() < 0.21 and 0.79 < ratios.max() <= 0.8
    assert abs(ratios.mean() - 0.5) < 0.02
    assert TrainConfig(out="unused", seed=1).pause_at(0) != config.pause_at(0)


def test_a_plain_segmenter_trains_without_pausing_and_without_auxiliary_head(tmp_path):
    config = tiny(tmp_path / "run", pausing="none", pause_layers=(3, 9))  # beyond test_vit, but never drawn
    result = train(config)
    assert config.pause_at(0) == PauseConfig() and set(result["miou"]) == {"none"}
    assert Segmenter.from_pretrained(tmp_path / "run" / "last").aux_head is None


def test_the_random_baseline_has_no_auxiliary_head_and_no_auxiliary_loss(tmp_path):
    config = tiny(tmp_path / "run", pausing="random", log_every=1)
    train(config)
    assert Segmenter.from_pretrained(tmp_path / "run" / "last").aux_head is None
    assert [line["loss_aux"] for line in log_of(config) if "loss" in line] == [0.0] * 4


def test_the_random_baseline_pauses_new_patches_in_every_image_and_step(tmp_path, monkeypatch):
    seeds = []
    forward = Segmenter.forward

    def spy(self, *args, **options):
        if self.training:
            seeds.extend(options["seeds"])
        return forward(self, *args, **options)

    monkeypatch.setattr(Segmenter, "forward", spy)
    train(tiny(tmp_path / "run", pausing="random"))
    assert len(set(seeds)) == len(seeds) == 8


def test_training_lowers_the_loss(tmp_path):
    config = tiny(
        tmp_path / "run", scene_images=1, scale=(1.0, 1.0), photometric=False, optimizer="adamw", lr=3e-3, steps=25,
        save_every=25, log_every=1,
    )  # fmt: skip
    train(config)
    losses = [line["loss_main"] for line in log_of(config) if "loss" in line]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("aux_head", ["none", "shared"])
def test_training_starts_from_a_plain_or_a_pausing_segmenter(tmp_path, aux_head):
    source = tiny_model(num_classes=11, aux_head=aux_head, image_size=(96, 96))
    source.save_pretrained(tmp_path / "source")
    config = tiny(tmp_path / "run", init=str(tmp_path / "source"))
    model = build_model(config, train_module._create_dataset(config, "train"))
    state = model.state_dict()
    differing = {key for key, value in source.state_dict().items() if not torch.equal(state[key], value)}
    assert differing <= {"encoder.pos_embed"}  # resized
    assert ("aux_head.weight" in source.state_dict()) == (aux_head == "shared")


# --- heads on a frozen network ---------------------------------------------------------------------------------------


def frozen(folder: Path, **changes) -> TrainConfig:
    """Heads for a plain Segmenter that is made here; the default pause layers, which `test_vit` does not have."""
    if not (folder / "start").exists():
        tiny_model(num_classes=11, aux_head="none", seed=3).save_pretrained(folder / "start")
    options = {"init": str(folder / "start"), "aux_head": "per_layer", "pause_layers": (3, 9), **changes}
    return tiny(folder / "run", freeze=True, **options)


def start_of(config: TrainConfig) -> Segmenter:
    return build_model(config, train_module._create_dataset(config, "train"))


@pytest.mark.parametrize("aux_head", ["per_layer", "shared"])
def test_a_frozen_network_keeps_every_bit_and_every_head_learns(tmp_path, aux_head):
    config = frozen(tmp_path, **STATEFUL, aux_head=aux_head)
    train(config)
    source = load_file(tmp_path / "start" / "model.safetensors")
    heads = {key: value for key, value in start_of(config).state_dict().items() if key.startswith("aux_head.")}
    assert len(heads) == (12 if aux_head == "per_layer" else 2)
    for folder in ("last", "best", "checkpoints/step_00000004/model"):
        state = load_file(tmp_path / "run" / folder / "model.safetensors")
        assert set(state) == set(source) | set(heads)
        assert all(torch.equal(state[key], value) for key, value in source.items())
        assert not any(torch.equal(state[key], value) for key, value in heads.items())


def test_a_step_on_a_frozen_network_is_one_of_plain_linear_probes(tmp_path, monkeypatch):
    """The update of each head against autograd on what timm's blocks give, block by block."""
    batches = []
    loss_of = train_module._Training._loss

    def spy(self, images, masks, pause):
        batches.append((images, masks))
        return loss_of(self, images, masks, pause)

    monkeypatch.setattr(train_module._Training, "_loss", spy)
    config = frozen(tmp_path, steps=1, lr=0.1, log_every=1)
    train(config)
    ((images, masks),) = batches
    model = start_of(config).eval()
    blocks = model.encoder.forward_intermediates(model.normalize(images), intermediates_only=True)
    total = 0.0
    for layer, block in enumerate(blocks, start=1):
        head = model.aux_head[str(layer)]
        logits = torch.nn.functional.conv2d(block, head.weight[:, :, None, None], head.bias)
        logits = torch.nn.functional.interpolate(logits, size=masks.shape[1:], mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, masks.long(), ignore_index=255)
        loss.backward()
        total += loss.item()
    state = load_file(tmp_path / "run" / "last" / "model.safetensors")
    for key, parameter in model.aux_head.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(state[f"aux_head.{key}"], expected, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    (line,) = (line for line in log_of(config) if "loss" in line)
    assert line["loss"] == line["loss_aux"] == pytest.approx(total, rel=1e-5)


def test_a_frozen_network_is_seen_as_at_inference_and_all_its_layers_are_scored(tmp_path, monkeypatch):
    seen, held = [], []
    forward, step = Segmenter.forward, train_module._Training._train_step

    def spy_forward(self, images, pause=train_module.NO_PAUSE, **options):
        output = forward(self, images, pause, **options)
        if torch.is_grad_enabled():  # validation is not
            seen.append((self.training, output.logits.requires_grad, output.trace.layers, output.trace.paused_at()))
        return output

    def spy_step(self, batches):
        held.append({id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]})
        assert held[-1] == {id(parameter) for parameter in self.model.aux_head.parameters()}
        return step(self, batches)

    monkeypatch.setattr(Segmenter, "forward", spy_forward)
    monkeypatch.setattr(train_module._Training, "_train_step", spy_step)
    train(frozen(tmp_path, **STATEFUL, val_every=1))  # a validation must not leave it in another mode
    assert len(held) == 4 and len(seen) == 8
    for training, needs_gradient, layers, paused_at in seen:
        assert not training and not needs_gradient
        assert layers == (1, 2, 3, 4, 5, 6) and not paused_at.any()


def test_heads_of_a_frozen_network_resume_to_the_same_bits(tmp_path, monkeypatch):
    unbroken = frozen(tmp_path / "unbroken", **STATEFUL)
    train(unbroken)
    original = train_module._Training._train_step

    def step_with_signal(self, batches):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="after step 2"):
        patch.setattr(train_module._Training, "_train_step", step_with_signal)
        train(frozen(tmp_path / "again", **STATEFUL, save_every=3))
    (tmp_path / "again" / "start" / "model.safetensors").unlink()  # all is in the checkpoint
    again = frozen(tmp_path / "again", **STATEFUL, save_every=3, resume=True)
    train(again)
    assert weights_of(again) == weights_of(unbroken)


def test_a_frozen_network_pauses_and_its_card_says_what_was_trained(tmp_path):
    config = frozen(tmp_path, val_pauses=("none", "2:0.5"))
    result = train(config)
    assert set(result["miou"]) == {"none", "2:0.5"}
    card = (tmp_path / "run" / "last" / "README.md").read_text()
    assert f"auxiliary heads only, on the frozen network of {config.init}" in card and "| 2:0.5 |" in card


def test_heads_per_layer_start_afresh_where_the_source_shares_one(tmp_path, caplog):
    tiny_model(num_classes=11, aux_head="shared").save_pretrained(tmp_path / "start")
    model = start_of(frozen(tmp_path))
    assert "12 start afresh: aux_head.1.weight" in caplog.text
    assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == {
        f"aux_head.{layer}.{name}" for layer in range(1, 7) for name in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("changes", "unused"),
    [({}, False), ({"aux_head": "per_layer"}, True), ({"aux_head": "per_layer", "freeze": True, "init": "x"}, False)],
)
def test_only_heads_that_wait_for_their_draw_are_searched_for_missing_gradients(tmp_path, changes, unused):
    accelerator = train_module.create_accelerator(tiny(tmp_path / "run", **changes))
    assert accelerator.ddp_handler.find_unused_parameters == unused


@pytest.mark.parametrize("changes", [{"init": None}, {"pausing": "none"}, {"pausing": "random"}])
def test_freezing_needs_a_trained_network_and_heads(changes):
    with pytest.raises(InputError, match="needs init and a pausing that has such heads"):
        TrainConfig(out="unused", freeze=True, **{"init": "start", **changes})


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ({"image_size": (96, 96)}, {}, r"image_size \(96, 96\) and this run \(64, 64\): use the same"),
        ({}, {"crop_size": (32, 32)}, r"image_size \(64, 64\) and this run \(32, 32\)"),
        ({"num_classes": 5}, {}, "num_classes 5 and this run 11"),
        ({"preset": "mmseg"}, {}, "preset mmseg and this run timm"),
        ({}, {"val_pauses": ("7:0.5",)}, r"after layer 7: this encoder has layers 1\.\.6"),
    ],
)
def test_what_would_change_a_frozen_network_is_refused(tmp_path, source, changes, message):
    tiny_model(**{"num_classes": 11, "aux_head": "none", **source}).save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match=message):
        train(frozen(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_may_be_trained_on_smaller_crops(tmp_path):
    config = frozen(tmp_path, image_size=(64, 64), crop_size=(32, 32), steps=1)
    train(config)
    source = load_file(tmp_path / "start" / "model.safetensors")
    assert torch.equal(
        load_file(tmp_path / "run/last/model.safetensors")["encoder.pos_embed"], source["encoder.pos_embed"]
    )


# --- files -----------------------------------------------------------------------------------------------------------


def test_validation_comes_every_few_steps_at_every_pause(tmp_path):
    config = tiny(tmp_path / "run", val_pauses=("none", "2:0.5", "2:0.25,4:0.5"), val_every=2, log_every=1)
    result = train(config)
    lines = [line for line in log_of(config) if "val_none" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert all({"val_none", "val_2:0.5", "val_2:0.25,4:0.5"} < set(line) for line in lines)
    assert result == {"step": 4, "miou": {key[4:]: value for key, value in lines[-1].items() if key != "step"}}


def test_best_is_the_model_of_the_highest_mean_miou(tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 25.0])
    at_validation = {}
    evaluate = train_module.evaluate

    def scored(model, *args, **options):
        score = next(scores)
        at_validation[score] = {key: value.clone() for key, value in model.state_dict().items()}
        results = evaluate(model, *args, **options)
        for result in results:
            object.__setattr__(result.scores, "miou", score)
        return results

    monkeypatch.setattr(train_module, "evaluate", scored)
    train(tiny(tmp_path / "run", val_every=1, lr=0.1))
    best = Segmenter.from_pretrained(tmp_path / "run" / "best").state_dict()
    assert all(torch.equal(value, at_validation[30.0][key]) for key, value in best.items())
    assert not torch.equal(best["encoder.pos_embed"], at_validation[10.0]["encoder.pos_embed"])
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert "2 of 4 steps" in card and "| 5:0.6 | 30.00 |" in card


def test_the_weight_average_is_what_is_saved(tmp_path):
    config = tiny(tmp_path / "run", ema_decay=0.9, lr=0.1, save_every=1, keep=4)
    train(config)
    raw = [load_file(path / "model" / "model.safetensors") for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    average = raw[0]["encoder.pos_embed"]
    for state in raw[1:]:
        average = 0.9 * average + 0.1 * state["encoder.pos_embed"]
    torch.testing.assert_close(load_file(tmp_path / "run/last/model.safetensors")["encoder.pos_embed"], average)


def test_the_effective_configuration_makes_the_same_run(unbroken, tmp_path):
    values = yaml.safe_load((Path(unbroken.out) / "config.yaml").read_text())
    again = TrainConfig(**{**values, "out": str(tmp_path / "again")})
    assert again == tiny(tmp_path / "again", **STATEFUL)


def test_tensorboard_gets_loss_speed_and_every_validation(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(tmp_path / "run", log_with="tensorboard", log_every=2))
    (events,) = (tmp_path / "run").rglob("events.out.tfevents*")
    reader = accumulator.EventAccumulator(str(events))
    reader.Reload()
    assert {"loss", "lr", "images_per_second", "val_none", "val_5:0.6"} <= set(reader.Tags()["scalars"])
    assert [event.step for event in reader.Scalars("loss")] == [2, 4]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_nan_loss_names_the_step_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    calls = [0]
    segmentation_loss = train_module.segmentation_loss

    def nan_at_fourth(*args, **options):
        calls[0] += 1
        loss = segmentation_loss(*args, **options)
        return type(loss)(loss.total * float("nan"), loss.main, loss.aux) if calls[0] == 4 else loss

    monkeypatch.setattr(train_module, "segmentation_loss", nan_at_fourth)
    with pytest.raises(InputError, match=r"the loss is nan at step 4; .*last good checkpoint is .*step_00000002"):
        train(tiny(tmp_path / "run"))
    state = load_file(tmp_path / "run/checkpoints/step_00000002/model/model.safetensors")
    assert all(value.isfinite().all() for value in state.values())


def test_broken_weights_never_become_a_checkpoint(tmp_path, monkeypatch):
    segmentation_loss = train_module.segmentation_loss

    def without_gradient(model, *args, **options):
        loss = segmentation_loss(model, *args, **options)
        nothing = (model.encoder.pos_embed * 0).sum().sqrt()  # 0, with the gradient 0 / 0
        return type(loss)(loss.total + nothing, loss.main, loss.aux)

    monkeypatch.setattr(train_module, "segmentation_loss", without_gradient)
    with pytest.raises(InputError, match="no longer finite after step 1; there is no checkpoint yet"):
        train(tiny(tmp_path / "run", save_every=1))
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pausing": "entrop"}, "unknown pausing 'entrop': did you mean 'entropy'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam': did you mean 'adamw'"),
        ({"amp": "fp8"}, "unknown amp 'fp8': known: no, bf16, fp16"),
        ({"mode": "sliding"}, "unknown mode 'sliding'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"val_every": -1}, "val_every must be at least 0, got -1"),
        ({"lr": 1e-6}, "lr 1e-06 lies below min_lr 1e-05"),
        ({"class_weight": (1.0, -1.0)}, "class weights must not be negative"),
        ({"pause_ratios": (0.5, 1.0)}, "high < 1"),
        ({"pausing": "none", "val_pauses": ("5:0.6",)}, "plain Segmenter .* val_pauses"),
        ({"val_pauses": (180.4,)}, "put it in quotes"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_they_are_made(changes, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(out="unused", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weight": (1.0, 2.0)}, "2 class weights for 11 classes: give one for each"),
        ({"ema_decay": 1.5}, r"ema_decay must lie in \(0, 1\)"),
        ({"pause_layers": (3, 7)}, r"after layer 7: test_vit has layers 1\.\.6"),
        ({"val_pauses": ("7:0.5",)}, r"after layer 7: this encoder has layers 1\.\.6"),
        ({"scale": (2.0, 1.0)}, "scale must be"),
        ({"mode": "slide", "stride": (128, 128)}, "stride .* larger than the window"),
        ({"init": "no/such/folder/at/all"}, "no model at no/such/folder"),
        ({"amp": "fp16"}, "fp16 training needs a GPU"),
    ],
)
def test_a_refused_setting_leaves_no_run_behind(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(tiny(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(InputError, match="no CUDA device here: take --device cpu"):
        train(tiny(tmp_path / "run", device="cuda"))


def test_two_runs_of_one_process_may_differ_in_precision(tmp_path):
    for amp in ("bf16", "no"):
        config = tiny(tmp_path / amp, **DETERMINISTIC, amp=amp, steps=1, log_every=1)
        train(config)
    rough, exact = (log_of(tiny(tmp_path / amp))[0]["loss"] for amp in ("bf16", "no"))
    assert rough != exact and abs(rough - exact) < 0.05 * exact


# --- several processes -----------------------------------------------------------------------------------------------

DDP_SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import Accelerator
from safetensors.torch import save_file
import paumer.train as module

Accelerator.end_training = lambda self: None  # keeps the process group for the second run
save = module._Training._save

def save_on_every_rank(self):
    save(self)
    save_file(self.model.state_dict(), Path(self.config.out) / f"rank{os.environ['RANK']}.safetensors")

module._Training._save = save_on_every_rank
for values in json.loads(sys.argv[1]):
    result = module.train(module.TrainConfig(**values))
    Path(values["out"], f"result{os.environ['RANK']}.json").write_text(json.dumps(result))
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one_with_the_same_images(tmp_path):
    options = {**DETERMINISTIC, "steps": 2, "lr": 0.1, "val_images": 3}
    runs = {head: {**options, "aux_head": head} for head in ("shared", "per_layer")}
    tiny_model(num_classes=11, aux_head="none", decoder="linear").save_pretrained(tmp_path / "start")
    runs["frozen"] = {**options, "aux_head": "per_layer", "freeze": True, "init": str(tmp_path / "start")}
    values = [vars(tiny(tmp_path / head, **run, batch_size=1)) for head, run in runs.items()]
    (tmp_path / "script.py").write_text(DDP_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), json.dumps(values)],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for head, run in runs.items():
        ranks = [load_file(tmp_path / head / f"rank{rank}.safetensors") for rank in range(2)]
        assert all(torch.equal(value, ranks[1][key]) for key, value in ranks[0].items())
        single = tiny(tmp_path / f"{head}_single", **run, batch_size=2)
        result = train(single)
        expected = load_file(Path(single.out) / "last" / "model.safetensors")
        for key, value in expected.items():
            torch.testing.assert_close(ranks[0][key], value, rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
        for rank in range(2):
            got = json.loads((tmp_path / head / f"result{rank}.json").read_text())
            assert got["miou"] == pytest.approx(result["miou"], abs=0.5)
