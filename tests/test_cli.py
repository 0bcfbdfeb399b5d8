"""The commands, run in this process: what they print and write, and one sentence and exit code 2 for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reference_segmenter import rstrudel_checkpoint, rstrudel_variant
from safetensors.torch import load_file

from paumer.cli import COMMANDS, main
from paumer.model import Segmenter, create_model
from paumer.pause import PAPER_CONFIGS

NAMES = ("left", "right", "frame")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = create_model("vit_tiny_patch16_224", num_classes=3, image_size=(48, 64), names=NAMES)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory) -> Path:
    """Three labelled pictures of 48x64 and the YAML file that describes them."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(3):
        mask = np.full((48, 64), 2, np.uint8)
        mask[4:44, 4:32], mask[4:44, 32:60] = 0, 1
        pixels = rng.integers(0, 90, (48, 64, 3)) + 80 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    path = root / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({"path": ".", "train": "images", "val": "images", "masks_dir": "masks", "names": list(NAMES)})
    )
    return path


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    return stop.value.code


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_help_is_instant_and_names_every_command():
    code = "import sys, paumer.cli\ntry: paumer.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in tuple(COMMANDS):
        assert f"\n  {command} " in result.stdout
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_its_options(command, capsys):
    assert run(command, "--help") == 0
    assert "usage: paumer " + command in capsys.readouterr().out


def test_val_prints_a_table_and_one_json_line_per_configuration(model_folder, data_yaml, tmp_path, capsys):
    report = tmp_path / "deep" / "report.json"
    assert (
        run("val", model_folder, "--data", data_yaml, "--pauses", "none", "@paper", "--per-class", "--json", report)
        == 0
    )
    out = capsys.readouterr().out
    rows = json_lines(out)
    assert [row["pause"] for row in rows] == ["none", *map(str, PAPER_CONFIGS)]
    assert all(0 <= row["miou"] <= 100 and row["num_images"] == 3 for row in rows)
    assert [entry["name"] for entry in rows[0]["classes"]] == list(NAMES)
    assert {"device", "torch", "inference", "convention", "split"} <= set(rows[0])
    assert "union is not empty" in " ".join(out.split())
    assert json.loads(report.read_text()) == rows


def test_val_limits_and_slides(model_folder, data_yaml, capsys):
    options = ["--limit", 2, "--mode", "slide", "--window", 32, 32, "--stride", 16, 16, "--scales", 0.5, 1, "--flip"]
    assert run("val", model_folder, "--data", data_yaml, *options) == 0
    (row,) = json_lines(capsys.readouterr().out)
    assert row["num_images"] == 2
    assert row["inference"]["mode"] == "slide" and row["inference"]["flip"] and row["inference"]["scales"] == [0.5, 1.0]


def test_val_and_predict_take_batches_and_budgets(model_folder, data_yaml, tmp_path, capsys):
    pauses = ["5:0.6", "5:0.6@batch", "5:0.5nats[0.1-0.8]"]
    assert run("val", model_folder, "--data", data_yaml, "--pauses", *pauses, "--batch-size", 3) == 0
    out = capsys.readouterr().out
    rows = json_lines(out)
    assert [row["pause"] for row in rows] == pauses and {row["batch_size"] for row in rows} == {3}
    # Of 12 patches 5 run through seven of twelve layers; of the 36 of a batch 15 do.
    assert [row["tokens"] for row in rows[:2]] == pytest.approx([(5 * 12 + 7 * 5) / 144] * 2)
    assert "66.0 %" in out
    words = ["predict", model_folder, data_yaml.parent / "images", "--pause", pauses[1], "--out", tmp_path / "out"]
    assert run(*words, "--batch-size", 3) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert sum(line["paused_shares"]["5"] for line in lines) == pytest.approx(21 / 12, abs=1e-5)


@pytest.mark.parametrize(("dtype", "computed"), [("bfloat16", "bfloat16"), ("auto", "float16"), (None, "float32")])
def test_val_predict_and_sweep_compute_in_the_dtype_asked_for(
    model_folder, data_yaml, tmp_path, capsys, monkeypatch, dtype, computed
):
    monkeypatch.setattr("paumer.device._fast_half", lambda device: torch.float16)
    seen = set()
    real = Segmenter.normalize
    monkeypatch.setattr(Segmenter, "normalize", lambda self, x: seen.add((y := real(self, x)).dtype) or y)
    words = [] if dtype is None else ["--dtype", dtype]
    assert run("val", model_folder, "--data", data_yaml, *words) == 0
    assert json_lines(capsys.readouterr().out)[0]["dtype"] == computed
    assert run("predict", model_folder, data_yaml.parent / "images", "--out", tmp_path / "out", *words) == 0
    sweep = ["--out", tmp_path / "sweep", "--search", "none", "--pauses", "5:0.6", "--rounds", 1, "--no-store"]
    assert run("sweep", model_folder, "--data", data_yaml, *sweep, *words) == 0
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["dtype"] == computed
    assert seen == {getattr(torch, computed)}


