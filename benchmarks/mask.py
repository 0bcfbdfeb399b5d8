"""The mask without the logits of all pixels: `upsampled_argmax` against enlarging and argmax, beside the network.

On the logits of a trained model for real images (few patches border on others), with classes added that nowhere win so
that there are as many as asked for, and on noise (every cell is mixed: the worst case). Counts pixels that differ.

    python benchmarks/mask.py checkpoints/camvid-vit-tiny --data camvid --root CAMVID --out OUT.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rows import Row, add_trained, run_script, state_of
from torch import Tensor

from paumer.benchmark import time_interleaved
from paumer.checkpoint import open_segmenter
from paumer.data import create_dataset
from paumer.device import choose_device
from paumer.errors import InputError
from paumer.evaluate import spread_indices
from paumer.model import Segmenter
from paumer.model.upsample import upsampled_argmax


def plain(logits: Tensor, scale: tuple[int, int]) -> Tensor:
    factor = (float(scale[0]), float(scale[1]))
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False).argmax(dim=1)


def with_classes(logits: Tensor, number: int) -> Tensor:
    """More classes, each of them a copy of another, two lower: as uncertain as real ones, and never the best."""
    generator = torch.Generator().manual_seed(0)
    copied = torch.randint(0, logits.shape[1], (max(number - logits.shape[1], 0),), generator=generator)
    return torch.cat([logits, logits[:, copied.to(logits.device)] - 2], dim=1)[:, :number].contiguous()


def measure(model: Segmenter, images: Tensor, args: argparse.Namespace) -> Iterator[Row]:
    scale, device = model.patch_size, images.device
    real = model(images, upsample=False).logits.float()
    for number in args.num_classes:
        if number < real.shape[1]:
            raise InputError(f"the model has {real.shape[1]} classes already: ask for at least as many, not {number}")
        wide = with_classes(real, number)
        noise = torch.randn(wide.shape, generator=torch.Generator().manual_seed(0)).to(device)
        for kind, logits in (("real", wide), ("noise", noise)):
            calls = [partial(plain, logits, scale), partial(upsampled_argmax, logits, scale)]
            calls.append(partial(model, images, upsample=False))
            taken = time_interleaved(calls, rounds=args.rounds, warmup=2, device=device)
            usual, ours, network = (np.array(seconds) for seconds in taken)
            low, ratio, high = np.percentile(usual / ours, (25, 50, 75))
            yield {
                "logits": kind,
                "num_classes": number,
                "plain_ms": f"{1000 * np.median(usual):.2f}",
                "fused_ms": f"{1000 * np.median(ours):.2f}",
                "speedup": f"{ratio:.2f}",
                "speedup_low": f"{low:.2f}",
                "speedup_high": f"{high:.2f}",
                "network_ms": f"{1000 * np.median(network):.2f}",
                "pixels": logits.shape[0] * images.shape[2] * images.shape[3],
                "pixels_that_differ": int((plain(logits, scale) != upsampled_argmax(logits, scale)).sum()),
            }


@torch.inference_mode()
def run(args: argparse.Namespace) -> Iterator[Row]:
    model = open_segmenter(args.model).eval().to(choose_device(args.device))
    dataset = create_dataset(args.data, args.split, args.root)
    samples = [dataset[i].image[None].float() for i in spread_indices(len(dataset), args.batch_size)]
    images = torch.cat([F.interpolate(sample, tuple(args.image_size), mode="bilinear") for sample in samples])
    about = {"model": args.model, "data": args.data, "split": args.split, "batch_size": args.batch_size}
    about |= {"image_size": "x".join(map(str, args.image_size)), "dtype": "float32", "rounds": args.rounds}
    for row in measure(model, images.round().to(torch.uint8).to(model.pixel_mean.device), args):
        yield {**row, **about, **state_of(model.pixel_mean.device)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trained(parser)
    parser.add_argument("--num-classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--image-size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/mask.csv"))
    run_script(parser, argv, run)


if __name__ == "__main__":
    main()
