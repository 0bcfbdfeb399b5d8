"""What half precision brings and costs at several pause configurations: time, mIoU, and pixels that change.

All dtypes and configurations run in turns, on the same images, from the uint8 image to the mask. Which half precision
pays depends on the device: a processor without it in hardware is several times as slow.

    python benchmarks/dtypes.py checkpoints/camvid-vit-tiny --data camvid --root CAMVID --out OUT.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Row, add_trained, run_script, state_of
from tqdm import tqdm

from paumer.benchmark import time_interleaved
from paumer.checkpoint import open_segmenter
from paumer.data import create_dataset
from paumer.data.datasets import Dataset
from paumer.device import DTYPES, choose_device
from paumer.evaluate import evaluate, spread_indices
from paumer.model import Segmenter
from paumer.pause import NO_PAUSE, PauseConfig, parse_pauses
from paumer.segment import in_dtype

TIMED_IMAGES = 4  # different ones, since some kernels may care


def same_pixels(
    model: Segmenter, reference: Segmenter, dataset: Dataset, indices: Sequence[int], pause: PauseConfig
) -> float:
    """Share of pixels that both give the same class, each with its own paused patches."""
    same = total = 0
    for index in tqdm(indices, desc=f"pixels, {pause}", leave=False):
        image = dataset[index].image[None].to(model.pixel_mean.device)
        equal = model.segment(image, pause).labels == reference.segment(image, pause).labels
        same, total = same + int(equal.sum()), total + equal.numel()
    return same / total


@torch.inference_mode()
def measure(args: argparse.Namespace) -> Iterator[Row]:
    device = choose_device(args.device)
    dataset = create_dataset(args.data, args.split, args.root)
    indices = spread_indices(len(dataset), args.limit)
    reference = open_segmenter(args.model).to(device).eval()
    pauses = list(dict.fromkeys([NO_PAUSE, *parse_pauses(args.pauses)]))
    models = {name: in_dtype(reference, name) for name in dict.fromkeys(["float32", *args.dtypes])}
    images = [dataset[i].image[None].to(device) for i in spread_indices(len(dataset), TIMED_IMAGES)]

    def segment(model: Segmenter, pause: PauseConfig) -> None:
        for image in images:
            model.segment(image, pause)

    keys = [(name, pause) for name in models for pause in pauses]
    calls = [partial(segment, models[name], pause) for name, pause in keys]
    taken = time_interleaved(calls, rounds=args.rounds, warmup=1, device=device, progress=True)
    seconds = {key: np.array(own) for key, own in zip(keys, taken, strict=True)}
    about = {"model": args.model, "data": args.data, "split": args.split, "num_images": len(indices)}
    about |= {"timed_images": len(images), "image_size": "x".join(map(str, images[0].shape[-2:])), "batch_size": 1}
    for name, model in models.items():
        results = evaluate(model, dataset, pauses, indices=indices, progress=True)
        for pause, result in zip(pauses, results, strict=True):
            own = seconds[name, pause]
            gain = np.percentile(seconds["float32", pause] / own, (25, 50, 75))
            yield {
                "dtype": name,
                "pause": str(pause),
                "miou": f"{result.miou:.2f}",
                "same_pixels": f"{same_pixels(model, reference, dataset, indices, pause):.5f}",
                "ms_per_image": f"{1000 * np.median(own) / len(images):.2f}",
                "over_float32": f"{gain[1]:.3f}",
                "over_float32_low": f"{gain[0]:.3f}",
                "over_float32_high": f"{gain[2]:.3f}",
                "speedup": f"{np.median(seconds[name, NO_PAUSE] / own):.3f}",
                "speedup_over_float32_none": f"{np.median(seconds['float32', NO_PAUSE] / own):.3f}",
                "rounds": args.rounds,
                **about,
                **state_of(device),
            }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trained(parser)
    parser.add_argument("--pauses", nargs="+", default=["5:0.6", "3:0.4,5:0.4,7:0.4"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16", "float16"])
    parser.add_argument("--limit", type=int, default=0, help="score so many images, spread evenly; default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/dtypes.csv"))
    run_script(parser, argv, measure)


if __name__ == "__main__":
    main()
