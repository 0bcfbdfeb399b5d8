"""Training: plain Segmenter, PAUMER (one random layer and ratio per batch), and the random-pausing baseline.

Knows nothing of file formats of data or of plots. Source: PAUMER, section 2.2 and 4.1. The step is the only unit, and
everything random is a function of (seed, step): a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from tqdm import tqdm

from paumer.checkpoint import load_backbone, start_from
from paumer.data.batches import StepBatches, StepSamples, create_loader
from paumer.data.datasets import Dataset, create_dataset
from paumer.data.transforms import TrainTransform, sample_generator
from paumer.errors import InputError, MissingExtraError, did_you_mean
from paumer.evaluate import EvalResult, evaluate, inference_config, spread_indices
from paumer.loss import SegmentationLoss, segmentation_loss
from paumer.model import CRITERION_NAMES, Segmenter, create_model
from paumer.optim import create_ema, create_optimizer, poly_lr, set_lr
from paumer.pause import NO_PAUSE, PauseConfig, RandomPause, parse_pauses
from paumer.run_folder import RunFolder

log = logging.getLogger(__name__)

AMP = {"no": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a training run; a recipe is a YAML file of these keys.

    Args:
        out: run folder.
        data: ``camvid``, ``cityscapes``, ``ade20k``, ``scenes`` or a YAML file that describes a data set.
        root: folder of the data set, for data sets known by name.
        train_split: split to learn from.
        val_split: split to validate on and to choose the best checkpoint by.
        scene_size: (height, width) of generated scenes, for ``data: scenes`` only.
        scene_images: number of generated training scenes, for ``data: scenes`` only.
        backbone: a plain ViT of timm.
        weights: ImageNet weights to start from: ``hub``, a local file, or ``none`` for random ones.
        init: a trained Segmenter to start from (model folder, hub repository or foreign checkpoint); beats ``weights``.
        decoder: ``mask`` or ``linear``.
        decoder_layers: depth of the mask transformer.
        preset: ``timm``, ``segmenter`` or ``mmseg``, see :mod:`paumer.model.presets`.
        drop_path_rate: stochastic depth of the last encoder layer.
        mean: RGB mean on a scale of 0..1, by default that of the backbone's weights in timm.
        std: likewise.
        image_size: (height, width) of the stored position grid, by default the crop.
        pausing: ``none`` for a plain Segmenter, or the criterion: ``entropy``, ``max_prob``, ``margin``, ``random``.
        aux_head: auxiliary decoder, ``shared`` by all layers or ``per_layer``.
        pause_layers: one of these is drawn per batch.
        pause_ratios: lowest and highest share to pause; one is drawn per batch.
        aux_weight: lambda of Eq. 3.
        crop_size: (height, width) of training crops.
        base_size: (long, short) side to fit images into before scaling, by default their own size.
        scale: lowest and highest random scale.
        cat_max_ratio: largest share of one class in a crop.
        flip: probability of a mirrored image.
        photometric: whether to distort colours.
        class_weight: weight of each class in the cross entropy.
        loss_average: ``valid`` pixels (torch, Segmenter) or ``all`` pixels (mmsegmentation).
        steps: optimiser steps.
        batch_size: images per process and forward pass.
        accumulation: forward passes per step.
        optimizer: ``sgd``, ``nesterov`` or ``adamw``.
        lr: highest learning rate.
        min_lr: floor of the poly schedule.
        power: of the poly schedule.
        warmup_steps: steps of linear warm-up.
        momentum: of SGD.
        weight_decay: of weight matrices.
        decoder_lr_scale: learning rate of decoder and auxiliary head over that of the encoder.
        clip_grad: largest gradient norm, 0 for none.
        ema_decay: decay of the weight average that is validated and saved, 0 for none.
        amp: ``no``, ``bf16`` or ``fp16``.
        seed: of everything random.
        workers: processes that load images.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        mode: how validation cuts images: ``whole`` or ``slide``.
        window: (height, width) of sliding windows, by default the crop.
        stride: (down, right) of sliding windows, by default the window.
        val_pauses: pause configurations to validate at; the mean of their mIoU chooses the best checkpoint. By default
            ``none`` and ``5:0.6``, for a plain Segmenter ``none``.
        val_every: steps between validations, 0 for one at the end.
        val_images: number of validation images, spread evenly; 0 for all.
        save_every: steps between checkpoints.
        keep: checkpoints to keep.
        log_every: steps between log lines.
        log_with: ``tensorboard``, ``wandb``, ``none`` or another tracker that Accelerate knows.
        resume: go on with the run in ``out`` if there is one.
    """

    out: str
    data: str = "scenes"
    root: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    scene_size: tuple[int, int] = (256, 384)
    scene_images: int = 4000
    backbone: str = "vit_tiny_patch16_384"
    weights: str = "hub"
    init: str | None = None
    decoder: str = "mask"
    decoder_layers: int = 2
    preset: str = "timm"
    drop_path_rate: float = 0.1
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    image_size: tuple[int, int] | None = None
    pausing: str = "entropy"
    aux_head: str = "shared"
    pause_layers: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 9)
    pause_ratios: tuple[float, float] = (0.2, 0.8)
    aux_weight: float = 0.1
    crop_size: tuple[int, int] = (512, 512)
    base_size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    class_weight: tuple[float, ...] | None = None
    loss_average: str = "valid"
    steps: int = 80000
    batch_size: int = 8
    accumulation: int = 1
    optimizer: str = "sgd"
    lr: float = 1e-3
    min_lr: float = 1e-5
    power: float = 0.9
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    decoder_lr_scale: float = 1.0
    clip_grad: float = 0.0
    ema_decay: float = 0.0
    amp: str = "no"
    seed: int = 0
    workers: int = 2
    device: str = "auto"
    mode: str = "whole"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    val_pauses: tuple[str, ...] = ()
    val_every: int = 5000
    val_images: int = 0
    save_every: int = 1000
    keep: int = 2
    log_every: int = 20
    log_with: str = "tensorboard"
    resume: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        choices = {
            "pausing": ("none", *CRITERION_NAMES),
            "aux_head": ("shared", "per_layer"),
            "loss_average": ("valid", "all"),
            "amp": ("no", "bf16", "fp16"),
            "device": ("auto", "cpu", "cuda", "mps"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"unknown {name} '{value}': {did_you_mean(value, allowed)}")
        for name in ("steps", "batch_size", "accumulation", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lr < self.min_lr:
            raise InputError(f"lr {self.lr} lies below min_lr {self.min_lr}: lower min_lr as well")
        if len(self.class_weight or ()) and min(self.class_weight) < 0:
            raise InputError(f"class weights must not be negative, got {self.class_weight}")
        self.random_pause, self.parsed_val_pauses  # noqa: B018 - both refuse what cannot work, before anything starts

    @property
    def random_pause(self) -> RandomPause:
        return RandomPause(self.pause_layers, self.pause_ratios, self.seed)

    @property
    def parsed_val_pauses(self) -> list[PauseConfig]:
        if not self.val_pauses:
            return parse_pauses(["none"] if self.pausing == "none" else ["none", "5:0.6"])
        pauses = parse_pauses(self.val_pauses)
        if self.pausing == "none" and pauses != [NO_PAUSE]:
            raise InputError(
                "a plain Segmenter (pausing: none) can only be validated without pausing: val_pauses [none]"
            )
        return pauses

    def pause_at(self, step: int) -> PauseConfig:
        """The configuration that every rank trains with at ``step``."""
        return NO_PAUSE if self.pausing == "none" else self.random_pause.draw(step)

    @property
    def criterion(self) -> str:
        return "entropy" if self.pausing == "none" else self.pausing


def build_model(config: TrainConfig, dataset: Dataset) -> Segmenter:
    """The model that the run starts from. It is the same on every rank: random weights depend on the seed only."""
    torch.manual_seed(config.seed)
    spec = dataset.spec
    options = {name: getattr(config, name) for name in ("mean", "std") if getattr(config, name) is not None}
    # The random baseline neither needs nor trains an auxiliary head, and DDP refuses parameters without gradients.
    has_aux = config.pausing not in ("none", "random")
    model = create_model(
        config.backbone,
        num_classes=spec.num_classes,
        aux_head=config.aux_head if has_aux else "none",
        image_size=config.image_size or config.crop_size,
        decoder=config.decoder,
        decoder_layers=config.decoder_layers,
        preset=config.preset,
        drop_path_rate=config.drop_path_rate,
        names=spec.names,
        palette=spec.palette,
        label_ids=spec.label_ids,
        mode=config.mode,
        base_size=config.base_size,
        crop_size=(config.window or config.crop_size) if config.mode == "slide" else None,
        stride=config.stride if config.mode == "slide" else None,
        **options,
    )
    if config.init is not None:
        start_from(model, config.init)
    elif config.weights != "none":
        load_backbone(model, config.weights)
    config.random_pause.draw(0).counts(1, model.depth)
    if max(config.pause_layers) > model.depth:
        raise InputError(f"cannot pause after layer {max(config.pause_layers)}: {config.backbone} has {model.depth}")
    return model


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains as ``config`` says and returns the last validation: ``{"step": …, "miou": {pause: mIoU in per cent}}``.

    Results are in ``config.out``: ``best/`` and ``last/`` are model folders. Ctrl-C saves a checkpoint and stops;
    ``resume`` goes on from the newest one, on the CPU to bit-identical weights.

    Raises:
        InputError: data, weights or settings that cannot work, a loss that is not a number.
    """
    accelerator = create_accelerator(config)
    train_set = _create_dataset(config, config.train_split)
    val_set = _create_dataset(config, config.val_split)
    model = build_model(config, train_set)
    run = RunFolder(config.out)
    if accelerator.is_main_process:
        run.open(dataclasses.asdict(config), config.resume)
    accelerator.wait_for_everyone()
    return _Training(config, accelerator, model, train_set, val_set, run).run()


def create_accelerator(config: TrainConfig) -> Accelerator:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here: take --device cpu, or auto")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no MPS device here: take --device cpu, or auto")
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.amp == "fp16" and on_cpu:
        raise InputError("fp16 training needs a GPU: take --amp no, or bf16 on a CPU that has it")
    if config.log_with == "tensorboard":
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("logging to TensorBoard", "train") from error
    return Accelerator(
        mixed_precision=config.amp,
        cpu=config.device == "cpu",
        log_with=None if config.log_with == "none" else config.log_with,
        project_dir=config.out,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def _create_dataset(config: TrainConfig, split: str) -> Dataset:
    options: dict[str, Any] = {}
    if config.data == "scenes":
        options["size"] = config.scene_size
        if split == "train":
            options["num_images"] = config.scene_images
    return create_dataset(config.data, split, config.root, **options)


def _fill_color(model: Segmenter) -> tuple[int, int, int]:
    """The colour that normalisation takes to 0, as uint8."""
    return tuple(round(255 * value) for value in model.config.mean)


class _Training:
    """One run's moving parts. Only :func:`train` makes one."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        model: Segmenter,
        train_set: Dataset,
        val_set: Dataset,
        run: RunFolder,
    ) -> None:
        self.config, self.accelerator, self.run_folder = config, accelerator, run
        self.train_set, self.val_set = train_set, val_set
        self.model = model
        optimizer = create_optimizer(
            model, config.optimizer, config.lr, config.weight_decay, config.momentum, config.decoder_lr_scale
        )
        model.to(accelerator.device)
        self.ema = create_ema(model, config.ema_decay) if config.ema_decay else None
        self.step, self.best, self.latest = 0, -math.inf, {}
        self._resume(optimizer)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        if self._scaler_state and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(self._scaler_state)
        self.class_weight = None
        if config.class_weight is not None:
            if len(config.class_weight) != train_set.spec.num_classes:
                raise InputError(
                    f"{len(config.class_weight)} class weights for {train_set.spec.num_classes} classes: give one for each"
                )
            self.class_weight = torch.tensor(config.class_weight, device=accelerator.device)

    def _resume(self, optimizer: torch.optim.Optimizer) -> None:
        self._scaler_state: dict[str, Any] = {}
        state = self.run_folder.load_latest() if self.config.resume else None
        if state is None:
            return
        weights, ema, optimizer_state, progress = state
        self.model.load_state_dict(weights)
        optimizer.load_state_dict(optimizer_state["optimizer"])
        self._scaler_state = optimizer_state["scaler"]
        if self.ema is not None and ema is not None:
            self.ema.load_state_dict(ema)
        self.step, self.best, self.latest = progress["step"], progress["best"], progress["latest"]
        if self.accelerator.is_main_process:
            self.run_folder.rewind(self.step)
            log.info("going on after step %s of %s", self.step, self.config.steps)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        config, accelerator = self.config, self.accelerator
        if config.log_with != "none":
            accelerator.init_trackers("tracker", config=None)
        batches = iter(self._loader())
        progress = tqdm(
            total=config.steps,
            initial=self.step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not accelerator.is_main_process,
            mininterval=1 if sys.stderr.isatty() else 30,
        )
        clock = _Clock(self.step)
        with progress, _stop_signals() as stopped:
            while self.step < config.steps:
                loss, lr = self._train_step(batches)
                self.step += 1
                progress.update()
                speed = clock.images_per_second(
                    self.step, config.batch_size * config.accumulation * accelerator.num_processes
                )
                progress.set_postfix_str(f"loss {loss.total:.3f}, {speed:.1f} images/s", refresh=False)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    self._log(
                        {
                            "loss": loss.total,
                            "loss_main": loss.main,
                            "loss_aux": loss.aux,
                            "lr": lr,
                            "images_per_second": speed,
                        }
                    )
                if self.step == config.steps or (config.val_every and self.step % config.val_every == 0):
                    with clock.paused():
                        self._validate(progress)
                if self.step % config.save_every == 0 or self.step == config.steps:
                    self._save()
                elif stopped():
                    self._save()
                    break
        if config.log_with != "none":
            accelerator.end_training()
        if self.step < config.steps and accelerator.is_main_process:
            raise KeyboardInterrupt(f"stopped after step {self.step}; go on with --resume")
        return {"step": self.step, **self.latest}

    def _loader(self) -> Iterator[tuple[Tensor, Tensor]]:
        config, accelerator = self.config, self.accelerator
        transform = TrainTransform(
            crop_size=config.crop_size,
            base_size=config.base_size,
            scale=config.scale,
            cat_max_ratio=config.cat_max_ratio,
            flip=config.flip,
            photometric=config.photometric,
            ignore_index=self.train_set.spec.ignore_index,
            fill=_fill_color(self.model),
        )
        per_step = config.batch_size * config.accumulation * accelerator.num_processes
        samples = StepSamples(self.train_set, transform, config.seed, per_step)
        batches = StepBatches(
            config.batch_size,
            self.step,
            config.steps,
            config.accumulation,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return iter(create_loader(samples, batches, config.workers, pin_memory=accelerator.device.type == "cuda"))

    def _train_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[_Losses, float]:
        config, accelerator, step = self.config, self.accelerator, self.step
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.power, config.warmup_steps)
        set_lr(self.optimizer, lr)
        # Dropout and drop-path draw from the global generator: seeding it per step makes it a function of the step.
        # The samples of a step are numbered from 0, so a stream counted from the far end is none of theirs.
        torch.manual_seed(sample_generator(config.seed, step, 2**31 + accelerator.process_index).initial_seed())
        self.wrapped.train()
        pause = config.pause_at(step)
        losses = []
        for micro in range(config.accumulation):
            images, masks = (tensor.to(accelerator.device, non_blocking=True) for tensor in next(batches))
            last = micro == config.accumulation - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.wrapped):
                loss = self._loss(images, masks, pause)
                losses.append(torch.stack([loss.total, loss.main, loss.aux]).detach())
                accelerator.backward(loss.total / config.accumulation)
        total = accelerator.reduce(torch.stack(losses).mean(0), reduction="mean").tolist()
        if not math.isfinite(total[0]):
            self._refuse_nan(total[0])
        if config.clip_grad:
            accelerator.clip_grad_norm_(self.wrapped.parameters(), config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return _Losses(*total), lr

    def _loss(self, images: Tensor, masks: Tensor, pause: PauseConfig) -> SegmentationLoss:
        config = self.config
        # One pattern per image and step for the random baseline, new ones every step.
        seeds = torch.randint(2**40, (len(images),)).tolist() if config.criterion == "random" else None
        with self.accelerator.autocast():
            output = self.wrapped(images, pause, criterion=config.criterion, seeds=seeds)
        return segmentation_loss(
            self.model,
            output,
            masks,
            aux_weight=config.aux_weight,
            weight=self.class_weight,
            ignore_index=self.train_set.spec.ignore_index,
            average=config.loss_average,
        )

    def _refuse_nan(self, loss: float) -> None:
        checkpoints = self.run_folder.checkpoints()
        last_good = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
        raise InputError(f"the loss is {loss} at step {self.step + 1}; {last_good}: try a lower lr, or clip_grad 1")

    # -- now and then -------------------------------------------------------------------------------------------------

    @property
    def _best_weights_model(self) -> Segmenter:
        return self.model if self.ema is None else self.ema.module

    def _validate(self, progress: tqdm) -> None:
        accelerator, config = self.accelerator, self.config
        wanted = spread_indices(len(self.val_set), config.val_images)
        model = self._best_weights_model
        results = evaluate(
            model,
            self.val_set,
            config.parsed_val_pauses,
            inference=inference_config(model),
            criterion=config.criterion,
            indices=wanted[accelerator.process_index :: accelerator.num_processes],
            progress=accelerator.is_main_process,
        )
        self.latest = {"miou": {str(result.pause): result.miou for result in results}}
        mean = sum(result.miou for result in results) / len(results)
        self._log({"val_" + str(result.pause): result.miou for result in results})
        if accelerator.is_main_process:
            progress.write(_describe(self.step, results), file=sys.stderr)
            if mean > self.best:
                model.save_pretrained(self.run_folder.best)
        self.best = max(self.best, mean)
        accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "optimizer": self.optimizer.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
            }
            ema = self.ema.state_dict() if self.ema is not None else None
            progress = {"best": self.best, "latest": self.latest}
            self.run_folder.save(self.step, self.model, ema, state, progress, self.config.keep)
            self._best_weights_model.save_pretrained(self.run_folder.last)
        self.accelerator.wait_for_everyone()

    def _log(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.run_folder.log({"step": self.step, **values})
        if self.config.log_with != "none":
            self.accelerator.log(values, step=self.step)


@dataclass(frozen=True)
class _Losses:
    total: float
    main: float
    aux: float


class _Clock:
    """Images per second since the start, validations left out."""

    def __init__(self, step: int) -> None:
        self.first_step, self.started = step, time.perf_counter()

    def images_per_second(self, step: int, images_per_step: int) -> float:
        return (step - self.first_step) * images_per_step / (time.perf_counter() - self.started)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.started += time.perf_counter() - before


@contextlib.contextmanager
def _stop_signals() -> Iterator[Any]:
    """Yields a function that tells whether SIGINT or SIGTERM has come; a second one acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def remember(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, remember)
    except ValueError:
        pass  # not in the main thread: signals are somebody else's
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(step: int, results: list[EvalResult]) -> str:
    scores = ", ".join(f"{result.pause} {result.miou:.2f}" for result in results)
    return f"step {step}: mIoU {scores} ({results[0].num_images} images)"
