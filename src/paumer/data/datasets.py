"""Labelled images on disk: how their trees are laid out, what their label ids mean, and one dataset to read them all.

Knows nothing of augmentation, batches or models. Cityscapes, ADE20K, CamVid are known by name, others by a YAML file.
"""

from __future__ import annotations

import colorsys
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from torch import Tensor

from paumer.data.images import is_image_name, read_image, read_mask
from paumer.errors import InputError, did_you_mean

IGNORE = 255  # the train id of pixels that count for nothing, in every mask of this package
SPLITS = ("train", "val", "test")

Color = tuple[int, int, int]
Table = tuple[tuple[int, int], ...]  # (id in the file, train id) pairs
ColorTable = tuple[tuple[Color, int], ...]  # (colour in the file, train id) pairs


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


# --- classes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetSpec:
    """The classes of a dataset and how its files write them down.

    ``label_ids`` is the dataset's own id of each class (None: the same as the train id) and ``ignore_label`` its own id
    of ignored pixels. ``table`` holds every id that a file may contain with its train id (None: what ``label_ids`` and
    ``ignore_label`` say); for colour-coded masks ``colors`` holds the colours instead.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = IGNORE
    label_ids: tuple[int, ...] | None = None
    ignore_label: int = IGNORE
    table: Table | None = None
    colors: ColorTable | None = None

    def __post_init__(self) -> None:
        assert len(self.palette) == len(self.names) == len(self.label_ids or self.names)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def label_palette(self) -> tuple[Color, ...]:
        """The palette by the dataset's own ids, for masks that went through :meth:`decode`; unused ids are black."""
        if self.label_ids is None:
            return self.palette
        colors = dict(zip(self.label_ids, self.palette, strict=True))
        return tuple(colors.get(i, (0, 0, 0)) for i in range(max(self.label_ids) + 1))

    @cached_property
    def id_table(self) -> Table:
        """Every id that the dataset's masks may hold, with its train id."""
        if self.table is not None:
            return self.table
        ids = self.label_ids or tuple(range(self.num_classes))
        return (*((label, i) for i, label in enumerate(ids)), (self.ignore_label, IGNORE))

    def encode(self, raw: np.ndarray, source: str | Path = "the mask", train_ids: bool = False) -> np.ndarray:
        """What a mask file holds -> train ids, uint8 (H, W): ids (H, W), or colours (H, W, 3) if the dataset has those.

        With ``train_ids`` the file holds train ids already. Raises :class:`InputError` on ids or colours that the
        dataset does not know, naming ``source``.
        """
        mask = self.look_up(raw, source, train_ids)
        if (mask < 0).any():
            unknown = self.count_unknown(raw, mask)
            found = ", ".join(f"{label} ({n} pixels)" for label, n in list(unknown.items())[:10])
            table = self._train_id_table if train_ids else self.id_table
            known = "the colours of its color_mapping" if self.colors else _ranges(sorted(label for label, _ in table))
            raise InputError(f"{source} holds labels that {self.name} does not know: {found}; known: {known}")
        return mask.astype(np.uint8)

    def look_up(self, raw: np.ndarray, source: str | Path = "the mask", train_ids: bool = False) -> np.ndarray:
        """As :meth:`encode`, but int16 with -1 where the dataset does not know the label."""
        if self.colors is not None:
            if raw.ndim != 3:
                raise InputError(
                    f"{source} holds ids of shape {raw.shape}, but {self.name} describes colours (H, W, 3)"
                )
            return _look_up_colors(raw, self.colors)
        if raw.ndim != 2:
            raise InputError(
                f"{source} is a colour picture, but {self.name} has label ids: describe it by 'color_mapping'"
            )
        low, lookup = _lookup_table(self._train_id_table if train_ids else self.id_table)
        return lookup.take(raw.astype(np.int64) - low + 1, mode="clip")

    def count_unknown(self, raw: np.ndarray, mask: np.ndarray) -> dict[str, int]:
        """The labels of ``raw`` that :meth:`look_up` did not know, as a person writes them, and their pixels."""
        values = raw[mask < 0]
        if self.colors is not None:
            counts = zip(*np.unique(_pack_colors(values), return_counts=True), strict=True)
            return {f"{c >> 16},{c >> 8 & 255},{c & 255}": int(n) for c, n in counts}
        return {str(i): int(n) for i, n in zip(*np.unique(values, return_counts=True), strict=True)}

    def decode(self, mask: np.ndarray | Tensor) -> np.ndarray:
        """Train ids (H, W) -> the dataset's own ids, uint8 or (ids above 255) uint16; the inverse of :meth:`encode`.

        Where several of the dataset's ids are one class, the first of them is written.
        """
        ids = self.label_ids or tuple(range(self.num_classes))
        dtype = np.uint8 if max(*ids, self.ignore_label) <= 255 else np.uint16
        table = np.full(256, self.ignore_label, dtype)
        table[: len(ids)] = ids
        return table[np.asarray(mask)]

    @cached_property
    def _train_id_table(self) -> Table:
        return (*((i, i) for i in range(self.num_classes)), (IGNORE, IGNORE))


