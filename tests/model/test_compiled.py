"""Graphs against the eager model. They take seconds to make, so each test makes as few as it can.

What compiles runs in a child: it starts threads of autograd, after which no other test of the process could fork.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil

import pytest
import torch
from forked import in_a_child
from tiny import random_images, tiny_model
from torch._dynamo.utils import counters

from paumer.errors import InputError
from paumer.model import COMPILE_MODES, compile_segmenter, compiled
from paumer.model.compiled import clone_output

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), reason="torch builds graphs in C++"
)
PAUSES = ["none", "2:0.5,4:0.4", "3:0.5", "1:0.3,2:0.4", "5:0.9", "2:1.2nats", "2:0.5@batch"]


@pytest.fixture(autouse=True)
def no_graphs():
    torch._dynamo.reset()
    counters.clear()
    compiled.warn_once.cache_clear()


@needs_compiler
@in_a_child
@torch.inference_mode()
def test_blocks_share_their_graphs_over_all_configurations_and_equal_eager():
    model = tiny_model(drop_path_rate=0.0, decoder="linear")
    own = compile_segmenter(model, "block")
    own(random_images(2), "3:0.4")
    made = counters["stats"]["unique_graphs"]
    assert 1 <= made <= 2
    for pause in PAUSES:
        for images in (random_images(2, 48, 96), random_images(3)):
            expected, output = model(images, pause), own(images, pause)
            torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
            assert torch.equal(output.trace.paused_at(), expected.trace.paused_at())
    assert counters["stats"]["unique_graphs"] == made


@needs_compiler
@in_a_child
@torch.inference_mode()
def test_a_full_graph_equals_eager_and_is_made_once_per_configuration():
    model = tiny_model(decoder="linear")
    own = compile_segmenter(model, "full")
    for seed in range(2):
        images = random_images(2, seed=seed)
        expected, output = model(images, "2:0.5,4:0.4"), own(images, "2:0.5,4:0.4")
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(output.trace.paused_at(), expected.trace.paused_at())
    assert counters["stats"]["unique_graphs"] == 1


def eager_backend(monkeypatch):
    """Graphs are traced and guarded as ever, but run by torch itself: nothing is built."""
    set_backend(monkeypatch, "eager")


def set_backend(monkeypatch, backend):
    compile_it = torch.compile

    @functools.wraps(compile_it)
    def with_backend(*args, **kwargs):
        return compile_it(*args, **kwargs, backend=backend)

    monkeypatch.setattr(torch, "compile", with_backend)


@in_a_child
@torch.inference_mode()
def test_more_configurations_than_torch_allows_recompiles_stay_graphs(monkeypatch):
    eager_backend(monkeypatch)
    model = tiny_model(decoder="linear")
    own = compile_segmenter(model, "full")
    ratios = [0.1 * i for i in range(1, 10)]
    for ratio in [*ratios, *ratios]:
        own(random_images(), f"3:{ratio:.1f}")
    assert counters["stats"]["unique_graphs"] == len(ratios) > torch._dynamo.config.recompile_limit
    torch.testing.assert_close(own(random_images(), "3:0.9").logits, model(random_images(), "3:0.9").logits)


@in_a_child
@torch.inference_mode()
def test_another_size_batch_or_criterion_is_another_graph(monkeypatch):
    eager_backend(monkeypatch)
    model = tiny_model(decoder="linear")
    own = compile_segmenter(model, "full")
    one, others = random_images(1), (random_images(2), random_images(1, 48, 96), random_images(1).float() / 255)
    for images, criterion in [(one, "entropy"), (one, "margin"), *((images, "entropy") for images in others)]:
        expected = model(images, "3:0.5", criterion=criterion)
        torch.testing.assert_close(own(images, "3:0.5", criterion=criterion).logits, expected.logits)
        assert torch.equal(own.segment(images, "3:0.5", criterion=criterion).labels, expected.logits.argmax(1))
    assert counters["stats"]["unique_graphs"] == 5


@in_a_child
@torch.inference_mode()
def test_what_no_graph_can_hold_runs_uncompiled_and_is_said_once(monkeypatch, caplog):
    eager_backend(monkeypatch)
    model = tiny_model(decoder="linear")
    own = compile_segmenter(model, "full")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for pause, criterion in (("2:1.2nats", "entropy"), ("2:0.5", "random")):
                expected = model(random_images(2), pause, criterion=criterion)
                assert torch.equal(own(random_images(2), pause, criterion=criterion).logits, expected.logits)
    assert len(caplog.records) == 2 and all("runs uncompiled" in record.message for record in caplog.records)
    assert not counters["stats"]["unique_graphs"]


@in_a_child
@torch.inference_mode()
def test_packed_layers_run_uncompiled_and_that_is_said_once(monkeypatch, caplog):
    eager_backend(monkeypatch)
    own = compile_segmenter(tiny_model(), "block")
    with caplog.at_level(logging.WARNING):
        for images in (random_images(1), random_images(2)):
            own(images, "2:0.5")
        own(random_images(1), "2:0.5@batch")
        assert not caplog.records  # one image is never packed
        for _ in range(2):
            own(random_images(2), "2:0.5@batch")
    assert len(caplog.records) == 1 and "'2:0.5@batch' the layers behind run uncompiled" in caplog.text


@in_a_child
@torch.inference_mode()
def test_a_failing_compiler_names_the_switch(monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    set_backend(monkeypatch, backend)
    for mode in ("block", "full"):
        own = compile_segmenter(tiny_model(), mode)
        with pytest.raises(InputError, match=r"no compiler here.*--compile off"):
            own(random_images(), "3:0.5")


@in_a_child
@torch.inference_mode()
def test_a_limit_that_is_hit_is_an_error_and_not_silently_eager(monkeypatch):
    eager_backend(monkeypatch)
    monkeypatch.setattr(compiled, "_MAX_BLOCK_GRAPHS", 1)
    own = compile_segmenter(tiny_model(drop_path_rate=0.0), "block")
    with pytest.raises(InputError, match="--compile off"):
        for count in (1, 2, 3):  # one image and several are two graphs
            own(random_images(count), "3:0.5")


def test_the_model_itself_stays_as_it_was():
    model = tiny_model()
    before = model(random_images(), "3:0.5").logits
    for mode in ("block", "full"):
        own = compile_segmenter(model, mode)
        assert own is not model and own.encoder.blocks[0] is not model.encoder.blocks[0]
        ours = dict(model.named_parameters())
        assert all(parameter is ours[name] for name, parameter in own.named_parameters())  # no second set of weights
        assert model.encoder.blocks[0]._compiled_call_impl is None and "_predict" not in vars(model)
    assert torch.equal(model(random_images(), "3:0.5").logits, before)


def test_off_is_the_model_and_other_words_are_refused():
    model = tiny_model()
    assert compile_segmenter(model, "off") is model and COMPILE_MODES == ("off", "block", "full")
    with pytest.raises(InputError, match="unknown way to compile 'blok': did you mean 'block'"):
        compile_segmenter(model, "blok")


def test_compiled_models_refuse_to_train():
    own = compile_segmenter(tiny_model(), "full").train()
    with pytest.raises(InputError, match="for inference"):
        own(random_images(), "3:0.5")


def test_a_cloned_output_shares_no_memory():
    output = tiny_model()(random_images(2), "2:0.5,4:0.4")
    clone = clone_output(output)
    assert torch.equal(clone.logits, output.logits) and clone.logits.data_ptr() != output.logits.data_ptr()
    assert torch.equal(clone.trace.paused_at(), output.trace.paused_at())
    for ours, theirs in zip(clone.trace.steps, output.trace.steps, strict=True):
        for name in ("index", "scores", "aux_logits", "paused"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).data_ptr() != getattr(theirs, name).data_ptr()
