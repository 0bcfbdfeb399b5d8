"""Trees on disk are paired and their label ids become train ids, for the known datasets and for a YAML's."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from paumer.data import create_dataset, read_mask, save_index_mask
from paumer.data.datasets import known_spec
from paumer.data.layouts import find_files
from paumer.data.spec import DatasetSpec, distinct_palette
from paumer.errors import InputError

RNG = np.random.default_rng(0)


def save(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def save_pair(image: Path, mask: Path, ids) -> None:
    ids = np.asarray(ids)
    save(image, RNG.integers(0, 256, (*ids.shape[:2], 3)))
    save(mask, ids)


def write_yaml(folder: Path, **entries) -> Path:
    path = folder / "my_data.yaml"
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


# --- classes


def test_palettes_made_up_are_distinct():
    colors = distinct_palette(255)
    assert len(set(colors)) == 255
    assert colors[:10] == distinct_palette(10)
    assert all(0 <= v <= 255 for color in colors for v in color)


@pytest.mark.parametrize(("name", "num_classes"), [("camvid", 11), ("cityscapes", 19), ("ade20k", 150)])
def test_known_classes_have_distinct_names_and_colours(name, num_classes):
    spec = known_spec(name)
    assert spec.num_classes == len(set(spec.names)) == len(set(spec.palette)) == num_classes
    assert spec.ignore_index == 255


def test_cityscapes_ids_are_the_official_ones():
    spec = known_spec("cityscapes")
    assert spec.label_ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    ids = np.arange(-1, 34)[None]
    expected = [spec.label_ids.index(i) if i in spec.label_ids else 255 for i in range(-1, 34)]
    assert spec.encode(ids).tolist() == [expected]


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "ade20k"])
def test_decode_undoes_encode(name):
    spec = known_spec(name)
    mask = np.array([[*range(spec.num_classes), 255]], np.uint8)
    own = spec.decode(torch.from_numpy(mask))
    assert np.array_equal(spec.encode(own.astype(np.int32)), mask)
    assert own[0, -1] == {"camvid": 11, "cityscapes": 0, "ade20k": 0}[name]


def test_decode_makes_room_for_ids_above_255():
    spec = DatasetSpec("d", ("a", "b"), ((0, 0, 0), (1, 1, 1)), label_ids=(3, 1000), ignore_label=0)
    own = spec.decode(np.array([[0, 1, 255]], np.uint8))
    assert own.dtype == np.uint16 and own.tolist() == [[3, 1000, 0]]


def test_label_palette_colours_a_decoded_mask(tmp_path):
    spec = known_spec("cityscapes")
    mask = np.array([[0, 13, 18]], np.uint8)
    save_index_mask(tmp_path / "m.png", spec.decode(mask), spec.label_palette)
    colors = read_mask(tmp_path / "m.png", colors=True)
    assert [tuple(c) for c in colors[0].tolist()] == [spec.palette[i] for i in (0, 13, 18)]
    assert known_spec("camvid").label_palette == known_spec("camvid").palette


def test_unknown_ids_are_named_with_what_is_known():
    with pytest.raises(InputError, match=r"x\.png .*camvid.*: 12 \(2 pixels\), 77 \(1 pixels\); known: 0\.\.11"):
        known_spec("camvid").encode(np.array([[0, 12, 12, 77, 11]]), "x.png")


@pytest.mark.parametrize("bad", [-2, 34, 254, 256, 2**31 - 1, -(2**31)])
def test_no_id_slips_through_the_table(bad):
    with pytest.raises(InputError, match=f": {bad} "):
        known_spec("cityscapes").encode(np.array([[bad, 7]], np.int32))


def test_colour_pictures_are_no_id_masks():
    with pytest.raises(InputError, match=r"m\.png is a colour picture.*color_mapping"):
        known_spec("camvid").encode(np.zeros((2, 2, 3), np.uint8), "m.png")


def test_colours_and_ids_are_not_mixed_up():
    spec = DatasetSpec("d", ("a",), ((1, 2, 3),), colors=(((1, 2, 3), 0), ((9, 9, 9), 255)))
    raw = np.array([[[1, 2, 3], [9, 9, 9], [1, 2, 3]]], np.uint8)
    assert spec.encode(raw).tolist() == [[0, 255, 0]]
    with pytest.raises(InputError, match="describes colours"):
        spec.encode(np.zeros((2, 2), np.int32))
    with pytest.raises(InputError, match=r"m\.png.*: 1,2,4 \(1 pixels\)"):
        spec.encode(raw + np.array([0, 0, 1], np.uint8) * (np.arange(3) == 0)[None, :, None].astype(np.uint8), "m.png")


# --- finding files


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("a", {("1", ""), ("2", "x"), ("3", "x/y")}),
        ("a/", {("1", ""), ("2", "x"), ("3", "x/y")}),
        ("a/*.png", {("1", "")}),
        ("a/*/*.png", {("2", "x")}),
        ("a/**", {("1", ""), ("2", "x"), ("3", "x/y")}),
        ("a/**/*.png", {("1", ""), ("2", "x"), ("3", "x/y")}),
        ("a/{parent}/{stem}.png", {("1", ""), ("2", "x"), ("3", "x/y")}),
        ("a/?.png", {("1", "")}),
        ("gone/*.png", set()),
    ],
)
def test_templates_match_folders_globs_and_words(tmp_path, template, found):
    for name in ("a/1.png", "a/x/2.png", "a/x/y/3.png", "b/4.png", "a/.hidden.png", "a/.git/5.png", "a/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {(f.words["stem"], f.words["parent"]) for f in find_files(tmp_path, template)} == found
    assert all(f.path.is_file() for f in find_files(tmp_path, template))


def test_words_match_one_name_each_and_the_same_text_again(tmp_path):
    for name in ("zurich/zurich_01_img.png", "zurich/bern_02_img.png"):
        save(tmp_path / name, np.zeros((1, 1)))
    (found,) = find_files(tmp_path, "{city}/{city}_{number}_img.png")
    assert found.path == tmp_path / "zurich/zurich_01_img.png"
    assert (found.words["city"], found.words["number"]) == ("zurich", "01")


@pytest.mark.parametrize("template", ["a/{city}_{stem}.png", "{parent}/{camera}/{stem}.png", "a/{camera}/{stem}.png"])
def test_names_differ_whatever_the_words(tmp_path, template):
    for name in ("a/bern_1.png", "a/rome_1.png", "a/left/1.png", "a/right/1.png"):
        save(tmp_path / name, np.zeros((1, 1)))
    found = find_files(tmp_path, template)
    assert len({f.name for f in found}) == len(found) >= 2


def test_dots_in_names_are_kept(tmp_path):
    save(tmp_path / "a" / "v1.2.frame.png", np.zeros((1, 1)))
    assert find_files(tmp_path, "a/{stem}.*")[0].words["stem"] == "v1.2.frame"


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "a/day/1.png", np.zeros((1, 1)))
    (tmp_path / "a/night").symlink_to(tmp_path / "a/day")
    (tmp_path / "a/day/back").symlink_to(tmp_path / "a")
    assert [f.name for f in find_files(tmp_path, "a")] == ["day/1", "night/1"]


# --- known trees


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_tree_is_read(tmp_path, suffix):
    ids = np.array([[0, 5], [10, 11]])
    save_pair(tmp_path / "val" / f"b{suffix}", tmp_path / "valannot" / "b.png", ids)
    save_pair(tmp_path / "val" / f"a{suffix}", tmp_path / "valannot" / "a.png", ids.T)
    dataset = create_dataset("camvid", "val", tmp_path)
    assert [s.name for s in dataset] == ["a", "b"] and len(dataset) == 2
    sample = dataset[1]
    assert sample.image.dtype == sample.mask.dtype == torch.uint8
    assert sample.image.shape == (3, 2, 2)
    assert sample.mask.tolist() == [[0, 5], [10, 255]]


def cityscapes_tree(root: Path, *encodings: str) -> np.ndarray:
    """One image with the named encodings of random labels; returns its train ids."""
    spec = known_spec("cityscapes")
    ids = RNG.integers(0, 34, (6, 8))
    train_ids = spec.encode(ids)
    name = "frankfurt/frankfurt_000000_000294"
    save(root / f"leftImg8bit/val/{name}_leftImg8bit.png", np.zeros((6, 8, 3)))
    for encoding in encodings:
        save(root / f"gtFine/val/{name}_gtFine_{encoding}.png", ids if encoding == "labelIds" else train_ids)
    save(root / f"gtFine/val/{name}_gtFine_color.png", np.zeros((6, 8, 3)))
    return train_ids


@pytest.mark.parametrize("encodings", [("labelIds",), ("labelTrainIds",), ("labelIds", "labelTrainIds")])
def test_cityscapes_encodings_give_equal_masks(tmp_path, encodings):
    train_ids = cityscapes_tree(tmp_path, *encodings)
    (sample,) = create_dataset("cityscapes", "val", tmp_path)
    assert sample.name == "frankfurt/frankfurt_000000_000294"
    assert np.array_equal(sample.mask.numpy(), train_ids)


def test_cityscapes_prefers_ready_train_ids_and_checks_them(tmp_path):
    cityscapes_tree(tmp_path, "labelIds", "labelTrainIds")
    mask = next(tmp_path.rglob("*labelTrainIds.png"))
    save(mask, np.full((6, 8), 19))
    with pytest.raises(InputError, match=r"labelTrainIds\.png .*: 19 \(48 pixels\); known: 0\.\.18, 255"):
        create_dataset("cityscapes", "val", tmp_path)[0]


@pytest.mark.parametrize("home", ["", "ADEChallengeData2016"])
def test_ade20k_ignores_zero_and_takes_one_off_the_rest(tmp_path, home):
    folder = tmp_path / home
    save_pair(folder / "images/validation/v1.jpg", folder / "annotations/validation/v1.png", [[0, 1, 150]])
    save_pair(folder / "images/training/t1.jpg", folder / "annotations/training/t1.png", [[7]])
    assert create_dataset("ade20k", "val", tmp_path)[0].mask.tolist() == [[255, 0, 149]]
    assert create_dataset("ade20k", "train", str(tmp_path))[0].mask.tolist() == [[6]]
    with pytest.raises(InputError, match="no labelled 'test'"):
        create_dataset("ade20k", "test", tmp_path)


def test_datasets_go_to_worker_processes(tmp_path):
    save_pair(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [[3]])
    dataset = create_dataset("camvid", "val", tmp_path)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].mask, dataset[0].mask)


# --- what users get wrong


def test_unknown_names_get_a_near_match(tmp_path):
    with pytest.raises(InputError, match="did you mean 'cityscapes'"):
        create_dataset("cityscape", root=tmp_path)
    with pytest.raises(InputError, match="did you mean 'train'"):
        create_dataset("camvid", "trian", tmp_path)


def test_root_is_asked_for_and_must_exist(tmp_path):
    with pytest.raises(InputError, match="--root DIR"):
        create_dataset("camvid")
    with pytest.raises(InputError, match=r"no such folder for camvid: .*gone"):
        create_dataset("camvid", root=tmp_path / "gone")


def test_scenes_take_no_root(tmp_path):
    with pytest.raises(InputError, match="leave it out"):
        create_dataset("scenes", root=tmp_path)


def test_options_are_for_scenes_only(tmp_path):
    with pytest.raises(InputError, match="takes no options, got size"):
        create_dataset("camvid", root=tmp_path, size=64)


def test_no_images_says_what_was_expected_and_what_is_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=r"no images for camvid val: expected .*val.*holds pictures"):
        create_dataset("camvid", root=tmp_path)


def test_images_without_masks_are_counted_and_the_first_named(tmp_path):
    for i in range(5):
        save(tmp_path / f"val/{i}.png", np.zeros((2, 2, 3)))
    save(tmp_path / "valannot/0.png", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"4 of camvid val's images have no mask \(1\.png, 2\.png, 3\.png, \.\.\.\)"):
        create_dataset("camvid", root=tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    save_pair(tmp_path / "val/a.png", tmp_path / "valannot/a.png", [[3]])
    save(tmp_path / "val/a.bmp", np.zeros((1, 1, 3)))
    with pytest.raises(InputError, match=r"two images of one name.*a\.bmp.*a\.png"):
        create_dataset("camvid", root=tmp_path)


def test_masks_of_another_size_are_refused(tmp_path):
    save(tmp_path / "val/a.png", np.zeros((2, 3, 3)))
    save(tmp_path / "valannot/a.png", np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"valannot/a\.png is 2x3 but its image .*val/a\.png 3x2"):
        create_dataset("camvid", root=tmp_path)[0]


# --- one's own data


@pytest.fixture
def folder(tmp_path) -> Path:
    save_pair(tmp_path / "images/train/a.png", tmp_path / "masks/train/a.png", [[0, 1, 255]])
    save_pair(tmp_path / "images/val/s/b.png", tmp_path / "masks/val/s/b.png", [[1, 1, 0]])
    return tmp_path


PLAIN = {"train": "images/train", "val": "images/val", "masks_dir": "masks", "names": ["road", "car"]}


def test_yaml_reads_a_folder_pair(folder):
    path = write_yaml(folder, **PLAIN)
    train, val = create_dataset(path, "train"), create_dataset(str(path), "val")
    assert train[0].mask.tolist() == [[0, 1, 255]]
    assert val[0].mask.tolist() == [[1, 1, 0]] and val[0].name == "s/b"
    assert train.spec.name == "my_data" and train.spec.names == ("road", "car")
    assert train.spec.palette == distinct_palette(2)


def test_yaml_path_is_relative_to_the_file_and_root_takes_its_place(folder, tmp_path_factory, monkeypatch):
    (folder / "configs").mkdir()
    monkeypatch.chdir(folder / "images")
    assert len(create_dataset(write_yaml(folder / "configs", path="..", **PLAIN), "val")) == 1
    elsewhere = write_yaml(tmp_path_factory.mktemp("elsewhere"), path="gone", **PLAIN)
    assert len(create_dataset(elsewhere, "val", folder)) == 1
    with pytest.raises(InputError, match="no such folder"):
        create_dataset(elsewhere, "val")


@pytest.mark.parametrize(
    "entries",
    [
        {"mask_template": "masks/{split}/{parent}/{stem}.png"},
        {"val": "images/val/**/*.png", "mask_template": "masks/{split}/{parent}/{stem}.png"},
        {"val": "images/{split}/{place}/{stem}.png", "mask_template": "masks/{split}/{place}/{stem}.png"},
        {"val": "images/{split}/{place}/{stem}.png", "mask_template": "masks/{split}/{place}/{stem}.*"},
        {"val": "images/val/s", "masks_dir": "masks/val/s"},
    ],
)
def test_yaml_pairs_by_templates(folder, entries):
    base = {"val": "images/val", "names": {0: "road", 1: "car"}}
    assert create_dataset(write_yaml(folder, **base | entries), "val")[0].mask.tolist() == [[1, 1, 0]]


def test_yaml_images_and_masks_may_share_a_folder(tmp_path):
    save_pair(tmp_path / "all/a.jpg", tmp_path / "all/a_mask.png", [[1]])
    path = write_yaml(tmp_path, val="all/{stem}.jpg", mask_template="all/{stem}_mask.png", names=["x", "y"])
    assert create_dataset(path)[0].mask.tolist() == [[1]]


def test_yaml_maps_labels_and_decodes_them_back(tmp_path):
    save_pair(tmp_path / "i/a.png", tmp_path / "m/a.png", [[0, 7, 8, 9, 33, 99]])
    mapping = {-1: "ignore", 7: "road", 9: 0, 33: 1, 0: "ignore", 8: 255}
    path = write_yaml(tmp_path, val="i", masks_dir="m", names=["road", "car"], label_mapping=mapping, ignore_index=99)
    dataset = create_dataset(path)
    assert dataset[0].mask.tolist() == [[255, 0, 255, 0, 1, 255]]
    assert dataset.spec.decode(dataset[0].mask).tolist() == [[99, 7, 99, 7, 33, 99]]
    assert dataset.spec.label_ids == (7, 33)


def test_yaml_ids_that_are_not_mapped_are_unknown(tmp_path):
    save_pair(tmp_path / "i/a.png", tmp_path / "m/a.png", [[7, 12]])
    path = write_yaml(tmp_path, val="i", masks_dir="m", names=["road"], label_mapping={7: 0})
    with pytest.raises(InputError, match=r"m/a\.png .*: 12 \(1 pixels\); known: 7, 255"):
        create_dataset(path)[0]


def test_yaml_ignore_index_is_the_masks_own(tmp_path):
    save_pair(tmp_path / "i/a.png", tmp_path / "m/a.png", [[0, 2]])
    dataset = create_dataset(write_yaml(tmp_path, val="i", masks_dir="m", names=["x", "y"], ignore_index=2))
    assert dataset[0].mask.tolist() == [[0, 255]]
    assert dataset.spec.ignore_index == 255 and dataset.spec.decode(dataset[0].mask).tolist() == [[0, 2]]


COLORS = {"64,32,32": "road", "255, 0, 0": 1, "1,1,1": "car", "0,0,0": "ignore"}


def test_yaml_reads_colour_codes(tmp_path):
    save_pair(tmp_path / "i/a.png", tmp_path / "m/a.png", [[[64, 32, 32], [255, 0, 0], [0, 0, 0], [1, 1, 1]]])
    dataset = create_dataset(write_yaml(tmp_path, val="i", masks_dir="m", names=["road", "car"], color_mapping=COLORS))
    assert dataset[0].mask.tolist() == [[0, 1, 255, 1]]
    assert dataset.spec.palette == ((64, 32, 32), (255, 0, 0))


def test_yaml_reads_colour_codes_of_palette_files(tmp_path):
    save(tmp_path / "i/a.png", np.zeros((1, 2, 3)))
    save_index_mask(
        tmp_path / "m/a.png", np.array([[5, 9]]), [(64, 32, 32) if i == 5 else (0, 0, 0) for i in range(10)]
    )
    dataset = create_dataset(write_yaml(tmp_path, val="i", masks_dir="m", names=["road", "car"], color_mapping=COLORS))
    assert dataset[0].mask.tolist() == [[0, 255]]


def test_yaml_palette_is_taken(folder):
    palette = [[1, 2, 3], [4, 5, 6]]
    assert create_dataset(write_yaml(folder, palette=palette, **PLAIN)).spec.palette == ((1, 2, 3), (4, 5, 6))


WRONG: Mapping[str, tuple[dict, str]] = {
    "unknown key": ({"mask_dir": "masks"}, "unknown key 'mask_dir': did you mean 'masks_dir'"),
    "both ways to masks": ({"mask_template": "m/{stem}.png"}, "either 'masks_dir'"),
    "no way to masks": ({"masks_dir": ...}, "either 'masks_dir'"),
    "unknown word": ({"masks_dir": ..., "mask_template": "m/{stm}.png"}, r"has {stm}: did you mean 'stem'"),
    "split not there": ({"val": ...}, "has no 'val' images: it gives train"),
    "split no text": ({"val": None}, r"'val' must be a text.*got None.*quotes"),
    "no names": ({"names": ...}, "needs 'names'"),
    "names empty": ({"names": []}, "needs 'names'"),
    "names with gaps": ({"names": {0: "a", 2: "b"}}, "count its classes 0, 1, 2"),
    "name twice": ({"names": ["a", "a"]}, "'a' stands twice"),
    "name that YAML 1.1 reads as a bool": ({"names": ["a", False]}, "got False.*put it in quotes"),
    "palette too short": ({"palette": [[1, 2, 3]]}, "must be 2 colours"),
    "palette beyond 255": ({"palette": [[1, 2, 3], [4, 5, 256]]}, "must be 2 colours"),
    "ignore_index no id": ({"ignore_index": True}, "got True"),
    "ignore_index a class": ({"ignore_index": 1}, "ignore_index 1 is also class 'car'"),
    "mapping no mapping": ({"label_mapping": [0, 1]}, "must look like"),
    "mapped to no class": ({"label_mapping": {0: 0, 1: 2}}, "is mapped to 2: give a class name, an id 0..1"),
    "mapped to a near class": (
        {"label_mapping": {0: "raod", 1: "car"}},
        "no class is called 'raod': did you mean 'road'",
    ),
    "mapped from text": ({"label_mapping": {"0": 0, 1: 1}}, "maps ids 0..65535, got '0'"),
    "class without an id": ({"label_mapping": {0: 0}}, "gives class 'car' no id"),
    "colours and ids": ({"color_mapping": COLORS, "ignore_index": 0}, "'ignore_index' is for masks of ids"),
    "no colour": ({"color_mapping": {"red": "road"}}, "a colour must be written"),
    "colour beyond 255": ({"color_mapping": {"0,0,256": "road"}}, "a colour must be written"),
    "colour twice": ({"color_mapping": {"0,0,1": "road", "0, 0, 1": "car"}}, "stands twice in 'color_mapping'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_yaml_mistakes_are_explained(folder, wrong):
    change, says = WRONG[wrong]
    entries = {key: value for key, value in (PLAIN | change).items() if value is not ...}
    with pytest.raises(InputError, match=says):
        create_dataset(write_yaml(folder, **entries), "val")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "not valid YAML"),
        ("- a\n- b\n", "must hold keys.*got list"),
        ("", "must hold keys"),
        ("val: i\nval: j\n", "the key val stands twice.*line 2"),
        ("names: [no, yes]\nval: images/val\nmasks_dir: masks", "got False"),
        ("names: {0: a, 0: b}", "the key 0 stands twice"),
    ],
)
def test_yaml_texts_are_explained(folder, text, says):
    (folder / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        create_dataset(folder / "x.yaml", "val")


def test_yaml_must_be_there_and_be_text(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone\.yaml"):
        create_dataset(tmp_path / "gone.yaml")
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid YAML"):
        create_dataset(tmp_path / "x.yml")


def docs_yamls() -> list[str]:
    docs = Path(__file__).parents[2] / "docs" / "data.md"
    return re.findall(r"```yaml\n(.*?)```", docs.read_text(), re.DOTALL)


def test_yaml_examples_of_the_docs_are_read(tmp_path):
    save_pair(tmp_path / "images/val/a.jpg", tmp_path / "masks/val/a.png", [[2]])
    save_pair(tmp_path / "imgs/a.jpg", tmp_path / "masks/a.png", [[[0, 255, 102]]])
    save_pair(tmp_path / "val/lake/a_photo.jpg", tmp_path / "val/lake/a_labels.png", [[42]])
    seen = []
    for text in docs_yamls():
        (tmp_path / "docs.yaml").write_text(text)
        dataset = create_dataset(tmp_path / "docs.yaml")
        seen.append(dataset.spec.names[dataset[0].mask.item()])
    assert seen == ["person", "movable", "forest"]


# --- the real samples


def test_real_camvid(shared_data):
    train, val = (create_dataset("camvid", split, shared_data / "camvid") for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    raw = np.array(Image.open(val.pairs[7].mask))
    assert np.array_equal(val[7].mask.numpy(), np.where(raw == 11, 255, raw))
    assert val[7].image.shape == (3, 360, 480)


def test_real_cityscapes_encodings_agree_but_for_downscaled_borders(shared_data, tmp_path):
    tree = shared_data / "cityscapes_sample"
    masks = {}
    for encoding in ("labelIds", "labelTrainIds"):
        root = tmp_path / encoding
        for path in (*tree.rglob("*_leftImg8bit.png"), *tree.rglob(f"*_{encoding}.png")):
            (root / path.relative_to(tree)).parent.mkdir(parents=True)
            (root / path.relative_to(tree)).symlink_to(path)
        masks[encoding] = create_dataset("cityscapes", "val", root)[0].mask.numpy()
    assert np.array_equal(create_dataset("cityscapes", "val", tree)[0].mask.numpy(), masks["labelTrainIds"])
    # The sample's two files, made smaller, differ in 77 of 32768 pixels, all where a label meets another.
    differ = masks["labelIds"] != masks["labelTrainIds"]
    assert differ.sum() == 77
    around = np.lib.stride_tricks.sliding_window_view(np.pad(masks["labelIds"], 2, "edge"), (5, 5))
    assert (around[differ].min(axis=(1, 2)) < around[differ].max(axis=(1, 2))).all()
    raw = np.array(Image.open(next(tree.rglob("*_labelIds.png"))))
    for label in np.unique(raw):
        (ours,) = np.unique(masks["labelIds"][raw == label])
        assert np.bincount(masks["labelTrainIds"][raw == label]).argmax() == ours


@pytest.mark.parametrize("home", ["", "ADEChallengeData2016"])
def test_real_ade20k(shared_data, home):
    for split in ("train", "val"):
        dataset = create_dataset("ade20k", split, shared_data / "ade20k_sample" / home)
        raw = np.array(Image.open(dataset.pairs[0].mask)).astype(int)
        assert np.array_equal(dataset[0].mask.numpy(), np.where(raw == 0, 255, raw - 1))


def test_real_comma10k_loads_by_the_yaml_of_the_docs(shared_data, tmp_path):
    (text,) = (block for block in docs_yamls() if "color_mapping" in block)
    (tmp_path / "comma10k.yaml").write_text(text.replace("path: .", f"path: {shared_data / 'comma10k_sample'}"))
    dataset = create_dataset(tmp_path / "comma10k.yaml")
    assert len(dataset) == 11
    sample = dataset[0]
    colors = np.array(dataset.spec.palette, np.uint8)[sample.mask.numpy()]
    assert np.array_equal(colors, np.array(Image.open(dataset.pairs[0].mask)))
