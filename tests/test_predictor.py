"""The predictor against the model called directly, and `predict_files` against the files it is given and leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from paumer.batch import predict_files
from paumer.data.images import read_image, read_mask
from paumer.errors import InputError
from paumer.inference import InferenceConfig
from paumer.model import create_model
from paumer.pause import PauseConfig
from paumer.predictor import Predictor, as_image

NAMES = ("sky", "road", "tree", "car")
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200))
LABEL_IDS = (7, 11, 26, 0)
PAUSE = "3:0.4,5:0.4"


def tiny_model(**options):
    torch.manual_seed(0)
    options = {"num_classes": 4, "names": NAMES, "palette": PALETTE, "label_ids": LABEL_IDS, **options}
    model = create_model("vit_tiny_patch16_224", image_size=(64, 64), **options).eval()
    # Fresh weights give every patch the same class; larger ones tell them apart.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "pos_embed" not in name:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, pause=PAUSE)


def photo(height=70, width=90, seed=0):
    """Large coloured blocks with noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (5, 6, 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.clip(blocks + rng.integers(-20, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def direct(model, array, pause):
    return model(torch.from_numpy(array).permute(2, 0, 1)[None], pause)


# --- one image -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(70, 90), (33, 47), (16, 16), (1, 5)])
def test_the_mask_is_the_argmax_of_a_direct_forward(model, predictor, size):
    array = photo(*size)
    prediction = predictor(array)
    with torch.inference_mode():
        expected = direct(model, array, PAUSE).logits[0].argmax(0)
    np.testing.assert_array_equal(prediction.mask, expected.numpy())
    assert prediction.mask.shape == size and prediction.mask.dtype == np.uint8
    assert prediction.image.shape == (*size, 3)


def test_every_form_of_an_image_gives_the_same_mask(predictor, tmp_path):
    array = photo()
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    masks = [
        predictor(image).mask
        for image in (array, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), tensor, tensor / 255)
    ]
    assert len(np.unique(masks[0])) > 1
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_honoured_for_files_and_pil_images(predictor, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png", exif=exif)
    upright = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    expected = np.rot90(photo(40, 60), upright)
    with Image.open(tmp_path / "a.png") as image:
        for given in (tmp_path / "a.png", image):
            prediction = predictor(given)
            np.testing.assert_array_equal(prediction.image, expected)
            assert prediction.mask.shape == expected.shape[:2]


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_odd_modes_have_the_mask_of_their_size(predictor, tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(photo()[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(photo()[..., 0].astype(np.float32) / 255)
    else:
        image = Image.fromarray(photo()).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "a.tif")
    from_file, from_pil = predictor(tmp_path / "a.tif"), predictor(image)
    assert from_pil.mask.shape == (70, 90)
    np.testing.assert_array_equal(from_pil.image, from_file.image)


def test_deep_greyscale_is_scaled_and_not_clipped():
    grey = np.array([[0, 257, 65535]], np.uint16)
    np.testing.assert_array_equal(as_image(Image.fromarray(grey))[0], [[0, 1, 255]])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), "permute"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), 128.0), r"0\.\.1"),
        (torch.full((3, 4, 4), float("nan")), r"0\.\.1"),
        (7, "int"),
        ("no/such/file.jpg", "no such file"),
    ],
)
def test_what_is_no_image_is_one_sentence(predictor, image, message):
    with pytest.raises(InputError, match=message):
        predictor(image)


def test_arrays_seen_backwards_or_read_only_are_taken(predictor):
    array = photo()
    bgr = np.ascontiguousarray(array[..., ::-1])
    bgr.flags.writeable = False
    np.testing.assert_array_equal(predictor(bgr[..., ::-1]).mask, predictor(array).mask)


def test_a_pause_of_one_call_leaves_no_state(model):
    array = photo()
    predictor = Predictor(model)
    turns = [predictor(array, pause).mask for pause in ("none", "2:0.8", "none", "2:0.8", None)]
    plain, paused = Predictor(model)(array), Predictor(model, pause="2:0.8")(array)
    assert not np.array_equal(plain.mask, paused.mask)
    for turn, expected in zip(turns, (plain, paused, plain, paused, plain), strict=True):
        np.testing.assert_array_equal(turn, expected.mask)


