"""Words for devices and types against what the machine says it has."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from paumer import device as module
from paumer.device import choose_device, choose_dtype, device_name
from paumer.errors import InputError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "mps"))


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="CUDA is asked for where there is none"):
        choose_device("cuda")
    for name in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(InputError, match="unknown device"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda") and choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_freed_memory_is_kept():
    """A tensor of 20 MB comes from the heap, which keeps what is freed, and not from the system."""
    script = """
import re, sys, torch
from paumer.device import choose_device
if sys.argv[1] == "keep":
    choose_device("cpu")
address = torch.empty(20 * 2**20, dtype=torch.uint8).data_ptr()
low, high = re.search("([0-9a-f]+)-([0-9a-f]+) .*[[]heap[]]", open("/proc/self/maps").read()).groups()
print(int(low, 16) <= address < int(high, 16))
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    in_heap = {}
    for way in ("keep", "usual"):
        done = subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True, env=environment)
        assert not done.returncode, done.stderr
        in_heap[way] = done.stdout.strip()
    assert in_heap["keep"] == "True"
    if in_heap["usual"] == "True":
        pytest.skip("this process keeps freed memory by itself, so that nothing was shown")


@pytest.fixture
def processor(monkeypatch):
    """A CPU with the instructions that are put into the dictionary."""
    has: dict[str, object] = {"avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    module.warn_once.cache_clear()
    return has


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that computes bfloat16 by itself if the list is not empty."""
    native: list[bool] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or bool(native)
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    return native


@pytest.mark.parametrize(
    ("instruction", "dtype"),
    [("avx512_f", torch.float32), ("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16)],
)
def test_auto_on_a_cpu_is_half_precision_where_that_is_in_hardware(processor, instruction, dtype):
    processor[instruction] = True
    assert choose_dtype("auto", CPU) == dtype


def test_auto_needs_no_torch_that_knows_the_processor(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_dtype("auto", CPU) == torch.float32


def test_auto_on_a_gpu_is_the_half_precision_that_it_has(gpu):
    assert choose_dtype("auto", CUDA) == torch.float16
    gpu.append(True)
    assert choose_dtype("auto", CUDA) == torch.bfloat16
    assert choose_dtype("auto", MPS) == torch.float32


def test_a_gpu_without_bfloat16_is_told(gpu):
    with pytest.raises(InputError, match="Tesla V100 computes no bfloat16: take float16 or float32"):
        choose_dtype("bfloat16", CUDA)
    assert choose_dtype("float16", CUDA) == torch.float16
    gpu.append(True)
    assert choose_dtype("bfloat16", CUDA) == torch.bfloat16


def test_what_a_cpu_emulates_is_done_and_said_once(processor, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert choose_dtype("bfloat16", CPU) == torch.bfloat16
        assert choose_dtype("float32", CPU) == torch.float32
        assert [record.message for record in caplog.records] == [
            "bfloat16 is not in this processor's hardware: expect it to be slower than float32"
        ]
        caplog.clear()
        processor["avx512_bf16"] = True
        assert choose_dtype("bfloat16", CPU) == torch.bfloat16 and not caplog.records
        assert choose_dtype("float16", CPU) == torch.float16 and "float16 is not" in caplog.text


@pytest.mark.parametrize("name", ["bf16", "half", "float64", ""])
def test_other_dtypes_are_refused(name):
    with pytest.raises(InputError, match=f"unknown dtype '{name}': "):
        choose_dtype(name, CPU)


def test_a_cpu_is_named_with_the_instructions_that_torch_uses():
    assert device_name(CPU).endswith(f", {torch.backends.cpu.get_cpu_capability()}")
