"""What the scripts here share: a CSV with one row for each measurement, and the conditions in every row.

Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from paumer.benchmark import conditions
from paumer.errors import InputError
from paumer.files import write_beside

Row = dict[str, Any]


def state_of(device: torch.device) -> Row:
    """Device, threads, load and versions, flat enough for a cell each."""
    state = dict(conditions(device))
    return {**state, "versions": json.dumps(state["versions"])}


def add_trained(parser: argparse.ArgumentParser) -> None:
    """The options of a script that takes a trained model and a data set."""
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root")
    parser.add_argument("--split", default="val")


def run_script(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
) -> None:
    """Measures as the words say, into ``--out``; what the user has to mend is one sentence and exit code 2."""
    args = parser.parse_args(argv)
    try:
        collect(measure(args), args.out)
    except InputError as error:
        parser.error(str(error))


def collect(rows: Iterable[Row], out: Path) -> None:
    """Prints each row as it comes and has all of them so far on disk."""
    done: list[Row] = []
    for row in rows:
        done.append(row)
        print(row, flush=True)
        write_rows(out, done)
    print(f"written to {out}")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replaces the file once it is complete; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with write_beside(path) as beside, open(beside, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
