"""`paumer train`: recipes, options, and the words in which they may be given.

Knows nothing of how training is done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from paumer.cli.options import Parser
from paumer.errors import InputError, did_you_mean
from paumer.pause import parse_pauses


def train_command(argv: Sequence[str]) -> int:
    """train a model by a recipe, or go on with a run"""
    from paumer.train import TrainConfig, train

    parser = Parser(prog="paumer train", description="Train a Segmenter, plain or pausing. Results are in --out.")
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
