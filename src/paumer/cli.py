"""The command line: each command parses, calls one function of the library and prints.

Knows nothing of how anything is done. torch and everything else heavy is imported inside the commands, so that
`paumer --help` is instant. Errors that are the user's to mend are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

import paumer
from paumer.errors import InputError, did_you_mean
from paumer.pause import PauseConfig, parse_pauses

if TYPE_CHECKING:
    from paumer.evaluate import EvalResult

PAUSE_HELP = (
    "layer:ratio pairs such as 5:0.6 or 3:0.4,5:0.4 (after layer 3 the 40 %% most certain patches pause, …), or none"
)


class _Parser(ArgumentParser):
    """Argument errors as one sentence, with the near match of a misspelt option."""

    def error(self, message: str, exception: Exception | None = None) -> NoReturn:  # type: ignore[override]
        message = " ".join(message.split())
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        if "nrecognized arguments" in message and unknown:
            options = [option for action in self._actions for option in action.option_strings]
            message = f"unknown option {unknown[0]}: {did_you_mean(unknown[0], options)}"
        raise InputError(f"{self.prog}: {message}" if "see" in message else f"{message} (see {self.prog} --help)")


# --- the commands ----------------------------------------------------------------------------------------------------


def train_command(argv: Sequence[str]) -> int:
    """train a model by a recipe, or go on with a run"""
    from paumer.train import TrainConfig, train

    parser = _Parser(prog="paumer train", description="Train a Segmenter, plain or pausing. Results are in --out.")
    parser.add_argument("--config", action="config", help="recipe: a YAML file of the options below; may be repeated")
    parser.add_class_arguments(TrainConfig)
    argv = _train_words(argv, TrainConfig)
    for path in _values_of(argv, "--config"):
        check_recipe(path, TrainConfig)
    if "--out" not in {word.split("=")[0] for word in argv} and not {"-h", "--help", "--print_config"} & set(argv):
        raise InputError("paumer train needs a folder to write to: add --out runs/NAME")
    values = parser.parse_args(argv).as_dict()
    values.pop("config")
    result = train(TrainConfig(**values))
    print(json.dumps({"out": values["out"], **result}))
    return 0


def val_command(argv: Sequence[str]) -> int:
    """mIoU at one or several pause configurations"""
    parser = _Parser(prog="paumer val", description="Dataset-level mIoU of a model at several pause configurations.")
    _add_model(parser)
    _add_data(parser)
    parser.add_argument("--pauses", nargs="+", default=["none"], help=f"{PAUSE_HELP}; @paper: the 13 of Table 1")
    _add_inference(parser)
    parser.add_argument("--limit", type=int, default=0, help="evaluate this many images, spread evenly; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the criterion 'random'")
    parser.add_argument("--per-class", action="store_true", help="print the IoU of every class")
    parser.add_argument("--json", help="also write the results to this file")
    args = parser.parse_args(argv)
    pauses = parse_pauses(args.pauses)

    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device
    from paumer.evaluate import evaluate, spread_indices
    from paumer.files import write_text

    device = choose_device(args.device)
    dataset = _open_data(args)
    model = open_segmenter(args.model).to(device)
    results = evaluate(
        model,
        dataset,
        pauses,
        inference=_inference(args, model),
        criterion=args.criterion,
        seed=args.seed,
        indices=spread_indices(len(dataset), args.limit),
        progress=True,
    )
    rows = [
        {
            "model": args.model,
            "data": args.data,
            "split": args.split,
            **result.to_dict(dataset.spec.names),
            **_versions(device),
        }
        for result in results
    ]
    _print_scores(results, dataset.spec.names, args.per_class)
    for row in rows:
        print(json.dumps(row))
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + "\n")
    return 0


def predict_command(argv: Sequence[str]) -> int:
    """segment images, folders, globs and videos"""
    parser = _Parser(prog="paumer predict", description="Segment images, folders, globs and video files.")
    _add_model(parser)
    parser.add_argument("inputs", nargs="+", help="image and video files, folders, globs")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--pause", default="none", help=PAUSE_HELP)
    parser.add_argument(
        "--kinds",
        nargs="+",
        help="mask, overlay, paused, entropy, figure; default: all but the figure, of videos the overlay",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--label-ids", action="store_true", help="masks with the data set's own ids")
    _add_inference(parser)
    args = parser.parse_args(argv)
    pause = PauseConfig.parse(args.pause)

    from paumer.batch import predict_files
    from paumer.checkpoint import open_segmenter
    from paumer.device import choose_device
    from paumer.predictor import Predictor

    device = choose_device(args.device)
    model = open_segmenter(args.model)
    predictor = Predictor(model, pause, criterion=args.criterion, device=str(device), inference=_inference(args, model))
    report = predict_files(
        predictor, args.inputs, args.out, kinds=args.kinds, label_ids=args.label_ids, overwrite=args.overwrite
    )
    for path, reason in report.failed:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(report.done)} done, {len(report.failed)} skipped; results are in {args.out}")
    return 2 if report.failed else 0


def convert_command(argv: Sequence[str]) -> int:
    """write a foreign checkpoint, or a model folder at half size, as a model folder"""
    parser = _Parser(prog="paumer convert", description="Write a Segmenter checkpoint as a model folder.")
    parser.add_argument(
        "checkpoint",
        help="checkpoint.pth of rstrudel/segmenter, a .pth of mmsegmentation 0.x or 1.x, or a model folder",
    )
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.add_argument("--variant", help="variant.yml of rstrudel/segmenter, by default the one beside the checkpoint")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    args = parser.parse_args(argv)

    import torch

    from paumer.checkpoint import convert_checkpoint, num_parameters

    model = convert_checkpoint(args.checkpoint, args.out, args.variant, torch.float16 if args.half else None)
    config = model.config
    print(
        f"{args.out}: {config.backbone}, {config.decoder} decoder, {config.num_classes} classes, "
        f"preset {config.preset}, {num_parameters(model) / 1e6:.1f} M parameters"
    )
    return 0


def push_command(argv: Sequence[str]) -> int:
    """upload a model folder to the Hugging Face hub"""
    parser = _Parser(prog="paumer push", description="Upload a model folder to the Hugging Face hub.")
    parser.add_argument("model", help="model folder")
    parser.add_argument("repo", help="repository on the hub, USER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    args = parser.parse_args(argv)

    from paumer.checkpoint import open_segmenter
    from paumer.model.folder import upload_model_folder

    open_segmenter(args.model)  # only what loads is worth publishing
    print(upload_model_folder(Path(args.model), args.repo, args.private))
    return 0


def data_command(argv: Sequence[str]) -> int:
    """check a data set before training on it"""
    parser = _Parser(prog="paumer data", description="Look at a data set.")
    parser.add_argument("action", choices=["check"], help="check: pairs, sizes, label ids, class shares, bad files")
    _add_data(parser, positional=True)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON line as well")
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from paumer.data import check_dataset

    bar = tqdm(desc="checking", unit="pair", disable=None, leave=False)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        report = check_dataset(args.data, args.split, args.root, progress=progress)
    print(report.table())
    if args.json:
        print(report.to_json())
    return 0 if report.ok else 2


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "val": val_command,
    "predict": predict_command,
    "convert": convert_command,
    "push": push_command,
    "data": data_command,
}


# --- shared options --------------------------------------------------------------------------------------------------


def _add_model(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="model folder, hub repository, or a foreign checkpoint file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def _add_data(parser: ArgumentParser, positional: bool = False) -> None:
    text = "camvid, cityscapes, ade20k, scenes, or a YAML file that describes a data set"
    if positional:
        parser.add_argument("data", help=text)
    else:
        parser.add_argument("--data", required=True, help=text)
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", default="val", help="train, val or test")


def _add_inference(parser: ArgumentParser) -> None:
    parser.add_argument("--criterion", default="entropy", help="entropy, max_prob, margin or random")
    parser.add_argument(
        "--mode", choices=["whole", "slide"], help="whole images or sliding windows; default: the model's"
    )
    parser.add_argument("--window", type=int, nargs=2, help="height and width of sliding windows")
    parser.add_argument("--stride", type=int, nargs=2, help="steps of sliding windows, down and right")
    parser.add_argument("--base-size", type=int, nargs=2, help="fit images into this long and short side first")
    parser.add_argument("--scales", type=float, nargs="+", help="average over these scales of the image")
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image as well")


def _inference(args: Any, model: Any) -> Any:
    from paumer.evaluate import inference_config

    def pair(value: list[Any] | None) -> tuple[Any, ...] | None:
        return None if value is None else tuple(value)

    return inference_config(
        model,
        mode=args.mode,
        crop_size=pair(args.window),
        stride=pair(args.stride),
        base_size=pair(args.base_size),
        scales=pair(args.scales),
        flip=args.flip or None,
    )


def _open_data(args: Any) -> Any:
    from paumer.data import create_dataset

    return create_dataset(args.data, args.split, args.root)


# --- recipes ---------------------------------------------------------------------------------------------------------


def check_recipe(path: str, config: type) -> None:
    """Refuses what jsonargparse would report less clearly: no such file, an unknown key, an unquoted pause."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path} ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"the recipe {path} must hold 'key: value' lines")
    known = [field.name for field in dataclasses.fields(config)]
    for key in values:
        if key not in known:
            raise InputError(f"unknown key '{key}' in {path}: {did_you_mean(str(key), known)}")
    pauses = values.get("val_pauses") or []
    parse_pauses(pauses if isinstance(pauses, list) else [pauses])


