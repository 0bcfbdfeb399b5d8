"""The whole laboratory in miniature, on generated scenes and a shipped checkpoint, by its commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paumer.cli import main
from paumer.data import create_dataset
from paumer.data.images import save_index_mask
from paumer.front import Front

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "scenes-vit-tiny"
SEARCH = ["--pauses", "5:0.6", "--layers", "3", "5", "--ratios", "0.3", "0.6", "--max-layers", "2", "--rounds", "2"]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """Three scenes as a data set on disk, and the shipped model beside them."""
    folder = tmp_path_factory.mktemp("lab")
    scenes = create_dataset("scenes", "val", num_images=3, size=(96, 144))
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(3):
        sample = scenes[index]
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{index}.png")
        save_index_mask(folder / "masks" / f"{index}.png", sample.mask.numpy(), scenes.spec.palette)
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(scenes.spec.names))
    (folder / "data.yaml").write_text(f"path: {folder}\nval: images\nmasks_dir: masks\nnames:\n{names}")
    shutil.copytree(CHECKPOINT, folder / "model", ignore=shutil.ignore_patterns("pareto.json"))
    return folder


@pytest.fixture(scope="module")
def swept(lab) -> Path:
    assert run("sweep", lab / "model", "--data", lab / "data.yaml", "--limit", 2, *SEARCH, "--out", lab / "sweep") == 0
    return lab / "sweep"


def test_a_sweep_leaves_its_results_and_the_front_with_the_model(lab, swept):
    front = Front.load(lab / "model" / "pareto.json")
    assert front == Front.load(swept / "pareto.json")
    assert front.conditions["search_images"] == 2
    assert front.conditions["num_images"] == front.conditions["scored_images"] == 3
    assert front.image_size == (96, 144)
    rates = [point.images_per_second for point in front.points]
    assert rates == sorted(rates)
    scored = {json.loads(line)["pause"] for line in (swept / "scores.jsonl").read_text().splitlines()}
    assert {"none", "5:0.6", "3:0.3", "3:0.6", "5:0.3"} <= scored
    assert json.loads((swept / "greedy.json").read_text())[0]["candidates"] == ["3:0.3", "3:0.6", "5:0.3", "5:0.6"]


def test_the_same_command_measures_nothing_again_and_chooses(lab, swept, capsys):
    before = {name: (swept / name).read_bytes() for name in ("times.jsonl", "scores.jsonl")}
    words = ["sweep", lab / "model", "--data", lab / "data.yaml", "--limit", 2, *SEARCH, "--out", swept]
    assert run(*words, "--max-drop", 100, "--no-store") == 0
    assert {name: (swept / name).read_bytes() for name in before} == before
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    assert summary["choice"] == summary["front"][-1]["pause"]  # any loss will do, so the fastest is taken
    assert "at most 100 mIoU points lost" in out


def test_predict_picks_from_the_front(lab, swept, capsys):
    words = ["predict", lab / "model", lab / "images", "--kinds", "mask"]
    assert run(*words, "--target-throughput", 0.01, "--out", lab / "slow") == 0
    assert run(*words, "--out", lab / "plain") == 0
    for path in (lab / "plain" / "masks").iterdir():  # any speed will do, so the best mIoU is taken
        best = max(Front.load(lab / "model" / "pareto.json").points, key=lambda point: point.miou)
        if str(best.pause) == "none":
            np.testing.assert_array_equal(
                np.array(Image.open(path)), np.array(Image.open(lab / "slow" / "masks" / path.name))
            )
    capsys.readouterr()
    assert run(*words, "--target-throughput", 1e9, "--out", lab / "never") == 2
    assert "out of reach: the fastest of" in capsys.readouterr().err
    assert not (lab / "never").exists()


@pytest.mark.parametrize("target", ["0", "-5", "nan", "fast"])
def test_a_target_that_is_no_positive_number_is_one_sentence(lab, swept, capsys, target):
    words = ["predict", lab / "model", lab / "images", f"--target-throughput={target}", "--out", lab / "never"]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("paumer: error:") and "target" in error and error.count("\n") == 1
    assert not (lab / "never").exists()


def test_a_sweep_folder_of_another_model_is_refused(lab, swept, capsys):
    other = CHECKPOINT.parent / "camvid-vit-tiny"
    before = {path.name: path.read_bytes() for path in swept.iterdir()}
    assert run("sweep", other, "--data", lab / "data.yaml", "--limit", 2, *SEARCH, "--out", swept) == 2
    assert "holds a sweep with another model" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in swept.iterdir()} == before
