"""Budgets that follow the image against fixed counts, at equal numbers of tokens: mIoU and time, on real mixed images.

For each layer and ratio: the same share of each image, the same share of the batch (`5:0.6@batch`), and a threshold
chosen so that over the whole split as many tokens pause (`5:0.35nats`). Times are of batches of different images, in
turns; beside the packed way stand padding to the longest image of the batch with a mask, and what most code does, which
is to keep all tokens and to mask those that paused. A budget pauses another number in every batch, so its time is
compared with the fixed share that pauses as many in that batch. For each threshold there are three more batches: the
images that pause most, those that pause least, and half and half. `--mixed` takes image files of other cameras; batches
are then also made of the data set and of them, half and half, as where several cameras feed one model.

    python benchmarks/adaptive.py checkpoints/camvid-vit-tiny --data camvid --root CAMVID --out OUT.csv
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rows import Row, add_trained, run_script, state_of
from torch import Tensor, nn
from tqdm import tqdm

from paumer.benchmark import read_images, time_interleaved
from paumer.checkpoint import open_segmenter
from paumer.data import create_dataset
from paumer.data.datasets import Dataset
from paumer.device import DTYPES, choose_device
from paumer.evaluate import evaluate, spread_indices
from paumer.model import Segmenter, encoder
from paumer.pause import NO_PAUSE, BatchShare, PauseConfig, Threshold, num_to_pause


def run_padded(block: nn.Module, x: Tensor, lengths: tuple[int, ...], *, longest: int = 0) -> Tensor:
    """Every image as long as the longest, or as ``longest``, with a mask that hides what was added."""
    parts = x[0].split(lengths)
    padded = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)  # (B, longest, D)
    padded = F.pad(padded, (0, 0, 0, max(longest - padded.shape[1], 0)))
    numbers = torch.tensor(lengths, device=x.device)
    mask = torch.arange(padded.shape[1], device=x.device) < numbers[:, None]
    y = block(padded, attn_mask=mask[:, None, None])
    return torch.cat([row[:length] for row, length in zip(y, lengths, strict=True)])[None]


@contextmanager
def padding(longest: int = 0) -> Iterator[None]:
    """Within it images of different lengths are padded."""
    packed = encoder.run_packed
    encoder.run_packed = partial(run_padded, longest=longest)
    try:
        yield
    finally:
        encoder.run_packed = packed


def entropies_at(model: Segmenter, dataset: Dataset, layer: int, size: tuple[int, int]) -> np.ndarray:
    """(images, N): the entropy of every patch after a layer."""
    pause = PauseConfig(((layer, 0.0),))
    rows = []
    for index in tqdm(range(len(dataset)), desc=f"entropies after layer {layer}", leave=False):
        trace = model(image_of(dataset, index, size)[None].to(model.pixel_mean.device), pause, upsample=False).trace
        rows.append(trace.steps[0].scores.float().cpu().numpy())
    return np.stack(rows)


def paused_below(scores: np.ndarray, nats: float, high: float) -> np.ndarray:
    """How many tokens of each image a threshold pauses."""
    return np.minimum((scores < nats).sum(axis=1), num_to_pause(high, scores.shape[1]))


def threshold_for(scores: np.ndarray, ratio: float, high: float = 0.9) -> Threshold:
    """The threshold that pauses as many tokens over all images as the ratio does, to three digits."""
    low_nats, high_nats = 0.0, float(scores.max())
    for _ in range(40):
        middle = (low_nats + high_nats) / 2
        few = paused_below(scores, middle, high).mean() < num_to_pause(ratio, scores.shape[1])
        low_nats, high_nats = (middle, high_nats) if few else (low_nats, middle)
    return Threshold(float(f"{high_nats:.3g}"), 0.0, high)


def image_of(dataset: Dataset, index: int, size: tuple[int, int]) -> Tensor:
    image = dataset[index].image
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None].float(), size, mode="bilinear")[0].round().to(torch.uint8)


class Timer:
    """Batches of different images, and calls on them in turns."""

    def __init__(self, model: Segmenter, rounds: int) -> None:
        self.model, self.rounds = model, rounds

    def __call__(self, batch: Tensor, named: dict[str, PauseConfig]) -> dict[str, np.ndarray]:
        """Seconds of each round; names that end in "padded" are padded, in "masked" to the number of all tokens."""
        num_tokens = math.prod(self.model.grid_of(*batch.shape[-2:])) + self.model.encoder.num_prefix_tokens
        calls: list[Callable[[], object]] = []
        for name, pause in named.items():
            call = partial(self.model, batch, pause, upsample=False)
            longest = {"padded": 0, "masked": num_tokens}.get(name.split()[-1])
            calls.append(call if longest is None else partial(self._padded, call, longest))
        taken = time_interleaved(calls, rounds=self.rounds, warmup=1, device=batch.device)
        return {name: np.array(own) for name, own in zip(named, taken, strict=True)}

    def shares_paused(self, batch: Tensor, pause: PauseConfig) -> np.ndarray:
        """(B,): the share of each image's patches that pauses."""
        trace = self.model(batch, pause, upsample=False).trace
        return (trace.paused_at() > 0).float().mean(dim=(1, 2)).cpu().numpy().astype(float)

    def _padded(self, call: Callable[[], object], longest: int) -> object:
        with padding(longest):
            return call()


