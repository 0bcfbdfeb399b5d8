"""benchmarks/architectures.py: what is built, how it is timed, and that published scores join with it."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from paumer.pause import NO_PAUSE

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load_script(path: Path):
    """A script as a module; dataclasses look their own module up by its name."""
    sys.path.insert(0, str(path.parent))  # as python does for a script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script(BENCHMARKS / "architectures.py")
KNOWN = {one.name: one for one in (*script.segmenters(script.PAUSES), *script.others())}
PUBLISHED = list(csv.DictReader((BENCHMARKS / "published.csv").open(encoding="utf-8")))


def on_meta(name: str, num_classes: int = 150) -> torch.nn.Module:
    """The network without values; skips where its package is not installed."""
    if KNOWN[name].package not in ("paumer", "torchvision"):
        pytest.importorskip(KNOWN[name].package)
    with torch.device("meta"):
        return KNOWN[name].build(num_classes, (512, 512)).eval()


def parameters_of(name: str) -> int:
    return sum(parameter.numel() for parameter in on_meta(name).parameters())


def test_names_are_unique():
    assert len(KNOWN) == len([*script.segmenters(script.PAUSES), *script.others()])


def test_published_scores_are_of_architectures_that_are_timed():
    assert {row["architecture"] for row in PUBLISHED} <= set(KNOWN)
    assert {row["dataset"] for row in PUBLISHED} <= set(script.NUM_CLASSES)
    assert len({(row["architecture"], row["dataset"]) for row in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['architecture']} {row['dataset']}")
def test_published_scores_have_a_protocol_and_a_source_that_can_be_looked_up(row):
    assert 30 < float(row["miou"]) < 85 and row["protocol"]
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}:\S+|.+ arXiv \d{4}\.\d{5}, Table .+", row["source"])


# The paper's Table 1(a): parameters of encoder and decoder in millions, multiply-adds at 512x512 in 1e9.
@pytest.mark.parametrize(("size", "parameters", "macs"), [("B0", 3.4 + 0.4, 8.4), ("B2", 24.2 + 3.3, 62.4)])
def test_segformers_are_those_of_the_paper(size, parameters, macs):
    name = f"SegFormer-{size}"
    assert parameters_of(name) / 1e6 == pytest.approx(parameters, abs=0.06)
    assert script.flops_of(KNOWN[name], 150, (512, 512)) / 2e9 == pytest.approx(macs, abs=0.1)


def test_the_baseline_is_the_published_segmenter():
    assert script.BASELINE in KNOWN and KNOWN[script.BASELINE].pause == NO_PAUSE
    width, classes, tokens = 192, 150, 32 * 32
    layers = (12 + 2) * (12 * width**2 + 13 * width)
    encoder = (3 * 16**2 + 1) * width + (1 + 1 + tokens) * width + 2 * width
    decoder = (width**2 + width) + classes * width + 2 * width + 2 * width**2 + 2 * classes
    assert parameters_of(script.BASELINE) == layers + encoder + decoder


@pytest.mark.parametrize(
    "name", ["PAUMER-Ti 5:0.6", "FCN-R50", "SegFormer-B0", "UPerNet-Swin-T", "UPerNet-R50", "PSPNet-R50", "FPN-R50"]
)
def test_every_package_gives_logits_at_the_size_of_the_images(name):
    model, images = on_meta(name, num_classes=19), torch.empty(2, 3, 512, 512, device="meta")
    with torch.inference_mode():
        assert script.forward_pass(KNOWN[name], model, images)().shape == (2, 19, 512, 512)


def test_pspnet_is_dilated_to_stride_8():
    model = on_meta("PSPNet-R50")
    with torch.inference_mode():
        assert model.encoder(torch.empty(1, 3, 512, 512, device="meta"))[-1].shape == (1, 2048, 64, 64)


def settings(**values) -> argparse.Namespace:
    defaults = dict(dataset="ade20k", image_size=(64, 64), batch_size=4, dtype="float32", rounds=3, warmup=1)
    return argparse.Namespace(**{**defaults, "conditions": {"device": "cpu"}, **values})


def test_speeds_are_ratios_to_the_baseline_of_the_same_round():
    # The machine slows down threefold in the last round, which the ratio must not see.
    ours, other = KNOWN["Segmenter-Ti"], KNOWN["FCN-R50"]
    baseline = [1.0, 1.0, 3.0]
    timings = [
        script.Timing(ours, 10**6, 2 * 10**9, baseline, baseline, 0.5),
        script.Timing(other, 2 * 10**6, 10**9, [2.0, 2.5, 6.0], baseline, 0.7),
    ]
    first, second = script.rows_of(timings, settings())
    assert (first["ratio"], first["images_per_second"], first["gflops"]) == ("1", "4", "2.00")
    assert (second["ratio_low"], second["ratio"], second["ratio_high"]) == ("0.45", "0.5", "0.5")
    assert (second["images_per_second"], second["spread"]) == ("2", f"{(4.25 - 2.25) / 2.5:.3f}")


def test_every_group_is_timed_beside_the_baseline(monkeypatch):
    groups = []

    def record(architectures, args):
        groups.append([one.name for one in architectures])
        return [script.Timing(one, 1, 1, [1.0], [1.0], None) for one in architectures]

    monkeypatch.setattr(script, "time_together", record)
    names = ["FCN-R50", script.BASELINE, "SegFormer-B0", "UNet-R34"]
    *_, timings = script.time_all([KNOWN[name] for name in names], KNOWN[script.BASELINE], settings(together=2))
    assert groups == [[script.BASELINE, "FCN-R50", "SegFormer-B0"], [script.BASELINE, "UNet-R34"]]
    assert [timing.architecture.name for timing in timings] == [script.BASELINE, "FCN-R50", "SegFormer-B0", "UNet-R34"]


def test_what_is_not_installed_is_left_out_and_said_so(monkeypatch, capsys):
    installed = script.version_of
    monkeypatch.setattr(script, "version_of", lambda package: None if package == "transformers" else installed(package))
    chosen = script.choose(list(KNOWN.values()), ["FCN", "SegFormer-B0", "UPerNet"])
    assert [one.name for one in chosen] == ["FCN-R50"]
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(script.MissingExtraError, match="pip install"):
        script.choose(list(KNOWN.values()), ["SegFormer"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "FCN-R5"], "did you mean 'FCN-R50'"),
        (["--image-size", "500", "512"], "multiples of 32"),
        (["--rounds", "0"], "--rounds is 1 or more"),
        (["--pauses", "5:1.5"], "a ratio lies in"),
    ],
)
def test_bad_options_are_one_sentence(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(options)
    assert message in capsys.readouterr().err


def test_the_command_writes_a_row_for_each(tmp_path, capsys):
    out = tmp_path / "speeds.csv"
    options = "--dataset cityscapes --only LRASPP-MobileNetV3 --image-size 64 64 --rounds 2 --warmup 1 --device cpu"
    script.main([*options.split(), "--out", str(out)])
    baseline, other = csv.DictReader(out.open(encoding="utf-8"))
    assert (baseline["architecture"], baseline["ratio"]) == (script.BASELINE, "1")
    assert (other["architecture"], other["image_size"], other["package"]) == (
        "LRASPP-MobileNetV3",
        "64x64",
        "torchvision",
    )
    assert float(other["images_per_second"]) > 0 and "torchvision" in other["versions"]
    assert "LRASPP-MobileNetV3" in capsys.readouterr().out
