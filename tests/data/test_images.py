"""Odd image files become plain RGB or plain ids, or an error that names them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paumer.data.images import list_images, read_image, read_mask, save_index_mask
from paumer.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(tmp_path: Path, array: np.ndarray, mode: str | None = None, name: str = "a.png", **options) -> Path:
    image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def write_png_header(path: Path, width: int, height: int) -> None:
    """A PNG that says it is huge and holds one row's worth of nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_rgb_is_read_as_it_is(tmp_path):
    assert np.array_equal(pixels(saved(tmp_path, RGB)), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # What a viewer does for each value of the EXIF tag, in NumPy.
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB),
    }[orientation]
    assert np.array_equal(pixels(saved(tmp_path, RGB, exif=exif)), upright)


def test_alpha_is_dropped_and_the_colours_under_it_stay(tmp_path):
    rgba = np.dstack([RGB, np.zeros_like(GREY)])
    assert np.array_equal(pixels(saved(tmp_path, rgba)), RGB)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_greyscale_is_repeated_over_the_channels(tmp_path, mode):
    assert np.array_equal(pixels(saved(tmp_path, GREY, mode)), np.dstack([GREY] * 3))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = GREY > 127
    assert np.array_equal(pixels(saved(tmp_path, bits)), np.dstack([bits * np.uint8(255)] * 3))


def test_palette_image_gives_its_colours_and_palette_mask_its_indices(tmp_path):
    indices = RNG.integers(0, 3, (5, 7), dtype=np.uint8)
    colors = np.array([[9, 8, 7], [200, 0, 1], [0, 255, 3]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    image.save(tmp_path / "p.png", transparency=0)
    assert np.array_equal(pixels(tmp_path / "p.png"), colors[indices])
    assert np.array_equal(read_mask(tmp_path / "p.png"), indices)
    assert np.array_equal(read_mask(tmp_path / "p.png", colors=True), colors[indices])


def test_sixteen_bit_is_scaled_by_257(tmp_path):
    eight = np.arange(0, 250, 10, dtype=np.uint16).reshape(5, 5)
    path = saved(tmp_path, eight * 257)
    assert Image.open(path).mode.startswith("I")
    assert np.array_equal(pixels(path)[..., 1], eight)


def test_32_bit_integers_are_read_as_16_bit_or_refused(tmp_path):
    wide = np.array([[0, 257, 65535]], np.int32)
    assert pixels(saved(tmp_path, wide, name="a.tif"))[0, :, 0].tolist() == [0, 1, 255]
    with pytest.raises(InputError, match=r"b\.tif.*beyond 0\.\.65535"):
        read_image(saved(tmp_path, wide + 1, name="b.tif"))


@pytest.mark.parametrize("white", [1, 255])
def test_floats_are_read_as_0_to_1_or_0_to_255(tmp_path, white):
    ramp = np.array([[0, 0.2, 1]], np.float32) * white
    assert pixels(saved(tmp_path, ramp, name="a.tif"))[0, :, 2].tolist() == [0, 51, 255]


@pytest.mark.parametrize("bad", [-1, 256, np.nan])
def test_floats_beyond_that_are_refused(tmp_path, bad):
    with pytest.raises(InputError, match=r"a\.tif.*values"):
        read_image(saved(tmp_path, np.array([[0.5, 100, bad]], np.float32), name="a.tif"))


def test_cmyk_becomes_rgb(tmp_path):
    flat = np.broadcast_to(np.array([200, 30, 60], np.uint8), (16, 16, 3))
    path = saved(tmp_path, np.ascontiguousarray(flat), "CMYK", "a.jpg", quality=98)
    assert np.abs(pixels(path).astype(int) - flat).max() <= 6


def test_an_open_file_is_read_too():
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    assert np.array_equal(read_image(io.BytesIO(buffer.getvalue())).permute(1, 2, 0).numpy(), RGB)


@pytest.mark.parametrize("read", [read_image, read_mask])
class TestBrokenFiles:
    def test_missing(self, read, tmp_path):
        with pytest.raises(InputError, match=r"no such file.*gone\.png"):
            read(tmp_path / "gone.png")

    def test_a_folder(self, read, tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path)

    def test_zero_bytes(self, read, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(InputError, match=r"a\.png is empty"):
            read(tmp_path / "a.png")

    def test_not_an_image(self, read, tmp_path):
        (tmp_path / "a.jpg").write_text("<html>404</html>")
        with pytest.raises(InputError, match=r"cannot read .*a\.jpg"):
            read(tmp_path / "a.jpg")

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.ppm"])
    def test_cut_off(self, read, tmp_path, name):
        noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = saved(tmp_path, noise, name=name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read(path)

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [13_500, 100_000])
    def test_bomb(self, read, tmp_path, side):
        write_png_header(tmp_path / "bomb.png", side, side)
        with pytest.raises(InputError, match=r"bomb\.png is too large"):
            read(tmp_path / "bomb.png")

    @pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
    def test_bomb_where_warnings_are_errors(self, read, tmp_path):
        write_png_header(tmp_path / "bomb.png", 10_000, 10_000)
        with pytest.raises(InputError, match=r"bomb\.png is too large"):
            read(tmp_path / "bomb.png")

    def test_no_pixels(self, read, tmp_path):
        write_png_header(tmp_path / "a.png", 0, 4)
        with pytest.raises(InputError, match=r"a\.png"):
            read(tmp_path / "a.png")

    def test_limit_can_be_lowered(self, read, tmp_path):
        path = saved(tmp_path, RGB)
        read(path, max_pixels=35)
        with pytest.raises(InputError, match="7x5 pixels, the limit is 34"):
            read(path, max_pixels=34)


def test_size_is_checked_before_decoding(tmp_path):
    write_png_header(tmp_path / "a.png", 1000, 1000)  # decoding it would say that it is cut off
    with pytest.raises(InputError, match="the limit is"):
        read_image(tmp_path / "a.png", max_pixels=999_999)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 40_000)])
