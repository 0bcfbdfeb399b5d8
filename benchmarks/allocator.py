"""What it brings on a CPU that the C library keeps freed memory (`paumer.device.keep_freed_memory`).

The allocator is that of the whole process and remembers what was freed, so processes take turns here: one without, one
with it, each times all dtypes and configurations in turns, from image to mask, and counts page faults.

    python benchmarks/allocator.py checkpoints/camvid-vit-tiny --data camvid --root CAMVID --out OUT.csv
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Row, add_trained, collect, state_of

from paumer.benchmark import time_interleaved
from paumer.checkpoint import open_segmenter
from paumer.data import create_dataset
from paumer.device import DTYPES, keep_freed_memory
from paumer.errors import InputError
from paumer.pause import parse_pauses
from paumer.segment import in_dtype

CPU = torch.device("cpu")


@torch.inference_mode()
def work(args: argparse.Namespace) -> list[Row]:
    """One process: median milliseconds and page faults of a call for each dtype and configuration."""
    if args.keep:
        keep_freed_memory()
    model = open_segmenter(args.model).eval()
    image = create_dataset(args.data, args.split, args.root)[0].image[None]
    rows = []
    for dtype in args.dtypes:
        own = in_dtype(model, dtype)
        pauses = parse_pauses(args.pauses)
        calls = [partial(own.segment, image, pause) for pause in pauses]
        seconds = time_interleaved(calls, rounds=args.rounds, warmup=2, device=CPU)
        for pause, call, taken in zip(pauses, calls, seconds, strict=True):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            call()
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            rows.append({"dtype": dtype, "pause": str(pause), "ms": 1000 * float(np.median(taken)), "faults": faults})
    return rows


def measure(args: argparse.Namespace, words: Sequence[str]) -> Iterator[Row]:
    runs: dict[bool, list[list[Row]]] = {False: [], True: []}
    for _ in range(args.processes):
        for keep in runs:
            command = [sys.executable, __file__, *words, "--worker", *(["--keep"] if keep else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"a process failed: {done.stderr.strip()[-300:]}")
            runs[keep].append(json.loads(done.stdout.splitlines()[-1]))
    for place, row in enumerate(runs[True][0]):
        ms = {keep: np.array([run[place]["ms"] for run in found]) for keep, found in runs.items()}
        faults = {keep: np.median([run[place]["faults"] for run in found]) for keep, found in runs.items()}
        saved = 1 - ms[True] / ms[False]
        yield {
            "dtype": row["dtype"],
            "pause": row["pause"],
            "usual_ms": f"{np.median(ms[False]):.1f}",
            "kept_ms": f"{np.median(ms[True]):.1f}",
            "saved": f"{np.median(saved):.3f}",
            "saved_least": f"{saved.min():.3f}",
            "saved_most": f"{saved.max():.3f}",
            "usual_faults": int(faults[False]),
            "kept_faults": int(faults[True]),
            "processes": args.processes,
            "rounds": args.rounds,
            "model": args.model,
            "data": args.data,
            "split": args.split,
            **state_of(CPU),
        }


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trained(parser)
    parser.add_argument("--pauses", nargs="+", default=["none", "5:0.6", "3:0.4,5:0.4,7:0.4"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--processes", type=int, default=5, help="of either kind")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="it is about memory of the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/allocator.csv"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    try:
        if args.worker:
            print(json.dumps(work(args)))
        else:
            collect(measure(args, words), args.out)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
