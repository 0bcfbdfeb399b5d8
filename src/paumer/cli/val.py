"""`paumer val`: mIoU at several pause configurations.

Knows nothing of how scores are made.
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
    versions,
)
from paumer.pause import parse_pauses

if TYPE_CHECKING:
    from paumer.evaluate import EvalResult


def val_command(argv: Sequence[str]) -> int:
    """mIoU at one or several pause configurations"""
    parser = Parser(prog="paumer val", description="Dataset-level mIoU of a model at several pause configurations.")
    add_model(parser)
    add_data(parser)
    parser.add_argument("--pauses", nargs="+", default=["none"], help=f"{PAUSE_HELP}; @paper: the 13 of Table 1")
    add_dtype(parser)
    add_inference(parser)
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images of one size that go through together: of influence on @batch"
    )
    parser.add_argument("--limit", type=int, default=0, help="evaluate this many images, spread evenly; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the criterion 'random'")
    parser.add_argument("--per-class", action="store_true", help="print the IoU of every class")
    parser.add_argument("--json", help="also write the results to this file")
    args = parser.parse_args(argv)
    pauses = parse_pauses(args.pauses)

    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device, dtype_name
    from paumer.evaluate import evaluate, spread_indices
    from paumer.files import write_text
    from paumer.segment import in_dtype

    device = choose_device(args.device)
    dataset = open_data(args)
    model = in_dtype(open_segmenter(args.model).to(device), args.dtype)
    results = evaluate(
        model,
        dataset,
        pauses,
        inference=inference_from(args, model),
        criterion=args.criterion,
        seed=args.seed,
        indices=spread_indices(len(dataset), args.limit),
        batch_size=args.batch_size,
        progress=True,
    )
    rows = [
        {
            "model": args.model,
            "data": args.data,
            "split": args.split,
            **result.to_dict(dataset.spec.names),
            "dtype": dtype_name(model.pixel_mean.dtype),
            **versions(device),
        }
        for result in results
    ]
    _print_scores(results, dataset.spec.names, args.per_class)
    for row in rows:
        print(json.dumps(row))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + "\n")
    return 0


def _print_scores(results: Sequence[EvalResult], names: Sequence[str], per_class: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    table = Table(
        title=f"{first.num_images} images, {first.inference.mode}, criterion {first.criterion}; IoU in per cent"
    )
    table.add_column("pause", no_wrap=True)
    for column in ("mIoU", "change", "pixel accuracy", "mean accuracy", "tokens"):
        table.add_column(column, justify="right")
    for result in results:
        scores = result.scores
        table.add_row(
            str(result.pause),
            f"{scores.miou:.2f}",
            f"{scores.miou - first.miou:+.2f}",
            f"{scores.pixel_accuracy:.2f}",
            f"{scores.mean_accuracy:.2f}",
            "" if result.tokens is None else f"{100 * result.tokens:.1f} %",
        )
    # Rather a line that wraps on a small terminal than cells that are cut.
    console = Console(width=max(Console().width, 100))
    console.print(table)
    if per_class:
        classes = Table(title="IoU of each class in per cent")
        classes.add_column("class")
        for result in results:
            classes.add_column(str(result.pause), justify="right", no_wrap=True)
        for index, name in enumerate(names):
            classes.add_row(name, *(f"{result.scores.iou[index]:.2f}" for result in results))
        # Rather a line that wraps on a small terminal than columns cut to one letter.
        Console(width=max(console.width, 24 + 20 * len(results))).print(classes)
    console.print(first.scores.convention, highlight=False)
