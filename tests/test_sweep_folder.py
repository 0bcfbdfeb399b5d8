from __future__ import annotations

import csv
import json

import pytest

from paumer.errors import InputError
from paumer.pause import PauseConfig
from paumer.sweep_folder import SweepFolder

INFO = {
    "format": 1,
    "model": "checkpoints/a",
    "model_id": "0123",
    "data": "scenes",
    "split": "val",
    "image_size": (64, 96),
    "device": "cpu",
    "names": ["sky", "road"],
}


def time_row(pause: str, speedup: float, *, baseline: float = 0.1, gflops: float = 2.0) -> dict:
    return {
        "pause": pause,
        "seconds": baseline / speedup,
        "baseline_seconds": baseline,
        "speedup": speedup,
        "speedup_low": 0.99 * speedup,
        "speedup_high": 1.01 * speedup,
        "gflops": gflops,
    }


def score_row(pause: str, miou: float, subset: str = "all") -> dict:
    return {
        "pause": pause,
        "subset": subset,
        "num_images": 4 if subset == "search" else 20,
        "miou": miou,
        "pixel_accuracy": 90.0,
        "mean_accuracy": 80.0,
        "iou": {"sky": miou + 5, "road": miou - 5},
    }


@pytest.fixture
def folder(tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    folder.open(INFO)
    folder.add_times([time_row("none", 1.0), time_row("5:0.6", 1.4), time_row("3:0.6", 1.6), time_row("3:0.2", 1.1)])
    for pause, miou in (("none", 70.0), ("5:0.6", 69.0), ("3:0.6", 66.0), ("3:0.2", 68.5)):
        folder.add_score(score_row(pause, miou))
    return folder


def test_points_join_times_and_scores_from_slow_to_fast(folder):
    folder.add_score(score_row("5:0.6", 71.5, "search"))
    points = {str(point.pause): point for point in folder.points()}
    assert list(points) == ["none", "3:0.2", "5:0.6", "3:0.6"]
    assert points["5:0.6"].miou() == 69.0
    assert points["5:0.6"].miou("search") == 71.5
    assert points["none"].miou("search") is None
    assert points["3:0.6"].images_per_second == pytest.approx(16.0)
    assert points["3:0.6"].scores["all"]["iou"] == {"sky": 71.0, "road": 61.0}


def test_points_timed_under_another_load_compare(folder):
    # Twice as slow a machine: the speed-up is what it was, and so must be the rate.
    folder.add_times([time_row("7:0.5", 1.6, baseline=0.2), time_row("8:0.5", 1.0, baseline=0.1)])
    rates = {str(point.pause): point.images_per_second for point in folder.points()}
    assert rates["7:0.5"] == pytest.approx(rates["3:0.6"]) == pytest.approx(16.0)


def test_a_speedup_whose_spread_exceeds_its_difference_is_not_decided(folder):
    folder.add_times([{**time_row("9:0.1", 1.02), "speedup_low": 1.005, "speedup_high": 1.03}])
    decided = {str(point.pause): point.decided for point in folder.points()}
    assert decided["5:0.6"]
    assert not decided["9:0.1"]


def test_front_and_table_are_written(folder):
    front = folder.write_results()
    assert [str(point.pause) for point in front.points] == ["none", "5:0.6", "3:0.6"]
    assert front.conditions["scored_images"] == 20
    assert front.conditions["model_id"] == "0123"
    with open(folder.path / "points.csv", newline="") as file:
        rows = {row["pause"]: row for row in csv.DictReader(file)}
    assert {pause: row["on_front"] for pause, row in rows.items()} == {
        "none": "1",
        "3:0.2": "0",
        "5:0.6": "1",
        "3:0.6": "1",
    }
    assert rows["5:0.6"]["change"] == "-1.00"
    assert json.loads((folder.path / "pareto.json").read_text())["points"][1]["pause"] == "5:0.6"


def test_the_same_sweep_goes_on(folder):
    folder.open({**INFO, "load": 7.0, "model": "copies/a", "image_size": [64, 96]})
    assert folder.info["model"] == "checkpoints/a"
    assert len(folder.points()) == 4


@pytest.mark.parametrize(
    ("key", "value"), [("model_id", "9999"), ("data", "camvid"), ("device", "cuda"), ("image_size", [512, 512])]
)
def test_a_sweep_of_something_else_is_refused(folder, key, value):
    before = (folder.path / "sweep.json").read_bytes()
    with pytest.raises(InputError, match=f"another {key}: .* give another --out"):
        folder.open({**INFO, key: value})
    assert (folder.path / "sweep.json").read_bytes() == before
    assert len(folder.points()) == 4


def test_the_half_line_of_a_killed_sweep_is_left_out_and_mended(folder):
    path = folder.path / "scores.jsonl"
    whole = path.read_text()
    path.write_text(whole + json.dumps(score_row("7:0.5", 60.0))[:25])
    assert len(folder.scores("all")) == 4
    folder.add_score(score_row("7:0.5", 61.0))
    assert path.read_text() == whole + json.dumps(score_row("7:0.5", 61.0)) + "\n"
    assert folder.scores("all")[PauseConfig.parse("7:0.5")]["miou"] == 61.0


@pytest.mark.parametrize("damaged", ["{", "3", '{"pause": "5:0.6"}', '{"pause": 7, "speedup": 1.0}'])
def test_a_damaged_line_is_named_and_nothing_is_lost(folder, damaged):
    path = folder.path / "times.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = damaged
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"line 2 of .*times.jsonl is damaged: delete that line"):
        folder.points()
    assert len(path.read_text().splitlines()) == 4


def test_a_folder_without_a_sweep_or_with_half_of_one_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match="holds no sweep"):
        SweepFolder(tmp_path).info  # noqa: B018 - reading it is the test
    path = folder.path / "sweep.json"
    path.write_text(path.read_text()[:30])
    with pytest.raises(InputError, match="not a whole description"):
        folder.info  # noqa: B018


def test_nothing_scored_gives_a_table_but_no_front(tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    folder.open(INFO)
    folder.add_times([time_row("none", 1.0)])
    assert folder.write_results() is None
    assert not (folder.path / "pareto.json").exists()
    with pytest.raises(InputError, match="nothing .* timed and scored"):
        folder.front()


def test_greedy_stages_come_back(folder):
    assert folder.greedy == []
    stages = [{"fixed": "none", "candidates": ["5:0.6"], "chosen": None}]
    folder.save_greedy(stages)
    assert folder.greedy == stages
    (folder.path / "greedy.json").write_text('[{"fi')
    with pytest.raises(InputError, match="cut short"):
        folder.greedy  # noqa: B018
