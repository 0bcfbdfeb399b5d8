"""Reading and writing videos: what is written comes back, whatever its size; damage is told, after what can be read."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from paumer.errors import InputError, MissingExtraError
from paumer.video import VideoWriter, is_video, probe_video, read_frames

COLORS = np.array([(200, 30, 40), (20, 180, 60), (30, 60, 210), (240, 240, 10)], np.uint8)


def write_stripes(path, num_frames=8, size=(48, 64), fps=8):
    """Frame i has the four colours in columns, and a grey bar of 4 i pixels at the top."""
    with VideoWriter(path, fps, size) as writer:
        for i in range(num_frames):
            frame = np.repeat(COLORS[None], size[0], 0).repeat(-(-size[1] // 4), axis=1)[:, : size[1]].copy()
            frame[: 4 * i] = 128
            writer.write(frame)


@pytest.mark.parametrize("size", [(48, 64), (47, 65), (33, 18)])
def test_frames_come_back_in_order_padded_to_even_sizes(tmp_path, size):
    pytest.importorskip("av")
    write_stripes(tmp_path / "a.mp4", size=size)
    frames = list(read_frames(tmp_path / "a.mp4"))
    assert [index for index, _, _ in frames] == list(range(8))
    np.testing.assert_allclose([seconds for _, seconds, _ in frames], np.arange(8) / 8, atol=1e-6)
    even = (3, size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert all(frame.shape == even and frame.dtype == torch.uint8 for _, _, frame in frames)
    for index, _, frame in frames:  # the length of the grey bar tells which frame it is
        is_grey = (frame[:, :, 4].float() - 128).abs().amax(0) < 20
        assert abs(int(is_grey.sum()) - 4 * index) < 2


def test_colours_survive_the_round_trip(tmp_path):
    pytest.importorskip("av")
    write_stripes(tmp_path / "a.mp4", num_frames=1)
    (_, _, frame) = next(read_frames(tmp_path / "a.mp4"))
    centres = frame[:, 24, 8::16].T.numpy().astype(int)
    assert np.abs(centres - COLORS).max() < 8


def test_the_frame_rate_and_duration_are_those_written(tmp_path):
    pytest.importorskip("av")
    write_stripes(tmp_path / "a.mp4", num_frames=15, fps=30000 / 1001)
    info = probe_video(tmp_path / "a.mp4")
    assert info.fps == Fraction(30000, 1001) and info.num_frames == 15


def test_a_turned_video_is_read_upright(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=5)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write the rotation")
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)  # counter-clockwise
        frame = np.zeros((32, 64, 3), np.uint8)
        frame[:, 32:] = 255  # white on the right, hence at the top once turned
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    (_, _, frame) = next(read_frames(tmp_path / "a.mp4"))
    assert frame.shape == (3, 64, 32)
    assert frame[:, :28].min() > 230 and frame[:, 36:].max() < 25


def test_a_cut_video_gives_its_frames_and_then_the_error(tmp_path):
    pytest.importorskip("av")
    write_stripes(tmp_path / "whole.mkv", num_frames=48)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    indices = []
    with pytest.raises(InputError, match=r"cut\.mkv") as error:
        for index, _, _ in read_frames(tmp_path / "cut.mkv"):
            indices.append(index)
    assert 0 < len(indices) < 48 and indices == list(range(len(indices)))
    assert f"{len(indices)} frames" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_what_is_no_video_is_one_sentence(tmp_path, content):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4 as a video"):
        next(read_frames(tmp_path / "a.mp4"))


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 10, (16, 16)) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_and_no_frames_are_refused(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(InputError, match="16x16"), VideoWriter(tmp_path / "a.mp4", 10, (16, 16)) as writer:
        writer.write(np.zeros((16, 18, 3), np.uint8))
    with pytest.raises(InputError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 10, (16, 16)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_the_message_holds_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # makes `import av` fail
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"paumer\[video\]"):
        next(read_frames(tmp_path / "a.mp4"))


def test_videos_are_told_by_their_suffix():
    assert is_video("a/b.MP4") and is_video("clip.mkv")
    assert not is_video("photo.jpg") and not is_video("a/._b.mp4") and not is_video("mp4")
