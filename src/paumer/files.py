"""Writing without leaving halves behind: everything is written beside its place and renamed into it.

Knows nothing of what is written.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paumer.errors import InputError


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


def make_folder(path: str | Path) -> Path:
    """The folder ``path``, made if it is not there; :class:`InputError` if it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path} ({_why(error)}); give another place to write to") from error
    return path


@contextmanager
def write_beside(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``; renamed onto ``path`` if the block succeeds, else removed.

    The temporary name keeps the suffix of ``path``, since many writers choose their format by it.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield beside
        # Without fsync a power cut can leave a renamed but empty file on some file systems.
        with open(beside, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({_why(error)}); free some space or give another place") from error
    finally:
        with suppress(OSError):
            beside.unlink()


@contextmanager
def write_folder_beside(path: str | Path) -> Iterator[Path]:
    """As :func:`write_beside` for a whole folder: the old one, if any, is replaced only once the new one is complete.

    Two renames stand between the old and the new folder, so a crash in between leaves the old one under the name
    ``.NAME.<id>.old`` and never a mixture.
    """
    path = Path(path)
    make_folder(path.parent)
    if path.exists() and not path.is_dir():
        raise InputError(f"cannot write the folder {path}: a file of that name is in the way")
    tag = uuid.uuid4().hex[:8]
    beside = path.with_name(f".{path.name}.{tag}.tmp")
    old = path.with_name(f".{path.name}.{tag}.old")
    try:
        beside.mkdir()
        yield beside
        if path.exists():
            os.replace(path, old)
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({_why(error)}); free some space or give another place") from error
    finally:
        # Here and not under `except`, since Ctrl-C between the two renames must not cost the old folder either.
        if old.exists() and not path.exists():
            with suppress(OSError):
                os.replace(old, path)
        shutil.rmtree(beside, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    with write_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
