"""Looks through a whole dataset and gathers all that is wrong with it, before a training stumbles over the first.

Knows nothing of models; repairs nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from paumer.data.datasets import Dataset, SegmentationDataset, create_dataset, find_layout, size_text
from paumer.data.images import read_image, read_mask
from paumer.data.layouts import Pair, Pairing, pair_files
from paumer.data.spec import IGNORE, DatasetSpec
from paumer.errors import InputError

EXAMPLES = 5  # how many of each fault the table shows; the JSON has them all


@dataclass(frozen=True)
class UnknownLabel:
    """An id or colour ("R,G,B") in the masks that the dataset does not know."""

    label: str
    pixels: int
    files: int
    example: str


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check_dataset` found. Shares are of pixels: of classes among the labelled, of ignored among all."""

    data: str
    split: str
    pairs: int
    images_without_masks: tuple[str, ...]
    masks_without_images: tuple[str, ...]
    twins: tuple[str, ...]
    unreadable: Mapping[str, str]  # file -> reason
    size_mismatches: Mapping[str, str]  # mask -> sizes
    unknown_labels: tuple[UnknownLabel, ...]
    sizes: Mapping[str, int]  # "WxH" -> images, most frequent first
    class_shares: Mapping[str, float]
    ignored_share: float

    @property
    def ok(self) -> bool:
        """Whether every image can be used. Masks without an image hurt nobody: they are reported, but are no fault."""
        faults = (self.images_without_masks, self.twins, self.unreadable, self.size_mismatches, self.unknown_labels)
        return self.pairs > 0 and not any(faults)

    def to_json(self) -> str:
        """One line for programs."""
        return json.dumps(asdict(self) | {"ok": self.ok})

    def table(self) -> str:
        """Several lines for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.data} {self.split}: {self.pairs} image/mask pairs, {'ok' if self.ok else 'NOT ok'}"
        if self.sizes:
            yield from _section("image sizes", [f"{size}: {n}" for size, n in self.sizes.items()])
        yield from _section("images without a mask", self.images_without_masks)
        yield from _section("masks without an image (harmless)", self.masks_without_images)
        yield from _section("two images of one name", self.twins)
        yield from _section("unreadable", [f"{file}: {reason}" for file, reason in self.unreadable.items()])
        yield from _section("mask and image of other size", [f"{m}: {s}" for m, s in self.size_mismatches.items()])
        yield from _section(
            "unknown labels",
            [f"{u.label}: {u.pixels} pixels in {u.files} files, such as {u.example}" for u in self.unknown_labels],
        )
        yield f"ignored pixels: {self.ignored_share:.2%}; share of each class in the others:"
        width = max(map(len, self.class_shares))
        for name, share in self.class_shares.items():
            yield f"  {name:<{width}}  {share:8.3%}" + ("" if share else "  never seen")


def _section(title: str, entries: list[str] | tuple[str, ...]) -> Iterator[str]:
    if not entries:
        return
    yield f"{title}: {len(entries)}"
    yield from (f"  {entry}" for entry in entries[:EXAMPLES])
    if len(entries) > EXAMPLES:
        yield f"  ... and {len(entries) - EXAMPLES} more"


@dataclass(frozen=True)
class _Finding:
    """What one pair says."""

    mask: str
    unreadable: Mapping[str, str] = field(default_factory=dict)
    size: str | None = None
    mismatch: str | None = None
    unknown: Mapping[str, int] = field(default_factory=dict)
    counts: np.ndarray | None = None  # (256,) pixels of each train id


def check_dataset(
    data: str | Path | Dataset,
    split: str = "val",
    root: str | Path | None = None,
    *,
    num_workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Open every image and mask of a split and gather all faults, rather than stop at the first.

    ``data`` is what :func:`paumer.data.create_dataset` takes (with ``split`` and ``root``), or a dataset. The files are
    read by ``num_workers`` threads; ``progress(done, total)`` is called after each pair. Raises :class:`InputError`
    only where there is nothing to look at: an unknown dataset, a missing folder, a faulty YAML.
    """
    if str(data) == "scenes":
        data = create_dataset(str(data), split, root)
    if isinstance(data, SegmentationDataset):
        layout = data.layout
    elif isinstance(data, str | Path):
        layout = find_layout(data, split, root)
    else:
        findings = (_inspect_sample(data, i) for i in range(len(data)))
        return _report(data.spec, getattr(data, "split", split), Pairing((), (), (), ()), findings, len(data), progress)
    pairing = pair_files(layout)
    with ThreadPoolExecutor(num_workers) as pool:
        findings = pool.map(lambda pair: _inspect(layout.spec, pair), pairing.pairs)
        return _report(layout.spec, layout.split, pairing, findings, len(pairing.pairs), progress)