def test_paused_at_counts_what_the_configuration_says(predictor, model):
    prediction = predictor(photo(70, 90))
    assert prediction.paused_at.shape == (5, 6)  # 70x90 padded to patches of 16
    counts = PauseConfig.parse(PAUSE).counts(30, model.depth)
    assert {layer: int((prediction.paused_at == layer).sum()) for layer in (3, 5)} == counts == {3: 12, 5: 7}


def test_entropies_are_those_of_the_auxiliary_head_and_nan_where_paused_before(model, predictor):
    array = photo()
    prediction = predictor(array)
    with torch.inference_mode():
        step = direct(model, array, PAUSE).trace.steps[1]
    probabilities = step.aux_logits.double().softmax(-1).numpy()
    expected = np.full(30, np.nan)
    expected[step.index.numpy()] = -(probabilities * np.log(probabilities)).sum(-1)
    assert list(prediction.entropy) == [3, 5]
    np.testing.assert_allclose(prediction.entropy[5], expected.reshape(5, 6), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(prediction.entropy[5]), prediction.paused_at == 3)
    assert np.isfinite(prediction.patches.last_entropy()).all()


@pytest.mark.parametrize("setting", [{"mode": "slide", "crop_size": (48, 48)}, {"flip": True}, {"scales": (1.0, 1.5)}])
def test_windows_and_several_views_have_a_mask_but_no_patch_maps(model, setting):
    prediction = Predictor(model, PAUSE, inference=InferenceConfig(**setting))(photo())
    assert prediction.mask.shape == (70, 90)
    for look in (lambda: prediction.paused_at, lambda: prediction.entropy, lambda: prediction.plot("paused")):
        with pytest.raises(InputError, match="every view pauses its own"):
            look()
    assert prediction.plot("figure").size[0] > 0


def test_a_resized_image_has_the_grid_of_what_the_model_saw(model):
    prediction = Predictor(model, PAUSE, inference=InferenceConfig(base_size=(192, 160)))(photo(60, 96))
    assert prediction.patches.size == (120, 192) and prediction.paused_at.shape == (8, 12)
    assert prediction.mask.shape == (60, 96)
    for kind in ("paused", "entropy"):
        assert prediction.plot(kind).size == (96, 60)


def test_pictures_tint_exactly_the_patches_that_paused(predictor):
    prediction = predictor(photo())
    picture = np.asarray(prediction.plot("paused", layer=3))
    changed = (picture != prediction.image).any(-1)
    patch_of = np.ix_(np.arange(70) // 16, np.arange(90) // 16)
    assert not changed[(prediction.paused_at != 3)[patch_of]].any()
    assert changed[(prediction.paused_at == 3)[patch_of]].mean() > 0.95


def test_overlay_and_mask_pictures_mix_the_palette(predictor):
    prediction = predictor(photo())
    colors = np.array(PALETTE)[prediction.mask]
    np.testing.assert_array_equal(np.asarray(prediction.plot("mask")), colors)
    mixed = np.round(0.5 * prediction.image + 0.5 * colors)
    np.testing.assert_array_equal(np.asarray(prediction.plot("overlay", alpha=0.5)), mixed)


def test_shares_are_those_of_the_pixels(predictor):
    prediction = predictor(photo())
    expected = {name: float((prediction.mask == i).mean()) for i, name in enumerate(NAMES)}
    assert prediction.shares() == pytest.approx(expected)
    record = json.loads(json.dumps(prediction.to_dict()))
    assert record["pause"] == PAUSE and (record["width"], record["height"]) == (90, 70)
    assert record["paused_shares"] == {"3": pytest.approx(12 / 30), "5": pytest.approx(19 / 30, abs=1e-6)}


def test_saved_masks_hold_train_ids_or_the_data_sets_own(predictor, tmp_path):
    prediction = predictor(photo())
    assert len(np.unique(prediction.mask)) > 1
    prediction.save(tmp_path / "train.png")
    prediction.save(tmp_path / "own.png", label_ids=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "train.png"), prediction.mask)
    own = read_mask(tmp_path / "own.png")
    for train_id, label_id in enumerate(LABEL_IDS):  # back again, one by one
        np.testing.assert_array_equal(own == label_id, prediction.mask == train_id)
    for name in ("train.png", "own.png"):  # shown in the same colours
        np.testing.assert_array_equal(
            read_mask(tmp_path / name, colors=True), np.array(PALETTE, np.uint8)[prediction.mask]
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.plot("overlays"), "did you mean 'overlay'"),
        (lambda p: p.plot("entropy", layer=4), r"\[3, 5\]"),
        (lambda p: p.save("a.gif", "overlay"), r"\.png"),
        (lambda p: p.save("a.jpg"), r"\.png"),
    ],
)
def test_wishes_that_cannot_be_met_say_what_would_work(predictor, call, message):
    with pytest.raises(InputError, match=message):
        call(predictor(photo()))


