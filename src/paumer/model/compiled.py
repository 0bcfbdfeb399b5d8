"""The same model with compiled graphs: `torch.compile` on each block, or on the whole forward pass.

Knows nothing of what is computed. Nothing falls back to eager silently: graphs are whole or an error that names the
switch, and what no graph can hold is said once.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from paumer.errors import InputError, did_you_mean, warn_once
from paumer.model.segmenter import Segmenter, SegmenterOutput
from paumer.model.trace import Trace
from paumer.pause import PauseConfig

log = logging.getLogger(__name__)

COMPILE_MODES = ("off", "block", "full")
# Graphs of blocks: of encoder and decoder, with and without stochastic depth, for one image and for several, and that
# for each model in the process. Beyond the limit torch would raise; it never goes on in eager mode.
_MAX_BLOCK_GRAPHS = 64

Predict = Callable[[Tensor, PauseConfig, str, Sequence[int] | None], SegmenterOutput]


def compile_segmenter(model: Segmenter, mode: str) -> Segmenter:
    """A model for inference that shares the weights of ``model`` and computes the same, up to the order of sums.

    Args:
        mode: ``off``: the model as it is. ``block``: a graph of one block with free numbers of tokens and images, made
            at the first call; all pause configurations and all layers use it, but for layers on images that keep
            different numbers of tokens. ``full``: a graph of everything up to
            the logits on the patch grid for each configuration, size and batch that is met; on CUDA it is captured
            and replayed as one CUDA graph. Each is made when it is first called for, which takes tens of seconds.

    Raises:
        InputError: an unknown mode; when called: training, or a compiler that fails.
    """
    if mode not in COMPILE_MODES:
        raise InputError(f"unknown way to compile '{mode}': {did_you_mean(mode, COMPILE_MODES)}")
    if mode == "off":
        return model
    own = _share(model)
    if mode == "block":
        for block in (*own.encoder.blocks, *getattr(own.decoder, "blocks", ())):
            block.compile(dynamic=True, fullgraph=True, **_known(recompile_limit=_MAX_BLOCK_GRAPHS))
    predict = partial(_predict_in_blocks, own._predict) if mode == "block" else _Graphs(own._predict)
    own._predict = partial(_predict_or_tell, own, predict)  # of this copy alone
    return own


def _share(model: Segmenter) -> Segmenter:
    """A copy with modules of its own and the tensors of the original."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()


def _predict_or_tell(
    model: Segmenter,
    predict: Predict,
    images: Tensor,
    pause: PauseConfig,
    criterion: str,
    seeds: Sequence[int] | None,
) -> SegmenterOutput:
    if model.training:
        raise InputError("a compiled model is for inference: train the model that it was made of")
    try:
        return predict(images, pause, criterion, seeds)
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
        if isinstance(error, FailOnRecompileLimitHit):
            reason = "more graphs were needed than torch may make"
        raise InputError(f"compiling the model failed ({reason}): switch it off with --compile off") from error


def _predict_in_blocks(
    predict: Predict, images: Tensor, pause: PauseConfig, criterion: str, seeds: Sequence[int] | None
) -> SegmenterOutput:
    if pause.is_adaptive and len(images) > 1:
        warn_once(
            log,
            f"images that keep different numbers of tokens are packed, which the graph of a block does not hold: with "
            f"'{pause}' the layers behind run uncompiled in batches",
        )
    return predict(images, pause, criterion, seeds)


class _Graphs:
    """One graph for each configuration, shape and mode of autograd."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.graphs: dict[tuple[Any, ...], Callable[[Tensor], SegmenterOutput]] = {}

    def __call__(
        self, images: Tensor, pause: PauseConfig, criterion: str, seeds: Sequence[int] | None
    ) -> SegmenterOutput:
        if pause.is_adaptive:
            warn_once(log, f"no graph holds '{pause}', whose number of tokens follows the image: it runs uncompiled")
            return self.predict(images, pause, criterion, seeds)
        if criterion == "random" and pause.steps:
            warn_once(log, "no graph holds the criterion 'random', which is drawn anew each time: it runs uncompiled")
            return self.predict(images, pause, criterion, seeds)
        on_cuda = images.device.type == "cuda"
        modes = (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        key = (pause, criterion, images.shape, images.dtype, images.device, modes)
        if key not in self.graphs:
            self.graphs[key] = torch.compile(
                lambda images: self.predict(images, pause, criterion, None),
                dynamic=False,
                fullgraph=True,
                mode="reduce-overhead" if on_cuda else None,
                # One graph is all that this key can need; another would mean that it leaves something out.
                **_known(isolate_recompiles=True, recompile_limit=1),
            )
        if not on_cuda:
            return self.graphs[key](images)
        torch.compiler.cudagraph_mark_step_begin()
        # The next replay writes where this one did.
        return clone_output(self.graphs[key](images))


def _known(**options: Any) -> dict[str, Any]:
    """Those of the options that this torch has; the older ones know limits of the whole process only."""
    parameters = inspect.signature(torch.compile).parameters
    return {name: value for name, value in options.items() if name in parameters}


def clone_output(output: SegmenterOutput) -> SegmenterOutput:
    """The same in memory of its own."""
    steps = tuple(
        replace(
            step,
            index=step.index.clone(),
            scores=step.scores.clone(),
            aux_logits=None if step.aux_logits is None else step.aux_logits.clone(),
            paused=step.paused.clone(),
        )
        for step in output.trace.steps
    )
    return SegmenterOutput(output.logits.clone(), Trace(output.trace.grid, output.trace.batch_size, steps))
