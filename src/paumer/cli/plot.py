"""`paumer plot`: the paper's figures.

Knows nothing of how a figure looks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paumer.cli.options import PAUSE_HELP, Parser, open_data, versions
from paumer.errors import InputError, did_you_mean
from paumer.pause import NO_PAUSE, PAPER_CONFIGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paumer.entropy_study import EntropyStudy
    from paumer.plot import Series
    from paumer.predictor import ImageLike


@dataclass(frozen=True)
class _Command:
    """One figure: what it shows, its options, and how it is made of them."""

    help: str
    add_options: Callable[[Parser], None]
    draw: Callable[[Any], Figure]


def plot_command(argv: Sequence[str]) -> int:
    """draw the paper's figures from what was measured"""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] not in FIGURES:
        raise InputError(f"unknown figure '{argv[0]}': {did_you_mean(argv[0], FIGURES)}")
    args = _parser(argv[0]).parse_args(argv[1:])

    from paumer.plot import figure_paths, require_matplotlib, save_figure

    # What cannot be written is told before an hour of computing.
    figure_paths(args.out)
    require_matplotlib()
    for path in save_figure(FIGURES[argv[0]].draw(args), args.out):
        print(f"drew {path}")
    return 0


def _parser(name: str) -> Parser:
    parser = Parser(prog=f"paumer plot {name}", description=FIGURES[name].help)
    FIGURES[name].add_options(parser)
    parser.add_argument("--out", required=True, help="file to draw into, .png or .svg; both without an end")
    return parser


def _usage() -> str:
    figures = [f"{command.help}\n{_parser(name).format_usage()}" for name, command in FIGURES.items()]
    return "usage: paumer plot FIGURE … --out FILE\n\nDraw a figure of the paper.\n\n" + "\n".join(figures)


# -- Fig. 1 ------------------------------------------------------------------------------------------------------------


def _add_pauses(parser: Parser) -> None:
    parser.add_argument("model", help="model folder, hub repository, or a foreign checkpoint file")
    parser.add_argument("images", nargs="+", help="image files; with --data, numbers of images in the split, from 0")
    parser.add_argument("--pause", default="3:0.4,5:0.4", help=PAUSE_HELP)
    parser.add_argument("--criterion", default="entropy", help="entropy, max_prob, margin or random")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--data", help="take the images from this data set: camvid, scenes, …, or a YAML file")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", default="val", help="train, val or test")


def _draw_pauses(args: Any) -> Figure:
    from paumer.checkpoint import open_segmenter
    from paumer.plot import draw_pauses
    from paumer.predictor import Predictor
    from paumer.segment import inference_config

    images = _images_of(args)
    model = open_segmenter(args.model)
    whole = inference_config(model, mode="whole")  # in windows there is no single map of an image
    predictor = Predictor(model, args.pause, criterion=args.criterion, device=args.device, inference=whole)
    data = f", {args.data} {args.split} {', '.join(args.images)}" if args.data else ""
    return draw_pauses([predictor(image) for image in images], f"{args.model}{data}, criterion {args.criterion}.")


def _images_of(args: Any) -> list[ImageLike]:
    if not args.data:
        return list(args.images)
    dataset = open_data(args)
    for word in args.images:
        if not (word.isdecimal() and int(word) < len(dataset)):
            raise InputError(f"no image '{word}' in {args.data} {args.split}: it has the numbers 0..{len(dataset) - 1}")
    return [dataset[int(word)].image for word in args.images]


# -- Fig. 3 ------------------------------------------------------------------------------------------------------------


def _add_entropy(parser: Parser) -> None:
    parser.add_argument("source", help="a .json file of a finished study; or a model, to study it and write the file")
    parser.add_argument("--data", help="of the study: camvid, cityscapes, ade20k, scenes, or a YAML file")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", default="val", help="train, val or test")
    parser.add_argument("--limit", type=int, default=0, help="study this many images, spread evenly; 0: all")
    parser.add_argument("--layers", type=int, nargs="+", help="after which to look; default: every second one")
    parser.add_argument("--device", default="auto", help="of the study: auto, cpu, cuda, cuda:1 or mps")


def _draw_entropy(args: Any) -> Figure:
    from paumer.entropy_study import EntropyStudy
    from paumer.plot import draw_entropy

    if Path(args.source).suffix == ".json":
        if args.data or args.layers or args.limit:
            raise InputError(f"{args.source} is a finished study: leave out --data, --layers and --limit")
        return draw_entropy(EntropyStudy.load(args.source))
    if not args.data:
        raise InputError(f"to study {args.source} takes a data set: add --data; or give the .json file of a study")
    study = _study(args)
    path = Path(args.out).with_suffix(".json")
    study.save(path)
    print(f"the study is in {path}")
    return draw_entropy(study)


