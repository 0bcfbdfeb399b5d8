"""How fast other segmentation networks are beside the Segmenter: built with random weights and timed in turns.

Knows nothing of how well they segment: published scores stand in `published.csv`, under the same names. Nothing is
downloaded. What a package builds is not always the network that a score was published for; `published.csv` says where.

    python benchmarks/architectures.py --dataset ade20k --out runs/architectures.csv
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rows import write_rows
from torch import Tensor, nn
from tqdm import tqdm

from paumer.benchmark import Speedup, conditions, is_out_of_memory, time_interleaved
from paumer.device import DTYPES, choose_device
from paumer.errors import InputError, MissingExtraError, did_you_mean
from paumer.model import create_model
from paumer.model.cost import count_call
from paumer.pause import NO_PAUSE, PauseConfig

NUM_CLASSES = {"ade20k": 150, "cityscapes": 19}
BASELINE = "Segmenter-Ti"
PAUSES = ("5:0.6", "3:0.4,5:0.4,7:0.4")
STRIDE = 32  # what some of the networks divide an image by: others than whole multiples they refuse

SEGMENTERS = {"Ti": "vit_tiny_patch16_384", "S": "vit_small_patch16_384", "B": "vit_base_patch16_384"}
# Layers and widths of the four stages, width of the decoder. Source: the SegFormer paper, section 4.2 and Table 6.
SEGFORMERS = {
    "B0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "B1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "B2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "B3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "B4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "B5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
# Class of the configuration and what differs from its defaults. Sources: mmsegmentation's configs/convnext and swin.
UPERNETS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConvNeXt-T": ("ConvNextConfig", dict(depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768])),
    "ConvNeXt-S": ("ConvNextConfig", dict(depths=[3, 3, 27, 3], hidden_sizes=[96, 192, 384, 768])),
    "Swin-T": ("SwinConfig", dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7)),
    "Swin-S": ("SwinConfig", dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], window_size=7)),
    "R50": ("ResNetConfig", dict(depths=[3, 4, 6, 3])),
}
TORCHVISION = {
    "FCN-R50": "fcn_resnet50",
    "DeepLabV3-R50": "deeplabv3_resnet50",
    "DeepLabV3-R101": "deeplabv3_resnet101",
    "DeepLabV3-MobileNetV3": "deeplabv3_mobilenet_v3_large",
    "LRASPP-MobileNetV3": "lraspp_mobilenet_v3_large",
}

ImageSize = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Architecture:
    """A network that a package builds with random weights; `name` is the key of `published.csv`."""

    name: str
    family: str
    package: str
    build: Callable[[int, ImageSize], nn.Module]  # number of classes, size of the images
    pause: PauseConfig = NO_PAUSE


# -- what each package builds ------------------------------------------------------------------------------------------


def build_segmenter(backbone: str, aux_head: str, num_classes: int, image_size: ImageSize) -> nn.Module:
    # The published scores of Segmenters this small are mmsegmentation's.
    return create_model(backbone, num_classes=num_classes, image_size=image_size, aux_head=aux_head, preset="mmseg")


def build_torchvision(function: str, num_classes: int, image_size: ImageSize) -> nn.Module:
    from torchvision.models import segmentation

    return getattr(segmentation, function)(weights=None, weights_backbone=None, num_classes=num_classes)


def build_segformer(size: str, num_classes: int, image_size: ImageSize) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    depths, widths, decoder_width = SEGFORMERS[size]
    config = SegformerConfig(
        depths=list(depths),
        hidden_sizes=list(widths),
        decoder_hidden_size=decoder_width,
        num_labels=num_classes,  # pyrefly: ignore[unexpected-keyword] (any configuration of transformers takes it)
    )
    return SegformerForSemanticSegmentation(config)


def build_upernet(backbone: str, num_classes: int, image_size: ImageSize) -> nn.Module:
    import transformers

    name, options = UPERNETS[backbone]
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = transformers.UperNetConfig(
        backbone_config=getattr(transformers, name)(out_features=stages, **options),
        num_labels=num_classes,  # pyrefly: ignore[unexpected-keyword]
        use_auxiliary_head=False,  # of use in training only, and computed in inference too where it is there
    )
    return transformers.UperNetForSemanticSegmentation(config)


def build_smp(function: str, options: dict[str, Any], num_classes: int, image_size: ImageSize) -> nn.Module:
    import segmentation_models_pytorch

    return getattr(segmentation_models_pytorch, function)(encoder_weights=None, classes=num_classes, **options)


def build_pspnet(encoder: str, num_classes: int, image_size: ImageSize) -> nn.Module:
    """The package's own PSPNet ends after the third stage; the paper's has all of them, dilated, at stride 8."""
    options = dict(encoder_name=encoder, encoder_depth=5, upsampling=8)
    model: Any = build_smp("PSPNet", options, num_classes, image_size)
    model.encoder.make_dilated(output_stride=8)
    return model


def segmenters(pauses: Sequence[str]) -> Iterator[Architecture]:
    """The three Segmenters without pausing, then with each configuration."""
    for size, backbone in SEGMENTERS.items():
        yield Architecture(f"Segmenter-{size}", "Segmenter", "paumer", partial(build_segmenter, backbone, "none"))
    for size, backbone in SEGMENTERS.items():
        for pause in map(PauseConfig.parse, pauses):
            build = partial(build_segmenter, backbone, "shared")
            yield Architecture(f"PAUMER-{size} {pause}", "PAUMER", "paumer", build, pause)


def others() -> Iterator[Architecture]:
    """Everything that is not a Segmenter."""
    for name, function in TORCHVISION.items():
        yield Architecture(name, name.split("-")[0], "torchvision", partial(build_torchvision, function))
    for size in SEGFORMERS:
        yield Architecture(f"SegFormer-{size}", "SegFormer", "transformers", partial(build_segformer, size))
    for backbone in UPERNETS:
        yield Architecture(f"UPerNet-{backbone}", "UPerNet", "transformers", partial(build_upernet, backbone))
    smp = "segmentation_models_pytorch"
    yield Architecture("PSPNet-R50", "PSPNet", smp, partial(build_pspnet, "resnet50"))
    # Width and stride of mmsegmentation's DeepLabV3+, whose scores are the published ones.
    wide = dict(encoder_name="resnet50", encoder_output_stride=8, decoder_channels=512)
    yield Architecture("DeepLabV3+-R50", "DeepLabV3+", smp, partial(build_smp, "DeepLabV3Plus", wide))
    yield Architecture("FPN-R50", "FPN", smp, partial(build_smp, "FPN", dict(encoder_name="resnet50")))
    yield Architecture("UNet-R34", "UNet", smp, partial(build_smp, "Unet", dict(encoder_name="resnet34")))
    yield Architecture("UNet-R50", "UNet", smp, partial(build_smp, "Unet", dict(encoder_name="resnet50")))


# How each package takes images and gives logits, at whatever size it gives them.
FORWARD: dict[str, Callable[[nn.Module, Tensor, PauseConfig], Tensor]] = {
    "paumer": lambda model, images, pause: model(images, pause).logits,
    "torchvision": lambda model, images, _: model(images)["out"],
    "transformers": lambda model, images, _: model(images).logits,
    "segmentation_models_pytorch": lambda model, images, _: model(images),
}


def forward_pass(architecture: Architecture, model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """The call that is timed: (B, 3, H, W) images -> (B, C, H, W) logits, enlarged to the images for all alike."""

    def call() -> Tensor:
        logits = FORWARD[architecture.package](model, images, architecture.pause)
        if logits.shape[-2:] == images.shape[-2:]:
            return logits
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    return call


# -- choosing ----------------------------------------------------------------------------------------------------------


def choose(known: Sequence[Architecture], only: Sequence[str]) -> list[Architecture]:
    """Those with one of the names or families `only`, all where it is empty, as far as their packages are installed.

    Raises:
        InputError: a name that is neither; nothing left because a package is missing.
    """
    words = {word for architecture in known for word in (architecture.name, architecture.family)}
    for word in only:
        if word not in words:
            raise InputError(f"unknown architecture or family '{word}': {did_you_mean(word, sorted(words))}")
    chosen = [known_one for known_one in known if not only or {known_one.name, known_one.family} & set(only)]
    missing = {architecture.package for architecture in chosen if not version_of(architecture.package)}
    for package in sorted(missing):
        count = sum(architecture.package == package for architecture in chosen)
        print(f"left out {count} of {package}: run  pip install 'paumer[compare]'", file=sys.stderr)
    present = [architecture for architecture in chosen if architecture.package not in missing]
    if not present:
        raise MissingExtraError(", ".join(only), "compare")
    return present


def version_of(package: str) -> str | None:
    """The installed version, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# -- timing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, round by round, of a network and of the baseline in the same rounds; the machine's load."""

    architecture: Architecture
    num_parameters: int
    flops: int  # of one image
    seconds: Sequence[float]
    baseline: Sequence[float]
    load: float | None


