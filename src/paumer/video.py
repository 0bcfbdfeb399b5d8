"""Video files: frames in, frames out, through PyAV (the extra ``video``), which is imported only when one is opened.

Knows nothing of what is done with the frames. Sound is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paumer.errors import InputError, MissingExtraError
from paumer.files import write_beside

VIDEO_EXTENSIONS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})

# H.264 numbers its colour standards; 1 is BT.709 in all three lists.
_BT709 = 1


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says; readers must not rely on it, headers lie."""

    fps: Fraction  # mean frames per second
    duration: float | None  # seconds

    @property
    def num_frames(self) -> int | None:
        return None if self.duration is None else round(self.duration * self.fps)


def is_video(path: str | Path) -> bool:
    """Whether a file of this name is taken for a video; hidden ones are not."""
    path = Path(path)
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".")


def probe_video(path: str | Path) -> VideoInfo:
    """Frame rate and duration; errors as :func:`read_frames`."""
    with _open_stream(path) as (_, container, stream):
        return _info_of(container, stream)


def read_frames(path: str | Path) -> Iterator[tuple[int, float, Tensor]]:
    """``(index, seconds, frame)`` one by one; frames are RGB, uint8 (3, H, W), turned upright.

    A damaged video gives all the frames that can be decoded and then raises.

    Raises:
        InputError: cannot be opened, no pictures in it; after the last frame: damaged, or ends before its time.
        MissingExtraError: PyAV is not installed.
    """
    with _open_stream(path) as (av, container, stream):
        info = _info_of(container, stream)
        index, seconds, broken = 0, 0.0, 0
        for frame in _decode(av, container, stream):
            if frame is None:
                broken += 1
                continue
            seconds = index / float(info.fps) if frame.time is None else frame.time
            yield index, seconds, _upright(frame)
            index += 1
        end = seconds + 1 / float(info.fps) - (stream.start_time or 0) * float(stream.time_base)
        # Headers round, and count sound that outlasts the pictures: only a clear gap means that something is missing.
        missing = info.duration is not None and end < info.duration - max(0.25, 0.05 * info.duration)
        if broken or missing or not index:
            what = f"ends after {end:.1f} of {info.duration:.1f} s" if missing and index else "is damaged or cut off"
            raise InputError(f"the video {path} {what}; {index} frames could be read: copy or encode it again")


def _decode(av: ModuleType, container: Any, stream: Any) -> Iterator[Any]:
    """Frames; ``None`` for a packet that cannot be decoded. What follows it is tried all the same."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:  # the file itself cannot be read any further
            yield None
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield None
            continue
        yield from frames


def _upright(frame: Any) -> Tensor:
    """A decoded frame -> uint8 (3, H, W), turned by the quarter turns that its file asks for."""
    pixels = frame.to_ndarray(format="rgb24")
    # PyAV gives the turn counter-clockwise, which is also how np.rot90 counts.
    pixels = np.rot90(pixels, k=round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _info_of(container: Any, stream: Any) -> VideoInfo:
    fps = stream.average_rate or stream.guessed_rate or Fraction(25)
    if stream.duration:
        return VideoInfo(fps, float(stream.duration * stream.time_base))
    return VideoInfo(fps, container.duration / 1_000_000 if container.duration else None)


@contextmanager
def _open_stream(path: str | Path) -> Iterator[tuple[ModuleType, Any, Any]]:
    """(PyAV, the container, its first picture stream)."""
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    av = _import_av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as a video ({_reason(error)}): is it whole and a video?") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path} holds no pictures: give a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield av, container, stream


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("reading and writing video", "video") from error
    # FFmpeg's own remarks on damaged files would stand between ours on the screen.
    av.logging.set_level(None)
    return av


class VideoWriter:
    """Frames -> an H.264 file (yuv420p, BT.709), written beside its place and renamed once it is complete.

    H.264 in yuv420p has even sizes: a frame with an odd side is widened by one pixel at the right or the bottom, a
    copy of its last column or row. If the block raises, no file is left.

    >>> with VideoWriter("clip.mp4", fps=25, size=(360, 480)) as writer:
    ...     writer.write(np.zeros((360, 480, 3), np.uint8))

    Args:
        path: where to; the suffix chooses the container (``.mp4``, ``.mkv``, ``.mov``).
        fps: frames per second, the same all through.
        size: (height, width) of the frames.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: tuple[int, int]) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(1001)  # 30000/1001 is the finest in use
        self.size = size
        self._num_frames = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._av = _import_av()
        with ExitStack() as stack:
            beside = stack.enter_context(write_beside(self.path))
            try:
                self._container = stack.enter_context(self._av.open(str(beside), "w"))
                self._stream = self._add_stream()
            except (self._av.FFmpegError, ValueError) as error:
                raise InputError(f"cannot write the video {self.path} ({_reason(error)}): write to a .mp4") from error
            stack.push(self._flush)
            self._stack = stack.pop_all()
        return self

    def _add_stream(self) -> Any:
        height, width = self.size
        stream = self._container.add_stream("h264", rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        # Untagged, a player guesses the standard by the size of the picture, and colours shift.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        return stream

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Appends a frame, uint8 (H, W, 3)."""
        height, width = self.size
        if frame.shape != (height, width, 3):
            raise InputError(f"the frames of {self.path} are {height}x{width}, got one of shape {frame.shape}")
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._mux(picture.reformat(format="yuv420p", dst_colorspace=_BT709))
        self._num_frames += 1

    def _mux(self, frame: Any) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise InputError(f"cannot write the video {self.path} ({_reason(error)}); is there space left?") from error

    def _flush(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if not self._num_frames:
            raise InputError(f"no frames for the video {self.path}: write at least one")
        self._mux(None)  # what the encoder still holds back

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
