"""`paumer predict`: images, folders, globs and videos.

Knows nothing of how anything is segmented or drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from paumer.cli.options import PAUSE_HELP, Parser, add_compile, add_dtype, add_inference, add_model, inference_from
from paumer.pause import PauseConfig


def predict_command(argv: Sequence[str]) -> int:
    """segment images, folders, globs and videos"""
    parser = Parser(prog="paumer predict", description="Segment images, folders, globs and video files.")
    add_model(parser)
    parser.add_argument("inputs", nargs="+", help="image and video files, folders, globs")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--pause", default="none", help=PAUSE_HELP)
    parser.add_argument(
        "--target-throughput",
        type=float,
        help="images/s, in place of --pause: the best mIoU of the model's front (paumer sweep) that is that fast here",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        help="mask, overlay, paused, entropy, figure; default: all but the figure, of videos the overlay",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="images that go through together where they are of one size",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--label-ids", action="store_true", help="masks with the data set's own ids")
    add_dtype(parser)
    add_compile(parser)
    add_inference(parser)
    args = parser.parse_args(argv)
    pause = PauseConfig.parse(args.pause)

    from paumer.batch import predict_files
    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device
    from paumer.predictor import Predictor, front_file

    device = choose_device(args.device)
    model = open_segmenter(args.model)
    predictor = Predictor(
        model,
        pause,
        criterion=args.criterion,
        device=str(device),
        dtype=args.dtype,
        inference=inference_from(args, model),
        target_throughput=args.target_throughput,
        front=None if args.target_throughput is None else front_file(args.model),
        compile=args.compile,
    )
    report = predict_files(
        predictor,
        args.inputs,
        args.out,
        kinds=args.kinds,
        label_ids=args.label_ids,
        overwrite=args.overwrite,
        batch_size=args.batch_size,
    )
    for path, reason in report.failed:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(report.done)} done, {len(report.failed)} skipped; results are in {args.out}")
    return 2 if report.failed else 0