def _study(args: Any) -> EntropyStudy:
    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device
    from paumer.entropy_study import study_entropy
    from paumer.evaluate import spread_indices

    device = choose_device(args.device)
    dataset = open_data(args)
    return study_entropy(
        open_segmenter(args.source).to(device),
        dataset,
        layers=args.layers,
        indices=spread_indices(len(dataset), args.limit),
        conditions={"model": args.source, "split": args.split, **versions(device)},
        progress=True,
    )


# -- Fig. 4, 5, 9 and 10 -----------------------------------------------------------------------------------------------


def _add_sweep(parser: Parser) -> None:
    parser.add_argument("sweep", help="sweep folder, as paumer sweep writes it")
    parser.add_argument("--label", help="what the model is called; default: the name of the folder")
    _add_floor(parser)


def _add_floor(parser: Parser) -> None:
    parser.add_argument("--min-miou", type=float, default=0.0, help="leave out points with less, in per cent")


def _read_sweep(args: Any) -> Series:
    from paumer.plot import Series

    return Series.read(args.sweep, args.label, min_miou=args.min_miou)


def _add_tradeoff(parser: Parser) -> None:
    parser.add_argument(
        "sweeps",
        nargs="+",
        help="sweep folders; speed-ups are over the first one's unpaused model. Folders with commas between them are "
        "seeds of one: their mean and standard deviation",
    )
    parser.add_argument("--baselines", nargs="+", default=[], help="sweep folders to draw dashed; seeds likewise")
    parser.add_argument("--labels", nargs="+", help="names of the sweeps, then of the baselines; default: the folders'")
    parser.add_argument("--front", action="store_true", help="everything that was scored, not only Table 1")
    parser.add_argument(
        "--relative",
        action="store_true",
        help="speed-ups over each one's own unpaused model: for one network, timed apart",
    )
    _add_floor(parser)


def _draw_tradeoff(args: Any) -> Figure:
    from paumer.plot import draw_tradeoff

    folders = [*args.sweeps, *args.baselines]
    labels = args.labels or [None] * len(folders)
    if len(labels) != len(folders):
        raise InputError(f"{len(folders)} sweeps and {len(labels)} labels: give each a label, baselines last, or none")
    dashed = [False] * len(args.sweeps) + [True] * len(args.baselines)
    series = [_read_seeds(word, label, dash, args) for word, label, dash in zip(folders, labels, dashed, strict=True)]
    return draw_tradeoff(series, front=args.front, relative=args.relative)


def _read_seeds(word: str, label: str | None, dashed: bool, args: Any) -> Series:
    """One sweep, or the mean of those between whose folders are commas."""
    from paumer.plot import Series

    # A folder may have a comma in its name.
    folders = [word] if Path(word).is_dir() else word.split(",")
    if "" in folders:
        raise InputError(f"'{word}' lacks a folder beside a comma: write the seeds of one series as  A,B,C")
    if len(folders) == 1:
        return Series.read(word, label, dashed=dashed, min_miou=args.min_miou)
    seeds = [Series.read(folder, dashed=dashed, min_miou=args.min_miou) for folder in folders]
    # Searches of several seeds went different ways; what is drawn without --front they must share.
    return Series.join(seeds, label, needed=None if args.front else (NO_PAUSE, *PAPER_CONFIGS))


def _add_architectures(parser: Parser) -> None:
    _add_sweep(parser)
    parser.add_argument("--speeds", required=True, help="table of benchmarks/architectures.py")
    parser.add_argument("--published", required=True, help="published scores, such as benchmarks/published.csv")
    parser.add_argument("--dataset", help="of the published scores; default: whose number of classes was timed")
    parser.add_argument("--size", default="Ti", help="of the swept model among the speeds: Ti, S or B")


def _draw_architectures(args: Any) -> Figure:
    from paumer.plot import Comparison, draw_architectures

    others = Comparison.read(args.speeds, args.published, args.dataset)
    if others.unscored:
        names = ", ".join(others.unscored)
        print(f"left out, without a published mIoU on {others.dataset}: {names}", file=sys.stderr)
    return draw_architectures(_read_sweep(args), others, args.size)


def _draw_grid(args: Any) -> Figure:
    from paumer.plot import draw_grid

    return draw_grid(_read_sweep(args))


def _draw_greedy(args: Any) -> Figure:
    from paumer.plot import draw_greedy

    return draw_greedy(_read_sweep(args))


FIGURES: dict[str, _Command] = {
    "pauses": _Command("What paused where, and why (Fig. 1)", _add_pauses, _draw_pauses),
    "entropy": _Command("Entropy of right and of wrong tokens after each layer (Fig. 3)", _add_entropy, _draw_entropy),
    "tradeoff": _Command("mIoU over speed for several models (Fig. 4)", _add_tradeoff, _draw_tradeoff),
    "architectures": _Command("The front beside other architectures (Fig. 5)", _add_architectures, _draw_architectures),
    "grid": _Command("Every single pausing layer and ratio (Fig. 9)", _add_sweep, _draw_grid),
    "greedy": _Command("The search layer after layer (Fig. 10)", _add_sweep, _draw_greedy),
}