def _inspect(spec: DatasetSpec, pair: Pair) -> _Finding:
    unreadable, image, raw, found = {}, None, None, None
    try:
        image = read_image(pair.image)
    except InputError as error:
        unreadable[str(pair.image)] = str(error)
    try:
        raw = read_mask(pair.mask, colors=spec.colors is not None)
        found = spec.look_up(raw, pair.mask, pair.train_ids)
    except InputError as error:
        unreadable[str(pair.mask)] = str(error)
    size = None if image is None else size_text(image.shape[1:])
    mismatch = None
    if size is not None and raw is not None and size_text(raw.shape) != size:
        mismatch = f"mask {size_text(raw.shape)}, image {size}"
    if raw is None or found is None:
        return _Finding(str(pair.mask), unreadable, size, mismatch)
    unknown = spec.count_unknown(raw, found) if (found < 0).any() else {}
    counts = np.bincount(found[found >= 0], minlength=256)
    return _Finding(str(pair.mask), unreadable, size, mismatch, unknown, counts)


def _inspect_sample(dataset: Dataset, index: int) -> _Finding:
    """A pair of a dataset that is not read from files."""
    try:
        sample = dataset[index]
    except InputError as error:
        return _Finding(f"sample {index}", {f"sample {index}": str(error)})
    mask, size = sample.mask.numpy(), size_text(sample.image.shape[1:])
    mismatch = None if size_text(mask.shape) == size else f"mask {size_text(mask.shape)}, image {size}"
    known = (mask < dataset.spec.num_classes) | (mask == IGNORE)
    unknown = {str(i): int(n) for i, n in zip(*np.unique(mask[~known], return_counts=True), strict=True)}
    return _Finding(sample.name, {}, size, mismatch, unknown, np.bincount(mask[known], minlength=256))


def _report(
    spec: DatasetSpec,
    split: str,
    pairing: Pairing,
    findings: Iterator[_Finding],
    total: int,
    progress: Callable[[int, int], None] | None,
) -> CheckReport:
    unreadable: dict[str, str] = {}
    mismatches: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    counts = np.zeros(256, np.int64)
    for done, finding in enumerate(findings, start=1):
        unreadable |= finding.unreadable
        if finding.size is not None:
            sizes[finding.size] += 1
        if finding.mismatch is not None:
            mismatches[finding.mask] = finding.mismatch
        pixels.update(finding.unknown)
        for label in finding.unknown:
            files.setdefault(label, []).append(finding.mask)
        if finding.counts is not None:
            counts += finding.counts
        if progress is not None:
            progress(done, total)
    labelled = max(int(counts[: spec.num_classes].sum()), 1)
    return CheckReport(
        data=spec.name,
        split=split,
        pairs=total,
        images_without_masks=tuple(map(str, pairing.images_without_masks)),
        masks_without_images=tuple(map(str, pairing.masks_without_images)),
        twins=tuple(f"{a} and {b}" for a, b in pairing.twins),
        unreadable=unreadable,
        size_mismatches=mismatches,
        unknown_labels=tuple(UnknownLabel(k, n, len(files[k]), files[k][0]) for k, n in pixels.most_common()),
        sizes=dict(sizes.most_common()),
        class_shares={name: int(counts[i]) / labelled for i, name in enumerate(spec.names)},
        ignored_share=int(counts[IGNORE]) / max(int(counts.sum()), 1),
    )