def test_names_and_colours_are_made_up_where_the_model_has_none():
    predictor = Predictor(tiny_model(names=(), palette=(), label_ids=None))
    prediction = predictor(photo())
    assert prediction.names == ("class 0", "class 1", "class 2", "class 3")
    assert len(set(prediction.palette)) == 4
    np.testing.assert_array_equal(prediction.label_mask(), prediction.mask)
    with pytest.raises(InputError, match="nothing pauses"):
        prediction.plot("paused")


def test_impossible_settings_are_told_before_the_first_image(model):
    with pytest.raises(InputError, match=r"layers 1\.\.12"):
        Predictor(model, pause="13:0.5")
    with pytest.raises(InputError, match="auxiliary head"):
        Predictor(tiny_model(aux_head="none"), pause="3:0.5")
    with pytest.raises(InputError, match="device"):
        Predictor(model, device="gpu")


def test_a_model_without_auxiliary_head_pauses_at_random_without_entropies():
    predictor = Predictor(tiny_model(aux_head="none"), "3:0.5", criterion="random", seed=3)
    first, again = predictor(photo()), predictor(photo())
    np.testing.assert_array_equal(first.paused_at, again.paused_at)
    other = Predictor(predictor.model, "3:0.5", criterion="random", seed=4)(photo())
    assert not np.array_equal(first.paused_at, other.paused_at)
    with pytest.raises(InputError, match="auxiliary head"):
        first.plot("entropy")
    assert first.plot("figure").size[0] > 0


def test_the_figure_has_a_column_per_layer_and_legends(predictor):
    prediction = predictor(photo())
    figure, one = prediction.plot("figure"), predictor(photo(), "3:0.4").plot("figure")
    none = predictor(photo(), "none").plot("figure")
    assert none.width < one.width < figure.width and none.height < one.height
    plain, explained = prediction.plot("mask"), prediction.plot("mask", legend=True)
    assert plain.size == (90, 70) and explained.height > 70


# --- several images --------------------------------------------------------------------------------------------------

SIZES = [(70, 90), (48, 64), (70, 90), (33, 47), (48, 64), (70, 90)]


def photos(sizes=SIZES):
    return [photo(*size, seed=seed) for seed, size in enumerate(sizes)]


def assert_same_prediction(one, other):
    """Patches to the last one; pixels but for one or two, which rounding may decide."""
    np.testing.assert_array_equal(one.image, other.image)
    assert one.mask.shape == other.mask.shape and one.mask.dtype == other.mask.dtype
    assert (one.mask == other.mask).mean() > 0.999
    assert (one.patches is None) == (other.patches is None)
    if one.patches is not None:
        np.testing.assert_array_equal(one.paused_at, other.paused_at)
        assert one.entropy.keys() == other.entropy.keys() and one.patches.size == other.patches.size
        for layer, values in one.entropy.items():
            np.testing.assert_allclose(values, other.entropy[layer], atol=1e-4)


@pytest.mark.parametrize("pause", ["none", PAUSE, "3:0.6nats,5:0.4"])
def test_several_images_are_as_one_by_one_in_their_order(predictor, pause):
    for one, image in zip(predictor.predict_batch(photos(), pause), photos(), strict=True):
        assert_same_prediction(one, predictor(image, pause))
        assert str(one.pause) == pause


