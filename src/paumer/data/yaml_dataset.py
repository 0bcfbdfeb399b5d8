"""One's own data: a YAML file that says where its images and masks are and what its labels mean.

Knows nothing of datasets known by name. The keys are explained in `docs/data.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from paumer.data.layouts import SPLITS, Layout, MaskSource, existing_folder, split_template, template_words
from paumer.data.spec import IGNORE, Color, ColorTable, DatasetSpec, Table, as_palette, distinct_palette
from paumer.errors import InputError, did_you_mean

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
    words = [*template_words(images), "stem", "parent"]
    if unknown := [word for word in template_words(masks) if word not in words]:
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
    last = Path(split_template(images)[0]).name
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
    return as_palette(palette)
