"""The benchmark against a made-up clock and memory, and against NumPy; no real time is asserted."""

from __future__ import annotations

import copy
import json
import logging
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import random_images, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel

import paumer
from paumer import benchmark as module
from paumer.benchmark import (
    BenchResult,
    Speedup,
    available_memory,
    benchmark,
    conditions,
    is_out_of_memory,
    largest_batch,
    read_images,
    resident_growth,
    time_interleaved,
)
from paumer.errors import InputError
from paumer.model.cost import flop_formula, flops_of_trace
from paumer.pause import NO_PAUSE, PauseConfig

CPU = torch.device("cpu")
PAUSE = PauseConfig.parse("2:0.5,4:0.5")
QUICK = {"image_size": (64, 64), "batch_size": 1, "rounds": 2, "warmup": 0}
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Machine:
    """A clock that only calls move, and what was called in which order."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr("paumer.benchmark.time.perf_counter", lambda: self.now)

    def call(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds(self.now) if callable(seconds) else seconds

        return run


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# --- timing ----------------------------------------------------------------------------------------------------------


def test_calls_take_turns_in_an_order_that_changes_and_repeats(machine):
    calls = [machine.call(name, 1.0) for name in "ABCD"]
    time_interleaved(calls, rounds=40, warmup=0, device=CPU)
    rounds = ["".join(machine.log[start : start + 4]) for start in range(0, 160, 4)]
    assert all(sorted(order) == list("ABCD") for order in rounds)
    for place in range(4):  # everyone comes in every place, and after everyone else
        assert {order[place] for order in rounds} == set("ABCD")
    pairs = {order[place : place + 2] for order in rounds for place in range(3)}
    assert len(pairs) == 12
    again = Machine.__new__(Machine)
    again.now, again.log = 0.0, []
    time_interleaved([again.call(name, 0) for name in "ABCD"], rounds=40, warmup=0, device=CPU)
    assert again.log == machine.log


def test_seconds_belong_to_their_calls_and_warm_up_does_not_count(machine):
    slow_at_first = machine.call("A", lambda now: 100.0 if len(machine.log) <= 6 else 2.0)
    seconds = time_interleaved(
        [slow_at_first, machine.call("B", 3.0), machine.call("C", 5.0)], rounds=3, warmup=2, device=CPU
    )
    assert seconds == [[2.0] * 3, [3.0] * 3, [5.0] * 3]
    assert len(machine.log) == 5 * 3


def test_a_machine_that_slows_down_leaves_the_speedup_alone(machine):
    calls = [machine.call("slow", lambda now: 2 * (1 + now / 50)), machine.call("fast", lambda now: 1 * (1 + now / 50))]
    slow, fast = time_interleaved(calls, rounds=50, warmup=0, device=CPU)
    assert slow[-1] > 5 * slow[0]
    assert Speedup.paired(fast, slow).median == pytest.approx(2, rel=0.05)
    # One after the other, as a plain loop would time them, the second gets all of the blame.
    assert np.median(slow[25:]) / np.median(fast[:25]) > 4


def test_a_device_that_runs_ahead_is_waited_for_before_and_after(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: machine.log.append(f"wait for {device}"))
    time_interleaved([machine.call("call", 1.0)], rounds=1, warmup=0, device=torch.device("cuda:1"))
    assert machine.log == ["wait for cuda:1", "call", "wait for cuda:1"]


def test_speedup_is_taken_round_by_round():
    speedup = Speedup.paired([1.0, 2.0, 4.0, 1.0, 5.0], baseline=[2.0, 3.0, 10.0, 1.5, 10.0])
    assert (speedup.low, speedup.median, speedup.high) == (1.5, 2.0, 2.0)
    assert np.isclose(speedup.median, np.quantile([2, 1.5, 2.5, 1.5, 2], 0.5))


@pytest.mark.parametrize(
    ("speedup", "decided"),
    [
        (Speedup(1.5, 1.4, 1.6), True),
        (Speedup(1.1, 1.0, 1.2), False),
        (Speedup(0.5, 0.4, 0.6), True),  # slower, and surely so
        (Speedup(0.95, 0.9, 1.0), False),
        (Speedup(1.0, 1.0, 1.0), True),  # the baseline
    ],
)
def test_a_difference_smaller_than_the_spread_is_noise(speedup, decided):
    assert speedup.decided is decided


# --- the batch that fills the device ---------------------------------------------------------------------------------

CPU_FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


def speeds(*values, error=None):
    """Images per second at batch 1, 2, 4, …; then the error."""
    asked = []

    def images_per_second(batch_size):
        asked.append(batch_size)
        place = batch_size.bit_length() - 1
        if place >= len(values):
            raise error or AssertionError("asked for more than needed")
        return values[place]

    return images_per_second, asked


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((10, 19, 35, 50, 51, 50), 8),
        ((10, 9, 8), 1),
        ((10, 10.3, 10.4), 1),
        ((10, 19, 19, 30, 45, 46, 46), 16),  # one doubling without gain is not the end
    ],
)
def test_doubling_ends_where_throughput_no_longer_grows(values, best):
    images_per_second, asked = speeds(*values)
    assert largest_batch(images_per_second) == best
    assert asked == [2**power for power in range(len(values))]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(CPU_FULL),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_when_memory_runs_out_the_next_smaller_batch_is_used(error):
    images_per_second, asked = speeds(10, 20, 40, error=error)
    assert largest_batch(images_per_second) == 4
    assert asked == [1, 2, 4, 8]


def test_what_torch_says_when_the_machine_is_full_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**14)
    assert is_out_of_memory(caught.value)


def test_other_errors_of_the_search_are_not_swallowed():
    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch(speeds(10, error=RuntimeError("shapes do not match"))[0])


def test_not_even_one_image_is_told():
    with pytest.raises(InputError, match="not even one image fits"):
        largest_batch(speeds(error=torch.OutOfMemoryError())[0])


def test_a_batch_that_would_not_fit_is_not_tried():
    images_per_second, asked = speeds(10, 20, 40, 80)
    assert largest_batch(images_per_second, fits=lambda batch_size: batch_size < 8) == 4
    assert asked == [1, 2, 4]


@linux
def test_memory_is_read_from_the_system(monkeypatch):
    memory = available_memory()
    assert memory is not None and 2**20 < memory < 2**50
    numbers = {"MemAvailable:\\s+(\\d+) kB": 8000, "(\\d+)": 5000_000, "anon (\\d+)": 1000_000}
    monkeypatch.setattr(module, "_number_in", lambda path, pattern: numbers[pattern])
    assert available_memory() == 4000_000  # what the container may still take
    numbers["(\\d+)"] = None
    assert available_memory() == 8000 * 1024
    numbers["MemAvailable:\\s+(\\d+) kB"] = None
    assert available_memory() is None


@linux
def test_growth_of_the_process_is_that_of_its_peak():
    def call():
        torch.ones(100, 2**20)  # 400 MiB, gone when the call ends

    assert 380 < resident_growth(call) / 2**20 < 500
    assert resident_growth(lambda: None) < 20 * 2**20


def test_the_search_stops_before_the_machine_swaps(model, monkeypatch):
    monkeypatch.setattr(module, "resident_growth", lambda call: 100 * len(call().logits))
    monkeypatch.setattr(module, "_seconds", lambda call, device: call() and 1.0)  # so that throughput doubles
    for memory, batch_size in ((1000, 4), (601, 4), (600, 2), (10, 1)):  # three times the growth of the batch before
        monkeypatch.setattr(module, "available_memory", lambda memory=memory: memory)
        assert benchmark(model, [], **{**QUICK, "batch_size": None})[0].batch_size == batch_size


# --- the benchmark ---------------------------------------------------------------------------------------------------


class Spy:
    """A copy of the model that reports each of its forward passes with values, copies of itself included."""

    def __init__(self, model, largest=10**9):
        self.model, self.images, self.outputs, self.largest = copy.deepcopy(model), [], [], largest
        self.model.register_forward_hook(self._see)

    def __deepcopy__(self, memo):
        return self  # the hook of a copy reports here, too

    def _see(self, model, arguments, output):
        if output.logits.device.type == "meta":
            return
        self.images.append(arguments[0])
        self.outputs.append(output)
        self.kernels = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
        if len(arguments[0]) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def logits(self):
        return self.outputs[0].logits


def test_rows_are_what_was_timed(model, machine):
    def slow_down(_, arguments, output):
        if output.logits.device.type != "meta":
            machine.now += (6 if not arguments[1].steps else 4) + len(machine.log) % 2
            machine.log.append(str(arguments[1]))

    timed = copy.deepcopy(model)
    timed.register_forward_hook(slow_down)
    unpaused, paused = benchmark(timed, [PAUSE, NO_PAUSE, PAUSE], **{**QUICK, "batch_size": 3, "rounds": 9})
    assert (unpaused.pause, paused.pause) == (NO_PAUSE, PAUSE)
    assert len(paused.seconds) == 9 and set(paused.seconds) == {4.0, 5.0} and set(unpaused.seconds) == {6.0, 7.0}
    assert paused.baseline == unpaused.seconds
    row = paused.to_dict()
    assert row["images_per_second"] == pytest.approx(3 / np.median(paused.seconds))
    for percentile in (50, 90, 99):
        assert row[f"latency_ms_p{percentile}"] == pytest.approx(1000 * np.percentile(paused.seconds, percentile))
    low, median, high = np.quantile(np.array(unpaused.seconds) / np.array(paused.seconds), (0.25, 0.5, 0.75))
    assert (row["speedup_low"], row["speedup"], row["speedup_high"]) == pytest.approx((low, median, high))
    assert row["spread"] == pytest.approx(
        np.subtract(*np.quantile(paused.seconds, (0.75, 0.25))) / np.median(paused.seconds)
    )
    cost, full = flop_formula(model, PAUSE, (64, 64)), flop_formula(model, NO_PAUSE, (64, 64))
    assert row["gflops"] == cost / 1e9
    assert row["flop_speedup"] == full / cost
    assert row["reached"] == pytest.approx(median * cost / full)
    assert unpaused.to_dict()["speedup"] == unpaused.to_dict()["reached"] == 1


def test_a_row_carries_its_conditions_and_is_json(model):
    options = {"dtype": "bfloat16", "attention": "math", "criterion": "margin", "upsample": False}
    row = benchmark(model, [PAUSE], **QUICK, **options)[1].to_dict()
    assert json.loads(json.dumps(row)) == row
    assert not any(isinstance(value, dict | list) for value in row.values())
    assert {key: row[key] for key in options} == options
    assert (row["pause"], row["batch_size"], row["height"], row["width"]) == (str(PAUSE), 1, 64, 64)
    assert (row["rounds"], row["warmup"], row["images"]) == (2, 0, "random noise")
    assert (row["device"], row["threads"]) == ("cpu", torch.get_num_threads())
    assert (row["paumer"], row["torch"]) == (paumer.__version__, torch.__version__)
    assert {"device_name", "load", "timm", "python", "matmul_precision", "peak_memory"} <= set(row)


def test_conditions_name_the_machine():
    state = conditions(CPU)
    assert state["device_name"] and state["device"] == "cpu" and state["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("attention", ["eager", "flash", "math"])
def test_every_attention_gives_the_same_logits(model, attention, monkeypatch):
    fused = []
    plain = F.scaled_dot_product_attention

    def watch(q, *args, **kwargs):
        fused.extend([q] if q.device.type != "meta" else [])
        return plain(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
    spy = Spy(model)
    benchmark(spy.model, [], **QUICK, attention=attention)
    assert bool(fused) is (attention != "eager")
    assert spy.kernels == {"flash": (True, False), "math": (False, True), "eager": (True, True)}[attention]
    with torch.inference_mode():
        expected = model(spy.images[0]).logits
    torch.testing.assert_close(spy.logits(), expected, atol=1e-4, rtol=1e-4)


def test_a_row_names_the_dtype_that_auto_chose(model, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    row = benchmark(model, [], **QUICK, dtype="auto")[0].to_dict()
    assert row["dtype"] == "bfloat16"


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float16", 0.03)])
def test_half_precision_is_that_of_weights_and_activations(model, dtype, tolerance):
    spy = Spy(model)
    benchmark(spy.model, [], **QUICK, dtype=dtype)
    assert spy.logits().dtype == getattr(torch, dtype)
    with torch.inference_mode():
        expected = model(spy.images[0]).logits
    torch.testing.assert_close(spy.logits().float(), expected, atol=tolerance, rtol=tolerance)


def test_nothing_is_left_behind():
    model = tiny_model().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        for options in (
            {"attention": "eager", "dtype": "bfloat16"},
            {"attention": "flash"},
            {"attention": "efficient"},
        ):
            try:
                benchmark(model, [PAUSE], **QUICK, **options)
            except InputError:
                assert options["attention"] == "efficient"
            assert torch.backends.cuda.math_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    assert model.training and all(block.attn.fused_attn for block in model.encoder.blocks)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_upsampling_can_be_left_out(model):
    shapes = []
    for upsample in (True, False):
        spy = Spy(model)
        benchmark(spy.model, [], **QUICK, upsample=upsample)
        shapes.append(spy.logits().shape)
    assert shapes == [(1, 5, 64, 64), (1, 5, 4, 4)]


def test_given_images_are_timed_in_turn(model):
    spy, images = Spy(model), random_images(2, 48, 64)
    result = benchmark(spy.model, [], **{**QUICK, "batch_size": 3}, images=images, image_names=["a.jpg", "b.jpg"])[0]
    assert torch.equal(spy.images[-1], images[[0, 1, 0]])
    assert (result.image_size, result.conditions["images"]) == ((48, 64), "a.jpg, b.jpg")
    alone = benchmark(model, [], **QUICK, images=images, image_names=["a.jpg", "b.jpg"])[0]
    assert alone.conditions["images"] == "a.jpg"


def test_the_work_is_the_same_for_all_weights_and_images():
    work = set()
    for seed in range(3):
        spy = Spy(tiny_model(seed=seed))
        benchmark(spy.model, [PAUSE], **QUICK, images=random_images(1, seed=seed))
        steps = [output.trace.steps for output in spy.outputs if output.trace.steps]
        work |= {tuple((step.layer, step.paused.shape) for step in own) for own in steps}
    assert work == {((2, (8,)), (4, (4,)))}


def test_the_search_uses_the_batch_before_memory_runs_out(model, monkeypatch):
    spy = Spy(model, largest=2)
    monkeypatch.setattr(module, "_seconds", lambda call, device: call() and 1.0)  # so that throughput doubles
    assert benchmark(spy.model, [PAUSE], **{**QUICK, "batch_size": None})[0].batch_size == 2


def test_a_batch_beyond_the_memory_is_one_sentence(model):
    with pytest.raises(InputError, match="of 64x64 does not fit into the memory of cpu: take a smaller"):
        benchmark(Spy(model, largest=2).model, [], **{**QUICK, "batch_size": 3})
    with pytest.raises(InputError, match="does not fit into the memory of cpu"):
        benchmark(Spy(model, largest=0).model, [], **{**QUICK, "batch_size": None})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat32"}, "unknown dtype 'bfloat32': did you mean 'float32'"),
        ({"attention": "flsh"}, "unknown attention 'flsh': did you mean 'flash'"),
        ({"criterion": "entrpy"}, "unknown criterion 'entrpy': did you mean 'entropy'"),
        ({"attention": "efficient"}, "efficient attention in float32 does not run on cpu .*'auto'"),
        ({"attention": "cudnn", "dtype": "float16"}, "cudnn attention in float16 does not run on cpu"),
        ({"image_size": (0, 64)}, "image size is .* got \\(0, 64\\)"),
        ({"batch_size": 0}, "at least 1 image, got 0"),
        ({"rounds": 0}, "at least 1 round"),
        ({"warmup": -1}, "got 2 after -1"),
    ],
)
def test_what_cannot_be_timed_is_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        benchmark(model, [PAUSE], **{**QUICK, **options})


def test_configurations_are_refused_before_anything_is_timed(model):
    spy = Spy(model)
    with pytest.raises(InputError, match="layers 1..6"):
        benchmark(spy.model, [PAUSE, PauseConfig.parse("9:0.5")], **QUICK)
    plain = Spy(tiny_model(aux_head="none"))
    with pytest.raises(InputError, match="needs an auxiliary head"):
        benchmark(plain.model, [PAUSE], **QUICK)
    assert not spy.images and not plain.images
    assert benchmark(plain.model, [PAUSE], **QUICK, criterion="random")[1].flop_speedup > 1


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_cover_the_size_and_keep_their_aspect(tmp_path):
    wide = np.zeros((20, 80, 3), np.uint8)
    wide[:, 30:50] = 200  # the middle quarter of its width is what a square shows
    Image.fromarray(wide).save(tmp_path / "wide.png")
    exact = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(exact).save(tmp_path / "exact.png")
    images = read_images([tmp_path / "wide.png", tmp_path / "exact.png"], (40, 40))
    assert images.shape == (2, 3, 40, 40) and images.dtype == torch.uint8
    assert (images[0, :, :, 3:-3] == 200).all()
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), exact)
    assert read_images([tmp_path / "wide.png"], (33, 7)).shape == (1, 3, 33, 7)


def test_a_result_without_memory_or_conditions_is_still_a_row():
    row = BenchResult(PAUSE, 1, (64, 64), (1.0,), (2.0,), 10, 20).to_dict()
    assert (row["speedup"], row["flop_speedup"], row["peak_memory"]) == (2.0, 2.0, None)


# --- budgets that follow the image -----------------------------------------------------------------------------------

SHARED, BELOW = (PauseConfig.parse(text) for text in ("2:0.5@batch", "2:0.5nats,4:0.4"))


def test_arithmetic_of_a_budget_is_that_of_the_timed_images(model, caplog):
    images, options = random_images(3), {**QUICK, "batch_size": 4}
    with caplog.at_level(logging.WARNING):
        rows = benchmark(model, [PAUSE, SHARED, BELOW], **options, images=images, image_names=list("abc"))
    assert not caplog.records
    for row, pause in zip(rows[2:], (SHARED, BELOW), strict=True):
        with torch.inference_mode():
            trace = model(images[[0, 1, 2, 0]], pause).trace
        costs = flops_of_trace(model, trace)
        assert len(set(costs)) > 1 and row.flops == round(np.mean(costs))
        assert row.flop_speedup == rows[0].flops / row.flops > 1
        assert row.to_dict()["pause"] == str(pause) and json.loads(json.dumps(row.to_dict())) == row.to_dict()
    assert [row.flops for row in rows[:2]] == [flop_formula(model, pause, (64, 64)) for pause in (NO_PAUSE, PAUSE)]


def test_other_images_have_another_arithmetic_of_a_budget_and_the_same_of_a_ratio(model):
    rows = [benchmark(model, [PAUSE, BELOW], **QUICK, images=random_images(1, seed=seed)) for seed in (0, 1)]
    assert rows[0][1].flops == rows[1][1].flops
    assert rows[0][2].flops != rows[1][2].flops


@pytest.mark.parametrize("pause", [SHARED, BELOW], ids=str)
def test_noise_for_what_follows_the_image_is_warned_of(model, caplog, pause):
    with caplog.at_level(logging.WARNING):
        benchmark(model, [PAUSE], **QUICK)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        benchmark(model, [PAUSE, pause], **QUICK)
    (record,) = caplog.records
    assert "noise is like no image: give real ones (--images)" in record.message


def test_budgets_are_timed_like_all_others(model, machine):
    timed = []

    def slow_down(_, arguments, output):
        if output.logits.device.type != "meta":
            machine.now += 2.0 if arguments[1].is_adaptive else 5.0
            timed.append(arguments[1])

    watched = copy.deepcopy(model)
    watched.register_forward_hook(slow_down)
    rows = benchmark(watched, [PAUSE, SHARED, BELOW], **{**QUICK, "batch_size": 2}, images=random_images(2))
    assert [row.seconds for row in rows] == [(5.0, 5.0), (5.0, 5.0), (2.0, 2.0), (2.0, 2.0)]
    assert rows[2].speedup.median == 2.5 and rows[2].images_per_second == 1.0
    # Two rounds, and one pass before them for the arithmetic that only a run can tell.
    assert [timed.count(pause) for pause in (PAUSE, SHARED, BELOW)] == [2, 3, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_budgets_run_in_half_precision(model, dtype):
    rows = benchmark(model, [SHARED, BELOW], **{**QUICK, "batch_size": 2}, images=random_images(2), dtype=dtype)
    assert all(row.flop_speedup > 1 for row in rows[1:])


def test_budgets_that_the_forward_pass_refuses_are_refused(model):
    with pytest.raises(InputError, match="compares entropies .*in place of 'max_prob'"):
        benchmark(model, [BELOW], **QUICK, images=random_images(1), criterion="max_prob")
    with pytest.raises(InputError, match="layers 1..6"):
        benchmark(model, [PauseConfig.parse("7:0.5@batch")], **QUICK, images=random_images(1))