def _train_words(argv: Sequence[str], config: type) -> list[str]:
    """`--val-every 5` as `--val_every 5`, since keys are Python's, and a bare `--resume` as `--resume true`."""
    flags = {f"--{field.name}" for field in dataclasses.fields(config) if field.type in ("bool", bool)}
    words: list[str] = []
    for place, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
        words.append(word)
        if word in flags and not (place + 1 < len(argv) and argv[place + 1].lower() in ("true", "false")):
            words.append("true")
    return words


def _values_of(argv: Sequence[str], option: str) -> list[str]:
    values = [word.split("=", 1)[1] for word in argv if word.startswith(option + "=")]
    return values + [after for word, after in pairwise(argv) if word == option]


# --- printing --------------------------------------------------------------------------------------------------------


def _print_scores(results: Sequence[EvalResult], names: Sequence[str], per_class: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    table = Table(
        title=f"{first.num_images} images, {first.inference.mode}, criterion {first.criterion}; IoU in per cent"
    )
    table.add_column("pause")
    for column in ("mIoU", "change", "pixel accuracy", "mean accuracy"):
        table.add_column(column, justify="right")
    for result in results:
        scores = result.scores
        table.add_row(
            str(result.pause),
            f"{scores.miou:.2f}",
            f"{scores.miou - first.miou:+.2f}",
            f"{scores.pixel_accuracy:.2f}",
            f"{scores.mean_accuracy:.2f}",
        )
    console = Console()
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


def _versions(device: Any) -> dict[str, str]:
    import timm
    import torch

    return {"device": str(device), "paumer": paumer.__version__, "torch": torch.__version__, "timm": timm.__version__}


# --- entry -----------------------------------------------------------------------------------------------------------


def _usage() -> str:
    lines = [f"  {name:<10}{command.__doc__}" for name, command in COMMANDS.items()]
    return (
        "usage: paumer COMMAND …\n\n"
        "Segmentation transformers whose certain patches pause: one checkpoint, every speed.\n\n"
        + "\n".join(lines)
        + "\n\npaumer COMMAND --help tells the options of a command, paumer --version the version."
    )


def run(argv: Sequence[str]) -> int:
    """One command; returns the exit code. Raises :class:`InputError` for what the user can mend."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"paumer {paumer.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise InputError(f"unknown command '{argv[0]}': {did_you_mean(argv[0], COMMANDS)}")
    return COMMANDS[argv[0]](list(argv[1:]))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the command `paumer`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("paumer").setLevel(logging.INFO)
    try:
        code = run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"paumer: error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as interrupt:
        print(f"paumer: {interrupt or 'stopped'}", file=sys.stderr)
        code = 130
    sys.exit(code)
