"""The page of a sweep: whole, self-contained HTML whose numbers, drawings and pictures are those of the sweep."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from synthetic_sweep import BASELINE, NUMBERS, make_sweep
from tiny import tiny_model

from paumer.checkpoint import model_id
from paumer.data.scenes import SCENE_CLASSES, SCENE_PALETTE, SceneDataset
from paumer.errors import InputError
from paumer.pause import PauseConfig
from paumer.predictor import Predictor
from paumer.report import Shot, example_pauses, file_shots, page, segment_examples, split_shots, write_report
from paumer.report.chart import LAYOUTS, Mark, draw_chart, ticks
from paumer.report.examples import MAX_SIDE
from paumer.report.results import signed, three_digits

# The page writes numbers as print does; here they are read as plain text.
PLAIN = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": "x"})
VOID = {"meta", "input", "img", "wbr", "br", "link", "hr"}
MIOU = {pause: float(np.mean(iou)) for pause, *_, iou in NUMBERS}  # type: ignore[arg-type]
SPEED = {pause: speedup for pause, speedup, *_ in NUMBERS}
FRONT = [  # brute force
    pause
    for pause in SPEED
    if not any(SPEED[p] >= SPEED[pause] and MIOU[p] >= MIOU[pause] for p in SPEED if p != pause)
]


class Page(HTMLParser):
    """A parsed page that fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text.translate(PLAIN)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.tables: dict[str | None, list[list[str]]] = {}
        self._table: str | None = None
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = dict(attrs)["id"]
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[self._table][-1][-1] += data
        if "script" in self.open:
            self.scripts[-1] += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]

    @property
    def rows(self) -> dict[str, list[str]]:
        """The table of all configurations: {pause: its cells}."""
        return {row[0].removesuffix(" T1"): row[1:] for row in self.tables["configurations"][1:]}

    @property
    def data(self) -> dict:
        return json.loads(self.scripts[0])

    def section(self, name: str) -> str:
        found = re.search(rf'<section id="{name}">.*?</section>', self.text, re.S)
        return found[0] if found else ""


def report(folder, examples=(), path=None) -> Page:
    path = path or folder.path / "page.html"
    size = write_report(folder, path, examples)
    assert path.stat().st_size == size
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Page:
    return report(make_sweep(tmp_path_factory.mktemp("sweep")))


@pytest.fixture(scope="module")
def model():
    return tiny_model(len(SCENE_CLASSES), names=SCENE_CLASSES, palette=SCENE_PALETTE)


@pytest.fixture(scope="module")
def scenes() -> SceneDataset:
    return SceneDataset("val", size=(48, 64), num_images=8)


@pytest.fixture
def own_sweep(tmp_path, model):
    """A sweep of `model`: its numbers are made up, its configurations fit the six layers."""
    return make_sweep(tmp_path / "sweep", model_id=model_id(model))


# --- the page as a document -------------------------------------------------------------------------------------------


def test_ids_are_unique_and_labels_point_to_them(plain):
    ids = plain.attributes("id")
    assert len(ids) == len(set(ids))
    assert set(plain.attributes("for")) <= set(ids)