@lru_cache(maxsize=32)
def _lookup_table(table: Table) -> tuple[int, np.ndarray]:
    """(smallest id ``low``, int16 train ids): id ``i`` stands at ``i - low + 1``, -1 where unknown and at both ends."""
    ids, train_ids = np.array(table, np.int64).T
    low = int(ids.min())
    lookup = np.full(int(ids.max()) - low + 3, -1, np.int16)
    lookup[ids - low + 1] = train_ids
    return low, lookup


def _look_up_colors(raw: np.ndarray, colors: ColorTable) -> np.ndarray:
    codes, train_ids = np.array(sorted((int(_pack_colors(np.array(color))), i) for color, i in colors)).T
    packed = _pack_colors(raw)
    places = np.searchsorted(codes, packed).clip(max=len(codes) - 1)
    return np.where(codes[places] == packed, train_ids[places], -1).astype(np.int16)


def _pack_colors(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) -> one integer each, 0xRRGGBB."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue


def _ranges(ids: list[int]) -> str:
    """[0, 1, 2, 7] -> "0..2, 7"."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def distinct_palette(num_colors: int) -> tuple[Color, ...]:
    """Colours that tell classes apart, always the same ones: hues a golden ratio apart, five shades in turn.

    Consecutive hues of the golden-ratio walk are far from each other however many there are, and the shades separate
    those that come close again. Used where a dataset brings no colours of its own.
    """
    shades = ((0.75, 0.9), (0.5, 0.7), (1.0, 0.6), (0.35, 1.0), (0.9, 0.4))  # (saturation, value)
    golden = (5**0.5 - 1) / 2
    colors = (colorsys.hsv_to_rgb((i * golden) % 1, *shades[i % len(shades)]) for i in range(num_colors))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors)


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskSource:
    """Where masks are, as a template, and whether they hold train ids instead of the dataset's own."""

    template: str
    train_ids: bool = False


@dataclass(frozen=True)
class Layout:
    """One split of a dataset on disk: the classes, and templates (see :func:`find_files`) of images and of masks.

    Of several ``masks`` the first that has a file for the image counts.
    """

    spec: DatasetSpec
    split: str
    root: Path
    images: str
    masks: tuple[MaskSource, ...]


@dataclass(frozen=True)
class Pair:
    image: Path
    mask: Path
    name: str
    train_ids: bool  # the mask holds train ids, not the dataset's own


@dataclass(frozen=True)
class Pairing:
    """What a split's folders hold; everything sorted by name."""

    pairs: tuple[Pair, ...]
    images_without_masks: tuple[Path, ...]
    masks_without_images: tuple[Path, ...]
    twins: tuple[tuple[Path, Path], ...]  # two images of one name, such as a.png and a.jpg


@dataclass(frozen=True)
class FoundFile:
    path: Path
    name: str  # folder/stem, below the template's fixed part
    words: Mapping[str, str]  # the text that stood for each {word} of the template


