"""Is a token that is sure also right? Entropies of right and of wrong tokens after each layer, as counts (Fig. 3).

Knows nothing of training or of drawing. Source: PAUMER, section 2.1, for which a linear auxiliary head per layer is
trained on a frozen network (``paumer train --freeze``); any model with auxiliary heads can be studied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from paumer.data.datasets import Dataset
from paumer.data.transforms import resize_to
from paumer.errors import InputError
from paumer.files import write_text
from paumer.model import Segmenter
from paumer.model.criterion import entropy
from paumer.pause import PauseConfig

KIND = "paumer entropy study"
# Finer than a violin shows. The AUROC loses up to 0.005 where two thirds of the right tokens share the first bin, as
# they do after the last layers of `scenes-vit-tiny`; elsewhere far less.
NUM_BINS = 200


@dataclass(frozen=True)
class EntropyStudy:
    """Histograms of token entropies, for each layer one of the tokens it predicts rightly and one of the others.

    ``right[layer][b]`` counts tokens with ``edges[b] <= entropy < edges[b + 1]`` (the last bin includes its end), in
    nats from 0 to ln C. ``conditions`` say what was studied: ``model``, ``data``, ``split``, ``num_images``,
    ``num_classes``, ``aux_head``, and whatever the caller added.
    """

    layers: tuple[int, ...]
    edges: tuple[float, ...]
    right: dict[int, tuple[int, ...]]
    wrong: dict[int, tuple[int, ...]]
    conditions: dict[str, Any]

    @property
    def accuracy(self) -> dict[int, float]:
        """Per layer: right tokens in per cent of all that have a label; nan if there are none."""
        return {layer: _share(sum(self.right[layer]), sum(self.wrong[layer])) for layer in self.layers}

    @property
    def auroc(self) -> dict[int, float]:
        """Per layer: chance (0..1) that a wrong token has a higher entropy than a right one, ties counting half.

        0.5 would make entropy useless for pausing. Tokens in one bin count as ties. nan where no token is wrong or none
        is right.
        """
        return {layer: _chance_of_higher(self.wrong[layer], self.right[layer]) for layer in self.layers}

    def mean(self, counts: Sequence[int]) -> float:
        """Mean entropy in nats of one of the histograms, its tokens taken to lie mid-bin; nan if there are none."""
        middles = ((low + high) / 2 for low, high in pairwise(self.edges))
        total = sum(counts)
        return sum(n * middle for n, middle in zip(counts, middles, strict=True)) / total if total else math.nan

    def quantile(self, counts: Sequence[int], share: float) -> float:
        """The entropy in nats below which ``share`` (0..1) of one of the histograms lies, linear within a bin.

        nan if it holds no token.
        """
        target, below = share * sum(counts), 0
        for (low, high), n in zip(pairwise(self.edges), counts, strict=True):
            if n and below + n >= target:
                return low + (high - low) * (target - below) / n
            below += n
        return math.nan

    # -- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, with what follows from the counts written out for people to read."""
        accuracy, auroc = self.accuracy, self.auroc
        return {
            "kind": KIND,
            "conditions": self.conditions,
            "edges": list(self.edges),
            "layers": [
                {
                    "layer": layer,
                    "accuracy": _or_none(accuracy[layer]),
                    "auroc": _or_none(auroc[layer]),
                    "right": self._summary(self.right[layer]),
                    "wrong": self._summary(self.wrong[layer]),
                }
                for layer in self.layers
            ],
        }

    def _summary(self, counts: Sequence[int]) -> dict[str, Any]:
        return {
            "tokens": sum(counts),
            "mean": _or_none(self.mean(counts)),
            "quartiles": [_or_none(self.quantile(counts, share)) for share in (0.25, 0.5, 0.75)],
            "counts": list(counts),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict()) + "\n"

    def save(self, path: str | Path) -> None:
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> EntropyStudy:
        """What :meth:`save` wrote.

        Raises:
            InputError: no such file, one that was cut short, or one of something else.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror}); give a file of an entropy study") from error
        except ValueError as error:  # not JSON, or not text
            raise InputError(f"{path} is cut short or no entropy study: make it again") from error
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise InputError(f"{path} holds something else than an entropy study: give a file of one")
        rows = values["layers"]
        return cls(
            layers=tuple(row["layer"] for row in rows),
            edges=tuple(values["edges"]),
            right={row["layer"]: tuple(row["right"]["counts"]) for row in rows},
            wrong={row["layer"]: tuple(row["wrong"]["counts"]) for row in rows},
            conditions=values["conditions"],
        )


def patch_labels(mask: Tensor, patch_size: tuple[int, int], num_classes: int, ignore_index: int = 255) -> Tensor:
    """The class most of each patch's pixels have: (H, W) class ids -> (h, w) int64, of equal ones the lowest id.

    Ignored pixels have no say, nor has the padding that makes patches at the right and the bottom whole; a patch
    without a labelled pixel is ``ignore_index``.
    """
    (height, width), (ph, pw) = mask.shape, patch_size
    h, w = -(-height // ph), -(-width // pw)
    padded = F.pad(mask, (0, w * pw - width, 0, h * ph - height), value=ignore_index)
    pixels = padded.view(h, ph, w, pw).transpose(1, 2).reshape(h * w, ph * pw).long()
    # Each patch counts in a range of its own, so that one bincount serves all of them.
    shifted = pixels + num_classes * torch.arange(h * w, device=mask.device)[:, None]
    counts = shifted[pixels != ignore_index].bincount(minlength=h * w * num_classes).view(h, w, num_classes)
    return counts.argmax(dim=-1).masked_fill(counts.sum(dim=-1) == 0, ignore_index)


def entropy_counts(logits: Tensor, labels: Tensor, ignore_index: int = 255, num_bins: int = NUM_BINS) -> Tensor:
    """Histograms of the entropies of wrong and of right tokens: (N, C) logits, (N,) labels -> (2, num_bins) int64.

    Row 0 counts wrong tokens, row 1 right ones, in equal bins from 0 to ln C nats.
    """
    labelled = labels != ignore_index
    logits, labels = logits[labelled], labels[labelled]
    right = logits.argmax(dim=-1) == labels
    position = entropy(logits) / math.log(logits.shape[-1]) * num_bins
    # Rounding may take an entropy past either end.
    place = position.long().clamp(0, num_bins - 1) + num_bins * right
    return place.bincount(minlength=2 * num_bins).view(2, num_bins)


@torch.inference_mode()
def study_entropy(
    model: Segmenter,
    dataset: Dataset,
    *,
    layers: Sequence[int] | None = None,
    indices: Sequence[int] | None = None,
    conditions: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> EntropyStudy:
    """Entropies after ``layers``, when nothing pauses, of tokens whose auxiliary prediction is right and wrong.

    A token is right if its most probable class is that of most of its patch's labelled pixels; patches without any are
    left out. Images go through whole, at the size that the model's configuration says (``base_size``).

    Args:
        model: with auxiliary heads; put in evaluation mode for the time and back again.
        dataset: samples with uint8 images (3, H, W) and masks (H, W) of train ids.
        layers: after which to look, by default every second one: 2, 4, … up to the last.
        indices: a part of the data set, by default all of it.
        conditions: what only the caller knows, such as ``model`` (else the backbone's name), ``split`` and versions.

    Raises:
        InputError: a model without auxiliary heads, other classes than the data set's, a layer that does not exist.
    """
    _check_match(model, dataset)
    layers = range(2, model.depth + 1, 2) if layers is None else layers
    # A ratio of 0 scores the patches of a layer and pauses none.
    pause = PauseConfig(tuple((layer, 0.0) for layer in layers))
    pause.check_depth(model.depth)  # a wrong layer is told before the first image
    indices = range(len(dataset)) if indices is None else indices
    bar = tqdm(indices, desc="entropy", unit="image", disable=not progress, leave=False)
    was_training = model.training
    model.eval()
    try:
        counts = _count_tokens(model, dataset, pause, bar)
    finally:
        model.train(was_training)
    known = {
        "model": model.config.backbone,
        "data": dataset.spec.name,
        "split": "unnamed split",
        "num_images": len(indices),
        "num_classes": model.config.num_classes,
        "aux_head": model.config.aux_head,
    }
    return EntropyStudy(
        layers=tuple(counts),
        edges=tuple(math.log(model.config.num_classes) * b / NUM_BINS for b in range(NUM_BINS + 1)),
        right={layer: tuple(right) for layer, (_, right) in counts.items()},
        wrong={layer: tuple(wrong) for layer, (wrong, _) in counts.items()},
        conditions={**known, **(conditions or {})},
    )


def _check_match(model: Segmenter, dataset: Dataset) -> None:
    if model.aux_head is None:
        raise InputError(
            "this plain Segmenter has no auxiliary heads to study: train them with paumer train --freeze --init MODEL"
        )
    classes = dataset.spec.num_classes
    if classes != model.config.num_classes:
        raise InputError(f"the model predicts {model.config.num_classes} classes, {dataset.spec.name} has {classes}")


def _count_tokens(
    model: Segmenter, dataset: Dataset, pause: PauseConfig, indices: Iterable[int]
) -> dict[int, list[list[int]]]:
    """Per layer of ``pause`` the histograms of :func:`entropy_counts`, summed over images."""
    spec, counts = dataset.spec, {layer: torch.zeros(2, NUM_BINS, dtype=torch.int64) for layer, _ in pause.steps}
    for index in indices:
        image, mask = _sample_of(dataset, index, model)
        trace = model(image[None], pause).trace
        labels = patch_labels(mask, model.patch_size, spec.num_classes, spec.ignore_index).flatten()
        for layer in trace.layers:
            counts[layer] += entropy_counts(trace.aux_logits(layer)[0], labels, spec.ignore_index).cpu()
    return {layer: rows.tolist() for layer, rows in counts.items()}


def _sample_of(dataset: Dataset, index: int, model: Segmenter) -> tuple[Tensor, Tensor]:
    """Image and mask where the model is, at the size it is used at."""
    sample, base_size, device = dataset[index], model.config.base_size, model.pixel_mean.device
    image, mask = sample.image, sample.mask
    if base_size is not None:
        image, mask = resize_to(image, mask, base_size)
    return image.to(device), mask.to(device)


def _share(part: int, rest: int) -> float:
    return 100 * part / (part + rest) if part + rest else math.nan


def _chance_of_higher(high: Sequence[int], low: Sequence[int]) -> float:
    """Of pairs from two histograms over the same bins, the share whose first is in the higher bin; ties count half."""
    pairs = sum(high) * sum(low)
    below = accumulate(low, initial=0)  # one more than there are bins
    half_wins = sum(n * (2 * fewer + ties) for n, fewer, ties in zip(high, below, low, strict=False))
    return half_wins / (2 * pairs) if pairs else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
