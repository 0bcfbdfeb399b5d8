"""`paumer benchmark`, run in this process: what it prints and writes, and one sentence for bad input."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import random_images, tiny_model

from paumer.benchmark import BenchResult, benchmark
from paumer.cli.benchmark import benchmark_command
from paumer.errors import InputError
from paumer.pause import NO_PAUSE, PAPER_CONFIGS

QUICK = ["--image-size", "64", "64", "--rounds", "2", "--warmup", "0"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    return folder


def run(*argv: object) -> int:
    return benchmark_command([str(word) for word in argv])


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def made_up(monkeypatch) -> list[dict]:
    """Results instead of measurements; returns what each call was asked for."""
    asked = []

    def results(model, pauses, **options):
        asked.append(options)
        size, batch = (64, 64), options["batch_size"] or 32
        conditions = dict.fromkeys(("dtype", "attention", "compile", "upsample", "criterion", "rounds", "warmup"), "x")
        conditions |= {"images": "random noise", "device": "cuda:0", "device_name": "A GPU", "threads": 1, "load": 0.5}
        conditions |= {"versions": {"torch": "2"}}
        times = {NO_PAUSE: (2.0, 2.0, 2.0), PAPER_CONFIGS[0]: (1.0, 2.2, 1.9), PAPER_CONFIGS[-1]: (1.0, 1.1, 1.0)}
        return [
            BenchResult(
                pause, batch, size, times.get(pause, (1.6,) * 3), times[NO_PAUSE], 5 * 10**9, 10**10, 2**30, conditions
            )
            for pause in [NO_PAUSE, *pauses]
        ]

    monkeypatch.setattr("paumer.benchmark.benchmark", results)
    return asked


def test_rows_go_to_the_screen_and_to_files(model_folder, tmp_path, capsys):
    files = tmp_path / "new" / "rows.json", tmp_path / "rows.csv"
    assert (
        run(
            model_folder,
            *QUICK,
            "--pauses",
            "2:0.5",
            "none",
            "--batch-size",
            1,
            "2",
            "--json",
            files[0],
            "--csv",
            files[1],
        )
        == 0
    )
    rows = json_lines(capsys.readouterr().out)
    assert [(row["batch_size"], row["pause"]) for row in rows] == [(1, "none"), (1, "2:0.5"), (2, "none"), (2, "2:0.5")]
    assert {row["model"] for row in rows} == {str(model_folder)} and {row["weights"] for row in rows} == {"trained"}
    assert {row["num_classes"] for row in rows} == {5}
    assert json.loads(files[0].read_text()) == rows
    with open(files[1], newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [line["pause"] for line in table] == [row["pause"] for row in rows]
    assert [float(line["images_per_second"]) for line in table] == [row["images_per_second"] for row in rows]
    assert list(table[0]) == list(rows[0])


def test_the_table_fits_a_terminal_and_sells_no_noise(model_folder, made_up, capsys):
    run(model_folder)
    lines = capsys.readouterr().out.splitlines()
    table = [line.rstrip() for line in lines if not line.startswith("{")]
    assert max(map(len, table)) <= 100 and "…" not in "".join(table)
    fast, noise = (
        next(line for line in table if line.startswith(str(PAPER_CONFIGS[place]) + " ")) for place in (-1, 0)
    )
    assert " ".join(fast.split()) == "3:0.4,5:0.4,7:0.4 1.00 2.00 1.91-2.00 2.00 100 % 5.00 1000 1080 1098 1024"
    assert "within noise" in noise and "%" not in noise and " 1.05 " not in noise
    assert all(str(pause) in "".join(table) for pause in PAPER_CONFIGS)


def test_batch_1_and_the_one_that_fills_the_device_come_by_default(model_folder, made_up, capsys):
    run(model_folder)
    assert [options["batch_size"] for options in made_up] == [1, None]
    out = capsys.readouterr().out
    titles = " ".join(out.split())  # a long path of the model wraps them
    assert "random noise, batch 1 pause" in titles
    assert "random noise, batch 32, which fills the device pause" in titles
    assert len(json_lines(out)) == 2 * 14


def test_options_reach_the_benchmark(model_folder, made_up, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(random_images(1, 20, 30)[0].permute(1, 2, 0).numpy()).save(tmp_path / name)
    words = "--image-size 32 48 --batch-size 4 --dtype float16 --attention eager --compile block"
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    words += " --no-upsample --criterion margin --rounds 7 --warmup 2"
    run(model_folder, *words.split(), "--images", *images)
    (asked,) = made_up
    assert asked.pop("images").shape == (2, 3, 32, 48)
    assert asked == {
        "image_size": (32, 48),
        "batch_size": 4,
        "dtype": "float16",
        "attention": "eager",
        "compile": "block",
        "upsample": False,
        "criterion": "margin",
        "rounds": 7,
        "warmup": 2,
        "image_names": images,
        "progress": True,
    }


def test_files_are_written_after_each_batch_size(model_folder, tmp_path, monkeypatch):
    calls = []

    def fails_the_second_time(*args, **options):
        calls.append(options)
        if len(calls) == 2:
            raise InputError("out of memory")
        return benchmark(*args, **options)

    monkeypatch.setattr("paumer.benchmark.benchmark", fails_the_second_time)
    with pytest.raises(InputError, match="out of memory"):
        run(model_folder, *QUICK, "--pauses", "2:0.5", "--batch-size", 1, 2, "--json", tmp_path / "rows.json")
    assert [row["pause"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["none", "2:0.5"]


def test_an_architecture_is_built_with_random_weights(capsys):
    assert run("test_vit", "--num-classes", 3, *QUICK, "--pauses", "none", "--batch-size", 1) == 0
    (row,) = json_lines(capsys.readouterr().out)
    assert (row["model"], row["weights"], row["num_classes"]) == ("test_vit", "random", 3)


def test_threads_are_those_asked_for_and_then_as_before(model_folder, capsys):
    before = torch.get_num_threads()
    run(model_folder, *QUICK, "--pauses", "none", "--batch-size", 1, "--threads", before + 1)
    (row,) = json_lines(capsys.readouterr().out)
    assert row["threads"] == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "many"], "a batch size is a number of images or 'auto', got 'many'"),
        (["--batch-size", "0"], "at least 1 image"),
        (["--threads", "0"], "at least 1 thread, got 0"),
        (["--pauses", "9:0.5"], "layers 1..6"),
        (["--images", "no.jpg"], "no such file: no.jpg"),
        (["--num-classes", "3"], "has its own number of classes"),
        (["--atention", "flash"], "unknown option --atention: did you mean '--attention'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_bad_input_is_one_sentence(model_folder, words, message):
    with pytest.raises(InputError, match=message):
        run(model_folder, *QUICK, *words)


def test_an_architecture_without_classes_is_told():
    with pytest.raises(InputError, match="test_vit is an architecture .* add --num-classes"):
        run("test_vit", *QUICK)


def test_nothing_heavy_is_imported_with_the_command_line():
    code = "import sys, paumer.cli.benchmark; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
