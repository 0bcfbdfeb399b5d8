"""Many files: finds images and videos, segments each, and writes masks, pictures and a manifest of what was done.

Knows nothing of models; a file that cannot be read is reported and does not stop the others.
"""

from __future__ import annotations

import glob
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from paumer.data.images import is_image_name
from paumer.errors import InputError
from paumer.files import make_folder, write_folder_beside, write_text
from paumer.prediction import KINDS, Prediction, check_kinds, describe_views
from paumer.predictor import Predictor, as_image
from paumer.video import VideoWriter, is_video, probe_video, read_frames

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictReport:
    """What became of the files: a record each (a line of ``predictions.jsonl``) or the reason why there is none.

    A damaged video is in both: what could be read of it is done.
    """

    done: tuple[dict[str, Any], ...]
    failed: tuple[tuple[str, str], ...]  # (path, reason)


@dataclass(frozen=True)
class _Source:
    path: Path
    name: str  # of its results, without suffix; may hold folders

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    kinds: Sequence[str] | None = None,
    label_ids: bool = False,
    overwrite: bool = False,
    batch_size: int = 1,
    progress: bool = True,
) -> PredictReport:
    """Segments image and video files and writes ``out/masks/NAME.png`` and so on, and ``out/predictions.jsonl``.

    A file that cannot be read is reported and left out; the others are done. NAME is that of the file, below a folder
    its path inside that folder; if two files would get the same name, the later one's ends in ``_2``.

    Args:
        inputs: files, folders (with all that is in them) and globs (``photos/**/*.jpg``). Hidden files are left out.
        kinds: keys of :data:`KINDS`. None: for images mask and overlay, and with pausing, paused and entropy where
            they exist; for videos the overlay.
        label_ids: masks in the data set's own ids.
        overwrite: replace results that are there already.
        batch_size: so many image files are read together, and those of one size go through the model together. Of
            influence on the results only where a share of the batch pauses. Videos go frame by frame.
        progress: a bar on stderr.

    Raises:
        InputError: no inputs, nowhere to write, results in the way, kinds that this predictor cannot show.
    """
    if batch_size < 1:
        raise InputError(f"a batch has at least 1 image, got {batch_size}")
    out = Path(out)
    sources, failed = _find_sources(inputs, out)
    if not sources:
        raise InputError(f"nothing to segment: {'; '.join(f'{path}: {reason}' for path, reason in failed)}")
    plan = {source: _choose_kinds(predictor, kinds, source) for source in sources}
    manifest = out / "predictions.jsonl"
    if not overwrite:
        _check_free([manifest, *(_target(out, source, kind) for source in sources for kind in plan[source])])
    make_folder(out)
    done: list[dict[str, Any]] = []
    lines = [{"input": path, "error": reason} for path, reason in failed]
    bar = tqdm(total=len(sources), desc="predicting", unit="file", disable=not progress)
    try:
        for batch in _in_batches(sources, batch_size):
            if batch[0].is_video:
                records = [_predict_video(predictor, batch[0], out, plan[batch[0]], label_ids, progress)]
            else:
                records = _predict_images(predictor, batch, out, plan, label_ids)
            for source, record in zip(batch, records, strict=True):
                lines.append(record)
                if record.keys() != {"input", "error"}:  # more than the reason why there is nothing
                    done.append(record)
                if "error" in record:
                    failed.append((str(source.path), record["error"]))
            bar.update(len(batch))
    finally:
        bar.close()
        # An interrupted run still says what it has done.
        write_text(manifest, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return PredictReport(tuple(done), tuple(failed))


def _find_sources(inputs: Sequence[str | Path], out: Path) -> tuple[list[_Source], list[tuple[str, str]]]:
    """Every file once, with a name of its own; and what gave no file, with the reason."""
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    found: dict[Path, tuple[Path, str]] = {}
    failed = []
    for text in inputs:
        files = list(_expand(Path(text), out))
        if not files:
            is_there = Path(text).exists()
            failed.append((str(text), "no images or videos in it" if is_there else "no such file, folder or match"))
        for path, name in files:
            found.setdefault(path.resolve(), (path, name))
    if not inputs:
        failed.append(("no inputs", "give image or video files, folders or globs"))
    return _name_apart(list(found.values())), failed


def _expand(path: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """The files that an input stands for, each with the name it would like its results to have."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            hidden = any(part.startswith(".") for part in inside.parts)
            if not hidden and _is_input(file) and not _is_result(file, out):
                yield file, inside.with_suffix("").as_posix()
    elif path.exists():
        yield path, path.stem  # named outright, so it is tried whatever its suffix is
    else:
        for file in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if _is_input(file) and not _is_result(file, out):
                yield file, file.stem


def _is_input(file: Path) -> bool:
    return (is_image_name(file.name) or is_video(file)) and file.is_file()


def _is_result(file: Path, out: Path) -> bool:
    """Whether it was written by an earlier run into the folder that is read now."""
    if not (out / "predictions.jsonl").is_file():
        return False
    return any(file.resolve().is_relative_to((out / folder).resolve()) for folder, _ in KINDS.values())


def _name_apart(files: Sequence[tuple[Path, str]]) -> list[_Source]:
    """Gives every file a name of its own, also on file systems that take ``A`` for ``a``."""
    taken: set[str] = set()
    names: dict[Path, str] = {}
    # Videos last: theirs is also a folder of masks, in which no image's may lie.
    for path, wish in sorted(files, key=lambda file: is_video(file[0])):
        name, count = wish, 1
        while name.casefold() in taken or any(other.startswith(name.casefold() + "/") for other in taken):
            count += 1
            name = f"{wish}_{count}"
        taken.add(name.casefold())
        names[path] = name
    return [_Source(path, names[path]) for path, _ in files]


def _choose_kinds(predictor: Predictor, kinds: Sequence[str] | None, source: _Source) -> list[str]:
    pauses = bool(predictor.pause.steps)
    scores = predictor.model.aux_head is not None
    if kinds is None:
        if source.is_video:
            return ["overlay"]
        shown = pauses and predictor.shows_patches
        return ["mask", "overlay", *(["paused"] if shown else []), *(["entropy"] if shown and scores else [])]
    if not kinds:
        raise InputError(f"no kind of result is asked for: name some of {', '.join(KINDS)}")
    check_kinds(kinds)
    if source.is_video and "figure" in kinds:
        raise InputError(f"no 'figure' can be drawn for the video {source.path}: ask for overlay, paused or entropy")
    for kind in {"paused", "entropy"} & set(kinds):
        if not pauses:
            raise InputError(f"'{kind}' shows nothing while nothing pauses: give a pause such as '5:0.6'")
        if not predictor.shows_patches:
            raise InputError(
                f"'{kind}' cannot be shown with {describe_views(predictor.inference)}, where every view pauses its own "
                "patches: use the mode 'whole', one scale and no flip"
            )
        if kind == "entropy" and not scores:
            raise InputError("'entropy' is unknown: this model has no auxiliary head; train it with pausing")
    return list(dict.fromkeys(kinds))


def _target(out: Path, source: _Source, kind: str) -> Path:
    folder, suffix = KINDS[kind]
    if source.is_video:
        suffix = "" if kind == "mask" else ".mp4"  # masks are a folder of frames
    return out / folder / f"{source.name}{suffix}"


def _check_free(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} is there already: give another folder to write to, or allow to overwrite it")


def _in_batches(sources: Sequence[_Source], batch_size: int) -> Iterator[list[_Source]]:
    """All in their order: images so many at a time, each video alone."""
    images: list[_Source] = []
    for source in sources:
        if images and (source.is_video or len(images) == batch_size):
            yield images
            images = []
        if source.is_video:
            yield [source]
        else:
            images.append(source)
    if images:
        yield images


def _predict_images(
    predictor: Predictor, sources: Sequence[_Source], out: Path, plan: Mapping[_Source, Sequence[str]], label_ids: bool
) -> list[dict[str, Any]]:
    """A record for each image: what was made of it, or the reason why nothing was."""
    start = time.perf_counter()
    pixels: dict[_Source, Tensor] = {}
    records: dict[_Source, dict[str, Any]] = {}
    for source in sources:
        try:
            pixels[source] = as_image(source.path)
        except InputError as error:
            records[source] = _failure(source, error)
    predictions = _predict_together(predictor, pixels)
    seconds = (time.perf_counter() - start) / len(sources)
    for source, prediction in predictions.items():
        if isinstance(prediction, InputError):
            records[source] = _failure(source, prediction)
            continue
        targets = {kind: _target(out, source, kind) for kind in plan[source]}
        try:
            for kind, path in targets.items():
                prediction.save(path, kind, label_ids=label_ids)
        except InputError as error:
            records[source] = _failure(source, error)
            continue
        records[source] = {
            "input": str(source.path),
            **{kind: path.relative_to(out).as_posix() for kind, path in targets.items()},
            "seconds": round(seconds, 4),  # to read and to segment
            **prediction.to_dict(),
        }
    return [records[source] for source in sources]


def _predict_together(predictor: Predictor, pixels: Mapping[_Source, Tensor]) -> dict[_Source, Prediction | InputError]:
    """What becomes of images that are read: one by one where they do not fit into the memory together."""
    try:
        return dict(zip(pixels, predictor.predict_batch(list(pixels.values())), strict=True))
    except InputError as error:
        if len(pixels) == 1:
            return dict.fromkeys(pixels, error)
        log.warning("%s; its images go one by one", error)
    found: dict[_Source, Prediction | InputError] = {}
    for source, image in pixels.items():
        found |= _predict_together(predictor, {source: image})
    return found


def _failure(source: _Source, error: InputError) -> dict[str, Any]:
    return {"input": str(source.path), "error": str(error)}


def _predict_video(
    predictor: Predictor, source: _Source, out: Path, kinds: Sequence[str], label_ids: bool, progress: bool
) -> dict[str, Any]:
    """A record of what was made of the video, or the reason why nothing was."""
    try:
        return _segment_video(predictor, source, out, kinds, label_ids, progress)
    except InputError as error:
        return _failure(source, error)


def _segment_video(
    predictor: Predictor, source: _Source, out: Path, kinds: Sequence[str], label_ids: bool, progress: bool
) -> dict[str, Any]:
    start = time.perf_counter()
    info = probe_video(source.path)
    damage: list[str] = []
    frames = _readable_frames(source.path, damage)
    frames = tqdm(frames, source.path.name, info.num_frames, unit="frame", leave=False, disable=not progress)
    targets = {kind: _target(out, source, kind) for kind in kinds}
    shares = np.zeros(predictor.model.config.num_classes)
    num_frames, size = 0, (0, 0)
    with ExitStack() as stack:
        writers: dict[str, VideoWriter] = {}
        masks: Path | None = None
        for frame in frames:
            prediction = predictor(frame)
            if not num_frames:
                size = prediction.mask.shape
                for kind in kinds:
                    if kind == "mask":
                        masks = stack.enter_context(write_folder_beside(targets[kind]))
                    else:
                        writers[kind] = stack.enter_context(VideoWriter(targets[kind], info.fps, size))
            num_frames += 1
            shares += np.bincount(prediction.mask.ravel(), minlength=len(shares)) / prediction.mask.size
            for kind, writer in writers.items():
                writer.write(np.asarray(prediction.plot(kind)))
            if masks is not None:
                prediction.save(masks / f"{num_frames:06d}.png", label_ids=label_ids)
    if not num_frames:
        raise InputError(damage[0])
    found = zip(predictor.names, (shares / num_frames).round(6).tolist(), strict=True)
    return {
        "input": str(source.path),
        **{kind: path.relative_to(out).as_posix() for kind, path in targets.items()},
        "seconds": round(time.perf_counter() - start, 4),
        "width": size[1],
        "height": size[0],
        "frames": num_frames,
        "fps": float(info.fps),
        "pause": str(predictor.pause),
        "shares": {name: share for name, share in found if share},
        **({"error": damage[0]} if damage else {}),
    }


def _readable_frames(path: Path, damage: list[str]) -> Iterator[Tensor]:
    """The frames that can be decoded; what is wrong with the video, if anything, is put into ``damage`` at the end."""
    try:
        for _, _, frame in read_frames(path):
            yield frame
    except InputError as error:
        damage.append(str(error))
