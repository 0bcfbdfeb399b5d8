"""How fast a model is at several pause configurations, timed in turns, beside what arithmetic lets one expect.

Knows nothing of mIoU (see `evaluate`) and nothing of files but images to time. Source: PAUMER, section 4 ("IMPS"):
images per second of the forward pass on 512x512 images, with the batch that fills the device.
"""

from __future__ import annotations

import copy
import logging
import os
import platform
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.transforms.v2 import functional as tvf
from tqdm import tqdm

import paumer
from paumer.data.images import read_image
from paumer.device import choose_dtype, device_name, dtype_name
from paumer.errors import InputError, did_you_mean
from paumer.model import Segmenter, SegmenterOutput, compile_segmenter
from paumer.model.cost import count_flops, flops_of_trace
from paumer.model.criterion import check_criterion
from paumer.pause import NO_PAUSE, PauseConfig

log = logging.getLogger(__name__)

# auto: what torch chooses; eager: softmax(q k) v written out with its n x n matrix, as models of 2021 did.
ATTENTIONS: dict[str, SDPBackend | None] = {
    "auto": None,
    "eager": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}

# --- timing ----------------------------------------------------------------------------------------------------------


def time_interleaved(
    calls: Sequence[Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    progress: bool = False,
) -> list[list[float]]:
    """Seconds of every call in every round: one list of ``rounds`` values for each of ``calls``, in their order.

    In each round every call runs once, so that whatever else keeps the machine busy slows all of them alike, and those
    of one round can be compared. Their order is drawn anew for each round (the same draw every time), since a call
    also feels the one before it. ``warmup`` rounds go before and are not counted.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    bar = tqdm(range(-warmup, rounds), desc="timing", unit="round", disable=not progress, leave=False)
    for round_number in bar:
        for place in _draw_order(len(calls), round_number):
            took = _seconds(calls[place], device)
            if round_number >= 0:
                seconds[place].append(took)
    return seconds


def _draw_order(size: int, round_number: int) -> list[int]:
    return random.Random(f"order {round_number}").sample(range(size), size)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Speedup:
    """How many times as fast: median over the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def paired(cls, seconds: Sequence[float], baseline: Sequence[float]) -> Speedup:
        """Of two calls that were timed in the same rounds; ratios are taken round by round, under the same load."""
        low, median, high = np.percentile(np.divide(baseline, seconds), (25, 50, 75)).tolist()
        return cls(median, low, high)

    @property
    def decided(self) -> bool:
        """Whether the difference from 1 is larger than the spread, the distance of the quartiles."""
        return self.high - self.low <= abs(self.median - 1)


# --- the batch that fills the device ---------------------------------------------------------------------------------


def largest_batch(
    images_per_second: Callable[[int], float],
    *,
    fits: Callable[[int], bool] = lambda batch_size: True,
    gain: float = 0.05,
) -> int:
    """The smallest batch that is within ``gain`` of the best throughput, by doubling from 1.

    The search ends when two doublings in a row bring less than ``gain`` over the best so far, when ``fits`` says no,
    or when ``images_per_second`` runs out of memory.

    Raises:
        InputError: not even one image fits.
    """
    speeds: dict[int, float] = {}
    batch_size, best, without_gain = 1, 0.0, 0
    while without_gain < 2 and fits(batch_size):
        try:
            speeds[batch_size] = images_per_second(batch_size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.info("batch %d does not fit into the memory", batch_size)
            break
        log.info("batch %d: %.3g images/s", batch_size, speeds[batch_size])
        without_gain = 0 if speeds[batch_size] > best * (1 + gain) else without_gain + 1
        best = max(best, speeds[batch_size])
        batch_size *= 2
    if not speeds:
        raise InputError("not even one image fits into the memory: take a smaller image size or a smaller dtype")
    return min(size for size, speed in speeds.items() if speed * (1 + gain) >= best)


def is_out_of_memory(error: RuntimeError) -> bool:
    # Only CUDA has a class for it.
    known = ("DefaultCPUAllocator", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in known)


def available_memory() -> int | None:
    """Bytes that processes may still take before the machine swaps or kills; None where the system is not Linux."""
    free = _number_in("/proc/meminfo", r"MemAvailable:\s+(\d+) kB")
    if free is None:
        return None
    limit = _number_in("/sys/fs/cgroup/memory.max", r"(\d+)")  # of a container
    taken = _number_in("/sys/fs/cgroup/memory.stat", r"anon (\d+)")
    return 1024 * free if limit is None or taken is None else min(1024 * free, limit - taken)


def resident_growth(call: Callable[[], object]) -> int | None:
    """Bytes by which a call makes the process grow at its peak; None where the system is not Linux.

    Good enough to see what a machine can bear, and no more: memory that the process kept from before is used again.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        call()
        return None
    before = _number_in("/proc/self/status", r"VmRSS:\s+(\d+) kB")
    call()
    peak = _number_in("/proc/self/status", r"VmHWM:\s+(\d+) kB")
    return None if before is None or peak is None else 1024 * (peak - before)


def _number_in(path: str, pattern: str) -> int | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else int(found[1])


# --- the benchmark ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchResult:
    """The speed of one configuration: the times as taken, and what follows from them.

    ``seconds`` are those of one batch in each round, ``baseline`` those of the unpaused model in the same rounds.
    ``flops`` and ``baseline_flops`` are of one image, their mean where they differ. ``peak_memory``: bytes on a CUDA
    device, weights, images and activations together; None elsewhere. ``conditions``: everything else that the
    numbers depend on.
    """

    pause: PauseConfig
    batch_size: int
    image_size: tuple[int, int]  # (height, width)
    seconds: tuple[float, ...]
    baseline: tuple[float, ...]
    flops: int
    baseline_flops: int
    peak_memory: int | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """At the median time."""
        return self.batch_size / self.latency(50)

    def latency(self, percentile: float) -> float:
        """Seconds per batch; with R rounds, percentiles above 100 (1 - 1 / R) say little more than the slowest."""
        return float(np.percentile(self.seconds, percentile))

    @property
    def spread(self) -> float:
        """Distance of the quartiles of the time, as a share of its median."""
        return (self.latency(75) - self.latency(25)) / self.latency(50)

    @property
    def speedup(self) -> Speedup:
        """Over the unpaused model."""
        return Speedup.paired(self.seconds, self.baseline)

    @property
    def flop_speedup(self) -> float:
        """The speed-up there were if time were arithmetic."""
        return self.baseline_flops / self.flops

    @property
    def reached(self) -> float:
        """Speed-up as a share of what arithmetic allows; above 1 where attention costs more than its arithmetic."""
        return self.speedup.median / self.flop_speedup

    def to_dict(self) -> dict[str, Any]:
        """Flat, for one line of JSON or CSV."""
        height, width = self.image_size
        conditions = dict(self.conditions)
        versions = conditions.pop("versions", {})
        return {
            "pause": str(self.pause),
            "batch_size": self.batch_size,
            "height": height,
            "width": width,
            "images_per_second": self.images_per_second,
            "latency_ms_p50": 1000 * self.latency(50),
            "latency_ms_p90": 1000 * self.latency(90),
            "latency_ms_p99": 1000 * self.latency(99),
            "spread": self.spread,
            "speedup": self.speedup.median,
            "speedup_low": self.speedup.low,
            "speedup_high": self.speedup.high,
            "decided": self.speedup.decided,
            "gflops": self.flops / 1e9,
            "flop_speedup": self.flop_speedup,
            "reached": self.reached,
            "peak_memory": self.peak_memory,
            **conditions,
            **versions,
        }


def benchmark(
    model: Segmenter,
    pauses: Iterable[PauseConfig],
    *,
    image_size: tuple[int, int] = (512, 512),
    batch_size: int | None = None,
    dtype: str = "float32",
    attention: str = "auto",
    compile: str = "off",
    upsample: bool = True,
    criterion: str = "entropy",
    images: Tensor | None = None,
    image_names: Sequence[str] = (),
    rounds: int = 20,
    warmup: int = 3,
    progress: bool = False,
) -> list[BenchResult]:
    """Times the forward pass at each of ``pauses``, and at ``none`` in any case, which comes first.

    The timed call starts with uint8 images on the device and ends with logits: normalise, encode, pause, assemble,
    decode, upsample. All configurations have the same batch. Nothing is changed in ``model``: what is timed is a copy.

    Args:
        model: timed on the device where it is.
        image_size: (height, width) of the random noise that is timed where no ``images`` are given.
        batch_size: images per call; None searches the batch that fills the device, unpaused.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` (see `choose_dtype`); weights and activations both,
            nothing is cast on the way.
        attention: ``auto``, ``eager``, or a back-end of torch: ``flash``, ``efficient``, ``cudnn``, ``math``.
        compile: ``off``, ``block`` or ``full`` (see `paumer.compile_segmenter`); graphs are made before the rounds.
        upsample: whether the upsampling of the logits to the image's size is part of the call.
        criterion: what ranks the patches; ``random`` is drawn on the CPU.
        images: uint8 (n, 3, H, W) to time instead of noise, repeated or cut to the batch.
        image_names: what the images are called in the results.
        rounds, warmup: timed and untimed rounds over all configurations.

    Raises:
        InputError: a layer that is not there; a criterion that the model's heads cannot give; a dtype or an attention
            that the device does not have; a batch that does not fit into its memory.
    """
    pauses = list(dict.fromkeys([NO_PAUSE, *pauses]))
    _check_numbers(image_size, batch_size, rounds, warmup)
    _check_words(attention, criterion)
    names = ["random noise"] if images is None else list(image_names) or ["images of the caller"]
    images = _noise(image_size) if images is None else images
    size = (images.shape[-2], images.shape[-1])
    device = model.pixel_mean.device
    own_dtype = choose_dtype(dtype, device)
    dtype = dtype_name(own_dtype)
    state = conditions(device)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    for pause in pauses:
        pause.check_depth(model.depth)
        pause.check_criterion(criterion)
    if any(pause.is_adaptive for pause in pauses) and names == ["random noise"]:
        log.warning("how much pauses follows the image, and noise is like no image: give real ones (--images)")
    # Before anything is timed, since it also refuses what the forward pass would.
    fixed = [pause for pause in pauses if not pause.is_adaptive]
    flops = {pause: count_flops(model, pause, size, criterion=criterion) for pause in fixed}
    subject = _Subject(compile_segmenter(_own_copy(model, own_dtype, attention), compile), images, criterion, upsample)
    with torch.inference_mode(), attention_kernel(attention), _lack_of_memory_told(size, device):
        _check_runs(subject, dtype, attention)
        batch_size = batch_size or _search_batch(subject)
        calls = subject.calls(pauses, batch_size)
        for pause, call in zip(pauses, calls, strict=True):
            if pause not in flops:  # only a run can tell
                flops[pause] = round(fmean(flops_of_trace(subject.model, call().trace)))
        if compile != "off":
            for call in calls:
                call()
        peaks = [_peak_memory(call, device, held) for call in calls]
        seconds = time_interleaved(calls, rounds=rounds, warmup=warmup, device=device, progress=progress)
    given = {"dtype": dtype, "attention": attention, "compile": compile, "upsample": upsample, "criterion": criterion}
    given |= {"images": ", ".join(names[:batch_size]), "rounds": rounds, "warmup": warmup}
    return [
        BenchResult(
            pause, batch_size, size, tuple(own), tuple(seconds[0]), flops[pause], flops[NO_PAUSE], peak, given | state
        )
        for pause, own, peak in zip(pauses, seconds, peaks, strict=True)
    ]


def attention_kernel(attention: str) -> AbstractContextManager[Any]:
    """Within it torch uses only the named back-end of its fused attention."""
    kernel = ATTENTIONS[attention]
    return nullcontext() if kernel is None else sdpa_kernel(kernel)


def conditions(device: torch.device) -> dict[str, Any]:
    """What a time on this device depends on, beside what was timed; ``load`` is that of the last minute."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            "paumer": paumer.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }


def read_images(paths: Iterable[str | Path], image_size: tuple[int, int]) -> Tensor:
    """Image files -> uint8 (n, 3, *image_size): resized, keeping their aspect, to cover that size, then its middle."""
    return torch.stack([_cover(read_image(path), image_size) for path in paths])


def _cover(image: Tensor, image_size: tuple[int, int]) -> Tensor:
    (height, width), (wanted_height, wanted_width) = image.shape[-2:], image_size
    scale = max(wanted_height / height, wanted_width / width)
    size = [max(wanted_height, round(height * scale)), max(wanted_width, round(width * scale))]
    return tvf.center_crop(tvf.resize(image, size, antialias=True), list(image_size))


def _noise(image_size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, *image_size), generator=generator, dtype=torch.uint8)


@dataclass(frozen=True)
class _Subject:
    """What is timed."""

    model: Segmenter
    images: Tensor  # (n, 3, H, W) uint8
    criterion: str
    upsample: bool

    @property
    def device(self) -> torch.device:
        return self.model.pixel_mean.device

    def calls(self, pauses: Iterable[PauseConfig], batch_size: int) -> list[Callable[[], SegmenterOutput]]:
        """One forward pass for each configuration, all on the same batch."""
        batch = self.images[torch.arange(batch_size) % len(self.images)].to(self.device)
        options = {"criterion": self.criterion, "upsample": self.upsample}
        return [partial(self.model, batch, pause, **options) for pause in pauses]


def _own_copy(model: Segmenter, dtype: torch.dtype, attention: str) -> Segmenter:
    """A copy in evaluation mode, since others may use the model, in its own dtype and with its own attention."""
    own = copy.deepcopy(model).to(dtype).eval()
    for module in own.modules():
        if attention != "auto" and hasattr(module, "fused_attn"):  # timm's attention, of every kind
            # pyrefly: ignore[bad-argument-type] (torch calls every attribute of a module Tensor | Module)
            module.fused_attn = attention != "eager"
    return own


def _search_batch(subject: _Subject) -> int:
    """The batch that fills the device, with the unpaused model."""
    growth: dict[int, int | None] = {}

    def images_per_second(batch_size: int) -> float:
        (call,) = subject.calls([NO_PAUSE], batch_size)
        growth[batch_size] = resident_growth(call)
        (seconds,) = time_interleaved([call], rounds=3, warmup=0, device=subject.device)
        return batch_size / float(np.median(seconds))

    def fits(batch_size: int) -> bool:
        # A GPU says by itself when it is full; a machine swaps. Three times: twice the images, and some reserve.
        before, available = growth.get(batch_size // 2), available_memory()
        return subject.device.type != "cpu" or before is None or available is None or 3 * before < available

    found = largest_batch(images_per_second, fits=fits)
    if subject.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _peak_memory(call: Callable[[], object], device: torch.device, held: int) -> int | None:
    """Bytes allocated on a CUDA device at most during a call, without the ``held`` ones of before; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) - held


# --- what cannot be timed --------------------------------------------------------------------------------------------


def _check_numbers(image_size: tuple[int, int], batch_size: int | None, rounds: int, warmup: int) -> None:
    if min(image_size) < 1:
        raise InputError(f"an image size is (height, width) of at least 1 pixel, got {image_size}: try (512, 512)")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"a batch has at least 1 image, got {batch_size}")
    if rounds < 1 or warmup < 0:
        raise InputError(f"time at least 1 round after 0 or more to warm up, got {rounds} after {warmup}")


def _check_words(attention: str, criterion: str) -> None:
    if attention not in ATTENTIONS:
        raise InputError(f"unknown attention '{attention}': {did_you_mean(attention, ATTENTIONS)}")
    check_criterion(criterion)


def _check_runs(subject: _Subject, dtype: str, attention: str) -> None:
    """Refuses a dtype or an attention that the device does not have, by trying."""
    device = subject.device
    (call,) = subject.calls([NO_PAUSE], 1)
    try:
        call()
        synchronize(device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{attention} attention in {dtype} does not run on {device} ({reason}): "
            "take the attention 'auto' or the dtype 'float32'"
        ) from error


@contextmanager
def _lack_of_memory_told(image_size: tuple[int, int], device: torch.device) -> Iterator[None]:
    height, width = image_size
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"a batch of images of {height}x{width} does not fit into the memory of {device}: "
            "take a smaller batch, image size or dtype"
        ) from error