def test_the_page_asks_nobody_for_anything(own_sweep, model, scenes):
    found = report(own_sweep, segment_examples(own_sweep, model, split_shots(scenes, 1, len(SCENE_CLASSES))))
    tags = [tag for tag, _ in found.elements]
    assert "link" not in tags and "iframe" not in tags and found.attributes("href") == []
    assert all(source.startswith("data:image/") for source in found.attributes("src"))
    assert all(target.startswith("data:image/") for target in re.findall(r"url\(([^)]*)", found.text))
    assert not re.search(r"https?://|@import|\beval\(|innerHTML|new Function", found.text)
    policy = next(a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None and "default-src 'none'" in policy


def test_text_from_files_cannot_become_markup(tmp_path, scenes):
    evil = "</script><img src=x onerror=alert(1)>"
    names = ["$title & ${data}", evil, '" onload="alert(1)']
    odd = tiny_model(3, names=tuple(names))
    folder = make_sweep(
        tmp_path, names=names, model=f"m/<b>{evil}", data="<i>", device_name=evil, model_id=model_id(odd)
    )
    folder.save_greedy([{"fixed": evil, "candidates": [evil], "chosen": evil}])
    found = report(folder, segment_examples(folder, odd, [Shot(evil + names[2], scenes[0].image)]))
    assert len(found.scripts) == 2 and found.attributes("onload") == [] and found.attributes("onerror") == []
    assert "i" not in [tag for tag, _ in found.elements] and "x" not in found.attributes("src")
    assert {row[0] for row in found.tables["class-changes"][1:-1]} == set(names)
    assert any(f"segmentation of {evil}{names[2]}" == label for label in found.attributes("aria-label"))


def test_the_data_of_the_script_cannot_end_it():
    text = page._json(["</script><!--"])
    assert "<" not in text and json.loads(text) == ["</script><!--"]


def test_the_same_sweep_gives_the_same_bytes(own_sweep, model, scenes, tmp_path):
    shots = list(split_shots(scenes, 2, len(SCENE_CLASSES)))
    texts = [report(own_sweep, segment_examples(own_sweep, model, shots), tmp_path / "p.html").text for _ in range(2)]
    assert texts[0] == texts[1]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_every_configuration_is_a_row_with_its_numbers(plain):
    assert list(plain.rows) == [pause for pause, *_ in NUMBERS]  # they are given from slow to fast
    for pause, speedup, half, gflops, _ in NUMBERS:
        cells = plain.rows[pause]
        spread = "" if pause == "none" else f" ({speedup - half:.2f}-{speedup + half:.2f})"
        assert cells[0] == f"{speedup / BASELINE:.1f}"
        assert cells[1].removesuffix(" within noise") == f"{speedup:.2f}{spread}"
        assert cells[2:5] == [f"{gflops:.2f}", f"{8 / gflops:.2f}", f"{100 * speedup * gflops / 8:.0f} %"]
        change = MIOU[pause] - MIOU["none"]
        assert cells[5] == f"{MIOU[pause]:.2f}"
        assert float(cells[6]) == pytest.approx(change, abs=0.005)


def test_a_speed_up_smaller_than_its_spread_says_so(plain):
    noisy = [pause for pause, cells in plain.rows.items() if "within noise" in cells[1]]
    assert noisy == ["5:0.2"]


def test_the_front_of_the_page_is_that_of_brute_force(plain):
    assert [pause for pause, cells in plain.rows.items() if cells[-1]] == FRONT
    front_marks = re.findall(r'class="mark front" data-point="(\d+)"', plain.section("front"))
    assert {NUMBERS[int(i)][0] for i in front_marks} == set(FRONT)


def test_table_1_is_marked(plain):
    rows = [row[0] for row in plain.tables["configurations"][1:]]
    assert [row.endswith(" T1") for row in rows] == [False, True, True, True, False, True, False]


def test_cells_carry_what_the_page_sorts_by(plain):
    values = re.findall(r'data-point="(\d+)"[^\n]*?<td data-value="([^"]+)">', plain.section("table"))
    assert [float(value) for _, value in values] == pytest.approx([speed / BASELINE for speed in SPEED.values()])


def test_the_headline_names_the_fastest_within_each_loss(plain):
    header = plain.text.split("</header>")[0]
    cards = re.findall(r'<span class="what">(.*?)</span> <b>(.*?)</b> <code>(.*?)</code>', header)
    for drop, (title, times, pause) in zip((0.5, 1, 2), cards, strict=False):
        good = [p for p in SPEED if MIOU["none"] - MIOU[p] <= drop]
        assert f"within {drop} " in title
        assert pause == max(good, key=lambda p: SPEED[p])
        assert times == f"{SPEED[pause]:.2f}x"
    assert cards[3] == ("knee of the front", "1.40x", "3:0.4,5:0.4")
    assert "<b>70.00</b> mIoU on all 50 images of scenes val" in header and "<b>10.0</b> images/s" in header


def test_classes_are_sorted_by_what_they_lose_at_the_fastest(plain):
    table = plain.tables["class-changes"]
    assert [row[0] for row in table[1:]] == ["pole", "road", "sky", "mIoU"]
    assert table[0][2:] == [f"{pause}{speed:.2f}x" for pause, speed in SPEED.items() if pause != "none"]
    assert table[1] == ["pole", "40.0", "+0.1", "-1.0", "-1.1", "-3.0", "-2.6", "-17.2"]
    assert table[3][-1] == "+0.2" and table[4][-1] == "-9.0"
    assert "2 of 3 classes lose" in plain.section("classes")


def test_a_class_that_is_nowhere_has_no_change_and_comes_last(tmp_path):
    numbers = [(pause, s, h, g, (iou[0], None, iou[2])) for pause, s, h, g, iou in NUMBERS]
    table = report(make_sweep(tmp_path, numbers)).tables["class-changes"]
    assert [row[0] for row in table[1:-1]] == ["pole", "sky", "road"]
    assert set(table[3][1:]) == {"-"}


def test_colours_of_classes_go_from_none_to_full_at_the_greatest_change_of_the_front(plain):
    strengths = [float(t) for t in re.findall(r"--t:([\d.]+)", plain.section("classes"))]
    assert max(strengths) == 1 and "17.2 points" in plain.section("classes")
    assert strengths[:6] == [round(abs(change) / 17.2, 2) for change in (0.1, 1.0, 1.1, 3.0, 2.6, 17.2)]


def test_conditions_are_all_there(plain):
    section = plain.section("conditions")
    for text in ("Test CPU", "float32", "64x48 pixels", "torch 2.14.1", "0123456789abcdef", "mode whole", "entropy"):
        assert text in section
    assert "paumer sweep models/tiny --data scenes --split val" in section and "paumer report" in section


def test_signed_numbers_and_three_digits():
    assert [signed(value) for value in (1.234, -1.236, 0.001, -0.001)] == [
        "+1.23",
        "\N{MINUS SIGN}1.24",
        "0.00",
        "0.00",
    ]
    assert [three_digits(value) for value in (1234.5, 123.4, 12.34, 1.234, 0.01234)] == [
        "1234",
        "123",
        "12.3",
        "1.23",
        "0.0123",
    ]


# --- sweeps that hold less --------------------------------------------------------------------------------------------


def test_one_configuration_makes_a_page(tmp_path):
    found = report(make_sweep(tmp_path, NUMBERS[:1]))
    assert list(found.rows) == ["none"] and found.section("classes") == ""
    assert "Nothing faster was scored that loses at most 2 points" in found.text and 'class="cards"' not in found.text
    assert "nan" not in found.text.split("<body>")[1].split("<script")[0]
    assert found.text.count('class="mark front"') == 2 + 3  # in two drawings, and in the legend


def test_a_front_of_one_point_still_tells_what_the_others_lose(tmp_path):
    numbers = [("none", 1.3, 0.0, 8.0, (90.0, 80.0, 40.0)), *NUMBERS[2:4]]  # nothing that pauses is faster or better
    found = report(make_sweep(tmp_path, numbers))
    assert [pause for pause, cells in found.rows.items() if cells[-1]] == ["none"]
    assert "<code>5:0.6</code>, the fastest that pauses, 3 of 3 classes lose" in found.section("classes")
    assert "Nothing faster was scored" in found.text


def test_a_sweep_scored_on_a_part_only_says_so(tmp_path):
    found = report(make_sweep(tmp_path, subsets={"search": list(SPEED)}))
    assert "10 of the 50 images of scenes val" in found.text and "search mIoU" not in found.section("table")
    assert found.rows["5:0.6"][5] == f"{MIOU['5:0.6']:.2f}"


def test_both_parts_of_a_sweep_are_shown_with_their_own_fronts(tmp_path):
    folder = make_sweep(tmp_path, subsets={"search": list(SPEED), "all": ["none", "5:0.6", "4:0.5"]})
    found = report(folder)
    first, second = found.section("front").split("</figure>")[:2]
    assert "all 50 images" in first and "10 of the 50 images" in second
    assert len(set(re.findall(r'data-point="(\d)"', first))) == 3
    assert len(set(re.findall(r'data-point="(\d)"', second))) == 7
    assert found.rows["3:0.2"][5:8] == ["-", "-", f"{MIOU['3:0.2']:.2f}"]
    assert found.rows["5:0.6"][5] == found.rows["5:0.6"][7]


def test_without_the_unpaused_model_no_losses_are_told(tmp_path):
    pauses = [pause for pause in SPEED if pause != "none"]
    found = report(make_sweep(tmp_path, subsets={"all": pauses}))
    assert "no losses are known" in found.text and found.section("classes") == ""
    assert found.rows["5:0.6"][6] == "-" and len(re.findall('class="what"', found.text)) == 1


def test_without_scores_of_classes_there_is_no_section_of_them(tmp_path):
    folder = make_sweep(tmp_path, names=(), subsets={"all": []})
    for pause, miou in MIOU.items():
        folder.add_score({"pause": pause, "subset": "all", "num_images": 50, "miou": miou, "iou": {}})
    found = report(folder)
    assert found.section("classes") == "" and len(found.rows) == len(NUMBERS)


def test_what_is_not_scored_makes_no_page(tmp_path):
    folder = make_sweep(tmp_path / "sweep", subsets={"all": []})
    with pytest.raises(InputError, match="timed and scored"):
        write_report(folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_sweep_cut_short_is_told(tmp_path):
    folder = make_sweep(tmp_path / "sweep")
    path = folder.path / "times.jsonl"
    path.write_text(path.read_text()[:40] + "\n" + path.read_text())
    with pytest.raises(InputError, match="damaged"):
        write_report(folder, tmp_path / "page.html")


def test_a_large_page_is_written_and_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    report(make_sweep(tmp_path))
    assert "MB: fewer or smaller example images" in caplog.text


# --- drawings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0.93, 1.71), (12.0, 13.0), (-3.0, 250.0), (69.999, 70.001), (1e-4, 3e-4)])
@pytest.mark.parametrize("count", [4, 8])
def test_ticks_are_few_round_and_inside(low, high, count):
    found = ticks(low, high, count)
    steps = np.diff([value for value, _ in found])
    assert 2 <= len(found) <= count and np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0] * 1.0001))
    assert min(abs(mantissa - wanted) for wanted in (1, 2, 5)) < 1e-6
    assert all(low <= value <= high and float(text) == pytest.approx(value, rel=1e-9) for value, text in found)


