"""The device that computes and the type it computes in, from the words a user gives.

Knows nothing of models.
"""

from __future__ import annotations

import logging
import platform
import re
from functools import cache
from pathlib import Path

import torch

from paumer.errors import InputError, did_you_mean, warn_once

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    A CPU is told to keep freed memory (see `keep_freed_memory`).

    Raises:
        InputError: not such a word, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise _unknown(name) from error
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("MPS is asked for where there is none: take the device 'cpu' or 'auto'")
    else:
        raise _unknown(name)
    return device


@cache
def keep_freed_memory() -> None:
    """Lets the C library keep the memory of activations for the next layer (`benchmarks/allocator.py` tells the gain).

    glibc takes tensors of some megabytes from the system and gives them back each time, and the system clears every
    page anew. Up to which size it keeps memory follows the largest block that was freed, but for those above 32 MiB:
    one such block, never touched, sets it to that for the whole process. Other C libraries do not care.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise InputError("CUDA is asked for where there is none: take the device 'cpu' or 'auto'")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(
            f"no device '{device}' here: there are {torch.cuda.device_count()} CUDA devices, counted from cuda:0"
        )


def _unknown(name: object) -> InputError:
    return InputError(f"unknown device '{name}': known are auto, cpu, cuda, cuda:0, cuda:1, …, mps")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``float32``, ``bfloat16``, ``float16``, or ``auto``: half precision where the device is known to gain by it.

    ``auto`` is bfloat16 on GPUs from Ampere on and on x86 processors with AVX512-BF16 or AMX, float16 on older GPUs,
    and float32 elsewhere.

    Raises:
        InputError: not such a word, or bfloat16 on a GPU that does not compute it.
    """
    if name == "auto":
        return torch.float32 if device.type not in ("cpu", "cuda") else _fast_half(device) or torch.float32
    if name not in DTYPES:
        raise InputError(f"unknown dtype '{name}': {did_you_mean(name, ('auto', *DTYPES))}")
    dtype = DTYPES[name]
    if device.type == "cuda" and dtype == torch.bfloat16 and _fast_half(device) != dtype:
        raise InputError(f"{device_name(device)} computes no bfloat16: take float16 or float32")
    if device.type == "cpu" and dtype not in (torch.float32, _fast_half(device)):
        warn_once(log, f"{name} is not in this processor's hardware: expect it to be slower than float32")
    return dtype


def _fast_half(device: torch.device) -> torch.dtype | None:
    """The half precision that a CPU or a GPU has in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if cpu_has("avx512_bf16") or cpu_has("amx_bf16") else None


def cpu_has(instructions: str) -> bool:
    """Whether torch sees these instructions on the processor, named as by `torch.cpu.get_capabilities`."""
    # Older releases of torch cannot tell.
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get(instructions))


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``, as it is written in options and results."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name, as the system tells it; a CPU's with the vector instructions torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    # Virtual machines of one name may be of several generations, one twice as fast as the other.
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else name
