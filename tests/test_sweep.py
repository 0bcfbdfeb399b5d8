from __future__ import annotations

import itertools
import json

import pytest
import torch
from reference_pausing import mean_iou
from tiny import DEPTH, random_images, tiny_model

from paumer.checkpoint import model_id
from paumer.data import DatasetSpec, Sample
from paumer.errors import InputError
from paumer.evaluate import spread_indices
from paumer.front import Front, skyline
from paumer.inference import InferenceConfig
from paumer.model import Segmenter
from paumer.model.cost import flop_formula, flops_of_trace
from paumer.pause import NO_PAUSE, PauseConfig, parse_pauses
from paumer.predictor import Predictor
from paumer.sweep import SweepConfig, _Sweep, store_front, sweep, unique_names

NAMES = {"model": "made", "data": "made", "split": "val"}
PAUSES = tuple(parse_pauses(["2:0.5", "2:0.4,4:0.4"]))
SHARED, BELOW = parse_pauses(["2:0.63@batch", "2:0.5nats"])


class Made:
    """Six images of 64x80 pixels, labelled by the unpaused model with noise that grows from image to image."""

    spec = DatasetSpec("made", tuple("abcde"), tuple((i, i, i) for i in range(5)))

    def __init__(self, model, size=6):
        self.samples = []
        for i in range(size):
            image = random_images(1, 64, 80, seed=i)[0]
            with torch.no_grad():
                mask = model(image[None]).logits[0].argmax(0)
            generator = torch.Generator().manual_seed(i)
            noise = torch.randint(0, 5, mask.shape, generator=generator)
            mask = torch.where(torch.rand(mask.shape, generator=generator) < 0.1 * i, noise, mask)
            self.samples.append(Sample(image, mask.to(torch.uint8), f"{i}"))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def dataset(model):
    return Made(model)


def seconds_of(pause: PauseConfig) -> float:
    """A machine whose time is the number of tokens that its layers process."""
    return sum(pause.num_running(20, DEPTH)) / 1000


@pytest.fixture
def machine(monkeypatch):
    """Times by that machine, and a record of what was timed."""
    timed: list[str] = []

    def time_together(self, pauses):
        timed.extend(str(pause) for pause in pauses)
        speedups = [seconds_of(NO_PAUSE) / seconds_of(pause) for pause in pauses]
        return [
            {
                "pause": str(pause),
                "seconds": seconds_of(pause),
                "baseline_seconds": seconds_of(NO_PAUSE),
                "speedup": speedup,
                "speedup_low": speedup,
                "speedup_high": speedup,
                "gflops": 1.0,
            }
            for pause, speedup in zip(pauses, speedups, strict=True)
        ]

    monkeypatch.setattr(_Sweep, "_time_together", time_together)
    return timed


def config(tmp_path, **options):
    options = {"pauses": PAUSES, "layers": (2, 4), "ratios": (0.3, 0.6), "search": "grid", **options}
    return SweepConfig(out=str(tmp_path / "sweep"), **options)


def scored(folder, subset):
    return [str(pause) for pause in folder.scores(subset)]


GRID = ["2:0.3", "2:0.6", "4:0.3", "4:0.6"]


def test_everything_is_really_timed_and_counted(model, dataset, tmp_path):
    result = sweep(model, dataset, config(tmp_path, search="none", rounds=3), names=NAMES)
    rows = result.folder.times()
    assert [str(pause) for pause in rows] == ["none", "2:0.5", "2:0.4,4:0.4"]
    assert rows[NO_PAUSE]["speedup"] == 1.0
    assert all(
        row["seconds"] > 0 and row["speedup_low"] <= row["speedup"] <= row["speedup_high"] for row in rows.values()
    )
    # 20 patches and the class token through the last four of six layers, by the formula; 10 patches paused.
    saved = rows[NO_PAUSE]["gflops"] * 1e9 - rows[PAUSES[0]]["gflops"] * 1e9
    n, m, d, hidden = 21, 11, 64, model.encoder.blocks[0].mlp.fc1.out_features
    blocks = 4 * (2 * (n - m) * (4 * d * d + 2 * d * hidden) + 2 * 2 * (n * n - m * m) * d)
    head = 2 * 20 * d * 5
    assert saved == pytest.approx(blocks - head, rel=1e-6)


