"""The whole laboratory in miniature, on generated scenes and a shipped checkpoint, by its commands."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_plot import tables

from paumer.cli import main
from paumer.data import create_dataset
from paumer.data.images import save_index_mask
from paumer.entropy_study import EntropyStudy
from paumer.front import Front
from paumer.sweep_folder import SweepFolder

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


def test_the_whole_laboratory_in_a_row(lab, swept):
    """From the swept checkpoint to every figure, the page, the table of speeds, and masks at a chosen speed."""
    model, data, out = lab / "model", lab / "data.yaml", lab / "out"
    speeds, published = tables(lab)
    points = {str(point.pause): point for point in SweepFolder(swept).points() if "all" in point.scores}
    for seed in (0, 1):
        words = ["--criterion", "random", "--seed", seed, "--search", "none", "--pauses", "5:0.6", "--rounds", 2]
        assert run("sweep", model, "--data", data, *words, "--no-store", "--out", lab / f"random-{seed}") == 0

    def drawn(figure: str, *words: object) -> str:
        assert run("plot", figure, *words, "--out", out / f"{figure}.svg") == 0
        return "|".join(re.findall(r">([^<>]+)</text>", (out / f"{figure}.svg").read_text()))

    texts = drawn("tradeoff", swept, "--baselines", f"{lab / 'random-0'},{lab / 'random-1'}", "--relative")
    assert "|sweep|random, 2 seeds" in texts and "3 images" in texts.replace("|", " ")
    texts = drawn("grid", swept)
    assert "layer 3" in texts and "layer 5" in texts
    # Those of the search; all of them where the times put every point on the front, which is then scored on all.
    assert {"2 images", "3 images"} & {
        " ".join(pair) for pair in itertools.pairwise(texts.replace("|", " ").replace(",", "").split())
    }
    stages = json.loads((swept / "greedy.json").read_text())
    texts = drawn("greedy", swept)
    assert all(stage["chosen"] in texts for stage in stages if stage["chosen"])
    assert f"|stage {len(stages)}: " in texts
    texts = drawn("architectures", swept, *("--speeds", speeds, "--published", published))
    assert {"SegFormer-B0*", "no pausing", "5:0.6"} <= set(texts.split("|"))
    texts = drawn("pauses", model, 0, "--data", data, "--pause", "3:0.3,5:0.6")
    assert "layer 3: 30 % paused" in texts and "layer 5: 70 % paused" in texts  # of 54: 16, then 22
    assert drawn("entropy", model, "--data", data, "--layers", 3, 6).count("AUROC") == 1
    study = EntropyStudy.load(out / "entropy.json")
    assert [sum(study.right[layer]) + sum(study.wrong[layer]) for layer in (3, 6)] == [3 * 6 * 9] * 2  # all patches

    assert run("report", swept, "--data", data, "--images", 2, "--out", out / "report.html") == 0
    page = (out / "report.html").read_text()
    assert page.count('<article class="example"') == 2
    assert all(f'data-value="{pause}"' in page for pause in points)

    words = ["--pauses", "5:0.6", "--image-size", 96, 144, "--batch-size", 1, "--rounds", 2, "--warmup", 1]
    assert run("benchmark", model, *words, "--csv", out / "benchmark.csv") == 0
    with open(out / "benchmark.csv", newline="") as file:
        rows = {row["pause"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"none", "5:0.6"}
    for pause, row in rows.items():  # of the same images, so the arithmetic is that of the sweep
        assert float(row["images_per_second"]) > 0
        assert float(row["gflops"]) == pytest.approx(points[pause].gflops, rel=1e-3)

    words = ["predict", model, lab / "images", "--kinds", "mask"]
    assert run(*words, "--target-throughput", 0.01, "--out", out / "chosen") == 0
    best = max(Front.load(model / "pareto.json").points, key=lambda point: point.miou)
    assert run(*words, "--pause", best.pause, "--out", out / "best") == 0
    masks = sorted(path.name for path in (out / "chosen" / "masks").iterdir())
    assert len(masks) == 3
    for name in masks:
        chosen, expected = (np.array(Image.open(out / way / "masks" / name)) for way in ("chosen", "best"))
        np.testing.assert_array_equal(chosen, expected)
