"""The device that computes, from the word a user gives.

Knows nothing of models.
"""

from __future__ import annotations

import torch

from paumer.errors import InputError


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        InputError: not such a word, or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise _unknown(name) from error
    if device.type == "cpu":
        return device
    if device.type == "cuda":
        _check_cuda(device)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("MPS is asked for where there is none: take the device 'cpu' or 'auto'")
    else:
        raise _unknown(name)
    return device


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        raise InputError("CUDA is asked for where there is none: take the device 'cpu' or 'auto'")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(
            f"no device '{device}' here: there are {torch.cuda.device_count()} CUDA devices, counted from cuda:0"
        )


def _unknown(name: object) -> InputError:
    return InputError(f"unknown device '{name}': known are auto, cpu, cuda, cuda:0, cuda:1, …, mps")