def test_conditions_are_written_down(model, dataset, tmp_path):
    info = sweep(model, dataset, config(tmp_path, search="none", rounds=1), names=NAMES).folder.info
    assert info["num_images"] == 6
    assert info["image_size"] == [64, 80]
    assert info["device"] == "cpu"
    assert info["threads"] == torch.get_num_threads()
    assert info["versions"]["torch"] == torch.__version__
    assert info["inference"]["mode"] == "whole"


def test_a_sweep_in_half_precision_is_of_the_same_weights(model, dataset, tmp_path):
    result = sweep(model, dataset, config(tmp_path, search="none", rounds=1, dtype="bfloat16"), names=NAMES)
    assert result.folder.info["dtype"] == "bfloat16" and model.pixel_mean.dtype == torch.float32
    assert result.front.conditions["model_id"] == model_id(model) != model_id(tiny_model().to(torch.bfloat16))
    half = tiny_model().to(torch.bfloat16)
    with torch.no_grad():
        predictions = [half.segment(sample.image[None], PAUSES[0]).labels[0] for sample in dataset.samples]
    expected = mean_iou(predictions, [sample.mask for sample in dataset.samples], 5)
    assert result.folder.scores("all")[PAUSES[0]]["miou"] == pytest.approx(expected, abs=1e-4)
    # Its front serves the same weights in any dtype.
    for dtype in (None, "bfloat16"):
        assert Predictor(model, target_throughput=1e-3, front=result.front, dtype=dtype).pause in {NO_PAUSE, *PAUSES}


def test_what_is_timed_is_what_predicts(model, dataset, tmp_path, monkeypatch):
    """The mask and not the logits of all pixels, which would cost all configurations the same on top."""
    calls = []
    real = Segmenter.segment
    monkeypatch.setattr(
        Segmenter, "segment", lambda self, *args, **kw: calls.append(args[1]) or real(self, *args, **kw)
    )
    options = {"search": "none", "rounds": 2, "pauses": PAUSES[:1]}
    info = sweep(model, dataset, config(tmp_path, **options), names=NAMES).folder.info
    assert info["output"] == "mask"
    # One to warm up and two rounds in turns with not pausing, then the six images of the score.
    assert calls.count(PAUSES[0]) == 3 + len(dataset)


def test_scores_equal_brute_force(model, dataset, tmp_path, machine):
    folder = sweep(model, dataset, config(tmp_path), names=NAMES).folder
    masks = [sample.mask for sample in dataset.samples]
    for pause, row in folder.scores("all").items():
        with torch.no_grad():
            predictions = [model(sample.image[None], pause).logits[0].argmax(0) for sample in dataset.samples]
        assert row["miou"] == pytest.approx(mean_iou(predictions, masks, 5), abs=1e-4)
    assert scored(folder, "all") == ["none", *map(str, PAUSES), *GRID]
    assert scored(folder, "search") == []


def test_front_is_that_of_brute_force(model, dataset, tmp_path, machine):
    result = sweep(model, dataset, config(tmp_path), names=NAMES)
    points = result.folder.scored()
    unbeaten = {
        p.pause
        for p in points
        if not any(
            q.miou >= p.miou
            and q.images_per_second >= p.images_per_second
            and (q.miou > p.miou or q.images_per_second > p.images_per_second)
            for q in points
        )
    }
    assert {p.pause for p in result.front.points} == unbeaten
    assert json.loads((result.folder.path / "pareto.json").read_text())["conditions"]["num_images"] == 6


def test_search_on_a_part_scores_its_front_on_everything(model, dataset, tmp_path, machine):
    folder = sweep(model, dataset, config(tmp_path, search_images=2), names=NAMES).folder
    assert scored(folder, "search") == ["none", *map(str, PAUSES), *GRID]
    assert {row["num_images"] for row in folder.scores("search").values()} == {2}
    found = {str(point.pause) for point in skyline(folder.scored("search"))}
    assert set(scored(folder, "all")) == found | {"none", *map(str, PAUSES)}
    assert {row["num_images"] for row in folder.scores("all").values()} == {6}
    masks = [dataset.samples[i].mask for i in spread_indices(6, 2)]
    with torch.no_grad():
        predictions = [model(dataset.samples[i].image[None]).logits[0].argmax(0) for i in spread_indices(6, 2)]
    assert folder.scores("search")[NO_PAUSE]["miou"] == pytest.approx(mean_iou(predictions, masks, 5), abs=1e-4)


