"""The command line: each command parses, calls one function of the library and prints.

Knows nothing of how anything is done. torch and everything else heavy is imported inside the commands, so that
`paumer --help` is instant. Errors that are the user's to mend are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import paumer
from paumer.cli.benchmark import benchmark_command
from paumer.cli.data import data_command
from paumer.cli.models import convert_command, push_command
from paumer.cli.plot import plot_command
from paumer.cli.predict import predict_command
from paumer.cli.report import report_command
from paumer.cli.sweep import sweep_command
from paumer.cli.train import train_command
from paumer.cli.val import val_command
from paumer.errors import InputError, did_you_mean

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "val": val_command,
    "predict": predict_command,
    "benchmark": benchmark_command,
    "sweep": sweep_command,
    "plot": plot_command,
    "report": report_command,
    "convert": convert_command,
    "push": push_command,
    "data": data_command,
}


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
