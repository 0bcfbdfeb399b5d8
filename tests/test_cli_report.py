"""`paumer report`: a page from a sweep folder, with examples where there is a model, and one sentence for bad input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from synthetic_sweep import make_sweep
from tiny import tiny_model

from paumer.checkpoint import model_id
from paumer.cli.report import report_command
from paumer.data.scenes import SCENE_CLASSES
from paumer.errors import InputError
from paumer.model import Segmenter


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(len(SCENE_CLASSES), names=SCENE_CLASSES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, model_folder):
    """A sweep of `model_folder` on the scenes."""
    identity = model_id(Segmenter.from_pretrained(model_folder))
    return make_sweep(tmp_path_factory.mktemp("sweeps"), model=str(model_folder), model_id=identity).path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def run(*argv: object) -> int:
    return report_command([str(word) for word in argv])


def test_the_page_shows_the_swept_model_on_the_swept_data(sweep, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    assert run(sweep, "--out", out, "--images", 1) == 0
    text = out.read_text(encoding="utf-8")
    assert text.count('<article class="example"') == 1 and "scene_000001" in text
    assert f"paumer report {sweep} --out {out} --images 1" in text
    assert "7 configurations, 1 images at 5 of them" in capsys.readouterr().out


def test_photos_of_ones_own_are_examples(sweep, tmp_path, photo):
    assert run(sweep, "--out", tmp_path / "page.html", "--images-from", photo) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "street.png" in text and 'data-view="wrong"' not in text


def test_without_the_model_the_page_does_without_examples_and_says_why(tmp_path, capsys):
    folder = make_sweep(tmp_path / "sweep", model="USER/NAME").path
    assert run(folder, "--out", tmp_path / "page.html") == 0
    told = capsys.readouterr()
    assert told.err == "no example images: the model that was swept is not here (USER/NAME): give --model\n"
    assert "no example images" in told.out
    assert '<section id="examples">' not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_without_the_data_the_page_does_without_examples_and_says_why(tmp_path, model_folder, capsys):
    folder = make_sweep(tmp_path / "sweep", model=str(model_folder), data="camvid").path
    assert run(folder, "--out", tmp_path / "page.html") == 0
    assert "no example images: camvid is read from a folder: give --root DIR" in capsys.readouterr().err


def test_no_images_are_no_loss_worth_telling(sweep, tmp_path, capsys):
    assert run(sweep, "--out", tmp_path / "page.html", "--images", 0) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "no/such/model/folder"], "no/such/model/folder"),
        (["--data", "nothing"], "unknown dataset 'nothing'"),
        (["--root", "somewhere"], "scenes' are made up and need no folder"),
        (["--split", "vall"], "unknown split 'vall'"),
        (["--images", "-1"], "0 or more, got -1"),
        (["--images-from", "no.jpg"], "no such file: no.jpg"),
        (["--images-from", "no.jpg", "--images", "2"], "leave out --images"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--imagez", "1"], "did you mean '--images'"),
    ],
)
def test_a_wish_that_cannot_be_met_is_an_error(sweep, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        run(sweep, "--out", tmp_path / "page.html", *words)
    assert not (tmp_path / "page.html").exists()


def test_another_model_is_refused(sweep, tmp_path):
    tiny_model(len(SCENE_CLASSES), seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="other weights"):
        run(sweep, "--out", tmp_path / "page.html", "--model", tmp_path / "other")


def test_a_folder_without_a_sweep_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no sweep"):
        run(tmp_path, "--out", tmp_path / "page.html")


def test_a_page_that_cannot_be_written_is_told(sweep, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        run(sweep, "--out", tmp_path, "--images", 0)