def test_images_of_one_size_go_through_the_model_together(model, predictor, monkeypatch):
    batches = []
    real = model.segment
    monkeypatch.setattr(
        model, "segment", lambda images, *args, **kw: batches.append(images.shape) or real(images, *args, **kw)
    )
    predictor.predict_batch(photos())
    assert batches == [(3, 3, 70, 90), (2, 3, 48, 64), (1, 3, 33, 47)]


def test_images_of_every_form_stay_in_their_order(predictor, tmp_path):
    array, other = photo(), photo(seed=1)
    Image.fromarray(other).save(tmp_path / "other.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    given = [array, tensor / 255, tmp_path / "other.png", tensor, Image.fromarray(other), other[..., 0], tensor / 255]
    found = predictor.predict_batch(given)
    shown = [array, array, other, array, other, np.repeat(other[..., :1], 3, axis=2), array]
    for one, pixels in zip(found, shown, strict=True):
        np.testing.assert_array_equal(one.image, pixels)
        assert_same_prediction(one, predictor(pixels))


def test_no_images_have_no_predictions_and_a_bad_one_is_told(predictor):
    assert predictor.predict_batch([]) == []
    with pytest.raises(InputError, match="float64"):
        predictor.predict_batch([photo(), np.zeros((4, 4, 3))])


def test_a_share_of_the_batch_pauses_as_in_a_direct_call(model, predictor):
    images, pause = [np.full((64, 64, 3), 128, np.uint8), *photos([(64, 64)] * 3)], "3:0.5@batch"
    together = predictor.predict_batch(images, pause)
    with torch.inference_mode():
        output = model(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), pause)
    for i, one in enumerate(together):
        np.testing.assert_array_equal(one.paused_at, output.trace.paused_at()[i])
        assert (one.mask == output.logits[i].argmax(0).numpy()).mean() > 0.999
    numbers = [int((one.paused_at == 3).sum()) for one in together]
    assert sum(numbers) == 32 and numbers != [8] * 4
    assert [int((predictor(image, pause).paused_at == 3).sum()) for image in images] == [8] * 4


def test_batch_mates_of_another_size_share_no_budget(predictor):
    images = photos([(64, 64), (48, 64)])
    for one, image in zip(predictor.predict_batch(images, "3:0.5@batch"), images, strict=True):
        assert_same_prediction(one, predictor(image, "3:0.5@batch"))


@pytest.mark.parametrize("setting", [{"mode": "slide", "crop_size": (48, 48)}, {"flip": True}, {"base_size": (96, 96)}])
def test_several_images_of_other_views_are_as_one_by_one(model, setting):
    predictor = Predictor(model, PAUSE, inference=InferenceConfig(**setting))
    for one, image in zip(predictor.predict_batch(photos()[:3]), photos()[:3], strict=True):
        assert_same_prediction(one, predictor(image))


def test_random_pausing_does_not_notice_batch_mates(model):
    predictor = Predictor(model, PAUSE, criterion="random", seed=3)
    for one, image in zip(predictor.predict_batch(photos()), photos(), strict=True):
        assert_same_prediction(one, predictor(image))


def test_a_threshold_without_entropies_is_told_before_the_first_image(model):
    with pytest.raises(InputError, match="compares entropies"):
        Predictor(model, "3:0.5nats", criterion="random")


def test_a_batch_that_does_not_fit_is_one_sentence(predictor, monkeypatch):
    def segment_images(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("paumer.predictor.segment_images", segment_images)
    with pytest.raises(InputError, match="a batch of 3 images of 70x90 does not fit"):
        predictor.predict_batch(photos([(70, 90)] * 3))
    with pytest.raises(InputError, match="an image of 70x90 does not fit in the memory of cpu"):
        predictor(photo())


# --- many files ------------------------------------------------------------------------------------------------------


def save_photo(path, seed=0, size=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(*size, seed=seed)).save(path)
    return path


def run(predictor, inputs, out, **options):
    return predict_files(predictor, inputs, out, progress=False, **options)


def records(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_a_bad_file_is_reported_and_the_rest_are_done(predictor, tmp_path):
    save_photo(tmp_path / "in/a.png")
    save_photo(tmp_path / "in/deep/c.png", seed=1)
    save_photo(tmp_path / "in/.hidden/d.png")
    (tmp_path / "in/b.jpg").write_bytes(b"no image")
    (tmp_path / "in/notes.txt").write_text("not an input")
    report = run(predictor, [tmp_path / "in", tmp_path / "gone.jpg"], tmp_path / "out")
    assert sorted(path.rsplit("/", 1)[1] for path, _ in report.failed) == ["b.jpg", "gone.jpg"]
    assert [record["mask"] for record in report.done] == ["masks/a.png", "masks/deep/c.png"]
    for record in report.done:
        expected = predictor(record["input"])
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / record["mask"]), expected.mask)
        for kind in ("overlay", "paused", "entropy"):
            assert read_image(tmp_path / "out" / record[kind]).shape == (3, *expected.mask.shape)
    lines = records(tmp_path / "out")
    assert len(lines) == 4 and sum("error" in line for line in lines) == 2
    assert [line for line in lines if "error" not in line] == list(report.done)
    assert not list((tmp_path / "out").rglob(".*"))