def test_predict_does_the_good_files_reports_the_bad_one_and_says_so_in_the_exit_code(
    model_folder, data_yaml, tmp_path, capsys
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (data_yaml.parent / "images").iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    (photos / "broken.png").write_bytes(b"not a picture")
    assert run("predict", model_folder, photos, "--pause", "5:0.6", "--out", tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["0.png", "1.png", "2.png"]
    captured = capsys.readouterr()
    assert "broken.png" in captured.err and "3 done, 1 skipped" in captured.out
    assert run("predict", model_folder, photos / "0.png", "--out", tmp_path / "good") == 0


def test_predict_agrees_with_val(model_folder, data_yaml, tmp_path, capsys):
    """The masks on disk, scored by hand in NumPy, give the mIoU that val prints."""
    run("predict", model_folder, data_yaml.parent / "images", "--pause", "5:0.6", "--out", tmp_path / "out")
    capsys.readouterr()
    run("val", model_folder, "--data", data_yaml, "--pauses", "5:0.6")
    (row,) = json_lines(capsys.readouterr().out)
    inter, union = np.zeros(3), np.zeros(3)
    for path in (data_yaml.parent / "masks").iterdir():
        truth, mask = np.array(Image.open(path)), np.array(Image.open(tmp_path / "out" / "masks" / path.name))
        for c in range(3):
            inter[c] += ((truth == c) & (mask == c)).sum()
            union[c] += ((truth == c) | (mask == c)).sum()
    assert row["miou"] == pytest.approx(100 * np.mean(inter / union), abs=1e-4)


def test_convert_writes_a_model_folder_that_loads(tmp_path, capsys):
    torch.save(rstrudel_checkpoint(), tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(yaml.safe_dump(rstrudel_variant()))
    assert run("convert", tmp_path / "checkpoint.pth", "--out", tmp_path / "model", "--half") == 0
    assert "preset segmenter" in capsys.readouterr().out
    assert load_file(tmp_path / "model" / "model.safetensors")["encoder.cls_token"].dtype == torch.float16
    assert Segmenter.from_pretrained(tmp_path / "model").config.num_classes == 5


def test_convert_halves_a_model_folder_and_keeps_its_card(model_folder, tmp_path):
    (tmp_path / "source").mkdir()
    for path in model_folder.iterdir():
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "source" / "README.md").write_text("my card")
    assert run("convert", tmp_path / "source", "--out", tmp_path / "half", "--half") == 0
    assert (tmp_path / "half" / "README.md").read_text() == "my card"
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("source", "half")]
    assert sizes[1] < 0.52 * sizes[0]


def test_data_check_reports_and_fails_on_a_bad_file(data_yaml, tmp_path, capsys):
    assert run("data", "check", data_yaml, "--json") == 0
    (report,) = json_lines(capsys.readouterr().out)
    assert report["pairs"] == 3
    copy = tmp_path / "copy"
    for folder in ("images", "masks"):
        (copy / folder).mkdir(parents=True)
        for path in (data_yaml.parent / folder).iterdir():
            (copy / folder / path.name).write_bytes(path.read_bytes())
    (copy / "tiny.yaml").write_text(data_yaml.read_text())
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(copy / "masks" / "1.png")
    assert run("data", "check", copy / "tiny.yaml") == 2
    assert "7" in capsys.readouterr().out


def test_train_takes_dashes_resumes_and_prints_where_the_results_are(data_yaml, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "data": str(data_yaml), "backbone": "vit_tiny_patch16_224", "weights": "none", "crop_size": [32, 32],
                "batch_size": 2, "steps": 2, "optimizer": "adamw", "log_with": "none", "workers": 0,
            }
        )
    )  # fmt: skip
    argv = ("train", "--config", recipe, "--out", tmp_path / "run", "--val-images", 1, "--lr=1e-3", "--save-every", "1")
    assert run(*argv) == 0
    (result,) = json_lines(capsys.readouterr().out)
    assert result["step"] == 2 and set(result["miou"]) == {"none", "5:0.6"}
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["lr"] == 1e-3
    assert run(*argv) == 2  # the run is there
    assert "--resume" in capsys.readouterr().err
    assert run(*argv, "--resume") == 0
    assert Segmenter.from_pretrained(tmp_path / "run" / "last").config.names == NAMES