def time_together(architectures: Sequence[Architecture], args: argparse.Namespace) -> list[Timing]:
    """Times a few networks in turns; the first of them is the baseline of all."""
    num_classes, size = NUM_CLASSES[args.dataset], tuple(args.image_size)
    flops = [flops_of(one, num_classes, size) for one in architectures]
    torch.manual_seed(0)
    # Weights and images are of no matter for the time, and images are on the device already, the same for all.
    images = torch.rand(args.batch_size, 3, *size).to(args.device, DTYPES[args.dtype])
    models = [one.build(num_classes, size).eval().to(args.device, DTYPES[args.dtype]) for one in architectures]
    calls = [forward_pass(one, model, images) for one, model in zip(architectures, models, strict=True)]
    load = conditions(args.device)["load"]
    with torch.inference_mode():
        seconds = time_interleaved(calls, rounds=args.rounds, warmup=args.warmup, device=args.device)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    return [
        Timing(one, count, flop, own, seconds[0], load)
        for one, count, flop, own in zip(architectures, counts, flops, seconds, strict=True)
    ]


def flops_of(architecture: Architecture, num_classes: int, image_size: ImageSize) -> int:
    """FLOP of one image, attention included, by torch's counter on tensors without values."""
    with torch.device("meta"):
        model = architecture.build(num_classes, image_size).eval()
        images = torch.empty(1, 3, *image_size)
    with torch.inference_mode():
        return count_call(forward_pass(architecture, model, images))