def marks_of(xs, ys) -> list[Mark]:
    return [
        Mark(i, f"5:0.{i}", "text", x, x * 0.9, x * 1.1, y, "other", True)
        for i, (x, y) in enumerate(zip(xs, ys, strict=True))
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_marks_lie_where_their_numbers_say(layout):
    xs, ys = np.array([10.0, 12.0, 17.0, 20.0]), np.array([70.0, 69.5, 66.0, 60.0])
    svg = draw_chart(marks_of(xs, ys), "x", "y", 10.0, layout)
    places = np.array(re.findall(r'data-point="\d" transform="translate\(([\d.]+) ([\d.]+)\)"', svg), float)
    assert np.allclose(np.corrcoef(xs, places[:, 0])[0, 1], 1) and np.allclose(np.corrcoef(ys, places[:, 1])[0, 1], -1)
    assert (places > 0).all() and (places < (layout.width, layout.height)).all()
    # The axis agrees with the marks: 12 images/s stand under the second of them.
    tick = re.search(r'<text class="tick" x="([\d.]+)"[^>]*>12</text>', svg)
    assert layout.name == "narrow" or (tick and float(tick[1]) == pytest.approx(places[1, 0], abs=0.1))
    speed_up = re.search(r'<text class="tick" x="([\d.]+)"[^>]*>2.0&times;</text>', svg)
    assert speed_up and float(speed_up[1]) == pytest.approx(places[3, 0], abs=0.1)


def test_names_in_a_drawing_do_not_overlap():
    xs = np.linspace(10, 10.5, 40)  # nearer to each other than their names are long
    svg = draw_chart(marks_of(xs, 70 - (xs - 10) ** 2), "x", "y", 10.0, LAYOUTS[0])
    boxes = []
    for x, y, anchor, text in re.findall(
        r'<text class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">(.*?)<', svg
    ):
        left = float(x) - (6.4 * len(text) if anchor == "end" else 0)
        boxes.append((left, float(y) - 11, left + 6.4 * len(text), float(y) + 3))
    assert len(boxes) > 3
    for i, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])


