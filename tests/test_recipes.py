"""Every recipe that is shipped: it parses strictly, says how it is run, and trains two steps on shrunk data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import timm
import yaml
from conftest import REPOSITORY
from jsonargparse import ArgumentParser

from paumer.model import Segmenter
from paumer.train import TrainConfig, _create_dataset, build_model, train

RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
STUDIES = ("_baselines", "_heads")  # these start from a checkpoint that ships and not from a first stage
each_study = pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem.endswith(STUDIES)], ids=lambda path: path.stem
)
each_second_stage = pytest.mark.parametrize(
    "path",
    [path for path in RECIPES if not path.stem.endswith(("_segmenter", *STUDIES))],
    ids=lambda path: path.stem,
)


def parse(path: Path) -> TrainConfig:
    """Strictly: unknown keys and values of another type are errors."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "out" not in values, "where to write to is for the command line"
    return TrainConfig(**parser.parse_object({**values, "out": "unused"}).as_dict())


def command_of(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    (command,) = (line.removeprefix("# command : ") for line in lines if line.startswith("# command : "))
    return shlex.split(command)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def shrunk(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same optimiser on four small scenes for two steps, and ViT-Ti in the place of ViT-S to be quick."""
    slides = config.mode == "slide"
    return dataclasses.replace(
        config,
        out=str(folder / "run"),
        data="scenes",
        root=None,
        scene_size=(64, 96),
        scene_images=4,
        backbone=config.backbone.replace("small", "tiny"),
        weights="none",
        init=None if config.init is None else str(folder / "start"),
        crop_size=(64, 64),
        image_size=None,
        base_size=None if config.base_size is None else (96, 64),
        window=(64, 64) if slides else None,
        stride=(48, 48) if slides else None,
        steps=2,
        batch_size=2,
        val_images=1,
        workers=0,
        device="cpu",
        log_with="none",
    )


def test_there_are_both_stages_of_every_training():
    stems = {path.stem for path in RECIPES if not path.stem.endswith(STUDIES)}
    second = {stem for stem in stems if not stem.endswith("_segmenter")}
    assert {stem + "_segmenter" for stem in second} == stems - second
    assert {"cityscapes_vit_tiny", "cityscapes_vit_small", "ade20k_vit_tiny", "ade20k_vit_small"} <= second
    assert {"scenes_vit_tiny", "camvid_vit_tiny"} <= second


@each_recipe
def test_a_recipe_says_the_command_that_runs_it(path):
    words = command_of(path)
    assert words[:2] == ["paumer", "train"]
    assert option(words, "--config") == f"recipes/{path.name}"
    known = {"--config", *(f"--{field.name}" for field in dataclasses.fields(TrainConfig))}
    assert {word for word in words if word.startswith("--")} <= known
    assert option(words, "--out").startswith("runs/")
    assert parse(path).data == "scenes" or "--root" in words


@each_recipe
def test_timm_has_weights_for_the_backbone(path):
    config = parse(path)
    assert timm.is_model_pretrained(config.backbone)
    pretrained = timm.get_pretrained_cfg(config.backbone)
    assert (config.mean or pretrained.mean, config.std or pretrained.std) == (pretrained.mean, pretrained.std)


@each_recipe
def test_the_list_of_recipes_names_it(path):
    assert f"`{path.name}`" in (path.parent / "README.md").read_text(encoding="utf-8")


@each_second_stage
def test_the_second_stage_starts_from_what_the_first_one_writes(path):
    first_path = path.with_name(f"{path.stem}_segmenter.yaml")
    first, second = parse(first_path), parse(path)
    assert second.init == option(command_of(first_path), "--out") + "/last"
    assert first.pausing == "none" and first.init is None and second.pausing == "entropy"
    network = ("data", "backbone", "preset", "decoder", "decoder_layers", "mean", "std", "crop_size", "mode", "window")
    for name in network:
        assert getattr(first, name) == getattr(second, name), name


@each_study
def test_a_study_starts_from_a_checkpoint_that_ships(path):
    config = parse(path)
    init = REPOSITORY / config.init
    assert init.parent == REPOSITORY / "checkpoints"
    # Scenes have CamVid's classes, so no data is needed to see that everything fits.
    config = dataclasses.replace(config, data="scenes", init=str(init))
    model = build_model(config, _create_dataset(config, "train"))
    learning = {key.split(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == ({"aux_head"} if path.stem.endswith("_heads") else {"encoder", "decoder", "aux_head"})


@pytest.mark.parametrize(
    ("stem", "steps", "lr", "crop", "stride"),
    [("cityscapes", 80_000, 1e-2, 768, 512), ("ade20k", 160_000, 1e-3, 512, 512)],
)
@pytest.mark.parametrize("network", ["tiny", "small"])
def test_the_paper_s_trainings_have_the_paper_s_settings(stem, steps, lr, crop, stride, network):
    config = parse(REPOSITORY / "recipes" / f"{stem}_vit_{network}.yaml")
    assert (config.steps, config.lr, config.batch_size, config.optimizer) == (steps, lr, 8, "sgd")
    assert (config.crop_size, config.window, config.stride) == ((crop, crop), (crop, crop), (stride, stride))
    assert (config.pause_layers, config.pause_ratios, config.aux_weight) == (tuple(range(3, 10)), (0.2, 0.8), 0.1)
    assert (config.momentum, config.weight_decay, config.power, config.clip_grad) == (0.9, 0.0, 0.9, 0.0)


@each_recipe
def test_two_steps_of_a_recipe_run(path, tmp_path):
    config = shrunk(parse(path), tmp_path)
    if config.init is not None:
        first = dataclasses.replace(config, init=None, freeze=False, pausing="none", val_pauses=())
        build_model(first, _create_dataset(first, "train")).save_pretrained(config.init)
    result = train(config)
    assert result["step"] == 2 and len(result["miou"]) == len(config.parsed_val_pauses)
    model = Segmenter.from_pretrained(tmp_path / "run" / "last")
    assert (model.aux_head is None) == (config.pausing == "none")
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0]["step"] == 2 and losses[0]["loss"] > 0
