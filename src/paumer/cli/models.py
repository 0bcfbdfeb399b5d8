"""`paumer convert` and `paumer push`: model folders made and published.

Knows nothing of the formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paumer.cli.options import Parser


def convert_command(argv: Sequence[str]) -> int:
    """write a foreign checkpoint, or a model folder at half size, as a model folder"""
    parser = Parser(prog="paumer convert", description="Write a Segmenter checkpoint as a model folder.")
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
    parser = Parser(prog="paumer push", description="Upload a model folder to the Hugging Face hub.")
    parser.add_argument("model", help="model folder")
    parser.add_argument("repo", help="repository on the hub, USER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    args = parser.parse_args(argv)

    from paumer.checkpoint import open_segmenter
    from paumer.model.folder import upload_model_folder

    open_segmenter(args.model)  # only what loads is worth publishing
    print(upload_model_folder(Path(args.model), args.repo, args.private))
    return 0