def find_files(root: Path, template: str) -> list[FoundFile]:
    """Image files that match a template below ``root``, sorted by path.

    A template is a folder (all images in it, at any depth), a glob (``*``, ``?``, ``**/``), or has ``{words}`` that
    match one file or folder name each, like ``images/{city}/{stem}.png``. ``{parent}/`` matches any number of folders,
    none too. Where a template does not say them, ``stem`` is the file's name without extension and ``parent`` its
    folder relative to the template's fixed part.
    """
    prefix, rest = _split_template(template)
    pattern = _template_regex(rest)
    only_stem = set(_words(rest.rsplit("/", 1)[-1])) == {"stem"}
    files = []
    for below in _walk(root / prefix, depth=None if "**" in rest or "{parent}" in rest else rest.count("/")):
        if match := pattern.fullmatch(below):
            folder, _, file = below.rpartition("/")
            words = {"stem": Path(file).stem, "parent": folder, **match.groupdict("")}
            stem = words["stem"] if only_stem else Path(file).stem
            files.append(FoundFile(root / prefix / below, f"{folder}/{stem}".lstrip("/"), words))
    return sorted(files, key=lambda found: found.path)


def _split_template(template: str) -> tuple[str, str]:
    """ "a/b/*/{stem}.png" -> ("a/b", "*/{stem}.png"); of a plain folder, everything in it."""
    parts = template.rstrip("/").split("/")
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[{*?]", part)), len(parts))
    rest = "/".join(parts[fixed:]) or "**/*"
    rest += "/*" if rest.endswith("**") else ""
    return "/".join(parts[:fixed]) or ("/" if template.startswith("/") else ""), rest


def _template_regex(template: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.+/)?", "*": "[^/]*", "?": "[^/]"}
    seen: set[str] = set()
    regex = ""
    for part in re.split(r"(\{parent\}/|\{\w+\}|\*\*/|\*|\?)", template):
        word = part[1 : part.find("}")] if part.startswith("{") else ""
        if word in seen:
            regex += f"(?P={word})" + ("/" if part.endswith("/") else "")
        elif part == "{parent}/":
            regex += "(?:(?P<parent>.+)/)?"
        elif word:
            regex += f"(?P<{word}>[^/]+)"
        else:
            regex += wild.get(part, re.escape(part))
        seen |= {word} - {""}
    return re.compile(regex)


def _words(template: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", template)))


def _walk(folder: Path, depth: int | None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of image files, relative to ``folder``, down to ``depth`` folders (None: all). Hidden folders are left out.

    Links are followed, but not back into a folder ``above``.
    """
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot list the folder {folder} ({error.strerror}); make it readable") from error
    for entry in entries:
        if not entry.is_dir():
            if is_image_name(entry.name):
                yield entry.name
        elif depth != 0 and not entry.name.startswith("."):
            deeper = _walk(folder / entry.name, None if depth is None else depth - 1, (*above, real))
            yield from (f"{entry.name}/{below}" for below in deeper)


def pair_files(layout: Layout) -> Pairing:
    """List a split's folders and put images and masks together, without opening any file."""
    images: dict[str, FoundFile] = {}
    twins = []
    for image in find_files(layout.root, layout.images):
        if image.name in images:
            twins.append((images[image.name].path, image.path))
        else:
            images[image.name] = image
    pairs: dict[str, Pair] = {}
    orphans: list[Path] = []
    for source in layout.masks:
        keys = _words(source.template)
        masks = {_values(mask, keys): mask.path for mask in reversed(find_files(layout.root, source.template))}
        for name, image in images.items():
            # Taken out of `masks`, so that orphans remain; a mask in a second encoding is none.
            mask = masks.pop(_values(image, keys), None)
            if mask is not None and name not in pairs:
                pairs[name] = Pair(image.path, mask, name, source.train_ids)
        orphans += masks.values()
    return Pairing(
        pairs=tuple(pairs[name] for name in sorted(pairs)),
        images_without_masks=tuple(image.path for name, image in images.items() if name not in pairs),
        masks_without_images=tuple(sorted(orphans)),
        twins=tuple(twins),
    )


def _values(found: FoundFile, keys: list[str]) -> tuple[str, ...]:
    return tuple(found.words[key] for key in keys)


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
    palette = _colors(labels["palette"]) if "palette" in labels else distinct_palette(len(names))
    if "labels" not in labels:  # ids in the order of the names
        first = labels["first_label"]
        ids = tuple(range(first, first + len(names)))
        return DatasetSpec(name, names, palette, label_ids=ids if first else None, ignore_label=labels["ignore_label"])
    table = tuple((label, train_id) for label, train_id in labels["labels"].values())
    own = {train_id: label for label, train_id in table}
    ids = tuple(own[i] for i in range(len(names)))
    return DatasetSpec(name, names, palette, label_ids=ids, ignore_label=labels["ignore_label"], table=table)


def _colors(palette: list[list[int]]) -> tuple[Color, ...]:
    return tuple((r, g, b) for r, g, b in palette)


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


def existing_folder(root: str | Path, name: str) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"no such folder for {name}: {root}; give the dataset's folder with --root DIR")
    return root


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}': {did_you_mean(split, SPLITS)}")


# --- one's own data: a YAML file --------------------------------------------------------------------------------------

YAML_KEYS = (
    "path", *SPLITS, "masks_dir", "mask_template",
    "names", "palette", "ignore_index", "label_mapping", "color_mapping",
)  # fmt: skip


class _StrictLoader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word; in a label table that is a silent mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} stands twice", node.value[i][0].start_mark
                )
        return super().construct_mapping(node, deep)


