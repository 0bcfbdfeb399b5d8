"""How far colour and position alone get on the procedural scenes: per-pixel classifiers on (r, g, b, x, y).

Knows nothing of PAUMER's models. The scenes are of use only while these stay low (the bar is 40 mIoU).

    python benchmarks/scenes_difficulty.py --train 400 --val 100
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from paumer.data.scenes import IGNORE, SCENE_CLASSES, SceneDataset, render_scene

NUM_CLASSES = len(SCENE_CLASSES)
Features = np.ndarray  # (n, 5) float32 in 0..1: r, g, b, x, y
Classifier = Callable[[Features], np.ndarray]  # -> (n,) class ids


def pixels(dataset: SceneDataset, index: int) -> tuple[Features, np.ndarray]:
    """Features and labels of the labelled pixels of one scene."""
    image, mask = render_scene(dataset.seed(index), dataset.size)
    y, x = np.nonzero(mask != IGNORE)
    height, width = mask.shape
    place = np.stack([x / width, y / height], axis=1)
    return np.concatenate([image[y, x] / 255, place], axis=1).astype(np.float32), mask[y, x]


def sample_pixels(dataset: SceneDataset, total: int, rng: np.random.Generator) -> tuple[Features, np.ndarray]:
    """About `total` pixels, as many of each scene."""
    features, labels = [], []
    for index in range(len(dataset)):
        f, t = pixels(dataset, index)
        chosen = rng.choice(len(t), min(len(t), total // len(dataset)), replace=False)
        features.append(f[chosen])
        labels.append(t[chosen])
    return np.concatenate(features), np.concatenate(labels)


def fit_table(features: Features, labels: np.ndarray, bins: tuple[int, ...] = (12, 12, 12, 6, 16)) -> Classifier:
    """The most frequent class of each cell of a histogram over (r, g, b, x, y), smoothed by the one over (x, y)."""

    def cells(f: Features, of: tuple[int, ...]) -> np.ndarray:
        index = [np.minimum((f[:, i] * n).astype(np.int64), n - 1) for i, n in enumerate(of)]
        return np.ravel_multi_index(index, of)

    place = (1, 1, 1, 24, 32)
    prior = np.full((np.prod(place), NUM_CLASSES), 1e-3)
    np.add.at(prior, (cells(features, place), labels), 1)
    prior /= prior.sum(1, keepdims=True)
    counts = np.zeros((np.prod(bins), NUM_CLASSES), np.float32)
    np.add.at(counts, (cells(features, bins), labels), 1)
    return lambda f: (counts[cells(f, bins)] + 2 * prior[cells(f, place)]).argmax(1)


def fit_mlp(features: Features, labels: np.ndarray, steps: int, balance: float, seed: int) -> Classifier:
    """Two hidden layers of 128. `balance` 0 learns the classes as frequent as they are, 1 as if all were equally so."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, NUM_CLASSES))
    x, t = torch.from_numpy(features) * 4 - 2, torch.from_numpy(labels.astype(np.int64))
    share = torch.bincount(t, minlength=NUM_CLASSES) / len(t)
    weight = share.clamp(min=1e-5) ** -balance
    loss_of = nn.CrossEntropyLoss(weight=weight / (weight * share).sum())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for batch in batches(len(t), 2048, steps):
        loss = loss_of(model(x[batch]), t[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    @torch.inference_mode()
    def classify(f: Features) -> np.ndarray:
        return model(torch.from_numpy(f) * 4 - 2).argmax(1).numpy()

    return classify


def batches(num_samples: int, size: int, steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randint(num_samples, (size,))


def evaluate(classifiers: dict[str, Classifier], dataset: SceneDataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """IoU (C,) of each classifier over the whole dataset, and the share (C,) of each class among its pixels."""
    confusion = {name: np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64) for name in classifiers}
    for index in range(len(dataset)):
        features, labels = pixels(dataset, index)
        for name, classify in classifiers.items():
            pairs = labels.astype(np.int64) * NUM_CLASSES + classify(features)
            confusion[name] += np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
    ious = {name: np.diag(m) / np.maximum(m.sum(0) + m.sum(1) - np.diag(m), 1) for name, m in confusion.items()}
    seen = confusion[next(iter(confusion))].sum(1)
    return ious, seen / seen.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=400, help="train scenes to sample pixels from")
    parser.add_argument("--val", type=int, default=100, help="held-out scenes to score on, every pixel")
    parser.add_argument("--samples", type=int, default=400_000, help="train pixels for the MLPs (the table takes 10x)")
    parser.add_argument("--steps", type=int, default=4000, help="steps of each MLP, 2048 pixels each")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    size = tuple(args.size)
    train, val = SceneDataset("train", size, args.train), SceneDataset("val", size, args.val)
    rng = np.random.default_rng(args.seed)
    many, many_labels = sample_pixels(train, 10 * args.samples, rng)
    few = rng.choice(len(many), min(args.samples, len(many)), replace=False)
    classifiers = {
        "table": fit_table(many, many_labels),
        "mlp": fit_mlp(many[few], many_labels[few], args.steps, 0.0, args.seed),
        "mlp, half balanced": fit_mlp(many[few], many_labels[few], args.steps, 0.5, args.seed),
    }
    ious, share = evaluate(classifiers, val)
    print(f"{'class':12s}{'share %':>9s}" + "".join(f"{name:>20s}" for name in ious))
    for i, name in enumerate(SCENE_CLASSES):
        print(f"{name:12s}{100 * share[i]:9.2f}" + "".join(f"{100 * iou[i]:20.1f}" for iou in ious.values()))
    print(f"{'mIoU':21s}" + "".join(f"{100 * iou.mean():20.1f}" for iou in ious.values()))
    result = {name: round(100 * float(iou.mean()), 2) for name, iou in ious.items()}
    print(json.dumps({"miou": result, "train": args.train, "val": args.val, "size": size, "steps": args.steps}))


if __name__ == "__main__":
    main()