def measure(model: Segmenter, dataset: Dataset, args: argparse.Namespace) -> Iterator[Row]:
    """Rows of one (layer, ratio) after another."""
    size = (args.image_size[0], args.image_size[1])
    device, timer = model.pixel_mean.device, Timer(model, args.rounds)
    others = read_images(args.mixed, size) if args.mixed else None
    check_padding(model, dataset, size)

    def batch_of(places: Sequence[int]) -> Tensor:
        return torch.stack([image_of(dataset, int(place), size) for place in places]).to(device)

    for text in args.pauses:
        ((layer, ratio),) = PauseConfig.parse(text).steps
        scores = entropies_at(model, dataset, layer, size)
        threshold = threshold_for(scores, ratio)
        modes = {
            "fixed": PauseConfig(((layer, ratio),)),
            "@batch": PauseConfig(((layer, BatchShare(ratio)),)),
            "nats": PauseConfig(((layer, threshold),)),
        }
        about = {"layer": layer, "ratio": ratio}
        results = evaluate(model, dataset, list(modes.values()), batch_size=args.batch_size, progress=True)
        batches = [batch_of(places) for places in spread(len(dataset), args.batches, args.batch_size)]
        timed = compare(timer, batches, modes)
        for (mode, pause), result in zip(modes.items(), results, strict=True):
            score = {"miou": f"{result.miou:.2f}", "tokens": f"{result.tokens:.4f}"}
            yield {**about, "images": args.data, "mode": mode, "pause": str(pause), **score, **timed[mode]}
        for kind, places in easy_and_hard(scores, threshold, args.batch_size).items():
            row = compare(timer, [batch_of(places)], {"nats": modes["nats"]})["nats"]
            yield {**about, "images": f"{args.data}, {kind}", "mode": "nats", "pause": str(modes["nats"]), **row}
        if others is not None:
            half = args.batch_size // 2
            mixed = []
            for number, places in enumerate(spread(len(dataset), args.batches, half)):
                turn = (torch.arange(args.batch_size - half) + number * (args.batch_size - half)) % len(others)
                mixed.append(torch.cat([batch_of(places), others[turn].to(device)]))
            timed = compare(timer, mixed, {mode: modes[mode] for mode in ("@batch", "nats")})
            for mode, row in timed.items():
                images = f"{args.data} and {len(others)} of other cameras"
                yield {**about, "images": images, "mode": mode, "pause": str(modes[mode]), **row}


def spread(num_images: int, batches: int, batch_size: int) -> np.ndarray:
    """(batches, batch_size) places in the data set, each batch spread over all of it."""
    indices = spread_indices(num_images, batches * batch_size)
    return np.reshape(indices, (batch_size, batches)).T


def easy_and_hard(scores: np.ndarray, threshold: Threshold, batch_size: int) -> dict[str, np.ndarray]:
    """The images of which a threshold pauses most, those of which least, and half and half."""
    order = np.argsort(-paused_below(scores, threshold.nats, threshold.high), kind="stable")
    half = batch_size // 2
    both = np.concatenate([order[:half], order[half - batch_size :]])
    return {"easiest": order[:batch_size], "hardest": order[-batch_size:], "half and half": both}


