"""Options that several commands share, and the parser that tells argument errors in one sentence.

Knows nothing of what the commands do. Heavy imports are inside the functions.
"""

from __future__ import annotations

from typing import Any, NoReturn

from jsonargparse import ArgumentParser

import paumer
from paumer.errors import InputError, did_you_mean

PAUSE_HELP = (
    "layer:ratio pairs such as 5:0.6 or 3:0.4,5:0.4 (after layer 3 the 40 %% most certain patches pause, …), "
    "5:0.6@batch (of the whole batch), 5:0.3nats[0.1-0.8] (an entropy below 0.3, of each image 10 to 80 %%), or none"
)


class Parser(ArgumentParser):
    """Argument errors as one sentence, with the near match of a misspelt option."""

    def error(self, message: str, exception: Exception | None = None) -> NoReturn:  # type: ignore[override]
        message = " ".join(message.split())
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        if "nrecognized arguments" in message and unknown:
            options = [option for action in self._actions for option in action.option_strings]
            message = f"unknown option {unknown[0]}: {did_you_mean(unknown[0], options)}"
        raise InputError(f"{self.prog}: {message}" if "see" in message else f"{message} (see {self.prog} --help)")


def add_model(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="model folder, hub repository, or a foreign checkpoint file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def add_data(parser: ArgumentParser, positional: bool = False) -> None:
    text = "camvid, cityscapes, ade20k, scenes, or a YAML file that describes a data set"
    if positional:
        parser.add_argument("data", help=text)
    else:
        parser.add_argument("--data", required=True, help=text)
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", default="val", help="train, val or test")


def add_dtype(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="float32",
        help="what to compute in: float32, bfloat16, float16; auto: half precision where the device gains by it",
    )


def add_compile(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        default="off",
        help="block: one graph for all configurations; full: one each, as a CUDA graph where there is CUDA; or off",
    )


def add_inference(parser: ArgumentParser) -> None:
    parser.add_argument("--criterion", default="entropy", help="entropy, max_prob, margin or random")
    parser.add_argument(
        "--mode", choices=["whole", "slide"], help="whole images or sliding windows; default: the model's"
    )
    parser.add_argument("--window", type=int, nargs=2, help="height and width of sliding windows")
    parser.add_argument("--stride", type=int, nargs=2, help="steps of sliding windows, down and right")
    parser.add_argument("--base-size", type=int, nargs=2, help="fit images into this long and short side first")
    parser.add_argument("--scales", type=float, nargs="+", help="average over these scales of the image")
    parser.add_argument("--flip", action="store_true", help="average over the mirrored image as well")


def inference_from(args: Any, model: Any) -> Any:
    from paumer.segment import inference_config

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


def open_data(args: Any) -> Any:
    from paumer.data import create_dataset

    return create_dataset(args.data, args.split, args.root)


def versions(device: Any) -> dict[str, str]:
    import timm
    import torch

    return {"device": str(device), "paumer": paumer.__version__, "torch": torch.__version__, "timm": timm.__version__}
