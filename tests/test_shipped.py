"""What ships works: the checkpoints in the repository, the demo, and what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paumer.checkpoint import model_id, start_from
from paumer.data import create_dataset
from paumer.evaluate import evaluate
from paumer.front import Front, skyline
from paumer.model import Segmenter, create_model
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig
from paumer.segment import in_dtype

REPOSITORY = Path(__file__).parents[1]
CHECKPOINTS = REPOSITORY / "checkpoints"
PAUSE = PauseConfig.parse("5:0.6")


@pytest.fixture(scope="module")
def scenes_model() -> Segmenter:
    return Segmenter.from_pretrained(CHECKPOINTS / "scenes-vit-tiny")


@pytest.mark.parametrize("name", ["scenes-vit-tiny", "camvid-vit-tiny"])
def test_a_shipped_checkpoint_serves_every_configuration_of_the_paper(name):
    model = Segmenter.from_pretrained(CHECKPOINTS / name)
    assert len(model.config.names) == model.config.num_classes == 11
    images = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for pause in PAPER_CONFIGS:
            output = model(images, pause)
            assert output.logits.isfinite().all()
            assert output.trace.layers == tuple(layer for layer, _ in pause.steps)


@pytest.mark.parametrize("name", ["scenes-vit-tiny", "camvid-vit-tiny", "camvid-vit-tiny-segmenter"])
def test_a_shipped_checkpoint_is_small_and_has_a_card(name):
    folder = CHECKPOINTS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6
    card = (folder / "README.md").read_text()
    for word in ("Data", "Licence", "Commit", "Command", "Seed", "mIoU", "paumer train"):
        assert word.lower() in card.lower(), f"the card of {name} does not say: {word}"


def test_the_plain_segmenter_is_a_start_for_pausing():
    """The second training takes over everything; only the auxiliary head, which it does not have, starts afresh."""
    model = create_model(
        "deit_tiny_patch16_224", num_classes=11, image_size=(352, 352), names=tuple(map(str, range(11)))
    )
    assert start_from(model, CHECKPOINTS / "camvid-vit-tiny-segmenter") == ["aux_head.weight", "aux_head.bias"]


def test_entropy_pausing_loses_less_than_half_of_what_random_pausing_loses(scenes_model):
    scenes = create_dataset("scenes", "val", num_images=12)
    none, paused = evaluate(scenes_model, scenes, [NO_PAUSE, PAUSE])
    (random,) = evaluate(scenes_model, scenes, [PAUSE], criterion="random")
    assert 65 <= none.miou <= 95  # 70 is kept on 100 scenes; a dozen scatter by a few points
    assert none.miou - random.miou >= 2 * max(none.miou - paused.miou, 0)


def test_half_precision_segments_alike(scenes_model):
    """bfloat16 has 8 bits of precision: few pixels change, and mIoU by a few hundredths on all of the scenes."""
    scenes = create_dataset("scenes", "val", num_images=6)
    half = in_dtype(scenes_model, "bfloat16")
    pauses = [NO_PAUSE, PAUSE, PauseConfig.parse("3:0.4,5:0.4,7:0.4")]
    for expected, found in zip(*(evaluate(model, scenes, pauses) for model in (scenes_model, half)), strict=True):
        assert found.miou == pytest.approx(expected.miou, abs=0.5)
    image = scenes[0].image[None]
    with torch.inference_mode():
        agree = half.segment(image, PAUSE).labels == scenes_model.segment(image, PAUSE).labels
    assert agree.double().mean() > 0.98


def test_camvid_keeps_its_promise_on_a_part_of_val(shared_data):
    model = Segmenter.from_pretrained(CHECKPOINTS / "camvid-vit-tiny")
    val = create_dataset("camvid", "val", shared_data / "camvid")
    none, paused = evaluate(model, val, [NO_PAUSE, PAUSE], indices=range(0, len(val), 10))
    assert none.miou > 60
    assert paused.miou > none.miou - 2.5  # 1.0 is promised of all 101 images; 11 of them scatter more


@pytest.mark.parametrize("photos", [False, True])
def test_the_demo_writes_a_page_with_every_picture_it_shows(photos, tmp_path):
    argv = [sys.executable, str(REPOSITORY / "examples" / "demo.py"), "--out", str(tmp_path / "out")]
    if photos:
        sample = create_dataset("scenes", "val", num_images=1)[0]
        from PIL import Image

        (tmp_path / "photos").mkdir()
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / "street.jpg")
        argv += ["--images", str(tmp_path / "photos")]
    result = subprocess.run(
        [*argv, "--num-scenes", "2", "--num-shown", "1"], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [row["pause"] for row in rows] == ["none", "5:0.6", "3:0.4,5:0.4,7:0.4"]
    assert all((row["miou"] is None) == photos for row in rows)
    page = (tmp_path / "out" / "index.html").read_text()
    pictures = [path.name for path in (tmp_path / "out").glob("*.jpg")]
    assert pictures and all(f'src="{name}"' in page for name in pictures)
    assert page.count("<img") == len(pictures) and "http" not in page


def test_the_demo_refuses_an_empty_folder_in_one_sentence(tmp_path):
    argv = [sys.executable, str(REPOSITORY / "examples" / "demo.py"), "--images", str(tmp_path), "--out"]
    result = subprocess.run([*argv, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("demo: error:") == 1 and "Traceback" not in result.stderr


def test_the_examples_run(tmp_path):
    from PIL import Image

    sample = create_dataset("scenes", "val", num_images=1)[0]
    Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(tmp_path / "street.jpg")
    (tmp_path / "mine").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "mine" / name).mkdir()
    Image.open(tmp_path / "street.jpg").save(tmp_path / "mine" / "images" / "a.png")
    Image.fromarray((sample.mask.numpy() == 3).astype("uint8")).save(tmp_path / "mine" / "masks" / "a.png")
    (tmp_path / "mine.yaml").write_text(
        "path: mine\ntrain: images\nval: images\nmasks_dir: masks\nnames: [other, road]\n"
    )
    commands = [
        ["one_photo.py", str(tmp_path / "street.jpg"), "--out", str(tmp_path / "speeds")],
        ["pause_in_your_own_loop.py"],
        ["keep_up.py", str(tmp_path / "street.jpg"), "--fps", "0.01"],
        ["fine_tune.py", str(tmp_path / "mine.yaml"), "--steps", "1", "--crop", "64", "--out", str(tmp_path / "run")],
    ]
    for script, *arguments in commands:
        subprocess.run([sys.executable, str(REPOSITORY / "examples" / script), *arguments], check=True)
    assert len(list((tmp_path / "speeds").glob("*.png"))) == 3
    assert Segmenter.from_pretrained(tmp_path / "run" / "last").config.names == ("other", "road")


@pytest.mark.parametrize(
    ("name", "data", "num_images"), [("camvid-vit-tiny", "camvid", 101), ("scenes-vit-tiny", "scenes", 100)]
)
def test_a_shipped_front_is_of_the_shipped_weights_on_all_of_val(name, data, num_images):
    front = Front.load(CHECKPOINTS / name / "pareto.json")
    assert front.conditions["model_id"] == model_id(Segmenter.from_pretrained(CHECKPOINTS / name))
    assert (front.conditions["data"], front.conditions["split"]) == (data, "val")
    assert front.conditions["scored_images"] == num_images
    assert skyline(front.points) == list(front.points)
