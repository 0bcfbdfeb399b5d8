"""`paumer plot`: what it draws from, what it writes, and one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_sweep import make_sweep
from test_plot import SEARCH, STAGES, sweep_of, tables

from paumer.cli.plot import FIGURES, plot_command
from paumer.entropy_study import EntropyStudy
from paumer.errors import InputError

MODEL = Path(__file__).parents[1] / "checkpoints" / "scenes-vit-tiny"


def run(*words: object) -> int:
    return plot_command([str(word) for word in words])


@pytest.fixture
def folder(tmp_path) -> Path:
    sweep_of(tmp_path / "ours")
    sweep_of(tmp_path / "random")
    sweep_of(tmp_path / "searched", SEARCH).save_greedy([{**stage, "subset": "all"} for stage in STAGES])
    return tmp_path


def test_help_lists_the_figures_with_their_options(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for words in ("pauses", "entropy", "tradeoff", "architectures", "grid", "greedy", "--baselines", "(Fig. 10)"):
        assert words in out
    assert run() == 2


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_explains_its_options(figure, capsys):
    with pytest.raises(SystemExit) as stop:
        run(figure, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: paumer plot {figure}" in out and "--out" in out


def test_an_unknown_figure_is_answered_with_the_near_match():
    with pytest.raises(InputError, match="unknown figure 'tradeof': did you mean 'tradeoff'?"):
        run("tradeof", "sweep", "--out", "figure")


@pytest.mark.parametrize(
    "words",
    [
        ["tradeoff", "ours", "--baselines", "random", "--labels", "PAUMER", "random patches"],
        ["tradeoff", "ours", "random", "--front", "--relative", "--min-miou", "61"],
        ["grid", "searched", "--label", "PAUMER"],
        ["greedy", "searched", "--min-miou", "61"],
    ],
    ids=lambda words: f"{words[0]}-{len(words)}",
)
def test_figures_of_sweeps_are_drawn_as_png_and_svg(folder, words, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run(*words, "--out", "out/figure") == 0
    assert capsys.readouterr().out.splitlines() == ["drew out/figure.png", "drew out/figure.svg"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["figure.png", "figure.svg"]


def test_labels_and_baselines_reach_the_figure(folder):
    sweeps = [folder / "ours", "--baselines", folder / "random", "--labels", "PAUMER", "random patches"]
    run("tradeoff", *sweeps, "--out", folder / "figure.svg")
    svg = (folder / "figure.svg").read_text()
    assert ">PAUMER</text>" in svg and ">random patches</text>" in svg
    assert "stroke-dasharray" in svg
    with pytest.raises(InputError, match="2 sweeps and 1 labels"):
        run("tradeoff", folder / "ours", "--baselines", folder / "random", "--labels", "one", "--out", folder / "x")


def test_folders_with_commas_between_are_seeds_of_one_series(folder):
    for seed, miou in enumerate((66.0, 69.0)):
        sweep_of(folder / f"seed-{seed}", {"none": (1.0, 67.0), "5:0.6": (1.4, miou)}, model_id=str(seed))
    seeds = f"{folder / 'seed-0'},{folder / 'seed-1'}"
    run("tradeoff", folder / "ours", "--baselines", seeds, "--labels", "PAUMER", "random", "--out", folder / "f.svg")
    svg = (folder / "f.svg").read_text()
    assert ">PAUMER</text>" in svg and ">random, 2 seeds</text>" in svg
    run("tradeoff", seeds, "--out", folder / "g.svg")
    assert ">seed, 2 seeds</text>" in (folder / "g.svg").read_text()


def test_a_folder_with_a_comma_in_its_name_is_one_sweep(folder):
    sweep_of(folder / "3:0.4,5:0.4")
    run("tradeoff", folder / "3:0.4,5:0.4", folder / "ours", "--out", folder / "figure.svg")
    assert ">3:0.4,5:0.4</text>" in (folder / "figure.svg").read_text()


def test_seeds_that_do_not_belong_together_are_one_sentence(folder):
    sweep_of(folder / "camvid", data="camvid")
    sweep_of(folder / "few", {"none": (1.0, 67.0)}, model_id="another")
    for other, message in (
        ("camvid", "ours and camvid are no seeds of one series, since they differ in data"),
        ("few", "is not scored on the whole split in few"),
        ("ours", "two of ours, ours are of the same weights and seed"),
        ("nowhere", "nowhere holds no sweep"),
    ):
        with pytest.raises(InputError, match=message):
            run("tradeoff", f"{folder / 'ours'},{folder / other}", "--out", folder / "figure")
    with pytest.raises(InputError, match="lacks a folder beside a comma"):
        run("tradeoff", f"{folder / 'ours'},", "--out", folder / "figure")
    assert not list(folder.glob("figure*"))


def test_architectures_are_drawn_and_those_without_a_score_named(folder, capsys):
    speeds, published = tables(folder)
    files = ["--speeds", speeds, "--published", published, "--dataset", "ade20k"]
    assert run("architectures", folder / "ours", *files, "--out", folder / "figure.svg") == 0
    assert "left out, without a published mIoU on ade20k: UNet-R34" in capsys.readouterr().err
    assert ">SegFormer-B0*</text>" in (folder / "figure.svg").read_text()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read():
    with pytest.raises(InputError, match="cannot draw into 'figure.pdf': end it in .png or .svg"):
        run("grid", "no/such/sweep", "--out", "figure.pdf")


def test_a_damaged_sweep_is_one_sentence(folder):
    path = folder / "ours" / "scores.jsonl"
    path.write_text("half a li\n" + path.read_text())
    with pytest.raises(InputError, match=r"line 1 of .*scores\.jsonl is damaged"):
        run("tradeoff", folder / "ours", "--out", folder / "figure")
    with pytest.raises(InputError, match="holds no sweep"):
        run("grid", folder, "--out", folder / "figure")


def test_a_study_is_made_written_beside_the_figure_and_drawn_again_from_its_file(tmp_path, capsys):
    made = ["--data", "scenes", "--limit", 2, "--layers", 3, 6]
    assert run("entropy", MODEL, *made, "--out", tmp_path / "fig3.svg") == 0
    assert "the study is in" in capsys.readouterr().out
    study = EntropyStudy.load(tmp_path / "fig3.json")
    assert study.layers == (3, 6) and study.conditions["num_images"] == 2
    assert study.conditions["model"] == str(MODEL) and study.conditions["split"] == "val"
    assert run("entropy", tmp_path / "fig3.json", "--out", tmp_path / "again.svg") == 0
    assert (tmp_path / "fig3.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_a_study_needs_a_data_set_and_a_finished_one_takes_none(tmp_path):
    with pytest.raises(InputError, match="takes a data set: add --data"):
        run("entropy", MODEL, "--out", tmp_path / "x")
    (tmp_path / "study.json").write_text(json.dumps({"kind": "something else"}))
    with pytest.raises(InputError, match="is a finished study: leave out --data"):
        run("entropy", tmp_path / "study.json", "--data", "scenes", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="holds something else than an entropy study"):
        run("entropy", tmp_path / "study.json", "--out", tmp_path / "x")


def test_pauses_are_drawn_of_images_of_a_data_set(tmp_path):
    words = ["--data", "scenes", "--pause", "3:0.5"]
    assert run("pauses", MODEL, 3, *words, "--out", tmp_path / "fig1.svg") == 0
    svg = (tmp_path / "fig1.svg").read_text()
    assert ">layer 3: 50 % paused</text>" in svg and "scenes val 3, criterion entropy." in svg
    for number in ("100", "-1", "street.jpg"):
        with pytest.raises(InputError, match="no image .* in scenes val: it has the numbers 0..99|unknown option"):
            run("pauses", MODEL, number, *words, "--out", tmp_path / "x")


def test_pauses_are_drawn_of_files_even_where_the_model_prefers_windows(tmp_path):
    from PIL import Image
    from tiny import tiny_model

    tiny_model(mode="slide", crop_size=(32, 32), stride=(32, 32)).save_pretrained(tmp_path / "model")
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "street.png")
    words = ["--pause", "2:0.5", "--out", tmp_path / "fig1.svg"]
    assert run("pauses", tmp_path / "model", tmp_path / "street.png", *words) == 0
    assert ">layer 2: 50 % paused</text>" in (tmp_path / "fig1.svg").read_text()


def test_nothing_scored_is_one_sentence(tmp_path):
    make_sweep(tmp_path / "timed", subsets={"all": []})
    for figure in ("tradeoff", "grid", "greedy"):
        with pytest.raises(InputError, match="nothing in .*timed is timed and scored yet"):
            run(figure, tmp_path / "timed", "--out", tmp_path / "figure")