def test_masks_of_ids_are_read_exactly(tmp_path, dtype, top):
    ids = np.array([[0, 1, top]], dtype)
    mask = read_mask(saved(tmp_path, ids))
    assert mask.dtype == np.int32 and np.array_equal(mask, ids)


def test_masks_of_one_bit_and_with_alpha_are_ids(tmp_path):
    assert read_mask(saved(tmp_path, np.array([[False, True]]))).tolist() == [[0, 1]]
    assert np.array_equal(read_mask(saved(tmp_path, GREY, "LA")), GREY)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_masks_keep_their_colours(tmp_path, mode):
    mask = read_mask(saved(tmp_path, RGB, mode))
    assert mask.dtype == np.uint8 and np.array_equal(mask, RGB)


def test_float_masks_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read labels from .*a\.tif"):
        read_mask(saved(tmp_path, np.ones((2, 2), np.float32), name="a.tif"))


def test_saved_masks_come_back_with_their_palette(tmp_path):
    mask = torch.tensor([[0, 1, 2], [2, 255, 0]], dtype=torch.uint8)
    palette = ((1, 2, 3), (40, 50, 60), (7, 8, 9))
    save_index_mask(tmp_path / "out" / "m.png", mask, palette)
    assert read_mask(tmp_path / "out" / "m.png").tolist() == mask.tolist()
    assert pixels(tmp_path / "out" / "m.png").tolist() == [
        [[1, 2, 3], [40, 50, 60], [7, 8, 9]],
        [[7, 8, 9], [0, 0, 0], [1, 2, 3]],
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.png"]


def test_saved_masks_of_large_ids_come_back(tmp_path):
    mask = np.array([[0, 256, 65535]])
    save_index_mask(tmp_path / "m.png", mask, [])
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("m.jpg", np.zeros((2, 2), int), "written as .png"),
        ("m.png", np.zeros((2, 2, 3), int), r"shape \(2, 2, 3\)"),
        ("m.png", np.array([[-1]]), "values -1..-1"),
        ("m.png", np.array([[65536]]), "values 65536..65536"),
        ("m.png", np.zeros((0, 3), int), r"shape \(0, 3\)"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, name, mask, says):
    with pytest.raises(InputError, match=says):
        save_index_mask(tmp_path / name, mask, [])
    assert not list(tmp_path.iterdir())


def test_images_are_listed_by_name_without_hidden_and_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "d.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.png", "b.JPG", "d.webp"]


def test_listing_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no images in"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "gone")