BAD_INPUT = {
    "unknown command": (["vall"], "did you mean 'val'?"),
    "unknown layer": (["val", "{model}", "--data", "{data}", "--pauses", "13:0.5"], "layers 1..12"),
    "ratio of one": (["val", "{model}", "--data", "{data}", "--pauses", "5:1"], "[0, 1)"),
    "negative ratio": (["predict", "{model}", "{image}", "--out", "{out}", "--pause", "5:-0.1"], "[0, 1)"),
    "layer twice": (["val", "{model}", "--data", "{data}", "--pauses", "5:0.2,5:0.3"], "twice"),
    "ratio that is no number": (["val", "{model}", "--data", "{data}", "--pauses", "5:half"], "5:half"),
    "unknown group": (["val", "{model}", "--data", "{data}", "--pauses", "@papper"], "@paper"),
    "unknown criterion": (
        ["val", "{model}", "--data", "{data}", "--pauses", "5:0.5", "--criterion", "entropi"],
        "entropy",
    ),
    "threshold of another criterion": (
        ["val", "{model}", "--data", "{data}", "--pauses", "5:0.3nats", "--criterion", "margin"],
        "in place of 'margin'",
    ),
    "bounds the wrong way round": (
        ["val", "{model}", "--data", "{data}", "--pauses", "5:0.3nats[0.8-0.1]"],
        "[0.1-0.8]",
    ),
    "share beyond its bounds": (
        ["predict", "{model}", "{image}", "--out", "{out}", "--pause", "5:0.95@batch"],
        "outside 0.0-0.9",
    ),
    "empty batch to score": (["val", "{model}", "--data", "{data}", "--batch-size", "0"], "at least 1 image, got 0"),
    "empty batch to predict": (
        ["predict", "{model}", "{image}", "--out", "{out}", "--batch-size", "0"],
        "at least 1 image, got 0",
    ),
    "no such model": (["val", "{out}", "--data", "{data}"], "no model at"),
    "unknown data": (["val", "{model}", "--data", "cityscape", "--root", "x"], "cityscapes"),
    "data without root": (["val", "{model}", "--data", "camvid"], "--root"),
    "missing root": (["val", "{model}", "--data", "camvid", "--root", "{out}"], "folder"),
    "no such image": (["predict", "{model}", "{out}/no.jpg", "--out", "{out}"], "no such file"),
    "unknown kind": (["predict", "{model}", "{image}", "--out", "{out}", "--kinds", "overlai"], "overlay"),
    "a file where the folder should be": (["predict", "{model}", "{image}", "--out", "{image}"], "0.png"),
    "unknown dtype": (["predict", "{model}", "{image}", "--out", "{out}", "--dtype", "bfloat"], "'bfloat16'"),
    "no CUDA": (["predict", "{model}", "{image}", "--out", "{out}", "--device", "cuda"], "CUDA"),
    "unknown option": (["val", "{model}", "--data", "{data}", "--pausess", "none"], "--pauses"),
    "no out": (["train", "--data", "scenes"], "--out"),
    "no recipe": (["train", "--config", "{out}.yaml", "--out", "{out}"], "recipe"),
    "wrong type": (["train", "--out", "{out}", "--lr", "high"], "lr"),
    "not a checkpoint": (["convert", "{image}", "--out", "{out}"], "0.png"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_with_exit_code_2_and_changes_nothing(
    case, model_folder, data_yaml, tmp_path, capsys
):
    if case == "no CUDA" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    argv, expected = BAD_INPUT[case]
    image = data_yaml.parent / "images" / "0.png"
    before = image.read_bytes()
    places = {"model": model_folder, "data": data_yaml, "image": image, "out": tmp_path / "out"}
    assert run(*(word.format(**places) for word in argv)) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("paumer: error: ")]
    assert len(error) == 1 and expected in error[0]
    assert image.read_bytes() == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"stepz": 3}, "did you mean 'steps'?"),
        ({"val_pauses": [180.4]}, "put it in quotes"),
        ("just a text", "key: value"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_recipe_is_told_by_its_name(recipe, expected, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
    assert run("train", "--config", path, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_the_command_is_installed_and_the_module_runs():
    environment = {**os.environ, "COLUMNS": "80"}
    for command in ([sys.executable, "-m", "paumer"], [str(Path(sys.executable).with_name("paumer"))]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, env=environment)
        assert result.stdout.startswith("paumer 0.")
