"""Training: plain Segmenter, PAUMER (one random layer and ratio per batch), random pausing, heads on a frozen network.

Knows nothing of file formats of data or of plots. Source: PAUMER, sections 2.1 (frozen network), 2.2 and 4.1. The step
is the only unit, and everything random is a function of (seed, step): a run that was killed goes on as if nothing had
happened.
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
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from paumer.checkpoint import load_backbone, open_segmenter, start_from
from paumer.data.batches import StepBatches, StepSamples, create_loader, read_batches
from paumer.data.datasets import Dataset, create_dataset
from paumer.data.transforms import TrainTransform, sample_generator
from paumer.errors import InputError, MissingExtraError, did_you_mean
from paumer.evaluate import EvalResult, evaluate, spread_indices
from paumer.inference import MODES
from paumer.loss import SegmentationLoss, segmentation_loss
from paumer.model import CRITERION_NAMES, Segmenter, create_model
from paumer.model.segmenter import default_card
from paumer.optim import OPTIMIZERS, create_ema, create_optimizer, poly_lr, set_lr
from paumer.pause import NO_PAUSE, PauseConfig, RandomPause, parse_pauses
from paumer.run_folder import RunFolder
from paumer.segment import inference_config

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


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
        freeze: train the auxiliary heads only: encoder and decoder stay as ``init`` has them. Every step takes the
            auxiliary loss after all layers and pauses nothing, so ``pause_layers``, ``pause_ratios`` and ``aux_weight``
            have no part in it.
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
    freeze: bool = False
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
            "optimizer": OPTIMIZERS,
            "mode": MODES,
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
        for name in ("lr", "min_lr", "warmup_steps", "clip_grad", "workers", "val_every", "val_images", "seed"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.lr < self.min_lr:
            raise InputError(f"lr {self.lr} lies below min_lr {self.min_lr}: lower min_lr as well")
        if min(self.class_weight or (0,)) < 0:
            raise InputError(f"class weights must not be negative, got {self.class_weight}")
        if self.freeze and (self.init is None or not self.has_aux):
            raise InputError(
                "freeze trains the auxiliary heads of a trained Segmenter: it needs init and a pausing that has such "
                f"heads, as entropy; got init {self.init} and pausing {self.pausing}"
            )
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

    @property
    def has_aux(self) -> bool:
        # The random baseline neither needs nor trains an auxiliary head, and DDP refuses parameters without gradients.
        return self.pausing not in ("none", "random")

    def pause_at(self, step: int) -> PauseConfig:
        """The configuration that every rank trains with at ``step``, where the network is not frozen."""
        return NO_PAUSE if self.pausing == "none" else self.random_pause.draw(step)

    @property
    def criterion(self) -> str:
        return "entropy" if self.pausing == "none" else self.pausing


def build_model(config: TrainConfig, dataset: Dataset, load_weights: bool = True) -> Segmenter:
    """The model that the run starts from. It is the same on every rank: random weights depend on the seed only.

    Without ``load_weights`` neither ``init`` nor ``weights`` are read, for what a checkpoint will overwrite.
    """
    torch.manual_seed(config.seed)
    spec = dataset.spec
    options = {name: getattr(config, name) for name in ("mean", "std") if getattr(config, name) is not None}
    model = create_model(
        config.backbone,
        num_classes=spec.num_classes,
        aux_head=config.aux_head if config.has_aux else "none",
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
    _check_layers(config, model.depth)
    if load_weights and config.init is not None:
        if config.freeze:
            _check_frozen(model, config.init)
        start_from(model, config.init)
    elif load_weights and config.weights != "none":
        load_backbone(model, config.weights)
    if config.freeze:
        model.requires_grad_(False)
        _learning_part(model, config).requires_grad_(True)
    return model


def _learning_part(model: Segmenter, config: TrainConfig) -> nn.Module:
    if not config.freeze:
        return model
    assert model.aux_head is not None  # the configuration has seen to it
    return model.aux_head


def _check_layers(config: TrainConfig, depth: int) -> None:
    if config.pausing != "none" and not config.freeze and max(config.pause_layers) > depth:
        raise InputError(
            f"cannot pause after layer {max(config.pause_layers)}: {config.backbone} has layers 1..{depth}; "
            "give other pause_layers"
        )
    for pause in config.parsed_val_pauses:
        pause.check_depth(depth)  # a wrong layer is told now, not at the first validation


def _check_frozen(model: Segmenter, init: str) -> None:
    """What ``start_from`` adapts or does not look at must be the same, since a frozen network cannot learn it again."""
    source = open_segmenter(init).config
    for name in ("num_classes", "preset", "image_size"):
        theirs, ours = getattr(source, name), getattr(model.config, name)
        if ours != theirs:
            raise InputError(
                f"a frozen network stays as it is, but {init} has {name} {theirs} and this run {ours}: use the same"
            )


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains as ``config`` says and returns the last validation: ``{"step": …, "miou": {pause: mIoU in per cent}}``.

    Results are in ``config.out``: ``best/`` and ``last/`` are model folders. Ctrl-C saves a checkpoint and stops;
    ``resume`` goes on from the newest one, on the CPU to bit-identical weights.

    Raises:
        InputError: data, weights or settings that cannot work, a loss that is not a number.
    """
    accelerator = create_accelerator(config)
    run, values = RunFolder(config.out), dataclasses.asdict(config)
    if accelerator.is_main_process:
        run.check(values, config.resume, dataclasses.asdict(TrainConfig(out="")))
    train_set = _create_dataset(config, config.train_split)
    val_set = _create_dataset(config, config.val_split)
    resumed = config.resume and bool(run.checkpoints())
    model = build_model(config, train_set, load_weights=not resumed)
    training = _Training(config, accelerator, model, train_set, val_set, run)
    # Only now, when nothing of the settings can be refused any more: a typo must not leave a run behind.
    if accelerator.is_main_process:
        run.open(values, training.step)
    accelerator.wait_for_everyone()
    return training.run()


