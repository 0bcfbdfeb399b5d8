"""The scripts under benchmarks/ in miniature: that they run to their end, and that what they write adds up."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_sweep import NUMBERS, make_sweep
from tiny import BACKBONE, random_images, tiny_model

from paumer.pause import NO_PAUSE, PauseConfig, Threshold

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCENES = BENCHMARKS.parent / "checkpoints" / "scenes-vit-tiny"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def check_conditions(row):
    assert row["device"] == "cpu" and row["threads"] and "torch" in json.loads(row["versions"])


def test_ideal_compares_the_whole_with_the_sum_of_its_layers(tmp_path):
    import ideal

    words = ["--backbones", BACKBONE, "--num-classes", 5, "--pauses", "2:0.5", "--image-size", 64, 96]
    words += ["--batch-sizes", 1, "auto", "--rounds", 2, "--warmup", 0, "--device", "cpu", "--out", tmp_path / "i.csv"]
    ideal.main(list(map(str, words)))
    rows = rows_of(tmp_path / "i.csv")
    assert [(row["batch"], row["pause"]) for row in rows] == [
        ("1", "none"), ("1", "2:0.5"), ("auto", "none"), ("auto", "2:0.5")
    ]  # fmt: skip
    for row in rows:
        check_conditions(row)
        assert float(row["of_ideal"]) > 0 and float(row["over_2021"]) > 0
    assert float(rows[1]["flop_speedup"]) > 1


def test_the_segmenter_of_2021_gives_the_same_logits():
    from segmenter_2021 import Segmenter2021

    model = tiny_model()
    with torch.inference_mode():
        expected = model(random_images(2, 64, 96), upsample=False).logits
        torch.testing.assert_close(Segmenter2021(model)(random_images(2, 64, 96)), expected, atol=1e-4, rtol=1e-4)


def test_bytes_touched_counts_what_kernels_read_and_write():
    import ideal

    a, b = torch.ones(10, 20), torch.ones(20, 5)
    assert ideal.bytes_touched(lambda: a @ b) == 4 * (200 + 100 + 50)
    assert ideal.bytes_touched(lambda: a.view(20, 10).t()) == 0
    assert ideal.bytes_touched(lambda: a.add_(1)) == 4 * (200 + 200)


@torch.inference_mode()
def test_padding_computes_what_packing_does():
    import adaptive

    model, images = tiny_model(seed=1), torch.cat([random_images(3), random_images(1) // 16 + 100])
    packed = model(images, "2:0.5@batch")
    assert len(set(packed.trace.num_running(6)[:, -1].tolist())) > 1
    for longest in (0, 17):
        with adaptive.padding(longest):
            padded = model(images, "2:0.5@batch")
        torch.testing.assert_close(padded.logits, packed.logits, atol=1e-4, rtol=1e-4)


def test_the_threshold_pauses_as_many_as_the_ratio():
    import adaptive

    scores = torch.rand(20, 50, generator=torch.Generator().manual_seed(0)).numpy() ** 2
    for ratio in (0.2, 0.6):
        threshold = adaptive.threshold_for(scores, ratio)
        paused = adaptive.paused_below(scores, threshold.nats, threshold.high)
        assert paused.mean() == pytest.approx(50 * ratio, abs=0.6)


def test_adaptive_compares_budgets_at_equal_tokens(tmp_path):
    import adaptive

    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    words = [SCENES, "--data", "scenes", "--pauses", "5:0.6", "--image-size", 48, 64, "--batch-size", 2]
    words += ["--batches", 1, "--rounds", 1, "--device", "cpu", "--mixed", tmp_path / "noise.png"]
    dataset = adaptive.create_dataset("scenes", "val", num_images=4, size=(48, 64))
    original, adaptive.create_dataset = adaptive.create_dataset, lambda *_: dataset
    try:
        adaptive.main(list(map(str, [*words, "--out", tmp_path / "a.csv"])))
    finally:
        adaptive.create_dataset = original
    rows = rows_of(tmp_path / "a.csv")
    mixed = "scenes and 1 of other cameras"
    assert [(row["images"], row["mode"]) for row in rows] == [
        ("scenes", "fixed"),
        ("scenes", "@batch"),
        ("scenes", "nats"),
        ("scenes, easiest", "nats"),
        ("scenes, hardest", "nats"),
        ("scenes, half and half", "nats"),
        (mixed, "@batch"),
        (mixed, "nats"),
    ]
    for row in rows:
        check_conditions(row)
        if row["mode"] != "fixed":
            assert float(row["least"]) <= float(row["paused"]) <= float(row["most"]) and float(row["over_fixed"]) > 0
    fixed, batch, nats = rows[:3]
    assert float(batch["tokens"]) == pytest.approx(float(fixed["tokens"]), abs=0.02)
    assert float(nats["tokens"]) == pytest.approx(float(fixed["tokens"]), abs=0.05)
    ((layer, threshold),) = PauseConfig.parse(nats["pause"]).steps
    assert layer == 5 and isinstance(threshold, Threshold)
    assert float(rows[3]["paused"]) >= float(rows[4]["paused"])
    # Of 24 patches 14 pause, whoever's they are; and noise is harder than a scene.
    assert float(rows[6]["paused"]) == pytest.approx(14 / 24, abs=1e-3)
    assert float(rows[7]["least"]) < float(rows[7]["most"])


def test_training_steps_are_compared_draw_by_draw(tmp_path):
    import training_step

    words = ["--backbones", "vit_tiny_patch16_384", "--num-classes", 5, "--crops", 32, "--batch-size", 1]
    training_step.main([*map(str, words), "--rounds", "2", "--device", "cpu", "--out", str(tmp_path / "t.csv")])
    (row,) = rows_of(tmp_path / "t.csv")
    check_conditions(row)
    assert float(row["drawn_over_plain"]) > 0 and float(row["scored_over_plain"]) > 0


def test_scaling_measures_and_weighs_a_job(monkeypatch):
    import scaling

    monkeypatch.setitem(scaling.SIZES, "Ti", BACKBONE)
    common = {"num_classes": 5, "device": "cpu", "dtype": "float32", "rounds": 2}
    whole = {"study": "x", "size": "Ti", "image_size": [64, 128], "batch_size": 2, "pauses": ["2:0.5"], "whole": True}
    rows = scaling.work({**whole, **common})
    assert [row["pause"] for row in rows] == ["none", "2:0.5"] and float(rows[1]["flop_speedup"]) > 1
    for what in ("forward", "segment"):
        found = scaling.weigh({**whole, **common, "pause": "2:0.5", "what": what})
        assert found.keys() == {"bytes", "process"}
        assert found["process"] is None or found["process"] > found["bytes"]
    window = {"study": "x", "size": "Ti", "image_size": [64, 128], "batch_size": 1, "pauses": [], "crop_size": [64, 64]}
    (row,) = scaling.work({**window, "stride": [32, 32], **common})
    model = tiny_model()
    one = scaling.flop_formula(model, NO_PAUSE, (64, 64))
    assert float(row["gflop_per_image"]) == pytest.approx(3 * one / 1e9, abs=0.01)


@pytest.mark.parametrize("per_pixel", [30.0, 41.0, 90.0])
def test_the_largest_image_is_the_last_that_fits(per_pixel, monkeypatch):
    import scaling

    tried = []

    def in_process(what, job):
        tried.append(job["image_size"][0])
        # A little more than linear, so that the first guess is off.
        return {"process": int(7e8 + per_pixel * tried[-1] ** 2 * (1 + tried[-1] / 1e6))}

    monkeypatch.setattr(scaling, "in_process", in_process)
    row = scaling.largest({"what": "segment", "device": "cpu"})
    side = int(row["image_size"].split("x")[0])
    limit = 15 * 2**30
    assert in_process("", {"image_size": (side, side)})["process"] <= limit
    assert in_process("", {"image_size": (side + 256, side + 256)})["process"] > limit
    # Nothing much larger is ever tried: it would be the machine's end.
    assert max(tried) <= 1.1 * side and len(tried) < 9


def test_a_process_can_be_weighed_with_attention_that_gives_its_values_back(monkeypatch):
    import scaling

    monkeypatch.setitem(scaling.SIZES, "Ti", BACKBONE)
    monkeypatch.setattr(scaling.F, "scaled_dot_product_attention", scaling.F.scaled_dot_product_attention)
    job = {"study": "x", "size": "Ti", "image_size": [64, 64], "batch_size": 1, "num_classes": 5, "device": "cpu"}
    job |= {"dtype": "float32", "pauses": [], "whole": True, "pause": "none", "what": "segment", "blocks": 1}
    before = scaling.F.scaled_dot_product_attention
    assert scaling.weigh({**job, "attention": "none"})["process"]
    value = torch.ones(1, 2, 3, 4)
    found = scaling.F.scaled_dot_product_attention(value, value, value, dropout_p=0.0)
    assert scaling.F.scaled_dot_product_attention is not before
    assert torch.equal(found, value) and found.data_ptr() != value.data_ptr()


def test_every_job_of_the_plan_can_be_read():
    import scaling

    for device in ("cpu", "cuda"):
        for job in scaling.plan(device):
            assert json.loads(json.dumps(job))["size"] in scaling.SIZES
            for pause in job["pauses"]:
                PauseConfig.parse(pause).check_depth(12)


def test_processes_with_and_without_kept_memory_take_turns(tmp_path):
    import allocator

    words = [SCENES, "--data", "scenes", "--pauses", "none", "5:0.6", "--dtypes", "float32", "--processes", 1]
    allocator.main(list(map(str, [*words, "--rounds", 1, "--out", tmp_path / "a.csv"])))
    rows = rows_of(tmp_path / "a.csv")
    assert [row["pause"] for row in rows] == ["none", "5:0.6"]
    for row in rows:
        check_conditions(row)
        assert float(row["usual_ms"]) > 0 and float(row["saved_least"]) <= float(row["saved"]) < 1


def test_dtypes_are_compared_in_turns(tmp_path):
    import dtypes

    words = [SCENES, "--data", "scenes", "--pauses", "5:0.6", "--dtypes", "float32", "bfloat16", "--limit", 2]
    dtypes.main(list(map(str, [*words, "--rounds", 1, "--device", "cpu", "--out", tmp_path / "d.csv"])))
    rows = rows_of(tmp_path / "d.csv")
    assert [(row["dtype"], row["pause"]) for row in rows] == [
        ("float32", "none"), ("float32", "5:0.6"), ("bfloat16", "none"), ("bfloat16", "5:0.6")
    ]  # fmt: skip
    for row in rows:
        check_conditions(row)
        assert 0 < float(row["miou"]) < 100 and float(row["over_float32"]) > 0 and float(row["same_pixels"]) > 0.9
    assert float(rows[0]["over_float32"]) == float(rows[0]["speedup"]) == float(rows[0]["same_pixels"]) == 1


def test_the_mask_is_timed_on_real_logits_and_on_noise(tmp_path):
    import mask

    words = [SCENES, "--data", "scenes", "--num-classes", 12, "--image-size", 64, 96, "--rounds", 1, "--device", "cpu"]
    mask.main(list(map(str, [*words, "--out", tmp_path / "m.csv"])))
    rows = rows_of(tmp_path / "m.csv")
    assert [row["logits"] for row in rows] == ["real", "noise"]
    for row in rows:
        check_conditions(row)
        assert int(row["pixels"]) == 64 * 96 and int(row["pixels_that_differ"]) <= 2


def test_tables_take_all_speeds_from_one_sweep(tmp_path, capsys, monkeypatch):
    import tables

    make_sweep(tmp_path / "ours")
    faster = [(pause, 2 * speedup - 1, half, gflops, iou) for pause, speedup, half, gflops, iou in NUMBERS[:-1]]
    make_sweep(tmp_path / "speeds", faster)
    words = ["tables.py", f"ours={tmp_path / 'ours'}", "--speedups", "1.5"]
    monkeypatch.setattr("sys.argv", words)
    tables.main()
    own = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "--speeds", str(tmp_path / "speeds")])
    tables.main()
    theirs = capsys.readouterr().out
    # 80 + 40 + 90 over 3 and so on: the scores stay, the speeds are those of the other sweep.
    assert "| `5:0.6` | 5.00 | 1.60 | 1.25 | 69.53 |" in own
    assert "| `5:0.6` | 5.00 | 1.60 | 1.50 | 69.53 |" in theirs
    assert "| ours | 69.53 |" in theirs and "| ours | 69.53 |" not in own


@pytest.mark.parametrize("folder", sorted(BENCHMARKS.glob("performance_*/")), ids=lambda path: path.name)
def test_the_page_of_a_measurement_is_what_its_tables_give(folder):
    import performance_page

    assert performance_page.page(folder) == (folder / "README.md").read_text(encoding="utf-8")


def test_a_page_leaves_out_tables_that_are_not_there(tmp_path, capsys):
    import performance_page

    source = next(BENCHMARKS.glob("performance_*/mask.csv"))
    (tmp_path / "mask.csv").write_bytes(source.read_bytes())
    performance_page.main([str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert "## The mask without" in text and "## Compiled" not in text
    (tmp_path / "mask.csv").unlink()
    with pytest.raises(SystemExit):
        performance_page.main([str(tmp_path)])
    assert "holds none of the tables" in capsys.readouterr().err