def test_greedy_stages_add_layer_after_layer(model, dataset, tmp_path, machine):
    options = config(tmp_path, search="greedy", layers=(1, 2, 4), ratios=(0.3, 0.6), max_layers=2)
    folder = sweep(model, dataset, options, names=NAMES).folder
    stages = folder.greedy
    assert stages[0]["fixed"] == "none"
    assert stages[0]["candidates"] == [f"{layer}:{ratio}" for layer in (1, 2, 4) for ratio in (0.3, 0.6)]
    for before, after in itertools.pairwise(stages):
        assert after["fixed"] == before["chosen"]
        fixed = PauseConfig.parse(after["fixed"])
        candidates = [PauseConfig.parse(text) for text in after["candidates"]]
        assert all(set(fixed.steps) < set(pause.steps) for pause in candidates)
        assert len(candidates) == 2 * (3 - len(fixed.steps))
    assert len(stages) <= 2


def test_greedy_search_ends_when_one_more_layer_buys_nothing(model, dataset, tmp_path, machine, monkeypatch):
    # Each layer costs 10 points of mIoU, whatever it saves; only the first is on the skyline of everything.
    def score(self, pauses, subset):
        known = self.folder.scores(subset)
        for pause in dict.fromkeys(pauses):
            if pause not in known:
                miou = 50.0 if len(pause.steps) > 1 else 70.0 - sum(layer for layer, _ in pause.steps) / 10
                row = {"pause": str(pause), "subset": subset, "num_images": 6, "miou": miou, "iou": {}}
                self.folder.add_score({**row, "pixel_accuracy": 0.0, "mean_accuracy": 0.0})

    monkeypatch.setattr(_Sweep, "score", score)
    # A machine on which only the first layer helps.
    monkeypatch.setattr(
        _Sweep,
        "_time_together",
        lambda self, pauses: [
            {
                "pause": str(pause),
                "seconds": 0.1,
                "baseline_seconds": 0.2,
                "speedup": 2.0 if pause.steps else 1.0,
                "speedup_low": 2.0,
                "speedup_high": 2.0,
                "gflops": 1.0,
            }
            for pause in pauses
        ],
    )
    folder = sweep(model, dataset, config(tmp_path, pauses=(), search="greedy"), names=NAMES).folder
    assert [stage["chosen"] for stage in folder.greedy] == ["2:0.3", None]


def test_time_first_scores_only_what_is_fast_enough(model, dataset, tmp_path, machine):
    target = 1 / seconds_of(PauseConfig.parse("2:0.5"))
    result = sweep(model, dataset, config(tmp_path, target_throughput=target * 0.999), names=NAMES)
    fast = {p for p in ["none", *map(str, PAUSES), *GRID] if 1 / seconds_of(PauseConfig.parse(p)) >= target * 0.999}
    assert 0 < len(fast) < 6
    assert set(scored(result.folder, "all")) == fast | {"none"}
    best = max((p for p in result.folder.scored() if str(p.pause) in fast), key=lambda p: p.miou)
    assert result.choice == best


def test_a_target_out_of_reach_scores_nothing_and_says_what_is_reachable(model, dataset, tmp_path, machine):
    fastest = max(1 / seconds_of(PauseConfig.parse(p)) for p in ["none", *map(str, PAUSES), *GRID])
    with pytest.raises(InputError, match=f"out of reach: the fastest of 7 configurations is .* with {fastest:.3g} im"):
        sweep(model, dataset, config(tmp_path, target_throughput=1e6), names=NAMES)
    assert not (tmp_path / "sweep" / "scores.jsonl").exists()


