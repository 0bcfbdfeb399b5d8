"""`paumer report`: a sweep as one HTML page.

Knows nothing of what is on the page.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paumer.cli.options import Parser
from paumer.errors import InputError

if TYPE_CHECKING:
    from paumer.report import Example
    from paumer.sweep_folder import SweepFolder


def report_command(argv: Sequence[str]) -> int:
    """write one self-contained HTML page of a sweep"""
    parser = Parser(
        prog="paumer report",
        description="Write one self-contained HTML page of a sweep: the front, all configurations in a table, what "
        "each class loses, and example images with a slider over the configurations of the front.",
    )
    parser.add_argument("sweep", help="sweep folder, as paumer sweep writes it")
    parser.add_argument("--out", required=True, help="page to write, such as report.html")
    parser.add_argument("--model", help="for the example images; default: the model that was swept, if it is there")
    parser.add_argument("--device", default="auto", help="for the example images: auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--data", help="data set of the example images; default: the one that was swept")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", help="train, val or test; default: the one that was swept")
    parser.add_argument("--images", type=int, help="that many example images, spread over the split; default: 3")
    parser.add_argument("--images-from", nargs="+", help="image files of your own as examples instead")
    args = parser.parse_args(argv)
    _check(args)

    from paumer.report import example_pauses, write_report
    from paumer.sweep_folder import SweepFolder

    folder = SweepFolder(args.sweep)
    pauses = example_pauses(folder)  # a sweep that cannot be read is told before a model is opened
    examples = _examples(folder, args)
    size = write_report(folder, args.out, examples, command=shlex.join(["paumer", "report", *argv]))
    images = f"{len(examples)} images at {len(pauses)} of them" if examples else "no example images"
    print(f"{args.out}: {len(folder.points())} configurations, {images}, {size / 1e6:.2f} MB")
    return 0


def _check(args: Any) -> None:
    if args.images is not None and args.images < 0:
        raise InputError(f"--images is how many images to show, 0 or more, got {args.images}")
    if args.images_from and any(value is not None for value in (args.images, args.data, args.root, args.split)):
        raise InputError("--images-from names the examples itself: leave out --images, --data, --root and --split")


def _examples(folder: SweepFolder, args: Any) -> list[Example]:
    """The examples; without any wish for them what stands in their way is told and the page does without."""
    if args.images == 0:
        return []
    try:
        return _segment(folder, args)
    except InputError as error:
        wishes = (args.model, args.data, args.root, args.split, args.images, args.images_from)
        if args.device != "auto" or any(wish is not None for wish in wishes):
            raise
        print(f"no example images: {error}", file=sys.stderr)
        return []


def _segment(folder: SweepFolder, args: Any) -> list[Example]:
    from paumer.checkpoint import open_segmenter
    from paumer.data import create_dataset
    from paumer.device import choose_device
    from paumer.report import file_shots, segment_examples, split_shots

    info = folder.info
    if args.model is None and not Path(info["model"]).exists():
        raise InputError(f"the model that was swept is not here ({info['model']}): give --model")
    model = open_segmenter(args.model or info["model"]).to(choose_device(args.device))
    if args.images_from:
        return segment_examples(folder, model, file_shots(args.images_from))
    dataset = create_dataset(args.data or info["data"], args.split or info["split"], args.root)
    return segment_examples(folder, model, split_shots(dataset, args.images or 3, model.config.num_classes))
