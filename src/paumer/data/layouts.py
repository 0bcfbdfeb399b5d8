"""How the tree of a dataset is laid out: templates find its files, and images go with masks of their name.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paumer.data.images import is_image_name
from paumer.data.spec import DatasetSpec
from paumer.errors import InputError

SPLITS = ("train", "val", "test")


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
    prefix, rest = split_template(template)
    pattern = _template_regex(rest)
    only_stem = set(template_words(rest.rsplit("/", 1)[-1])) == {"stem"}
    files = []
    for below in _walk(root / prefix, depth=None if "**" in rest or "{parent}" in rest else rest.count("/")):
        if match := pattern.fullmatch(below):
            folder, _, file = below.rpartition("/")
            words = {"stem": Path(file).stem, "parent": folder, **match.groupdict("")}
            stem = words["stem"] if only_stem else Path(file).stem
            files.append(FoundFile(root / prefix / below, f"{folder}/{stem}".lstrip("/"), words))
    return sorted(files, key=lambda found: found.path)


def split_template(template: str) -> tuple[str, str]:
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


def template_words(template: str) -> list[str]:
    """The ``{words}`` of a template, each once."""
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
        keys = template_words(source.template)
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


def existing_folder(root: str | Path, name: str) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"no such folder for {name}: {root}; give the dataset's folder with --root DIR")
    return root
