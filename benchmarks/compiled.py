"""Compiled graphs against the eager model, configuration by configuration, in turns; and what making them costs.

    python benchmarks/compiled.py --out OUT.csv
    python benchmarks/compiled.py --device cuda --dtype bfloat16 --out OUT.csv

Counts the graphs that were made and how many more the last configurations needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Row, run_script, state_of
from torch._dynamo.utils import counters

from paumer.benchmark import synchronize, time_interleaved
from paumer.device import DTYPES, choose_device
from paumer.model import compile_segmenter, create_model
from paumer.pause import parse_pauses

MODES = ("off", "block", "full")


@torch.inference_mode()
def measure(args: argparse.Namespace) -> Iterator[Row]:
    device = choose_device(args.device)
    torch.manual_seed(0)
    size = (args.image_size[0], args.image_size[1])
    model = create_model(args.backbone, num_classes=args.num_classes, image_size=size).eval()
    model = model.to(device, DTYPES[args.dtype])
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, 3, *size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
    pauses = parse_pauses(args.pauses)
    calls, made = [], []
    for mode in MODES:
        own = compile_segmenter(model, mode)
        for pause in pauses:
            call = partial(own, images, pause, upsample=False)
            counters.clear()
            start = time.perf_counter()
            call()
            call()
            synchronize(device)
            made.append((time.perf_counter() - start, counters["stats"]["unique_graphs"]))
            calls.append(call)
    taken = time_interleaved(calls, rounds=args.rounds, warmup=2, device=device, progress=True)
    for place, ((seconds_to_make, graphs), own) in enumerate(zip(made, taken, strict=True)):
        eager = np.array(taken[place % len(pauses)])
        low, ratio, high = np.percentile(eager / own, (25, 50, 75))
        unpaused = np.array(taken[place - place % len(pauses)])
        yield {
            "compile": MODES[place // len(pauses)],
            "pause": str(pauses[place % len(pauses)]),
            "ms": f"{1000 * np.median(own):.2f}",
            "over_eager": f"{ratio:.3f}",
            "over_eager_low": f"{low:.3f}",
            "over_eager_high": f"{high:.3f}",
            "speedup": f"{np.median(unpaused / own):.3f}",
            "seconds_to_make": f"{seconds_to_make:.1f}",
            "graphs_made": graphs,
            "backbone": args.backbone,
            "num_classes": args.num_classes,
            "batch_size": args.batch_size,
            "image_size": "x".join(map(str, size)),
            "dtype": args.dtype,
            "rounds": args.rounds,
            **state_of(device),
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_384")
    parser.add_argument("--num-classes", type=int, default=19)
    parser.add_argument("--pauses", nargs="+", default=["none", "5:0.6", "3:0.4,5:0.4,7:0.4"], help="the first: none")
    parser.add_argument("--image-size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("runs/compiled.csv"))
    run_script(parser, argv, measure)


if __name__ == "__main__":
    main()