def test_the_fastest_within_a_loss_is_chosen(model, dataset, tmp_path, machine):
    everything = sweep(model, dataset, config(tmp_path), names=NAMES).folder.scored()
    unpaused = next(p.miou for p in everything if p.pause == NO_PAUSE)
    losses = sorted(unpaused - p.miou for p in everything)
    result = sweep(model, dataset, config(tmp_path, max_drop=max(losses[3], 0.0)), names=NAMES)
    good = [p for p in everything if unpaused - p.miou <= max(losses[3], 0.0) + 1e-9]
    assert result.choice == max(good, key=lambda p: (p.images_per_second, p.miou))
    assert 1 < len(good) < len(everything)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("calls", [1, 3, 6])
def test_a_killed_sweep_goes_on_where_it_was(model, dataset, tmp_path, machine, monkeypatch, calls):
    from paumer import sweep as module

    unbroken = sweep(model, dataset, config(tmp_path / "a", search="greedy"), names=NAMES)
    machine.clear()
    real, done = module.evaluate, []

    def evaluate(*args, **kwargs):
        if len(done) == calls:
            raise Killed
        done.append(args[2][0])
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "evaluate", evaluate)
    with pytest.raises(Killed):
        sweep(model, dataset, config(tmp_path / "b", search="greedy"), names=NAMES)
    monkeypatch.setattr(module, "evaluate", lambda *args, **kwargs: done.append(args[2][0]) or real(*args, **kwargs))
    resumed = sweep(model, dataset, config(tmp_path / "b", search="greedy"), names=NAMES)
    assert len(done) == len(set(done))  # nothing was scored twice
    assert len(machine) == len(set(machine))  # or timed twice
    for name in ("times.jsonl", "scores.jsonl", "greedy.json", "points.csv"):
        assert (resumed.folder.path / name).read_bytes() == (unbroken.folder.path / name).read_bytes(), name
    assert resumed.front.points == unbroken.front.points