def test_equal_names_do_not_overwrite_each_other(predictor, tmp_path):
    paths = [
        save_photo(tmp_path / name, seed) for seed, name in enumerate(["a/x.png", "b/x.png", "b/X.bmp", "x_2.png"])
    ]
    report = run(predictor, [*paths, paths[0]], tmp_path / "out", kinds=["mask"])
    masks = [record["mask"] for record in report.done]
    assert len(masks) == 4 == len({mask.casefold() for mask in masks})  # and the file given twice is done once
    for path, mask in zip(paths, masks, strict=True):
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / mask), predictor(path).mask)


def test_globs_find_files_and_a_second_run_needs_leave_to_overwrite(predictor, tmp_path):
    save_photo(tmp_path / "in/a.png")
    save_photo(tmp_path / "in/deep/b.png")
    out = tmp_path / "in"  # results go into the folder that is read
    report = run(predictor, [str(tmp_path / "in/**/*.png")], out, kinds=["mask"])
    assert [record["mask"] for record in report.done] == ["masks/a.png", "masks/b.png"]
    with pytest.raises(InputError, match="there already"):
        run(predictor, [out], out, kinds=["mask"])
    again = run(predictor, [out], out, kinds=["mask"], overwrite=True)
    assert [record["mask"] for record in again.done] == ["masks/a.png", "masks/deep/b.png"]  # masks are no inputs