def yaml_layout(path: Path, split: str, root: str | Path | None = None) -> Layout:
    """The split that a dataset YAML describes (``docs/data.md``); ``root`` takes the place of its ``path``."""
    entries = _read_yaml(path)
    for key in entries:
        if key not in YAML_KEYS:
            raise InputError(f"{path}: unknown key '{key}': {did_you_mean(str(key), YAML_KEYS)}")
    if split not in entries:
        given = ", ".join(s for s in SPLITS if s in entries) or "none"
        raise InputError(f"{path} has no '{split}' images: it gives {given}; add the key '{split}'")
    if root is None:
        root = path.parent / Path(_text(path, entries, "path", ".")).expanduser()
    root = existing_folder(root, f"the data of {path.name}")
    images = _text(path, entries, split).replace("{split}", split)
    masks = _mask_template(path, entries, root, images).replace("{split}", split)
    words = [*_words(images), "stem", "parent"]
    if unknown := [word for word in _words(masks) if word not in words]:
        raise InputError(f"{path}: mask_template has {{{unknown[0]}}}: {did_you_mean(unknown[0], [*words, 'split'])}")
    return Layout(_yaml_spec(path, entries), split, root, images, (MaskSource(masks),))


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise InputError(f"cannot read the dataset file {path} ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise InputError(
            f"{path} must hold keys such as path, train, val, masks_dir, names; got {type(entries).__name__}"
        )
    return entries


def _text(path: Path, entries: Mapping[Any, Any], key: str, default: str = "") -> str:
    value = entries.get(key, default)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}: '{key}' must be a text such as images/train, got {value!r}{_yaml_1_1(value)}")
    return value


def _yaml_1_1(value: Any) -> str:
    """A hint, if YAML took a word for something else: no, off -> False; null -> None; 12:30 and 010 -> numbers."""
    return (
        ""
        if isinstance(value, str | list | dict)
        else " (YAML reads words like no, on, null or 1e3 so: put it in quotes)"
    )


def _mask_template(path: Path, entries: Mapping[Any, Any], root: Path, images: str) -> str:
    if ("masks_dir" in entries) == ("mask_template" in entries):
        raise InputError(f"{path} needs either 'masks_dir' (a folder of PNGs) or 'mask_template' (masks/{{stem}}.png)")
    if "mask_template" in entries:
        return _text(path, entries, "mask_template")
    folder = _text(path, entries, "masks_dir").rstrip("/")
    # images/train goes with masks/train where there is one, else with masks.
    last = Path(_split_template(images)[0]).name
    if last and (root / folder / last).is_dir():
        folder = f"{folder}/{last}"
    return folder + "/{parent}/{stem}.png"