# --- examples ---------------------------------------------------------------------------------------------------------


def decode(uri: str) -> NDArray[np.uint8]:
    assert uri.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def covered(uri: str) -> NDArray[np.bool_]:
    """Where a layer is not clear."""
    return decode(uri)[..., 3] > 0


def test_examples_stop_at_no_pause_and_then_along_the_front(own_sweep, model, scenes):
    stops = [str(pause) for pause in example_pauses(own_sweep)]
    assert stops == ["none", *(pause for pause in FRONT if pause != "none")]
    found = report(own_sweep, segment_examples(own_sweep, model, split_shots(scenes, 2, len(SCENE_CLASSES))))
    assert [NUMBERS[stop["point"]][0] for stop in found.data["stops"]] == stops
    assert [len(stops_of_one) for stops_of_one in found.data["examples"]] == [len(stops)] * 2
    slider = next(a for tag, a in found.elements if tag == "input" and a.get("type") == "range")
    assert slider["max"] == str(len(stops) - 1) and stops[int(slider["value"] or 0)] == "3:0.4,5:0.4"  # the knee


def test_pictures_are_those_of_the_predictor(own_sweep, model, scenes):
    sample = scenes[3]
    label = sample.mask.numpy().copy()
    label[:6] = 255  # not labelled: counts nowhere
    found = report(own_sweep, segment_examples(own_sweep, model, [Shot("a", sample.image, label)]))
    predictor = Predictor(model)
    unpaused = predictor(sample.image, "none").mask
    seen_change = False
    for pause, pictures in zip(example_pauses(own_sweep), found.data["examples"][0], strict=True):
        prediction = predictor(sample.image, pause)
        layer = decode(pictures["segmentation"][0])
        assert np.array_equal(layer[..., :3], np.array(SCENE_PALETTE, np.uint8)[prediction.mask])
        paused = np.kron(prediction.paused_at > 0, np.ones((16, 16), bool))
        assert np.array_equal(covered(pictures["paused"][0]), paused)
        changed = prediction.mask != unpaused
        seen_change |= bool(changed.any())
        assert np.array_equal(covered(pictures["changed"][0]), changed)
        assert pictures["changed"][1] == f"{100 * changed.mean():.1f} % of the pixels"
        known = label < len(SCENE_CLASSES)
        wrong = known & ((prediction.mask != label) | (unpaused != label))
        assert np.array_equal(covered(pictures["wrong"][0]), wrong)
        right = 100 * (prediction.mask == label)[known].mean()
        assert pictures["wrong"][1].startswith(f"{right:.1f} % of the labelled pixels right")
    assert seen_change


