"""Reading checkpoint files of other programs without running any code they may carry.

Knows nothing of what the weights inside mean (that is ``convert.py``).
"""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from paumer.errors import InputError


class StandIn:
    """Takes the place of a class we do not want to run: keeps what it was made from and does nothing with it."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> StandIn:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


# What the training logs inside mmengine (1.x) files refer to, by the names NumPy 1 and NumPy 2 give it.
# Only the weights are of interest, so even NumPy's own functions are not called.
_STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
)


_LOCK = threading.Lock()


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """torch's list of allowed classes, which is one for the whole process, holds only the stand-ins for a while.

    Other libraries add to that list on import (accelerate: NumPy's functions), and what a file may run here should not
    depend on what else was imported.
    """
    with _LOCK:
        others = get_safe_globals()
        clear_safe_globals()
        add_safe_globals([(StandIn, name) for name in _STAND_INS])
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(others)


def load_foreign(path: str | Path) -> dict[str, Any]:
    """The dictionary in a ``.pth`` file (zip or pre-1.6 format) or in a ``.safetensors`` file, tensors on the CPU.

    Values of the few classes in mmengine's training logs come back as :class:`StandIn`; anything else that would have
    to be imported or called is refused.

    Raises:
        InputError: a file that is missing, cut short, not a checkpoint, or that asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint file {path}; give the path of a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    checkpoint = _load_pickle(path)
    if not isinstance(checkpoint, Mapping):
        raise InputError(
            f"{path} holds a {type(checkpoint).__name__}, not a checkpoint; a dictionary with the weights is needed"
        )
    return dict(checkpoint)


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {path} ({error}); it is damaged or not a safetensors file") from error


def _load_pickle(path: Path) -> Any:
    is_zip = zipfile.is_zipfile(path)
    _refuse_half_files(path, is_zip)
    try:
        with _only_stand_ins():
            # Only zip files can be mapped; with it the weights of a large checkpoint are read once, when converted.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    # A damaged pickle can end in almost any exception, and whichever it is, the file is not usable.
    except Exception as error:
        # "GLOBAL x.y" is how torch's restricted unpickler names what it refused to import.
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path} asks to run code ({refused[1]}); refused, nothing was executed: "
                "get a file that holds only weights, or save it again with only its state_dict"
            ) from error
        raise InputError(
            f"cannot read {path} as a checkpoint ({_first_line(error)}); it is damaged or was not written by torch.save"
        ) from error


def _refuse_half_files(path: Path, is_zip: bool) -> None:
    """Says plainly what is by far the most common damage: an empty file or a download that stopped half-way."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    # A zip file has its table of contents at the end, so one that begins well and is no zip file has lost its end.
    if not start or (start == b"PK" and not is_zip):
        size = path.stat().st_size
        raise InputError(f"{path} is cut short ({size} bytes); download or copy it again")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


class _VariantLoader(yaml.SafeLoader):
    """YAML's safe loader that also reads Python tuples (as lists), which seg-repo writes for ``image_size``."""


_VariantLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node, deep=True)
)


def load_variant(path: str | Path) -> dict[str, Any]:
    """The content of seg-repo's ``variant.yml``; tags that would create Python objects are refused."""
    path = Path(path)
    try:
        variant = yaml.load(path.read_text(encoding="utf-8"), Loader=_VariantLoader)
    except FileNotFoundError as error:
        raise InputError(
            f"no file {path}; a checkpoint of rstrudel/segmenter needs the variant.yml that was published beside it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}); a YAML text file is needed") from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        raise InputError(f"cannot read {path} ({problem}); download it again") from error
    if not isinstance(variant, dict):
        raise InputError(f"{path} holds no settings but a {type(variant).__name__}; seg-repo's variant.yml is needed")
    return variant