def create_accelerator(config: TrainConfig) -> Accelerator:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here: take --device cpu, or auto")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no MPS device here: take --device cpu, or auto")
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if config.amp == "fp16" and on_cpu:
        raise InputError("fp16 training needs a GPU: take --amp no, or bf16 on a CPU that has it")
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs

        if config.log_with == "tensorboard":
            import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    # Accelerate keeps precision and device for the whole process; a second run may well want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # Of one head per layer only the drawn layer's gets gradients, which DDP must be told; a frozen network trains all.
    unused = config.aux_head == "per_layer" and config.has_aux and not config.freeze
    return Accelerator(
        mixed_precision=config.amp,
        cpu=config.device == "cpu",
        log_with=None if config.log_with == "none" else config.log_with,
        project_dir=config.out,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, find_unused_parameters=unused)],
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
    red, green, blue = (round(255 * value) for value in model.config.mean)
    return red, green, blue


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
        self.train_set, self.val_set, self.model = train_set, val_set, model
        self.val_indices = spread_indices(len(val_set), config.val_images)
        self.inference = inference_config(model)
        self.class_weight = self._create_class_weight()
        optimizer = create_optimizer(
            _learning_part(model, config),
            config.optimizer,
            config.lr,
            config.weight_decay,
            config.momentum,
            config.decoder_lr_scale,
        )
        model.to(accelerator.device)
        self.ema = create_ema(model, config.ema_decay) if config.ema_decay else None
        self.step, self.best, self.latest, self.validated_at = 0, -math.inf, {}, -1
        scaler_state = self._resume(optimizer)
        self.loader = self._create_loader()
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        if scaler_state and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler_state)

    def _create_class_weight(self) -> Tensor | None:
        weight, num_classes = self.config.class_weight, self.train_set.spec.num_classes
        if weight is None:
            return None
        if len(weight) != num_classes:
            raise InputError(f"{len(weight)} class weights for {num_classes} classes: give one for each")
        return torch.tensor(weight, device=self.accelerator.device)

    def _resume(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Puts everything to where the newest checkpoint was; returns the state of the gradient scaler."""
        state = self.run_folder.load_latest() if self.config.resume else None
        if state is None:
            return {}
        weights, ema, optimizer_state, progress = state
        self.model.load_state_dict(weights)
        optimizer.load_state_dict(optimizer_state["optimizer"])
        if self.ema is not None and ema is not None:
            self.ema.load_state_dict(ema)
        self.step, self.best, self.latest = progress["step"], progress["best"], progress["latest"]
        if self.accelerator.is_main_process:
            log.info("going on after step %s of %s", self.step, self.config.steps)
        return optimizer_state["scaler"]

    def _create_loader(self) -> DataLoader:
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
        samples = StepSamples(self.train_set, transform, config.seed, self._images_per_step)
        batches = StepBatches(
            config.batch_size,
            self.step,
            config.steps,
            config.accumulation,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return create_loader(samples, batches, config.workers, pin_memory=accelerator.device.type == "cuda")

    @property
    def _images_per_step(self) -> int:
        return self.config.batch_size * self.config.accumulation * self.accelerator.num_processes

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        config, accelerator = self.config, self.accelerator
        if self.step == config.steps:
            return {"step": self.step, **self.latest}
        if config.log_with != "none":
            accelerator.init_trackers("tracker", config=None)
        progress = tqdm(
            total=config.steps,
            initial=self.step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            disable=not accelerator.is_main_process,
            mininterval=1 if sys.stderr.isatty() else 30,
        )
        stop, clock, batches = False, _Clock(self.step), read_batches(self.loader)
        with progress, _stop_signals() as stopped:
            while self.step < config.steps and not stop:
                losses, lr = self._train_step(batches)
                self.step += 1
                progress.update()
                speed = clock.images_per_second(self.step, self._images_per_step)
                progress.set_postfix_str(f"loss {losses.total:.3f}, {speed:.1f} images/s", refresh=False)
                if self._is_due(config.log_every):
                    self._log_losses(losses, lr, speed)
                stop = self._any_rank(stopped())
                validates, saves = self._is_due(config.val_every), stop or self._is_due(config.save_every)
                if validates or saves:
                    with clock.paused():
                        self._refuse_broken_weights()
                        if validates:
                            self._validate(progress)
                        if saves:
                            self._save()
        accelerator.end_training()
        if self.step < config.steps and accelerator.is_main_process:
            raise KeyboardInterrupt(f"stopped after step {self.step}; go on with --resume")
        return {"step": self.step, **self.latest}

    def _is_due(self, every: int) -> bool:
        """Whether something that is done every so many steps (0: only at the end) is to be done now."""
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def _any_rank(self, stopped: bool) -> bool:
        """Signals reach the ranks at different steps, but one that left alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return stopped
        return self.accelerator.reduce(torch.tensor(float(stopped), device=self.accelerator.device)).item() > 0

    def _train_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[_Losses, float]:
        config, accelerator, step = self.config, self.accelerator, self.step
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.power, config.warmup_steps)
        set_lr(self.optimizer, lr)
        # Dropout and drop-path draw from the global generator: seeding it per step makes it a function of the step.
        # The samples of a step are numbered from 0, so a stream counted from the far end is none of theirs.
        torch.manual_seed(sample_generator(config.seed, step, 2**31 + accelerator.process_index).initial_seed())
        self.wrapped.train(not config.freeze)  # what is frozen predicts as it does at inference
        pause = _score_all_layers(self.model.depth) if config.freeze else config.pause_at(step)
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
            self._refuse(f"the loss is {total[0]} at step {step + 1}")
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
        loss = segmentation_loss(
            self.model,
            output,
            masks,
            aux_weight=config.aux_weight,
            weight=self.class_weight,
            ignore_index=self.train_set.spec.ignore_index,
            average=config.loss_average,
        )
        return dataclasses.replace(loss, total=loss.aux) if config.freeze else loss

    def _refuse_broken_weights(self) -> None:
        """A finite loss can have gradients that are not; such weights must not become the last good checkpoint."""
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            self._refuse(f"the weights are no longer finite after step {self.step}")

    def _refuse(self, what: str) -> NoReturn:
        checkpoints = self.run_folder.checkpoints()
        last_good = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
        raise InputError(f"{what}; {last_good}: try a lower lr, or clip_grad 1")

    # -- now and then -------------------------------------------------------------------------------------------------

    @property
    def _best_weights_model(self) -> Segmenter:
        # pyrefly: ignore[bad-return] (torch types the averaged model as any Module)
        return self.model if self.ema is None else self.ema.module

    def _validate(self, progress: tqdm) -> None:
        accelerator, config = self.accelerator, self.config
        model = self._best_weights_model
        results = evaluate(
            model,
            self.val_set,
            config.parsed_val_pauses,
            inference=self.inference,
            criterion=config.criterion,
            indices=self.val_indices[accelerator.process_index :: accelerator.num_processes],
            progress=accelerator.is_main_process,
        )
        self.validated_at = self.step
        self.latest = {"miou": {str(result.pause): result.miou for result in results}}
        mean = sum(result.miou for result in results) / len(results)
        self._log({"val_" + str(result.pause): result.miou for result in results})
        if accelerator.is_main_process:
            progress.write(
                f"step {self.step}: mIoU {_scores(results)} ({len(self.val_indices)} images)", file=sys.stderr
            )
            if mean > self.best:
                model.save_pretrained(self.run_folder.best, card=self._card())
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
            # The checkpoint comes last: a run that is killed in between does these steps and files again.
            self._best_weights_model.save_pretrained(self.run_folder.last, card=self._card())
            self.run_folder.save(self.step, self.model, ema, state, progress, self.config.keep)
        self.accelerator.wait_for_everyone()

    def _card(self) -> str:
        config, spec = self.config, self.train_set.spec
        frozen = f", auxiliary heads only, on the frozen network of {config.init}" if config.freeze else ""
        average = f", average of the weights with decay {config.ema_decay}" if self.ema is not None else ""
        card = default_card(self.model.config) + (
            f"\n## Training\n\n{self.step} of {config.steps} steps of {self._images_per_step} images of {spec.name} "
            f"({config.train_split}), pausing: {config.pausing}, seed {config.seed}{frozen}{average}.\n"
        )
        if self.validated_at == self.step:
            card += f"\n| pause | mIoU in per cent, {len(self.val_indices)} images of {config.val_split} |\n|---|---|\n"
            card += "".join(f"| {pause} | {miou:.2f} |\n" for pause, miou in self.latest["miou"].items())
        return card

    def _log_losses(self, losses: _Losses, lr: float, speed: float) -> None:
        values = {"loss": losses.total, "loss_main": losses.main, "loss_aux": losses.aux}
        self._log({**values, "lr": lr, "images_per_second": speed})

    def _log(self, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.run_folder.log({"step": self.step, **values})
        if self.config.log_with != "none":
            self.accelerator.log(values, step=self.step)


def _score_all_layers(depth: int) -> PauseConfig:
    """A ratio of 0 scores the patches of a layer and pauses none."""
    return PauseConfig(tuple((layer, 0.0) for layer in range(1, depth + 1)))


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


def _scores(results: list[EvalResult]) -> str:
    return ", ".join(f"{result.pause} {result.miou:.2f}" for result in results)
