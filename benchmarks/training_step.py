"""What pausing costs, or saves, in training: steps with the paper's random draw against steps of a plain Segmenter.

A step is forward, loss, backward and update, on random images of one crop. Every draw takes part in turns with a plain
step, so their sums compare; a step whose layer scores and pauses nothing shows the price of the auxiliary loss alone.

    python benchmarks/training_step.py --out OUT.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rows import Row, run_script, state_of
from torch import Tensor

from paumer.benchmark import time_interleaved
from paumer.device import choose_device
from paumer.loss import segmentation_loss
from paumer.model import Segmenter, create_model
from paumer.pause import NO_PAUSE, PauseConfig, RandomPause


class Trainer:
    """A model and its optimizer; a call is one step."""

    def __init__(self, model: Segmenter, images: Tensor, targets: Tensor, draw: Callable[[int], PauseConfig]) -> None:
        self.model, self.images, self.targets, self.draw = model.train(), images, targets, draw
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        self.step = 0

    def __call__(self) -> None:
        output = self.model(self.images, self.draw(self.step))
        loss = segmentation_loss(self.model, output, self.targets).total
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1


def measure(backbone: str, side: int, batch_size: int, args: argparse.Namespace) -> Row:
    device = choose_device(args.device)
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, side, side)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
    targets = torch.randint(0, args.num_classes, (batch_size, side, side), generator=generator).to(device)
    draw = RandomPause().draw
    ways: dict[str, tuple[str, Callable[[int], PauseConfig]]] = {
        "plain": ("none", lambda step: NO_PAUSE),
        "drawn": ("shared", draw),
        "scored": ("shared", lambda step: PauseConfig(((draw(step).layers[0], 0.0),))),
    }
    steps = []
    for aux_head, way in ways.values():
        model = create_model(backbone, num_classes=args.num_classes, image_size=(side, side), aux_head=aux_head)
        steps.append(Trainer(model.to(device), images, targets, way))
    taken = time_interleaved(steps, rounds=args.rounds, warmup=1, device=device, progress=True)
    plain, drawn, scored = (np.array(seconds) for seconds in taken)
    low, middle, high = np.percentile(drawn / plain, (25, 50, 75))
    return {
        "backbone": backbone,
        "num_classes": args.num_classes,
        "crop": f"{side}x{side}",
        "batch_size": batch_size,
        "plain_ms": f"{1000 * np.median(plain):.1f}",
        "drawn_ms": f"{1000 * drawn.mean():.1f}",
        "drawn_over_plain": f"{drawn.sum() / plain.sum():.3f}",
        "quartiles": f"{low:.3f}-{middle:.3f}-{high:.3f}",
        "scored_over_plain": f"{np.median(scored / plain):.3f}",
        "dtype": "float32",
        "rounds": args.rounds,
        **state_of(device),
    }


def run(args: argparse.Namespace) -> Iterator[Row]:
    for backbone, side in product(args.backbones, args.crops):
        yield measure(backbone, side, args.batch_size, args)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["vit_tiny_patch16_384", "vit_small_patch16_384"])
    parser.add_argument("--num-classes", type=int, default=19)
    parser.add_argument("--crops", type=int, nargs="+", default=[288, 512], help="sides in pixels")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25, help="draws")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/training_step.csv"))
    run_script(parser, argv, run)


if __name__ == "__main__":
    main()