def test_wrong_pixels_tell_what_pausing_did(own_sweep, model, scenes):
    image = scenes[3].image
    predictor = Predictor(model)
    before, after = predictor(image, "none").mask, predictor(image, "3:0.6,5:0.5").mask
    changed = before != after
    assert changed.any()
    for label, color in ((before, (213, 94, 0)), (after, (86, 180, 233))):  # pausing broke it; pausing mended it
        found = report(own_sweep, segment_examples(own_sweep, model, [Shot("a", image, label)]))
        layer = decode(found.data["examples"][0][-1]["wrong"][0])
        assert np.array_equal(layer[..., 3] > 0, changed) and set(map(tuple, layer[changed][:, :3])) == {color}


def test_a_layer_has_one_colour_at_every_stop(own_sweep, model, scenes):
    found = report(own_sweep, segment_examples(own_sweep, model, [Shot("a", scenes[1].image)]))
    colors: dict[int, set] = {}
    for pause, pictures in zip(example_pauses(own_sweep), found.data["examples"][0], strict=True):
        paused_at = np.kron(Predictor(model)(scenes[1].image, pause).paused_at, np.ones((16, 16), int))
        for step, _ in pause.steps:
            shown = decode(pictures["paused"][0])[paused_at == step][:, :3]
            colors.setdefault(step, set()).update(map(tuple, shown))
    assert [len(own) for own in colors.values()] == [1] * len(colors) and len(colors) > 1


