"""Labelled images on disk: one dataset to read them all, and the public ones it knows by name.

Knows nothing of augmentation, batches or models. Cityscapes, ADE20K, CamVid are known by name, others by a YAML file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from paumer.data.images import read_image, read_mask
from paumer.data.layouts import SPLITS, Layout, MaskSource, Pairing, existing_folder, pair_files
from paumer.data.spec import DatasetSpec, as_palette, distinct_palette
from paumer.data.yaml_dataset import yaml_layout
from paumer.errors import InputError, did_you_mean


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled image."""

    image: Tensor  # uint8 (3, H, W), RGB
    mask: Tensor  # uint8 (H, W), train ids, 255 = ignore
    name: str


class Dataset(Protocol):
    """What a training or an evaluation asks of labelled images."""

    spec: DatasetSpec

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class SegmentationDataset:
    """Labelled images of one split, paired by name when it is made and opened when they are asked for."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.spec = layout.spec
        pairing = pair_files(layout)
        _check_pairing(layout, pairing)
        self.pairs = pairing.pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        raw = read_mask(pair.mask, colors=self.spec.colors is not None)
        if raw.shape[:2] != tuple(image.shape[1:]):
            raise InputError(
                f"{pair.mask} is {size_text(raw.shape)} but its image {pair.image} {size_text(image.shape[1:])}"
            )
        return Sample(image, torch.from_numpy(self.spec.encode(raw, pair.mask, pair.train_ids)), pair.name)


def size_text(shape: tuple[int, ...]) -> str:
    """(H, W) -> "WxH", as image programs say it."""
    return f"{shape[1]}x{shape[0]}"


def _check_pairing(layout: Layout, pairing: Pairing) -> None:
    what = f"{layout.spec.name} {layout.split}"
    if pairing.twins:
        first, second = pairing.twins[0]
        raise InputError(f"two images of one name in {what}: {first} and {second}; keep one of them")
    if pairing.images_without_masks:
        alone = pairing.images_without_masks
        names = ", ".join(p.name for p in alone[:3]) + (", ..." if len(alone) > 3 else "")
        wanted = " or ".join(str(layout.root / s.template) for s in layout.masks)
        raise InputError(f"{len(alone)} of {what}'s images have no mask ({names}): expected {wanted}")
    if not pairing.pairs:
        raise InputError(f"no images for {what}: expected {layout.root / layout.images}, and {_contents(layout.root)}")


def _contents(folder: Path) -> str:
    entries = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    return f"{folder} holds {', '.join(entries[:8]) + (', ...' if len(entries) > 8 else '') or 'nothing'}"


# --- the datasets known by name ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownDataset:
    """A public dataset's tree: its words for the splits, and the folder that its archive makes (``home``)."""

    images: str
    masks: tuple[MaskSource, ...]
    splits: Mapping[str, str]
    home: str = ""


_SAME = {split: split for split in SPLITS}
KNOWN_DATASETS: Mapping[str, KnownDataset] = {
    "camvid": KnownDataset("{split}/{stem}.*", (MaskSource("{split}annot/{stem}.png"),), _SAME),
    "cityscapes": KnownDataset(
        "leftImg8bit/{split}/{parent}/{stem}_leftImg8bit.*",
        (
            MaskSource("gtFine/{split}/{parent}/{stem}_gtFine_labelTrainIds.png", train_ids=True),
            MaskSource("gtFine/{split}/{parent}/{stem}_gtFine_labelIds.png"),
        ),
        _SAME,
    ),
    "ade20k": KnownDataset(
        "images/{split}/{stem}.*",
        (MaskSource("annotations/{split}/{stem}.png"),),
        {"train": "training", "val": "validation"},
        home="ADEChallengeData2016",
    ),
}


@lru_cache
def known_spec(name: str) -> DatasetSpec:
    """The classes of a dataset known by name, from ``labels/<name>.json``."""
    labels = json.loads((resources.files("paumer.data") / "labels" / f"{name}.json").read_text(encoding="utf-8"))
    names = tuple(labels["names"])
    palette = as_palette(labels["palette"]) if "palette" in labels else distinct_palette(len(names))
    if "labels" not in labels:  # ids in the order of the names
        first = labels["first_label"]
        ids = tuple(range(first, first + len(names)))
        return DatasetSpec(name, names, palette, label_ids=ids if first else None, ignore_label=labels["ignore_label"])
    table = tuple((label, train_id) for label, train_id in labels["labels"].values())
    own = {train_id: label for label, train_id in table}
    ids = tuple(own[i] for i in range(len(names)))
    return DatasetSpec(name, names, palette, label_ids=ids, ignore_label=labels["ignore_label"], table=table)


def create_dataset(data: str | Path, split: str = "val", root: str | Path | None = None, **options: Any) -> Dataset:
    """One split ("train", "val", "test") of a dataset: "camvid", "cityscapes", "ade20k", "scenes", or a YAML file.

    ``root`` is the folder of the data; a YAML file says it itself (``path``) unless ``root`` is given, and "scenes" are
    made up, not read: they take ``size`` and ``num_images`` instead (:class:`paumer.data.scenes.SceneDataset`).
    Raises :class:`InputError` if there are no images, or images without masks; files are opened only on use.
    """
    if str(data) == "scenes":
        from paumer.data.scenes import SceneDataset

        if root is not None:
            raise InputError(f"'scenes' are made up and need no folder, got --root {root}: leave it out")
        _check_split(split)
        return SceneDataset(split=split, **options)
    if options:
        raise InputError(f"{data} takes no options, got {', '.join(options)}: these are for 'scenes'")
    return SegmentationDataset(find_layout(data, split, root))


def find_layout(data: str | Path, split: str = "val", root: str | Path | None = None) -> Layout:
    """Where the split's files should be and what they mean; as :func:`create_dataset`, but nothing is listed yet."""
    _check_split(split)
    if Path(data).suffix.lower() in (".yaml", ".yml"):
        return yaml_layout(Path(data), split, root)
    name = str(data)
    if name not in KNOWN_DATASETS:
        tail = did_you_mean(name, [*KNOWN_DATASETS, "scenes"])
        raise InputError(f"unknown dataset '{name}': {tail} (for your own data, give the path of a .yaml file)")
    known = KNOWN_DATASETS[name]
    if root is None:
        raise InputError(f"{name} is read from a folder: give --root DIR, which holds {known.images}")
    if split not in known.splits:
        raise InputError(f"{name} has no labelled '{split}' split: known: {', '.join(known.splits)}")
    root = existing_folder(root, name)
    if known.home and (root / known.home).is_dir():
        root = root / known.home
    word = known.splits[split]
    masks = tuple(MaskSource(m.template.replace("{split}", word), m.train_ids) for m in known.masks)
    return Layout(known_spec(name), split, root, known.images.replace("{split}", word), masks)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}': {did_you_mean(split, SPLITS)}")