def _yaml_spec(path: Path, entries: Mapping[Any, Any]) -> DatasetSpec:
    names = _yaml_names(path, entries.get("names"))
    if "color_mapping" in entries:
        if clash := [key for key in ("label_mapping", "ignore_index") if key in entries]:
            raise InputError(f"{path}: '{clash[0]}' is for masks of ids; with 'color_mapping' write \"R,G,B\": ignore")
        colors = _yaml_colors(path, entries["color_mapping"], names)
        return DatasetSpec(path.stem, names, _yaml_palette(path, entries, names, colors), colors=colors)
    palette = _yaml_palette(path, entries, names, ())
    ignore = entries.get("ignore_index", IGNORE)
    if not _is_id(ignore):
        raise InputError(f"{path}: 'ignore_index' must be the id 0..65535 of ignored pixels, got {ignore!r}")
    if "label_mapping" not in entries:
        if ignore < len(names):
            raise InputError(
                f"{path}: ignore_index {ignore} is also class '{names[ignore]}': say more with 'label_mapping'"
            )
        return DatasetSpec(path.stem, names, palette, ignore_label=ignore)
    table = _yaml_table(path, entries["label_mapping"], names)
    if ignore not in dict(table):
        table = (*table, (ignore, IGNORE))
    ignored = [label for label, i in table if i == IGNORE and label >= 0]
    ids = tuple(next(label for label, i in table if i == k) for k in range(len(names)))
    return DatasetSpec(
        path.stem,
        names,
        palette,
        label_ids=ids,
        ignore_label=ignore if ignore in ignored or not ignored else ignored[0],
        table=table,
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _yaml_names(path: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError(f"{path}: 'names' must count its classes 0, 1, 2 ..., got {', '.join(map(str, names))}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not 1 <= len(names) <= IGNORE:
        raise InputError(f"{path} needs 'names': a list of 1..{IGNORE} class names, or {{0: road, 1: ...}}")
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{path}: a class name must be a text, got {name!r}{_yaml_1_1(name)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: the class name '{name}' stands twice")
    return tuple(names)


def _yaml_class(path: Path, value: Any, names: tuple[str, ...]) -> int:
    """A class as its name or its train id; 255 or "ignore" for none."""
    if value in ("ignore", IGNORE):
        return IGNORE
    if isinstance(value, str):
        if value in names:
            return names.index(value)
        raise InputError(f"{path}: no class is called '{value}': {did_you_mean(value, [*names, 'ignore'])}")
    if not _is_id(value) or value >= len(names):
        wanted = f"a class name, an id 0..{len(names) - 1}, or ignore"
        raise InputError(f"{path}: a label is mapped to {value!r}: give {wanted}{_yaml_1_1(value)}")
    return value


def _yaml_table(path: Path, mapping: Any, names: tuple[str, ...]) -> Table:
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{path}: 'label_mapping' must look like {{7: 0, 8: 1, 0: ignore}}, got {mapping!r}")
    table = tuple((label, _yaml_class(path, value, names)) for label, value in mapping.items())
    for label, i in table:
        if not _is_id(label) and not (label == -1 and i == IGNORE):
            raise InputError(f"{path}: 'label_mapping' maps ids 0..65535, got {label!r}{_yaml_1_1(label)}")
    if missing := set(range(len(names))) - {i for _, i in table}:
        raise InputError(f"{path}: 'label_mapping' gives class '{names[min(missing)]}' no id: give each class one")
    return table


def _yaml_colors(path: Path, mapping: Any, names: tuple[str, ...]) -> ColorTable:
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{path}: 'color_mapping' must look like {{\"64,32,32\": road}}, got {mapping!r}")
    colors: dict[Color, int] = {}
    for text, value in mapping.items():
        parts = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", str(text))
        red, green, blue = map(int, parts.groups()) if parts else (256, 256, 256)
        if max(red, green, blue) > 255:
            raise InputError(f'{path}: a colour must be written "R,G,B" with numbers 0..255, got {text!r}')
        if (red, green, blue) in colors:
            raise InputError(f"{path}: the colour {text} stands twice in 'color_mapping'")
        colors[red, green, blue] = _yaml_class(path, value, names)
    return tuple(colors.items())


def _yaml_palette(
    path: Path, entries: Mapping[Any, Any], names: tuple[str, ...], colors: ColorTable
) -> tuple[Color, ...]:
    """``palette`` if given, else the first colour that stands for each class in the masks, else made up."""
    if "palette" not in entries:
        first = {i: color for color, i in reversed(colors)}
        return tuple(first.get(i, color) for i, color in enumerate(distinct_palette(len(names))))
    palette = entries["palette"]
    fits = isinstance(palette, list) and len(palette) == len(names)
    if not fits or not all(
        isinstance(c, list) and len(c) == 3 and all(_is_id(v) and v < 256 for v in c) for c in palette
    ):
        raise InputError(
            f"{path}: 'palette' must be {len(names)} colours [R, G, B] with numbers 0..255, one for each class"
        )
    return _colors(palette)
