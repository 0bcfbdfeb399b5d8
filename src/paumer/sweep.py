"""Speed and mIoU of many pause configurations, and the search for those worth having.

Knows nothing of how a forward pass is timed or an image scored. Source: PAUMER, section 4.1 ("Choosing pause
configurations") and its Figures 9 and 10. Every measurement is a line in the sweep folder, and what is measured next
follows from the lines alone: a sweep that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from paumer.benchmark import Speedup, conditions, time_interleaved
from paumer.checkpoint import model_id
from paumer.data.datasets import Dataset
from paumer.device import dtype_name
from paumer.errors import InputError, did_you_mean
from paumer.evaluate import evaluate, spread_indices
from paumer.front import (
    FRONT_FILE,
    Front,
    Point,
    check_drop,
    check_target,
    choose_for_throughput,
    choose_within_drop,
    knee,
    skyline,
)
from paumer.inference import InferenceConfig, resize_images, view_size
from paumer.model import Segmenter
from paumer.model.cost import count_call
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig
from paumer.segment import in_dtype, inference_config, segment_images
from paumer.sweep_folder import SweepFolder

SEARCHES = ("none", "grid", "greedy")
_TIMED_TOGETHER = 12  # configurations per interleaved run: what is lost when a sweep is killed
_ADAPTIVE_BATCHES = 8  # timed where the number of paused patches follows the image, so that no single one decides


@dataclass(frozen=True)
class SweepConfig:
    """What is swept, and what is sought.

    Args:
        out: sweep folder; a sweep that is in it goes on.
        pauses: configurations to score on the whole split in any case.
        search: ``grid``: every single layer and ratio (Figure 9); ``greedy``: the grid, then layer after layer (Figure
            10); ``none``: only ``pauses``.
        layers: layers of the search, by default all from 3 to the last but one.
        ratios: ratios of the search.
        max_layers: pausing layers that the greedy search may combine.
        search_images: the search scores this many images, spread evenly; 0: all. What it finds is then scored on all.
        target_throughput: images per second: time first, score only what is fast enough, take the best mIoU.
        max_drop: mIoU points that may be lost: take the fastest.
        criterion: what ranks the patches.
        seed: of the criterion ``random``.
        batch_size: images per timed forward pass, and per scored one where a share of the batch pauses.
        image_size: (height, width) of the timed images, by default that of the split's first image.
        rounds: how often everything is timed.
        dtype: what to compute in, for speed and mIoU alike: ``float32``, ``bfloat16``, ``float16`` or ``auto``; by
            default that of the model.
    """

    out: str
    pauses: tuple[PauseConfig, ...] = PAPER_CONFIGS
    search: str = "greedy"
    layers: tuple[int, ...] = ()
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    max_layers: int = 3
    search_images: int = 0
    target_throughput: float | None = None
    max_drop: float | None = None
    criterion: str = "entropy"
    seed: int = 0
    batch_size: int = 1
    image_size: tuple[int, int] | None = None
    rounds: int = 7
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise InputError(f"unknown search '{self.search}': {did_you_mean(self.search, SEARCHES)}")
        for name in ("max_layers", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.search_images < 0:
            raise InputError(f"search_images must be at least 0, got {self.search_images}")
        if self.search != "none" and not self.ratios:
            raise InputError("a search needs at least one ratio: give for example 0.2 0.4 0.6")
        if self.image_size is not None and min(self.image_size) < 1:
            raise InputError(f"an image size is (height, width) in pixels, got {self.image_size}")
        if self.target_throughput is not None and self.max_drop is not None:
            raise InputError("a target throughput and a largest loss are two ways to choose: give one of them")
        if self.target_throughput is not None:
            check_target(self.target_throughput)
        if self.max_drop is not None:
            check_drop(self.max_drop)
        # They refuse layers and ratios that no configuration can have.
        PauseConfig(tuple((layer, 0.0) for layer in self.layers))
        for ratio in self.ratios:
            PauseConfig(((1, ratio),))


@dataclass(frozen=True)
class SweepResult:
    """The skyline of what was scored on the whole split, and the configuration that was sought, if one was."""

    folder: SweepFolder
    front: Front
    choice: Point | None


def sweep(
    model: Segmenter,
    dataset: Dataset,
    config: SweepConfig,
    *,
    names: dict[str, str],
    inference: InferenceConfig | None = None,
    progress: bool = False,
) -> SweepResult:
    """Times and scores as ``config`` says; everything measured is in ``config.out`` (see :class:`SweepFolder`).

    Args:
        model: measured where its weights are.
        dataset: what mIoU is measured on.
        names: what the model, the data and the split are called: ``{"model": …, "data": …, "split": …}``.
        inference: windows, scales and flip, for speed and mIoU alike; by default what the model's configuration says.

    Raises:
        InputError: a folder with a sweep of something else, a layer the model does not have, a target out of reach.
    """
    run = _Sweep(model.eval(), dataset, config, names, inference or inference_config(model), progress)
    try:
        run.measure()
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"stopped; the same command goes on with the sweep in {config.out}") from interrupt
    front = run.folder.write_results()
    assert front is not None
    return SweepResult(run.folder, front, run.choose())


class _Sweep:
    """One sweep's moving parts. Only :func:`sweep` makes one."""

    def __init__(
        self,
        model: Segmenter,
        dataset: Dataset,
        config: SweepConfig,
        names: dict[str, str],
        inference: InferenceConfig,
        progress: bool,
    ) -> None:
        self.model = in_dtype(model, config.dtype)
        self.dataset, self.config, self.inference = dataset, config, inference
        self.progress = progress
        self.layers = config.layers or tuple(range(min(3, model.depth), max(model.depth, 4)))
        self._check()
        searched = len(spread_indices(len(dataset), config.search_images))
        # Without a part of its own the search scores everything at once.
        self.searched = "all" if searched == len(dataset) else "search"
        self.batches = self._timed_batches()
        self.folder = SweepFolder(config.out)
        self.folder.open(
            {
                "format": 1,
                **names,
                "model_id": model_id(model),
                "num_images": len(dataset),
                "search_images": searched,
                "criterion": config.criterion,
                "seed": config.seed,
                "inference": asdict(inference),
                "names": unique_names(dataset.spec.names),
                "palette": dataset.spec.palette,
                **conditions(self.device),
                "dtype": dtype_name(self.model.pixel_mean.dtype),
                "attention": "auto",
                "output": "mask",  # what a timed call ends with, at the image's size
                "batch_size": config.batch_size,
                "timed_images": sum(map(len, self.batches)),
                "image_size": list(self.batches[0].shape[-2:]),
                "rounds": config.rounds,
            }
        )

    @property
    def device(self) -> torch.device:
        return self.model.pixel_mean.device

    def _check(self) -> None:
        """What cannot work is told before the first measurement."""
        for pause in (*self.config.pauses, *self.single_layers()):
            pause.check_depth(self.model.depth)
        for pause in self.config.pauses:
            pause.check_criterion(self.config.criterion)
        if self.config.batch_size > 1 and not self.inference.is_single_view:
            raise InputError("batches are timed for whole images in a single view only: take --batch-size 1")

    def _timed_batches(self) -> list[Tensor]:
        """(B, 3, H, W) uint8 images of the data set, spread evenly.

        One batch where the time does not depend on the images; all configurations are timed on the same.
        """
        number = _ADAPTIVE_BATCHES if any(pause.is_adaptive for pause in self.config.pauses) else 1
        size, total = self.config.image_size, number * self.config.batch_size
        images = []
        for index in spread_indices(len(self.dataset), total) if total > 1 else [0]:
            image = self.dataset[index].image[None]
            size = size or (image.shape[-2], image.shape[-1])
            if tuple(image.shape[-2:]) != size:
                image = F.interpolate(image.float(), size, mode="bilinear").round().to(torch.uint8)
            images.append(image)
        places = torch.arange(total) % len(images)
        return list(torch.cat(images)[places].to(self.device).split(self.config.batch_size))

    # -- what is measured ---------------------------------------------------------------------------------------------

    def measure(self) -> None:
        known = (NO_PAUSE, *self.config.pauses)
        self.time(known)
        if self.config.search != "none":
            self.time(self.single_layers())
        if self.config.target_throughput is not None:
            self._score_fast_ones(self.config.target_throughput)
            return
        self.score(known, self.searched)
        if self.config.search != "none":
            self.score(self.single_layers(), self.searched)
        if self.config.search == "greedy":
            self._search_greedily()
        self.score((*known, *(point.pause for point in self._search_front())), "all")

    def single_layers(self) -> list[PauseConfig]:
        """The grid of Figure 9."""
        if self.config.search == "none":
            return []
        return [PauseConfig(((layer, ratio),)) for layer in self.layers for ratio in self.config.ratios]

    def _score_fast_ones(self, target: float) -> None:
        """Time first (section 4.1, 1): of what is fast enough the front of the searched part is scored on everything.

        The unpaused model is scored as well, for the loss to be known.
        """
        fast = [point.pause for point in self.folder.points() if point.images_per_second >= target]
        if not fast:
            best = self.folder.points()[-1]
            raise InputError(
                f"{target:g} images/s are out of reach: the fastest of {len(self.folder.points())} configurations is "
                f"{best.pause} with {best.images_per_second:.3g} images/s; the times are in {self.folder.path}"
            )
        self.score(fast, self.searched)
        best = skyline(point for point in self.folder.scored(self.searched) if point.pause in set(fast))
        self.score((NO_PAUSE, *(point.pause for point in best)), "all")

    def _search_front(self) -> list[Point]:
        return skyline(self._allowed(self.folder.scored(self.searched)))

    def _allowed(self, points: Sequence[Point]) -> list[Point]:
        """The points within the loss that is allowed, all where none was named."""
        if self.config.max_drop is None:
            return list(points)
        unpaused = next(point.miou for point in points if point.pause == NO_PAUSE)
        return [point for point in points if unpaused - point.miou <= self.config.max_drop + 1e-9]

    def _search_greedily(self) -> None:
        """Layer after layer (section 4.1, 2): each stage adds the best layer and ratio to what is fixed already.

        Best is the knee of the stage's skyline. The search ends when that is not on the skyline of everything scored:
        then one more layer buys nothing that fewer layers do not give.
        """
        fixed, stages = NO_PAUSE, []
        while len(fixed.steps) < self.config.max_layers:
            used = {layer for layer, _ in fixed.steps}
            candidates = [
                PauseConfig((*fixed.steps, (layer, ratio)))
                for layer in self.layers
                if layer not in used
                for ratio in self.config.ratios
            ]
            if not candidates:
                break
            self.time(candidates)
            self.score(candidates, self.searched)
            chosen = self._best_of_stage(fixed, candidates)
            stages.append(
                {
                    "fixed": str(fixed),
                    "candidates": [str(pause) for pause in candidates],
                    "chosen": str(chosen) if chosen else None,
                    "subset": self.searched,
                }
            )
            self.folder.save_greedy(stages)
            if chosen is None:
                break
            fixed = chosen

    def _best_of_stage(self, fixed: PauseConfig, candidates: Sequence[PauseConfig]) -> PauseConfig | None:
        everything = self.folder.scored(self.searched)
        stage = {fixed, *candidates}
        best = knee(skyline(point for point in self._allowed(everything) if point.pause in stage))
        worth_having = {point.pause for point in skyline(everything)}
        return best.pause if best.pause != fixed and best.pause in worth_having else None

    def choose(self) -> Point | None:
        points = self.folder.scored()
        if self.config.target_throughput is not None:
            return choose_for_throughput(points, self.config.target_throughput)
        return None if self.config.max_drop is None else choose_within_drop(points, self.config.max_drop)

    # -- measuring ----------------------------------------------------------------------------------------------------

    def time(self, pauses: Iterable[PauseConfig]) -> None:
        """Times what has no time yet, interleaved with the unpaused model."""
        known = self.folder.times()
        missing = [pause for pause in dict.fromkeys(pauses) if pause not in known]
        with self._bar(missing, "timing") as bar:
            for start in range(0, len(missing), _TIMED_TOGETHER):
                together = missing[start : start + _TIMED_TOGETHER]
                self.folder.add_times(self._time_together(together))
                bar.update(len(together))

    def _time_together(self, pauses: Sequence[PauseConfig]) -> list[dict[str, Any]]:
        calls = [self._call(pause) for pause in (NO_PAUSE, *pauses)]
        flops = [self._count(pause) for pause in pauses]
        with torch.inference_mode():
            seconds = time_interleaved(calls, rounds=self.config.rounds, warmup=1, device=self.device)
        baseline = seconds[0]
        total = sum(map(len, self.batches))
        return [
            _time_row(pause, count / total, own, baseline, total)
            for pause, count, own in zip(pauses, flops, seconds[1:], strict=True)
        ]

    def _call(self, pause: PauseConfig) -> Callable[[], object]:
        """What is timed is what predicts and what is scored."""

        def segment(images: Tensor) -> object:
            seeds = [self.config.seed] * len(images)
            return segment_images(
                self.model, images, pause, self.inference, criterion=self.config.criterion, seeds=seeds
            )

        return lambda: [segment(images) for images in self.batches]

    @torch.inference_mode()
    def _count(self, pause: PauseConfig) -> int:
        """FLOP of the timed images; no interpolation of the mask counts."""
        if not self.inference.is_single_view:
            return count_call(self._call(pause))
        seen = view_size((self.batches[0].shape[-2], self.batches[0].shape[-1]), self.inference)
        options = {"criterion": self.config.criterion, "upsample": False}
        return count_call(
            lambda: [self.model(resize_images(images, seen), pause, **options) for images in self.batches]
        )

    def score(self, pauses: Iterable[PauseConfig], subset: str) -> None:
        """Scores what has no score on that part of the split yet, one line for each."""
        known = self.folder.scores(subset)
        missing = [pause for pause in dict.fromkeys(pauses) if pause not in known]
        limit = self.config.search_images if subset == "search" else 0
        indices = spread_indices(len(self.dataset), limit)
        with self._bar(missing, f"scoring on {len(indices)} images") as bar:
            for pause in missing:
                result = evaluate(
                    self.model,
                    self.dataset,
                    [pause],
                    inference=self.inference,
                    criterion=self.config.criterion,
                    seed=self.config.seed,
                    indices=indices,
                    # Of no influence on the others, which need less memory one by one.
                    batch_size=self.config.batch_size if pause.depends_on_batch else 1,
                )[0]
                scores = result.scores
                names = unique_names(self.dataset.spec.names)
                self.folder.add_score(
                    {
                        "pause": str(pause),
                        "subset": subset,
                        "num_images": result.num_images,
                        "tokens": result.tokens,
                        "miou": scores.miou,
                        "pixel_accuracy": scores.pixel_accuracy,
                        "mean_accuracy": scores.mean_accuracy,
                        # nan (a class that is neither there nor predicted) is no JSON
                        "iou": {name: iou if iou == iou else None for name, iou in zip(names, scores.iou, strict=True)},
                    }
                )
                bar.update()

    def _bar(self, pauses: Sequence[PauseConfig], what: str) -> tqdm:
        return tqdm(total=len(pauses), desc=what, unit="pause", disable=not self.progress or not pauses)


def _time_row(
    pause: PauseConfig, flops: float, own: Sequence[float], baseline: Sequence[float], num_images: int
) -> dict[str, Any]:
    """A line of ``times.jsonl``. Ratios are taken round by round, where both were timed under the same load."""
    speedup = Speedup(1.0, 1.0, 1.0) if pause == NO_PAUSE else Speedup.paired(own, baseline)
    return {
        "pause": str(pause),
        "seconds": statistics.median(own) / num_images,
        "baseline_seconds": statistics.median(baseline) / num_images,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "gflops": flops / 1e9,
    }


def unique_names(names: Sequence[str]) -> list[str]:
    """The class names, the second of two equal ones with a number: they are keys in a sweep's scores."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def store_front(front: Front, model: str | Path) -> Path | None:
    """Puts ``pareto.json`` into a model folder, for predictors to choose from; None where the model is no folder."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    front.save(folder / FRONT_FILE)
    return folder / FRONT_FILE
