"""A training run on disk: configuration, log, resumable checkpoints, best and last model.

Knows nothing of the loop. Every checkpoint is a model folder with the state of the optimiser beside the weights,
written beside its place and renamed, so what is there is whole. Nothing is unpickled that could run code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paumer.errors import InputError
from paumer.files import make_folder, write_folder_beside, write_text
from paumer.model import Segmenter
from paumer.model.folder import read_model_folder

# What may differ when a run goes on: it changes how a run is watched, not what it computes.
FREE_ON_RESUME = (
    "out",
    "root",
    "workers",
    "val_every",
    "val_images",
    "save_every",
    "keep",
    "log_every",
    "log_with",
    "resume",
)


class RunFolder:
    """Paths and files of one run.

    ``config.yaml`` (effective), ``metrics.jsonl``, ``checkpoints/step_00000500/``, ``best/``, ``last/``, and the events
    of the tracker.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / "best", self.path / "last"
        self.metrics = self.path / "metrics.jsonl"

    # -- opening ------------------------------------------------------------------------------------------------------

    def check(self, config: dict[str, Any], resume: bool, defaults: dict[str, Any] | None = None) -> None:
        """Writes nothing. ``defaults`` stand for options that the run in the folder is too old to know.

        Raises:
            InputError: the folder holds a run and ``resume`` is off, or the run in it had another configuration.
        """
        config_path = self.path / "config.yaml"
        if not config_path.is_file():
            return
        if not resume:
            raise InputError(f"{self.path} already holds a run: go on with it by --resume, or give another --out")
        old = {**_plain(defaults or {}), **yaml.safe_load(config_path.read_text(encoding="utf-8"))}
        changed = [key for key in config if key not in FREE_ON_RESUME and old.get(key) != _plain(config[key])]
        if changed:
            key = changed[0]
            raise InputError(
                f"cannot go on with the run in {self.path}: {key} was {old.get(key)!r} and is now "
                f"{_plain(config[key])!r}; give the same configuration or another --out"
            )

    def open(self, config: dict[str, Any], step: int = 0) -> None:
        """Makes the folder, stores the configuration, and takes away what a killed run has left behind ``step``."""
        make_folder(self.path)
        for leftover in (*self.path.glob(".*"), *(self.path / "checkpoints").glob(".*")):
            if ".tmp" in leftover.suffixes or leftover.suffix == ".old":
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._rewind(step)
        write_text(self.path / "config.yaml", yaml.safe_dump(_plain(config), sort_keys=False))

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*"))

    def save(
        self,
        step: int,
        model: Segmenter,
        ema: dict[str, Tensor] | None,
        optimizer: dict[str, Any],
        progress: dict[str, Any],
        keep: int,
    ) -> Path:
        """Checkpoint after ``step`` steps; the oldest beyond ``keep`` are deleted once it is complete."""
        path = self.path / "checkpoints" / f"step_{step:08d}"
        with write_folder_beside(path) as beside:
            model.save_pretrained(beside / "model")
            try:
                if ema is not None:
                    tensors = {key: value.contiguous().clone() for key, value in ema.items()}
                    save_file(tensors, beside / "ema.safetensors")
                torch.save(optimizer, beside / "optimizer.pt")
            except (SafetensorError, RuntimeError) as error:  # their ways of saying that the disk is full
                raise InputError(f"cannot write {path} ({error}); free some space and go on with --resume") from error
            (beside / "progress.json").write_text(json.dumps({"step": step, **progress}), encoding="utf-8")
        for old in self.checkpoints()[:-keep]:
            # Out of the way in one step: half a folder must not look like a checkpoint.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.old")))
        return path

    def load_latest(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any], dict[str, Any]] | None:
        """``(weights, ema, optimizer, progress)`` of the newest checkpoint, None if there is none yet."""
        checkpoints = self.checkpoints()
        if not checkpoints:
            return None
        path = checkpoints[-1]
        _, weights = read_model_folder(path / "model")
        ema = load_file(path / "ema.safetensors") if (path / "ema.safetensors").is_file() else None
        optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
        return weights, ema, optimizer, json.loads((path / "progress.json").read_text(encoding="utf-8"))

    # -- log ----------------------------------------------------------------------------------------------------------

    def _rewind(self, step: int) -> None:
        """Drops log lines of steps that will be done again."""
        if self.metrics.is_file():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.metrics, "".join(line + "\n" for line in kept))

    def log(self, values: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the half line of a killed run


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as texts, as YAML gives them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
