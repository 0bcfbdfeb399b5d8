"""`paumer benchmark`: images per second at several pause configurations.

Knows nothing of how time is taken.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paumer.cli.options import PAUSE_HELP, Parser, add_compile, add_dtype, add_model
from paumer.errors import InputError
from paumer.pause import NO_PAUSE, parse_pauses

if TYPE_CHECKING:
    from paumer.benchmark import BenchResult
    from paumer.model import Segmenter


def benchmark_command(argv: Sequence[str]) -> int:
    """images per second at one or several pause configurations"""
    parser = Parser(
        prog="paumer benchmark",
        description="Time the forward pass at several pause configurations, in turns, beside their arithmetic. "
        "MODEL may also be the name of a ViT of timm, with --num-classes; its weights are then random.",
    )
    add_model(parser)
    parser.add_argument("--num-classes", type=int, help="MODEL is an architecture: build it for this many classes")
    parser.add_argument(
        "--pauses",
        nargs="+",
        default=["@paper"],
        help=f"{PAUSE_HELP}; @paper: the 13 of Table 1; none always comes along",
    )
    parser.add_argument("--image-size", type=int, nargs=2, default=[512, 512], help="height and width")
    parser.add_argument(
        "--batch-size",
        nargs="+",
        default=["1", "auto"],
        help="numbers of images, or auto: the batch that fills the device",
    )
    add_dtype(parser)
    parser.add_argument(
        "--attention",
        default="auto",
        help="auto, eager (not fused), or a back-end of torch: flash, efficient, cudnn, math",
    )
    add_compile(parser)
    parser.add_argument("--criterion", default="entropy", help="entropy, max_prob, margin or random")
    parser.add_argument("--no-upsample", action="store_true", help="leave the upsampling to the image's size out")
    parser.add_argument(
        "--images", nargs="+", help="time these image files, resized and cropped; default: random noise"
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds over all configurations")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them that do not count")
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: torch's")
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--csv", help="also write the results to this file")
    args = parser.parse_args(argv)
    pauses = parse_pauses(args.pauses)
    batch_sizes = list(dict.fromkeys(map(_batch_size, args.batch_size)))

    from paumer.benchmark import benchmark, read_images
    from paumer.device import choose_device

    image_size = (args.image_size[0], args.image_size[1])
    model = _open(args.model, args.num_classes, image_size).to(choose_device(args.device))
    images = read_images(args.images, image_size) if args.images else None
    rows: list[dict[str, Any]] = []
    with _threads(args.threads):
        for batch_size in batch_sizes:
            results = benchmark(
                model,
                pauses,
                image_size=image_size,
                batch_size=batch_size,
                dtype=args.dtype,
                attention=args.attention,
                compile=args.compile,
                upsample=not args.no_upsample,
                criterion=args.criterion,
                images=images,
                image_names=args.images or (),
                rounds=args.rounds,
                warmup=args.warmup,
                progress=True,
            )
            rows += [{**_about(args, model), **result.to_dict()} for result in results]
            _print(args.model, results, searched=batch_size is None)
            _write(rows, args.json, args.csv)  # after each, so that the next one cannot lose it
    for row in rows:
        print(json.dumps(row))
    return 0


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise InputError(f"a batch size is a number of images or 'auto', got '{text}'")
    return int(text)


def _open(name: str, num_classes: int | None, image_size: tuple[int, int]) -> Segmenter:
    import timm

    from paumer.checkpoint import open_segmenter
    from paumer.model import create_model

    if num_classes is None:
        if not Path(name).exists() and timm.is_model(name.split(".")[0]):
            raise InputError(f"{name} is an architecture and not a trained model: add --num-classes 19, or any number")
        return open_segmenter(name)
    if Path(name).exists():
        raise InputError(f"{name} is a model and has its own number of classes: leave --num-classes out")
    return create_model(name, num_classes=num_classes, image_size=image_size)


def _about(args: Any, model: Segmenter) -> dict[str, Any]:
    return {
        "model": args.model,
        "weights": "trained" if args.num_classes is None else "random",
        "backbone": model.config.backbone,
        "num_classes": model.config.num_classes,
    }


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Within it torch computes with that many threads; None leaves them alone."""
    import torch

    before = torch.get_num_threads()
    number = before if number is None else number
    if number < 1:
        raise InputError(f"torch computes with at least 1 thread, got {number}")
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(rows: Sequence[dict[str, Any]], json_file: str | None, csv_file: str | None) -> None:
    from paumer.files import write_beside, write_text

    if json_file:
        write_text(json_file, json.dumps(rows, indent=2) + "\n")
    if csv_file:
        with write_beside(csv_file) as beside, open(beside, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def _print(model: str, results: Sequence[BenchResult], searched: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    row = results[0].to_dict()
    batch = f"batch {row['batch_size']}{', which fills the device' if searched else ''}"
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    columns = ["images/s", "speed-up", "quartiles", "limit", "reached", "GFLOP", "ms p50", "p90", "p99"]
    table.add_column("pause", no_wrap=True)
    for column in columns + ["MiB"] * (results[0].peak_memory is not None):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result))
    # Rather a line that wraps on a small terminal than cells that are cut.
    console = Console(width=max(Console().width, 100), highlight=False, markup=False)
    console.print(f"{model}, {row['height']}x{row['width']} of {row['images']}, {batch}")
    console.print(table)
    console.print(
        f"{row['device_name']} ({row['device']}), {row['threads']} threads, load {row['load']} before; {row['dtype']}, "
        f"attention {row['attention']}, compile {row['compile']}, {'with' if row['upsample'] else 'without'} "
        f"upsampling, criterion {row['criterion']}; {row['rounds']} rounds in turns after {row['warmup']}; "
        f"torch {row['torch']}\n"
    )


def _cells(result: BenchResult) -> list[str]:
    speedup = result.speedup
    reference, told = result.pause == NO_PAUSE, speedup.decided
    return [
        str(result.pause),
        _short(result.images_per_second),
        "1" if reference else f"{speedup.median:.2f}" if told else "within noise",
        "" if reference else f"{speedup.low:.2f}-{speedup.high:.2f}",
        f"{result.flop_speedup:.2f}",
        f"{100 * result.reached:.0f} %" if told and not reference else "",
        f"{result.flops / 1e9:.2f}",
        *(_short(1000 * result.latency(percentile)) for percentile in (50, 90, 99)),
        *([] if result.peak_memory is None else [f"{result.peak_memory / 2**20:.0f}"]),
    ]


def _short(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
