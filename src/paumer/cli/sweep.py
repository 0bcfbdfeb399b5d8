"""`paumer sweep`: speed and mIoU of many configurations, and the choice of one.

Knows nothing of how the search goes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paumer.cli.options import (
    PAUSE_HELP,
    Parser,
    add_data,
    add_dtype,
    add_inference,
    add_model,
    inference_from,
    open_data,
)
from paumer.pause import NO_PAUSE, parse_pauses

if TYPE_CHECKING:
    from paumer.sweep import SweepResult


def sweep_command(argv: Sequence[str]) -> int:
    """find the pause configurations worth having: speed and mIoU together"""
    parser = Parser(
        prog="paumer sweep",
        description="Measure speed and mIoU of many pause configurations and find those worth having. The same command "
        "goes on with a sweep that was stopped. The front is stored with the model, as pareto.json.",
    )
    add_model(parser)
    add_data(parser)
    parser.add_argument("--out", required=True, help="sweep folder: times, scores, points.csv, pareto.json")
    parser.add_argument(
        "--pauses", nargs="+", default=["@paper"], help=f"scored on the whole split in any case: {PAUSE_HELP}; @paper"
    )
    parser.add_argument(
        "--search",
        default="greedy",
        help="grid: each single layer and ratio; greedy: the grid, then layer after layer; none: only --pauses",
    )
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[], help="of the search; default: 3 to the last but one"
    )
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=[round(0.1 * i, 1) for i in range(1, 10)], help="of the search"
    )
    parser.add_argument("--max-layers", type=int, default=3, help="pausing layers the greedy search may combine")
    parser.add_argument(
        "--limit", type=int, default=0, help="search on this many images, spread evenly, then score the front on all"
    )
    parser.add_argument("--target-throughput", type=float, help="images/s: the best mIoU among what is that fast")
    parser.add_argument("--max-drop", type=float, help="mIoU points: the fastest that loses no more")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images per timed forward pass; per scored one with @batch"
    )
    parser.add_argument("--image-size", type=int, nargs=2, help="of timed images; default: the split's first image")
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is timed")
    parser.add_argument("--seed", type=int, default=0, help="of the criterion 'random'")
    parser.add_argument("--no-store", action="store_true", help="do not put the front into the model folder")
    add_dtype(parser)
    add_inference(parser)
    args = parser.parse_args(argv)
    pauses = parse_pauses(args.pauses)

    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device
    from paumer.sweep import SweepConfig, store_front, sweep

    config = SweepConfig(
        out=args.out,
        pauses=tuple(pauses),
        search=args.search,
        layers=tuple(args.layers),
        ratios=tuple(args.ratios),
        max_layers=args.max_layers,
        search_images=args.limit,
        target_throughput=args.target_throughput,
        max_drop=args.max_drop,
        criterion=args.criterion,
        seed=args.seed,
        batch_size=args.batch_size,
        image_size=tuple(args.image_size) if args.image_size else None,
        rounds=args.rounds,
        dtype=args.dtype,
    )
    device = choose_device(args.device)
    dataset = open_data(args)
    model = open_segmenter(args.model).to(device)
    names = {"model": args.model, "data": args.data, "split": args.split}
    result = sweep(model, dataset, config, names=names, inference=inference_from(args, model), progress=True)
    stored = None if args.no_store else store_front(result.front, args.model)
    _print(result, args.target_throughput, args.max_drop)
    print(f"results are in {args.out}" + (f", the front in {stored}" if stored else ""))
    print(json.dumps(_summary(result, args.out)))
    return 0


def _print(result: SweepResult, target: float | None, max_drop: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    info, front = result.folder.info, {point.pause for point in result.front.points}
    points = [point for point in result.folder.points() if "all" in point.scores]
    unpaused = next((point.miou() for point in points if point.pause == NO_PAUSE), None)
    height, width = info["image_size"]
    table = Table(
        title=f"{info['data']} {info['split']}, {info['num_images']} images; timed at {height}x{width}, "
        f"batch {info['batch_size']}, {info['device_name']}, {info['dtype']}, {info['threads']} threads"
    )
    table.add_column("pause", no_wrap=True)
    for column in ("images/s", "speed-up", "quartiles", "GFLOP", "mIoU", "change", "front"):
        table.add_column(column, justify="right")
    for point in points:
        miou = point.miou()
        assert miou is not None
        table.add_row(
            str(point.pause),
            f"{point.images_per_second:.3g}",
            f"{point.speedup:.2f}" if point.decided or point.pause == NO_PAUSE else "noise",
            f"{point.speedup_low:.2f}..{point.speedup_high:.2f}",
            f"{point.gflops:.2f}",
            f"{miou:.2f}",
            "" if unpaused is None else f"{miou - unpaused:+.2f}",
            "●" if point.pause in front else "",
        )
    # Rather a line that wraps on a small terminal than cells that are cut.
    console = Console(width=max(Console().width, 110))
    console.print(table)
    for number, stage in enumerate(result.folder.greedy if target is None else [], start=1):
        chosen = stage["chosen"] or "nothing that fewer layers do not give: the search ends"
        console.print(
            f"greedy stage {number}, {len(stage['candidates'])} candidates behind {stage['fixed']}: {chosen}",
            highlight=False,
        )
    if result.choice is not None:
        sought = f"at least {target:g} images/s" if target is not None else f"at most {max_drop:g} mIoU points lost"
        console.print(
            f"chosen for {sought}: {result.choice.pause} "
            f"({result.choice.images_per_second:.3g} images/s, mIoU {result.choice.miou:.2f})",
            highlight=False,
        )


def _summary(result: SweepResult, out: str) -> dict[str, object]:
    choice = result.choice
    return {
        "out": out,
        "front": [
            {"pause": str(point.pause), "miou": round(point.miou, 2), "speedup": round(point.speedup, 3)}
            for point in result.front.points
        ],
        "choice": str(choice.pause) if choice else None,
    }