def test_no_inputs_and_unwritable_places_are_errors(predictor, tmp_path):
    (tmp_path / "empty").mkdir()
    for inputs in ([tmp_path / "empty"], [str(tmp_path / "*.png")], []):
        with pytest.raises(InputError, match="nothing to segment"):
            run(predictor, inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save_photo(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot make the folder"):
        run(predictor, [tmp_path / "a.png"], tmp_path / "file")


def test_kinds_that_this_predictor_cannot_show_are_refused_and_not_chosen_by_default(model, predictor, tmp_path):
    path = save_photo(tmp_path / "a.png")
    windows = Predictor(model, PAUSE, inference=InferenceConfig(mode="slide", crop_size=(32, 32)))
    for asked, kinds, message in (
        (predictor, ["masks"], "did you mean 'mask'"),
        (predictor, [], "no kind"),
        (windows, ["paused"], "sliding windows"),
        (Predictor(model), ["entropy"], "nothing pauses"),
    ):
        with pytest.raises(InputError, match=message):
            run(asked, [path], tmp_path / "out", kinds=kinds)
    run(windows, [path], tmp_path / "windows")
    run(Predictor(model), [path], tmp_path / "plain")
    for out in ("windows", "plain"):
        assert {folder.name for folder in (tmp_path / out).iterdir()} == {"masks", "overlays", "predictions.jsonl"}


def test_batches_of_files_leave_what_single_ones_leave(predictor, tmp_path):
    clip = write_clip(tmp_path / "in/b.mp4", num_frames=2)
    paths = [
        save_photo(tmp_path / f"in/{name}.png", seed, size)
        for seed, (name, size) in enumerate(
            zip("acdefg", [(40, 60), (40, 60), (33, 47), (40, 60), (40, 60), (33, 47)], strict=True)
        )
    ]
    (tmp_path / "in/damaged.jpg").write_bytes(b"no image")
    reports = {n: run(predictor, [tmp_path / "in"], tmp_path / f"out{n}", batch_size=n) for n in (1, 3, 50)}
    single = records(tmp_path / "out1")
    order = [*paths[:1], clip, *paths[1:3], tmp_path / "in/damaged.jpg", *paths[3:]]
    assert [record["input"] for record in single] == [str(path) for path in order]
    files = sorted(path.relative_to(tmp_path / "out1") for path in (tmp_path / "out1").rglob("*.*"))
    assert len(files) == 4 * 6 + 1 + 1  # mask, overlay, paused and entropy of each image, a video, the manifest
    for n in (3, 50):
        out, report = tmp_path / f"out{n}", reports[n]
        assert files == sorted(path.relative_to(out) for path in out.rglob("*.*"))
        for file in files:
            if file.parts[0] == "masks":
                assert (read_mask(out / file) == read_mask(tmp_path / "out1" / file)).mean() > 0.999
        for one, other in zip(records(out), single, strict=True):
            assert list(one) == list(other)  # the same kinds of results
            for key in one.keys() - {"seconds"}:
                expected = pytest.approx(other[key], abs=0.002) if key == "shares" else other[key]
                assert one[key] == expected, key
        assert report.failed == reports[1].failed and [path for path, _ in report.failed] == [str(order[4])]
        assert [record["input"] for record in report.done] == [record["input"] for record in reports[1].done]


def test_so_many_files_at_a_time_go_through_the_model(predictor, tmp_path, monkeypatch):
    for i in range(5):
        save_photo(tmp_path / f"in/{i}.png", i)
    counts = []
    real = predictor.predict_batch
    monkeypatch.setattr(predictor, "predict_batch", lambda images: counts.append(len(images)) or real(images))
    run(predictor, [tmp_path / "in"], tmp_path / "out", kinds=["mask"], batch_size=2)
    assert counts == [2, 2, 1]


def test_a_batch_of_files_that_does_not_fit_is_done_one_by_one(predictor, tmp_path, monkeypatch, caplog):
    paths = [save_photo(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    expected = run(predictor, paths, tmp_path / "expected", kinds=["mask"])
    real = predictor.model.segment

    def segment(images, *args, **options):
        if len(images) > 1 or torch.equal(images[0], as_image(paths[1])):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return real(images, *args, **options)

    monkeypatch.setattr(predictor.model, "segment", segment)
    report = run(predictor, paths, tmp_path / "out", kinds=["mask"], batch_size=3)
    assert [path for path, _ in report.failed] == [str(paths[1])]
    assert "does not fit in the memory of cpu" in report.failed[0][1]
    assert "a batch of 3 images of 40x60 does not fit" in caplog.text and "one by one" in caplog.text
    for record, known in zip(report.done, [expected.done[0], expected.done[2]], strict=True):
        assert (tmp_path / "out" / record["mask"]).read_bytes() == (tmp_path / "expected" / known["mask"]).read_bytes()


def test_files_share_the_budget_of_their_batch(model, tmp_path):
    predictor = Predictor(model, "3:0.5@batch")
    Image.new("RGB", (60, 40), (128, 128, 128)).save(tmp_path / "grey.png")
    paths = [tmp_path / "grey.png", *(save_photo(tmp_path / f"{i}.png", i) for i in range(2))]
    report = run(predictor, paths, tmp_path / "out", kinds=["mask", "paused"], batch_size=3)
    expected = predictor.predict_batch(paths)
    for record, prediction in zip(report.done, expected, strict=True):
        assert record["paused_shares"]["3"] == pytest.approx((prediction.paused_at == 3).mean(), abs=1e-6)
        assert (read_mask(tmp_path / "out" / record["mask"]) == prediction.mask).all()
    shares = [record["paused_shares"]["3"] for record in report.done]
    assert np.mean(shares) == pytest.approx(0.5, abs=1e-6) and shares != [0.5] * 3


def test_a_batch_in_which_nothing_can_be_read_is_reported(predictor, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    path = save_photo(tmp_path / "c.png")
    report = run(predictor, [tmp_path / "a.jpg", tmp_path / "b.jpg", path], tmp_path / "out", batch_size=2)
    assert len(report.failed) == 2 and len(report.done) == 1
    assert [("error" in line) for line in records(tmp_path / "out")] == [True, True, False]


def test_an_empty_batch_of_files_is_refused(predictor, tmp_path):
    with pytest.raises(InputError, match="a batch has at least 1 image, got 0"):
        run(predictor, [save_photo(tmp_path / "a.png")], tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists()


def write_clip(path, num_frames=6, size=(32, 48)):
    pytest.importorskip("av")
    from paumer.video import VideoWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 10, size) as writer:
        for i in range(num_frames):
            writer.write(photo(*size, seed=i))
    return path


def test_a_video_gives_videos_of_its_length_and_a_mask_per_frame(predictor, tmp_path):
    from paumer.video import read_frames

    clip = write_clip(tmp_path / "clip.mp4")
    save_photo(tmp_path / "clip.png")
    report = run(predictor, [clip, tmp_path / "clip.png"], tmp_path / "out", kinds=["mask", "overlay", "paused"])
    assert not report.failed
    record = report.done[0]
    assert (record["frames"], record["fps"], record["width"], record["height"]) == (6, 10.0, 48, 32)
    frames = [frame for _, _, frame in read_frames(clip)]
    for kind in ("overlay", "paused"):
        written = [frame for _, _, frame in read_frames(tmp_path / "out" / record[kind])]
        assert len(written) == 6 and {tuple(frame.shape) for frame in written} == {(3, 32, 48)}
        expected = np.asarray(predictor(frames[5]).plot(kind)).astype(int)
        # H.264 is lossy and this picture noisy, yet it must be the right one.
        assert np.abs(written[5].permute(1, 2, 0).numpy() - expected).mean() < 25
    masks = sorted((tmp_path / "out" / record["mask"]).iterdir())
    assert [mask.name for mask in masks] == [f"{i:06d}.png" for i in range(1, 7)]
    np.testing.assert_array_equal(read_mask(masks[2]), predictor(frames[2]).mask)
    assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-5)


def test_a_cut_video_is_done_as_far_as_it_goes_and_reported(predictor, tmp_path):
    whole = write_clip(tmp_path / "whole.mkv", num_frames=24).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    report = run(predictor, [tmp_path / "cut.mkv", tmp_path / "broken.mp4"], tmp_path / "out", kinds=["mask"])
    assert [path.rsplit("/", 1)[1] for path, _ in report.failed] == ["cut.mkv", "broken.mp4"]
    (record,) = report.done
    assert 0 < record["frames"] < 24 and "cut.mkv" in record["error"]
    assert len(list((tmp_path / "out" / record["mask"]).iterdir())) == record["frames"]


# --- how it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pause", ["none", PAUSE, "3:0.5@batch,5:0.9nats"])
def test_half_precision_is_that_of_a_copy(model, predictor, dtype, pause):
    half = Predictor(model, pause, dtype=dtype)
    assert half.model.pixel_mean.dtype == getattr(torch, dtype) and predictor.model is model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = tiny_model().to(getattr(torch, dtype)).segment(as_image(photo())[None], pause)
    found = half(photo())
    assert np.array_equal(found.mask, expected.labels[0].numpy())
    if pause != "none":
        assert np.array_equal(found.paused_at, expected.trace.paused_at()[0].numpy())
        assert all(np.isfinite(values[~np.isnan(values)]).all() for values in found.entropy.values())


def test_a_model_keeps_its_dtype_unless_another_is_asked_for(model):
    half = tiny_model().to(torch.bfloat16)
    assert Predictor(half).model is half
    assert Predictor(model, dtype="float32").model is model
    with pytest.raises(InputError, match="unknown dtype 'bf16': "):
        Predictor(model, dtype="bf16")


def test_no_graph_is_made_before_there_is_an_image(model, monkeypatch):
    made = []
    compile_it = torch.compile

    def record(function, **options):
        made.append(options)
        return compile_it(function, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", record)
    predictor = Predictor(model, PAUSE, compile="full")
    assert not made
    with pytest.raises(InputError, match="unknown way to compile 'fill': did you mean 'full'"):
        Predictor(model, PAUSE, compile="fill")
    assert predictor.model is not model