def test_photos_without_labels_have_no_wrong_pixels(own_sweep, model, scenes, tmp_path):
    path = tmp_path / "street <1>.png"
    Image.fromarray(scenes[0].image.permute(1, 2, 0).numpy()).resize((512, 32)).save(path)
    found = report(own_sweep, segment_examples(own_sweep, model, file_shots([path])))
    assert set(found.data["examples"][0][0]) == {"segmentation", "paused", "changed"}
    assert "street &lt;1&gt;.png" in found.section("examples") and "wrong only" not in found.text
    photo = decode(re.findall(r"--photo:url\((.*?)\)", found.text)[0])
    layers = [decode(uri) for pictures in found.data["examples"][0] for uri, _ in pictures.values()]
    assert {layer.shape[:2] for layer in [photo, *layers]} == {(MAX_SIDE // 16, MAX_SIDE)}


def test_windows_have_no_map_of_paused_patches(tmp_path, model, scenes):
    folder = make_sweep(tmp_path, model_id=model_id(model))
    values = json.loads((folder.path / "sweep.json").read_text())
    values["inference"] |= {"mode": "slide", "crop_size": [32, 32], "stride": [16, 16]}
    (folder.path / "sweep.json").write_text(json.dumps(values))
    found = report(folder, segment_examples(folder, model, split_shots(scenes, 1, len(SCENE_CLASSES))))
    assert set(found.data["examples"][0][0]) == {"segmentation", "changed", "wrong"}


def test_images_are_spread_over_the_split(scenes):
    assert [shot.name for shot in split_shots(scenes, 4, len(SCENE_CLASSES))] == [scenes[i].name for i in (0, 2, 4, 6)]


def test_another_model_is_refused(own_sweep, scenes):
    other = tiny_model(len(SCENE_CLASSES), names=SCENE_CLASSES, palette=SCENE_PALETTE, seed=1)
    with pytest.raises(InputError, match="other weights than the one that was swept"):
        segment_examples(own_sweep, other, split_shots(scenes, 1, len(SCENE_CLASSES)))


def test_another_number_of_classes_is_refused(scenes):
    with pytest.raises(InputError, match="predicts 3 classes, scenes has 11"):
        list(split_shots(scenes, 1, 3))


def test_examples_of_other_configurations_are_refused(own_sweep, model, scenes):
    shots = list(split_shots(scenes, 2, len(SCENE_CLASSES)))
    pauses = example_pauses(own_sweep)
    mixed = segment_examples(own_sweep, model, shots[:1]) + segment_examples(own_sweep, model, shots[1:], pauses[:2])
    with pytest.raises(InputError, match="share a slider"):
        write_report(own_sweep, own_sweep.path / "page.html", mixed)
    unknown = segment_examples(own_sweep, model, shots[:1], [PauseConfig.parse("2:0.5")])
    with pytest.raises(InputError, match="2:0.5, which this sweep did not time"):
        write_report(own_sweep, own_sweep.path / "page.html", unknown)


# --- the script -------------------------------------------------------------------------------------------------------

ACTIONS = """
var rows = function () { return Array.from(document.querySelectorAll("#configurations tbody tr")); };
var log = {};
var buttons = document.querySelectorAll("#configurations thead button");
buttons[6].click();
log.up = rows().map(function (row) { return row.cells[6].textContent; });
buttons[6].click();
log.down = rows().map(function (row) { return row.cells[6].textContent; });
log.sorted = Array.from(document.querySelectorAll("[aria-sort]")).map(function (h) { return h.textContent; });
document.getElementById("configurations-front").click();
log.front = rows().filter(function (row) { return row.offsetParent; }).length;
var slider = document.getElementById("stop");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
var says = document.querySelector("[data-view=changed] .says");
log.slow = [document.getElementById("shown").textContent, says.textContent];
log.row = document.querySelector("tr[aria-current]").dataset.point;
var mark = document.querySelector('.chart.wide .mark[data-point="6"]');
mark.focus();
log.tip = document.querySelector(".tip").textContent;
mark.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
log.fast = [slider.value, document.querySelector("tr[aria-current]").dataset.point];
log.layer = document.querySelector("[data-view=segmentation] .layer").src;
mark.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
log.left = document.activeElement.dataset.point;
document.body.appendChild(document.createElement("pre")).textContent = "LOG" + JSON.stringify(log) + "LOG";
"""


def test_the_script_sorts_filters_slides_and_picks(own_sweep, model, scenes, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to run the page's script in")
    found = report(own_sweep, segment_examples(own_sweep, model, split_shots(scenes, 1, len(SCENE_CLASSES))))
    path = tmp_path / "acted.html"
    path.write_text(found.text.replace("</body>", f"<script>{ACTIONS}</script></body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--dump-dom"]
    result = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    log = json.loads(result.stdout.rsplit("LOG", 2)[1].replace("&lt;", "<").replace("&amp;", "&"))
    mious = [f"{value:.2f}" for value in sorted(MIOU.values())]
    assert log["up"] == mious and log["down"] == mious[::-1] and log["sorted"] == ["mIoU"]
    assert log["front"] == len(FRONT)
    assert log["slow"][0].startswith("none · ") and log["slow"][1] == "0.0 % of the pixels" and log["row"] == "0"
    assert log["tip"].splitlines()[0] == "3:0.6,5:0.5"
    assert log["fast"] == [str(len(found.data["stops"]) - 1), "6"] and log["left"] == "5"
    assert log["layer"] == found.data["examples"][0][-1]["segmentation"][0]
