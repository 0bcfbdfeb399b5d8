"""The check gathers every fault of a dataset, and counts its pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from paumer.data import CheckReport, Sample, check_dataset, create_dataset
from paumer.data.datasets import known_spec
from paumer.errors import InputError


def save(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def add(root: Path, name: str, ids, suffix: str = ".png") -> None:
    ids = np.asarray(ids)
    save(root / "val" / (name + suffix), np.zeros((*ids.shape, 3)))
    save(root / "valannot" / f"{name}.png", ids)


@pytest.fixture
def sound(tmp_path) -> Path:
    """Two CamVid pairs: 4 pixels of class 0, 2 of class 3, 2 ignored."""
    add(tmp_path, "a", [[0, 0, 3, 11]])
    add(tmp_path, "b", [[0, 0], [3, 11]])
    return tmp_path


@pytest.fixture
def faulty(sound) -> Path:
    """The sound pairs, and one of every fault."""
    save(sound / "val/alone.png", np.zeros((1, 1, 3)))
    save(sound / "valannot/orphan.png", np.zeros((1, 1)))
    add(sound, "size", [[0]])
    save(sound / "valannot/size.png", np.zeros((2, 3)))
    add(sound, "unknown1", [[12, 12, 0]])
    add(sound, "unknown2", [[12, 99]])
    add(sound, "broken_image", [[0]])
    (sound / "val/broken_image.png").write_bytes(b"")
    add(sound, "broken_mask", [[0]])
    (sound / "valannot/broken_mask.png").write_text("no image")
    add(sound, "twin", [[0]])
    save(sound / "val/twin.bmp", np.zeros((1, 1, 3)))
    return sound


def test_a_sound_dataset_is_ok_and_its_pixels_are_counted(sound):
    report = check_dataset("camvid", "val", sound)
    assert report.ok and report.pairs == 2
    assert report.sizes == {"4x1": 1, "2x2": 1}
    assert report.class_shares["sky"] == pytest.approx(4 / 6)
    assert report.class_shares["road"] == pytest.approx(2 / 6)
    assert sum(report.class_shares.values()) == pytest.approx(1)
    assert report.ignored_share == pytest.approx(2 / 8)


def test_every_fault_is_gathered(faulty):
    report = check_dataset("camvid", "val", faulty)
    assert not report.ok
    assert [Path(p).name for p in report.images_without_masks] == ["alone.png"]
    assert [Path(p).name for p in report.masks_without_images] == ["orphan.png"]
    assert [Path(p).name for p in report.size_mismatches] == ["size.png"]
    assert list(report.size_mismatches.values()) == ["mask 3x2, image 1x1"]
    assert {Path(p).name for p in report.unreadable} == {"broken_image.png", "broken_mask.png"}
    assert "empty" in next(reason for p, reason in report.unreadable.items() if "broken_image" in p)
    assert ["twin.bmp" in twins and "twin.png" in twins for twins in report.twins] == [True]
    unknown = [(u.label, u.pixels, u.files, Path(u.example).name) for u in report.unknown_labels]
    assert unknown == [("12", 3, 2, "unknown1.png"), ("99", 1, 1, "unknown2.png")]


@pytest.mark.parametrize("fault", ["alone", "size", "unknown1", "broken_image", "broken_mask", "twin"])
def test_each_fault_alone_is_not_ok(faulty, fault):
    faults = {"alone", "orphan", "size", "unknown1", "unknown2", "broken_image", "broken_mask", "twin"}
    for name in faults - {fault}:
        for path in (*(faulty / "val").glob(f"{name}.*"), *(faulty / "valannot").glob(f"{name}.*")):
            path.unlink()
    assert not check_dataset("camvid", "val", faulty).ok


def test_masks_without_an_image_are_no_fault(sound):
    save(sound / "valannot/orphan.png", np.zeros((1, 1)))
    report = check_dataset("camvid", "val", sound)
    assert report.ok and len(report.masks_without_images) == 1


def test_the_other_encoding_of_a_mask_is_no_orphan(tmp_path):
    for encoding in ("labelIds", "labelTrainIds"):
        save(tmp_path / f"gtFine/val/c/c_1_gtFine_{encoding}.png", np.zeros((1, 1)))
    save(tmp_path / "leftImg8bit/val/c/c_1_leftImg8bit.png", np.zeros((1, 1, 3)))
    report = check_dataset("cityscapes", "val", tmp_path)
    assert report.ok and not report.masks_without_images


def test_nothing_found_is_not_ok_and_nothing_to_look_at_is_an_error(tmp_path):
    assert not check_dataset("camvid", "val", tmp_path).ok
    with pytest.raises(InputError, match="no such folder"):
        check_dataset("camvid", "val", tmp_path / "gone")


def test_json_holds_everything_in_one_line(faulty):
    report = check_dataset("camvid", "val", faulty)
    text = report.to_json()
    entries = json.loads(text)
    assert "\n" not in text and entries["ok"] is False
    assert entries["unknown_labels"][0]["label"] == "12"
    assert set(entries) == {*CheckReport.__dataclass_fields__, "ok"}


def test_the_table_tells_people(faulty, sound):
    text = check_dataset("camvid", "val", faulty).table()
    assert "NOT ok" in text
    for name in ("alone", "orphan", "size", "unknown1", "broken_image", "broken_mask", "twin"):
        assert name in text
    assert "bicyclist" in text and "never seen" in text


def test_the_table_shows_the_first_few(sound):
    for i in range(8):
        save(sound / f"val/alone{i}.png", np.zeros((1, 1, 3)))
    text = check_dataset("camvid", "val", sound).table()
    assert "images without a mask: 8" in text and "alone4" in text and "alone5" not in text
    assert "and 3 more" in text


def test_unknown_colours_are_named(tmp_path):
    save(tmp_path / "i/a.png", np.zeros((1, 3, 3)))
    save(tmp_path / "m/a.png", [[[1, 2, 3], [4, 5, 6], [4, 5, 6]]])
    entries = {"val": "i", "masks_dir": "m", "names": ["x"], "color_mapping": {"1,2,3": "x"}}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(entries))
    (unknown,) = check_dataset(tmp_path / "d.yaml", "val").unknown_labels
    assert (unknown.label, unknown.pixels) == ("4,5,6", 2)


def test_progress_is_told_in_order(sound):
    seen = []
    check_dataset(create_dataset("camvid", "val", sound), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_datasets_without_files_are_checked_by_their_samples():
    class MadeUp:
        spec = known_spec("camvid")

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            if index == 2:
                raise InputError("cannot make it")
            return Sample(torch.zeros(3, 1, 3, dtype=torch.uint8), torch.tensor([[0, 255, 40]], dtype=torch.uint8), "m")

    report = check_dataset(MadeUp(), "train")
    assert report.pairs == 3 and report.split == "train"
    assert [(u.label, u.pixels) for u in report.unknown_labels] == [("40", 2)]
    assert report.unreadable == {"sample 2": "cannot make it"}
    assert report.class_shares["sky"] == 1 and report.ignored_share == 0.5


def test_real_camvid_is_ok(shared_data):
    report = check_dataset("camvid", "val", shared_data / "camvid")
    assert report.ok and report.pairs == 101 and report.sizes == {"480x360": 101}
    assert min(report.class_shares.values()) > 0
