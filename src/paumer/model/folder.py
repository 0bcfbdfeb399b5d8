"""A model folder on disk: `config.json`, `model.safetensors`, `README.md` (the card), written whole or not at all.

Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paumer.errors import InputError
from paumer.files import write_folder_beside
from paumer.front import FRONT_FILE

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"


def write_model_folder(
    path: str | Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    card: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes the three files beside ``path`` and renames; ``dtype`` (say float16) is that of the stored weights."""
    tensors = {}
    for key, tensor in state.items():
        stored = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        tensors[key] = stored.contiguous().clone()  # safetensors refuses tensors that share memory
    with write_folder_beside(path) as beside:
        (beside / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (beside / CARD_NAME).write_text(card, encoding="utf-8")
        try:
            save_file(tensors, beside / WEIGHTS_NAME, metadata={"format": "pt"})
        except SafetensorError as error:  # its way of saying that the disk is full
            raise InputError(f"cannot write {path} ({error}); free some space or give another place") from error


def fetch_model_folder(path: str | Path, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """The folder itself, or a local copy of the hub repository of that name."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{path} is a file, not a model folder: convert foreign checkpoints with  paumer convert")
    try:
        return Path(
            snapshot_download(
                str(path),
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, "*.json"],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"no model at {path}: neither a folder here nor a repository that the hub gives us") from error


def read_model_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(config, state)``; :class:`InputError` for a missing, truncated or malformed file."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a model folder: it has no {name}")
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / CONFIG_NAME} is not readable JSON ({error}): download or save it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG_NAME} does not hold a model configuration: download or save it again")
    try:
        state = load_file(folder / WEIGHTS_NAME)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS_NAME} is truncated or damaged: download or save it again") from error
    return config, state


def upload_model_folder(folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Uploads the files as they are to a repository of the hub, made if need be -> address of the commit."""
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Upload PAUMER model",
            allow_patterns=[CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, FRONT_FILE],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"cannot upload to {repo_id} ({type(error).__name__}): log in with  hf auth login") from error
    return str(commit)