def test_ctrl_c_says_how_to_go_on(model, dataset, tmp_path, machine, monkeypatch):
    def evaluate(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("paumer.sweep.evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        sweep(model, dataset, config(tmp_path), names=NAMES)


def test_a_sweep_of_other_weights_is_refused(model, dataset, tmp_path, machine):
    sweep(model, dataset, config(tmp_path, search="none"), names=NAMES)
    with pytest.raises(InputError, match="another model_id"):
        sweep(tiny_model(seed=1), dataset, config(tmp_path, search="none"), names=NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "gird"}, "did you mean 'grid'"),
        ({"target_throughput": 0.0}, "positive number"),
        ({"target_throughput": float("nan")}, "positive number"),
        ({"max_drop": -1.0}, "0 or more"),
        ({"max_drop": 1.0, "target_throughput": 3.0}, "give one of them"),
        ({"layers": (2, 2)}, "given twice"),
        ({"layers": (0,)}, "layers count from 1"),
        ({"layers": (9,)}, r"layers 1..6"),
        ({"ratios": (1.2,)}, r"a ratio lies in \[0, 1\)"),
        ({"ratios": ()}, "at least one ratio"),
        (
            {"pauses": (BELOW,), "criterion": "random"},
            "'2:0.5nats' compares entropies with a threshold in nats: .*'entropy'",
        ),
        ({"pauses": (PauseConfig.parse("9:0.5@batch"),)}, r"after layer 9: .* layers 1..6"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"search_images": -1}, "search_images must be at least 0"),
        ({"image_size": (0, 5)}, "image size"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(model, dataset, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        sweep(model, dataset, config(tmp_path, **options), names=NAMES)
    assert not (tmp_path / "sweep").exists()


def test_batches_of_windows_are_refused(model, dataset, tmp_path):
    slide = InferenceConfig("slide", (32, 32))
    with pytest.raises(InputError, match="whole images in a single view"):
        sweep(model, dataset, config(tmp_path, batch_size=2), names=NAMES, inference=slide)


def test_batches_and_windows_are_timed(model, dataset, tmp_path):
    batch = sweep(model, dataset, config(tmp_path / "a", search="none", batch_size=3, rounds=1), names=NAMES)
    slide = InferenceConfig("slide", (48, 48))
    windows = sweep(model, dataset, config(tmp_path / "b", search="none", rounds=1), names=NAMES, inference=slide)
    single = sweep(model, dataset, config(tmp_path / "c", search="none", rounds=1), names=NAMES)
    counts = [result.folder.times()[PAUSES[0]]["gflops"] for result in (batch, windows, single)]
    assert counts[0] == pytest.approx(counts[2])  # of one image
    assert counts[1] != pytest.approx(counts[2])


def test_a_single_configuration_is_a_front_of_one_point(model, dataset, tmp_path, machine):
    result = sweep(model, dataset, config(tmp_path, pauses=(), search="none"), names=NAMES)
    assert [str(point.pause) for point in result.front.points] == ["none"]


def test_the_front_goes_into_the_model_folder(model, dataset, tmp_path, machine):
    front = sweep(model, dataset, config(tmp_path), names=NAMES).front
    (tmp_path / "model").mkdir()
    assert store_front(front, tmp_path / "model") == tmp_path / "model" / "pareto.json"
    assert store_front(front, tmp_path / "checkpoint.pth") is None
    assert not (tmp_path / "checkpoint.pth").exists()


def test_equal_class_names_are_told_apart():
    assert unique_names(["wall", "screen", "wall"]) == ["wall", "screen", "wall (2)"]


# --- budgets that follow the image -----------------------------------------------------------------------------------

FOLLOWING = {"pauses": (PAUSES[0], SHARED, BELOW), "search": "none", "batch_size": 2, "rounds": 1}


@pytest.fixture
def watched(model):
    """The model, and the images and pause of each of its forward passes."""
    calls = []
    hook = model.register_forward_hook(lambda _, arguments, output: calls.append(arguments))
    yield model, calls
    hook.remove()


@pytest.fixture(scope="module")
def followed(model, dataset, tmp_path_factory):
    """A sweep of a ratio, a share of the batch and a threshold, in batches of two."""
    return sweep(model, dataset, config(tmp_path_factory.mktemp("followed"), **FOLLOWING), names=NAMES)


def direct(model, dataset, indices, pause):
    with torch.no_grad():
        return model(torch.stack([dataset.samples[i].image for i in indices]), pause)


# Six images give eight batches of two: all of them in turn.
TIMED = [[0, 1], [2, 3], [4, 5]] * 2 + [[0, 1], [2, 3]]


def test_what_follows_the_image_is_timed_on_several_images_and_all_else_on_the_same(watched, dataset, tmp_path):
    model, calls = watched
    result = sweep(model, dataset, config(tmp_path, **FOLLOWING), names=NAMES)
    assert result.folder.info["timed_images"] == 16 and result.folder.info["batch_size"] == 2
    expected = [torch.stack([dataset.samples[i].image for i in batch]) for batch in TIMED]
    for pause in (NO_PAUSE, *FOLLOWING["pauses"]):
        batches = [images for images, own in calls if own == pause]
        assert all(torch.equal(*pair) for pair in zip(batches[:8], expected, strict=True)), pause


def test_one_batch_is_timed_where_nothing_follows_the_image(watched, dataset, tmp_path):
    model, calls = watched
    result = sweep(model, dataset, config(tmp_path, **{**FOLLOWING, "pauses": PAUSES}), names=NAMES)
    assert result.folder.info["timed_images"] == 2
    assert {images.shape for images, _ in calls} == {(2, 3, 64, 80)}
    assert len(torch.cat([images for images, _ in calls]).unique(dim=0)) == 2


def test_arithmetic_is_the_mean_over_the_timed_images(model, dataset, followed):
    rows = followed.folder.times()
    for pause in (SHARED, BELOW):
        flops = [flops_of_trace(model, direct(model, dataset, batch, pause).trace) for batch in TIMED]
        assert rows[pause]["gflops"] == pytest.approx(sum(map(sum, flops)) / 16 / 1e9, rel=1e-9)
        assert len({cost for batch in flops for cost in batch}) > 2
    assert rows[PAUSES[0]]["gflops"] == pytest.approx(flop_formula(model, PAUSES[0], (64, 80)) / 1e9, rel=1e-9)


def test_single_images_that_follow_are_timed_one_by_one(watched, dataset, tmp_path):
    model, calls = watched
    result = sweep(model, dataset, config(tmp_path, **{**FOLLOWING, "batch_size": 1}), names=NAMES)
    assert result.folder.info["timed_images"] == 8
    assert {len(images) for images, _ in calls} == {1}
    flops = [flops_of_trace(model, direct(model, dataset, [i], BELOW).trace)[0] for i in (0, 1, 2, 3, 4, 5, 0, 1)]
    assert result.folder.times()[BELOW]["gflops"] == pytest.approx(sum(flops) / 8 / 1e9, rel=1e-9)


def test_a_share_of_the_batch_is_scored_in_batches_and_all_else_one_by_one(model, dataset, followed):
    folder = followed.folder
    masks = [sample.mask for sample in dataset.samples]
    for pause, size in ((NO_PAUSE, 1), (PAUSES[0], 1), (SHARED, 2), (BELOW, 1)):
        outputs = [direct(model, dataset, range(start, start + size), pause) for start in range(0, 6, size)]
        predictions = [labels for output in outputs for labels in output.logits.argmax(dim=1)]
        row = folder.scores("all")[pause]
        assert row["miou"] == pytest.approx(mean_iou(predictions, masks, 5), abs=0.02)
        running = torch.cat([output.trace.num_running(DEPTH) for output in outputs]).double()
        assert row["tokens"] == pytest.approx(running.mean().item() / 20)
    # Of two images' 40 patches 25 pause, of one's 20 only 12.
    assert folder.scores("all")[SHARED]["tokens"] == pytest.approx((2 * 40 + 4 * 15) / (6 * 40))


def test_the_front_of_budgets_is_read_back(followed):
    front = Front.load(followed.folder.path / "pareto.json")
    assert [point.pause for point in front.points] == [point.pause for point in followed.front.points]
    assert {point.pause for point in followed.folder.scored()} == {NO_PAUSE, PAUSES[0], SHARED, BELOW}
    assert front.conditions["timed_images"] == 16


def test_a_killed_sweep_of_budgets_goes_on_where_it_was(model, dataset, tmp_path, monkeypatch):
    from paumer import sweep as module

    real, done = module.evaluate, []

    def evaluate(*args, **kwargs):
        if len(done) == 3:
            raise Killed
        done.append((args[2][0], kwargs["batch_size"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "evaluate", evaluate)
    with pytest.raises(Killed):
        sweep(model, dataset, config(tmp_path, **FOLLOWING), names=NAMES)
    times = (tmp_path / "sweep" / "times.jsonl").read_bytes()
    monkeypatch.setattr(module, "evaluate", lambda *a, **kw: done.append((a[2][0], kw["batch_size"])) or real(*a, **kw))
    resumed = sweep(model, dataset, config(tmp_path, **FOLLOWING), names=NAMES)
    assert done == [(NO_PAUSE, 1), (PAUSES[0], 1), (SHARED, 2), (BELOW, 1)]
    assert (tmp_path / "sweep" / "times.jsonl").read_bytes() == times
    assert scored(resumed.folder, "all") == ["none", *map(str, FOLLOWING["pauses"])]
    with pytest.raises(InputError, match="another batch_size: 2 there, 3 now"):
        sweep(model, dataset, config(tmp_path, **{**FOLLOWING, "batch_size": 3}), names=NAMES)


def test_the_grid_of_a_search_stands_beside_budgets(model, dataset, tmp_path):
    options = {**FOLLOWING, "pauses": (BELOW,), "search": "grid", "layers": (2,), "ratios": (0.5,), "batch_size": 1}
    result = sweep(model, dataset, config(tmp_path, **options), names=NAMES)
    assert scored(result.folder, "all") == ["none", "2:0.5nats", "2:0.5"]


def test_resized_batches_cost_what_resized_single_images_do(model, dataset, tmp_path):
    inference = InferenceConfig(base_size=(160, 160))  # images of 64x80 are seen at 128x160
    rows = [
        sweep(model, dataset, config(tmp_path / str(n), search="none", batch_size=n, rounds=1), names=NAMES,
              inference=inference).folder.times()
        for n in (1, 2)
    ]  # fmt: skip
    for pause in (NO_PAUSE, *PAUSES):
        expected = flop_formula(model, pause, (128, 160)) / 1e9
        assert rows[0][pause]["gflops"] == pytest.approx(expected) == pytest.approx(rows[1][pause]["gflops"])