def compare(timer: Timer, batches: Sequence[Tensor], modes: dict[str, PauseConfig]) -> dict[str, Row]:
    """Times of every mode over all batches, beside not pausing, a fixed share that pauses as many, and padding."""
    times: dict[str, list[np.ndarray]] = {}
    shares: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        named = {"none": NO_PAUSE, **modes}
        for mode, pause in modes.items():
            if mode == "fixed":
                continue
            ((layer, _),) = pause.steps
            paused = timer.shares_paused(batch, pause)
            shares.setdefault(mode, []).append(paused)
            named[f"as many as {mode}"] = PauseConfig(((layer, float(paused.mean())),))
            named |= {f"{mode} {way}": pause for way in ("padded", "masked")}
        for name, seconds in timer(batch, named).items():
            times.setdefault(name, []).append(seconds)
    seconds = {name: np.concatenate(parts) for name, parts in times.items()}
    batch_size = len(batches[0])
    rows = {}
    for mode in modes:
        row: Row = {"ms_per_image": ms_per_image(seconds[mode], batch_size)}
        row["speedup"] = median(seconds["none"] / seconds[mode])
        if mode != "fixed":
            equal = seconds[f"as many as {mode}"]
            paused = np.concatenate(shares[mode])
            row |= {"paused": f"{paused.mean():.3f}", "least": f"{paused.min():.3f}", "most": f"{paused.max():.3f}"}
            row |= {"over_fixed": median(seconds[mode] / equal), **quartiles(seconds[mode] / equal)}
            row |= against_padding(seconds, mode)
        rows[mode] = row
    return rows


def against_padding(seconds: dict[str, np.ndarray], mode: str) -> Row:
    return {f"{way}_speedup": median(seconds["none"] / seconds[f"{mode} {way}"]) for way in ("padded", "masked")} | {
        f"packed_over_{way}": median(seconds[f"{mode} {way}"] / seconds[mode]) for way in ("padded", "masked")
    }


def check_padding(model: Segmenter, dataset: Dataset, size: tuple[int, int]) -> None:
    """That padding computes the same, else its time says nothing."""
    batch = torch.stack([image_of(dataset, i, size) for i in range(2)]).to(model.pixel_mean.device)
    packed = model(batch, "3:0.6@batch", upsample=False)
    with padding():
        padded = model(batch, "3:0.6@batch", upsample=False)
    difference = (packed.logits - padded.logits).float().abs().mean()
    assert difference < (1e-3 if packed.logits.dtype == torch.float32 else 5e-2), difference


def ms_per_image(seconds: np.ndarray, batch_size: int) -> str:
    return f"{1000 * np.median(seconds) / batch_size:.2f}"


def median(values: np.ndarray) -> str:
    return f"{np.median(values):.3f}"


def quartiles(values: np.ndarray) -> Row:
    low, high = np.percentile(values, (25, 75))
    return {"over_fixed_low": f"{low:.3f}", "over_fixed_high": f"{high:.3f}"}


@torch.inference_mode()
def run(args: argparse.Namespace) -> Iterator[Row]:
    model = open_segmenter(args.model).eval().to(choose_device(args.device), DTYPES[args.dtype])
    dataset = create_dataset(args.data, args.split, args.root)
    about = {"model": args.model, "data": args.data, "split": args.split, "num_images": len(dataset)}
    about |= {
        "mixed_with": len(args.mixed or []),
        "batch_size": args.batch_size,
        "batches": args.batches,
        "rounds": args.rounds,
    }
    about |= {"image_size": "x".join(map(str, args.image_size)), "dtype": args.dtype}
    for row in measure(model, dataset, args):
        yield {**row, **about, **state_of(model.pixel_mean.device)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trained(parser)
    parser.add_argument("--pauses", nargs="+", default=["3:0.4", "5:0.6", "5:0.8"], help="one layer and ratio each")
    parser.add_argument("--mixed", nargs="+", help="image files of other cameras, for mixed batches")
    parser.add_argument("--image-size", type=int, nargs=2, default=[360, 480], metavar=("H", "W"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=3, help="timed batches of different images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="bfloat16 for attention of variable length")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive.csv"))
    run_script(parser, argv, run)


if __name__ == "__main__":
    main()