def time_all(
    chosen: Sequence[Architecture], baseline: Architecture, args: argparse.Namespace
) -> Iterator[list[Timing]]:
    """Everything timed so far, after each group of networks; the baseline takes part in each group and comes first."""
    rest = [architecture for architecture in chosen if architecture != baseline]
    timings: list[Timing] = []
    # At least one group, which is the baseline alone where nothing else was chosen.
    for start in tqdm(range(0, max(len(rest), 1), args.together), desc="timing", unit="group"):
        group = time_together([baseline, *rest[start : start + args.together]], args)
        timings += group[1:] if timings else group
        yield timings


# -- results -----------------------------------------------------------------------------------------------------------


def rows_of(timings: Sequence[Timing], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each network.

    Ratios are taken round by round, where both ran under the same load. Images per second are the ratio times the
    baseline's over all groups, so that networks that were not timed together compare.
    """
    pace = args.batch_size / np.median(np.concatenate([timing.baseline for timing in timings]))
    rows = []
    for timing in timings:
        one = timing.architecture
        ratio = Speedup.paired(timing.seconds, timing.baseline)
        fast, median, slow = np.percentile(timing.seconds, (25, 50, 75))
        rows.append(
            {
                "architecture": one.name,
                "family": one.family,
                "package": one.package,
                "pause": str(one.pause),
                "dataset": args.dataset,
                "parameters_m": f"{timing.num_parameters / 1e6:.2f}",
                "gflops": f"{timing.flops / 1e9:.2f}",
                "images_per_second": f"{ratio.median * pace:.4g}",
                "spread": f"{(slow - fast) / median:.3f}",
                "ratio": f"{ratio.median:.4g}",
                "ratio_low": f"{ratio.low:.4g}",
                "ratio_high": f"{ratio.high:.4g}",
                "baseline": BASELINE,
                "image_size": "x".join(map(str, args.image_size)),
                "batch_size": args.batch_size,
                "dtype": args.dtype,
                "rounds": args.rounds,
                "warmup": args.warmup,
                **args.conditions,
                "load": timing.load,
            }
        )
    return rows


def conditions_of(chosen: Sequence[Architecture], device: torch.device) -> dict[str, Any]:
    """Device, threads and versions, those of the packages that built the networks included."""
    values = dict(conditions(device))
    packages = {one.package: version_of(one.package) for one in chosen}
    values["versions"] = json.dumps({**values["versions"], **packages})
    return values


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    columns = ("parameters_m", "gflops", "images_per_second", "spread", "ratio", "ratio_low", "ratio_high")
    width = max(len(row["architecture"]) for row in rows) + 2
    for row in ({"architecture": "architecture", **{column: column for column in columns}}, *rows):
        cells = (row[column].rjust(max(len(column), 7) + 2) for column in columns)
        print(row["architecture"].ljust(width) + "".join(cells))


# -- command -----------------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=NUM_CLASSES, default="ade20k", help="whose number of classes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="architectures or families; default: all")
    parser.add_argument(
        "--pauses", nargs="*", default=PAUSES, metavar="PAUSE", help="at which Segmenters are timed too"
    )
    parser.add_argument("--image-size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--rounds", type=int, default=15, help="how often each network of a group is timed, in turns")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them that do not count")
    parser.add_argument("--together", type=int, default=4, help="networks in memory at once, besides the baseline")
    parser.add_argument("--out", type=Path, default=Path("runs/architectures.csv"))
    return parser


def check(args: argparse.Namespace) -> None:
    for name, least in {"batch_size": 1, "threads": 1, "rounds": 1, "warmup": 0, "together": 1}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} is {least} or more, got {value}")
    height, width = args.image_size
    if min(height, width) < STRIDE or height % STRIDE or width % STRIDE:
        raise InputError(f"images of {height}x{width} pixels do not suit all networks: take multiples of {STRIDE}")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times what was asked for; the table is on disk after each group, so that little is lost when it is stopped."""
    check(args)
    args.device = choose_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    known = [*segmenters(args.pauses), *others()]
    chosen = choose(known, args.only)
    args.conditions = conditions_of(chosen, args.device)
    rows = []
    try:
        for timings in time_all(chosen, next(one for one in known if one.name == BASELINE), args):
            rows = rows_of(timings, args)
            write_rows(args.out, rows)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            "the networks do not fit into the memory: take a smaller --together or --batch-size"
        ) from error
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        rows = run(args)
    except InputError as error:
        parser.error(str(error))
    print_rows(rows)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
