"""How close pausing comes to what its layers take by themselves, and to what was there before.

The ideal time of a configuration is that of the embedding, of one block on n tokens for each layer that processes n,
of the norm and of the decoder, all measured in the same rounds as the whole. What is above it is the price of scoring,
selecting, gathering and assembling, which is also measured by itself: the encoder with blocks that do nothing. The
enlargement of the logits is left out everywhere. Beside it: the unpaused model against timm's own encoder with the same
decoder, and against a Segmenter as it was written in 2021.

    python benchmarks/ideal.py --out OUT.csv
    python benchmarks/ideal.py --device cuda --dtype bfloat16 --out OUT.csv

Knows nothing of mIoU: weights and images are random, which times do not depend on (docs/results.md).
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Row, state_of, write_rows
from segmenter_2021 import Segmenter2021
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from paumer.benchmark import largest_batch, synchronize, time_interleaved
from paumer.device import DTYPES, choose_device
from paumer.errors import InputError
from paumer.model import Segmenter, create_model
from paumer.model.cost import count_call, flop_formula
from paumer.model.encoder import embed_patches
from paumer.model.packed import run_block
from paumer.pause import NO_PAUSE, PauseConfig, parse_pauses

Call = Callable[[], object]
BLOCKS = 3  # timed in one go, and their time divided by as many: one alone is too short for a clock and a cache


class Parts:
    """The calls that are timed for one model and batch, by name."""

    def __init__(self, model: Segmenter, images: Tensor, pauses: Sequence[PauseConfig]) -> None:
        self.model, self.images, self.pauses = model, images, pauses
        self.grid = model.grid_of(*images.shape[-2:])
        self.num_patches = self.grid[0] * self.grid[1]
        vit = model.encoder
        width, dtype, device = vit.embed_dim, model.pixel_mean.dtype, images.device
        generator = torch.Generator().manual_seed(0)

        def tokens(number: int) -> Tensor:
            return torch.randn(len(images), number, width, generator=generator).to(device, dtype)

        numbers = sorted({n for pause in pauses for n in self.running(pause)})
        whole = tokens(self.num_patches)
        hollow = copy.deepcopy(model)
        # Blocks that do nothing: what remains is the embedding, what pausing adds, the norm and the decoder.
        hollow.encoder.blocks = nn.ModuleList(nn.Identity() for _ in vit.blocks)
        hollow.decoder = nn.Module()
        hollow.decoder.forward = lambda tokens, grid: tokens
        old = Segmenter2021(model)
        self.calls: dict[str, Call] = {
            "embed": lambda: embed_patches(vit, model.pad(model.normalize(images)), model.preset),
            "norm": lambda: vit.norm(whole),
            "decoder": lambda: model.decoder(whole, self.grid),
            "timm": lambda: model.decoder(
                vit.forward_features(model.normalize(images))[:, vit.num_prefix_tokens :], self.grid
            ),
            "2021": lambda: old(images),
        }
        for n in numbers:
            self.calls[f"block {n}"] = partial(self.run_blocks, tokens(n + vit.num_prefix_tokens))
        for pause in pauses:
            self.calls[f"model {pause}"] = partial(model, images, pause, upsample=False)
            self.calls[f"hollow {pause}"] = partial(hollow, images, pause, upsample=False)

    def run_blocks(self, x: Tensor) -> None:
        for block in self.model.encoder.blocks[:BLOCKS]:
            x = run_block(block, x)

    def running(self, pause: PauseConfig) -> list[int]:
        return pause.num_running(self.num_patches, self.model.depth)


def rows_of(parts: Parts, seconds: dict[str, np.ndarray], ceilings: dict[str, float]) -> list[Row]:
    """One row for each configuration; ratios are taken round by round and their median and quartiles given."""
    rows = []
    batch_size, size = len(parts.images), tuple(parts.images.shape[-2:])
    unpaused = seconds[f"model {NO_PAUSE}"]
    baseline_flops = flop_formula(parts.model, NO_PAUSE, size)
    for pause in parts.pauses:
        own = seconds[f"model {pause}"]
        ideal = ideal_of(parts, seconds, pause)
        # The hollow unpaused model embeds, norms and copies nothing: the difference is what pausing adds.
        added = seconds[f"hollow {pause}"] - seconds[f"hollow {NO_PAUSE}"]
        flops = flop_formula(parts.model, pause, size)
        low, ratio, high = np.percentile(own / ideal, (25, 50, 75))
        rate = batch_size * flops / np.median(own)
        rows.append(
            {
                "pause": str(pause),
                "ms": f"{1000 * np.median(own):.3f}",
                "ideal_ms": f"{1000 * np.median(ideal):.3f}",
                "of_ideal": f"{ratio:.4f}",
                "of_ideal_low": f"{low:.4f}",
                "of_ideal_high": f"{high:.4f}",
                "pausing_ms": f"{1000 * np.median(added):.3f}",
                "pausing_share": f"{np.median(added / own):.4f}",
                "speedup": f"{np.median(unpaused / own):.4f}",
                "speedup_low": f"{np.percentile(unpaused / own, 25):.4f}",
                "ideal_speedup": f"{np.median(ideal_of(parts, seconds, NO_PAUSE) / ideal):.4f}",
                "flop_speedup": f"{baseline_flops / flops:.4f}",
                "over_timm": f"{np.median(seconds['timm'] / own):.4f}",
                "over_2021": f"{np.median(seconds['2021'] / own):.4f}",
                "gflop_per_s": f"{rate / 1e9:.1f}",
                "of_peak_flops": f"{rate / ceilings['flop_per_s']:.3f}",
            }
        )
    return rows


def ideal_of(parts: Parts, seconds: dict[str, np.ndarray], pause: PauseConfig) -> np.ndarray:
    blocks = sum(seconds[f"block {n}"] for n in parts.running(pause))
    return seconds["embed"] + blocks + seconds["norm"] + seconds["decoder"]


# -- what the chip can do ---------------------------------------------------------------------------------------------


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large matrix product, and bytes/s of a copy that no cache holds (read and written bytes count)."""
    on_gpu = device.type == "cuda"
    side, length = (8192, 2**30) if on_gpu else (2048, 2**27)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(length // 4, device=device)
    target = torch.empty_like(source)
    product, copying = time_interleaved(
        [lambda: a @ b, lambda: target.copy_(source)], rounds=9, warmup=2, device=device
    )
    return {"flop_per_s": 2 * side**3 / min(product), "bytes_per_s": 2 * length / min(copying)}


class BytesTouched(TorchDispatchMode):
    """Adds up what every kernel reads and writes if nothing stays in a cache; views touch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        made = [value for value in results if isinstance(value, Tensor)]
        given = [value for value in args if isinstance(value, Tensor)]
        addresses = {value.untyped_storage().data_ptr() for value in given}
        is_view = not func._schema.is_mutable and all(x.untyped_storage().data_ptr() in addresses for x in made)
        if not is_view:
            self.total += sum(x.numel() * x.element_size() for x in [*made, *given])
        return result


def bytes_touched(call: Call) -> int:
    with BytesTouched() as touched:
        call()
    return touched.total


# -- command ----------------------------------------------------------------------------------------------------------


def search_batch(model: Segmenter, image_size: tuple[int, int], device: torch.device) -> int:
    def images_per_second(batch_size: int) -> float:
        call = partial(model, noise(batch_size, image_size, device), upsample=False)
        (seconds,) = time_interleaved([call], rounds=3, warmup=1, device=device)
        return batch_size / float(np.median(seconds))

    return largest_batch(images_per_second, fits=lambda size: device.type != "cpu" or size <= 16)


def noise(batch_size: int, image_size: tuple[int, int], device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch_size, 3, *image_size), generator=generator, dtype=torch.uint8).to(device)


def run(args: argparse.Namespace) -> list[Row]:
    device, dtype = choose_device(args.device), DTYPES[args.dtype]
    if args.threads:
        torch.set_num_threads(args.threads)
    pauses = list(dict.fromkeys([NO_PAUSE, *parse_pauses(args.pauses)]))
    size = (args.image_size[0], args.image_size[1])
    ceilings = measure_ceilings(device, dtype)
    print(f"ceilings: {ceilings['flop_per_s'] / 1e9:.0f} GFLOP/s, {ceilings['bytes_per_s'] / 1e9:.1f} GB/s", flush=True)
    rows: list[Row] = []
    for backbone in args.backbones:
        for num_classes in args.num_classes:
            torch.manual_seed(0)
            model = create_model(backbone, num_classes=num_classes, image_size=size).eval().to(device, dtype)
            for wanted in args.batch_sizes:
                with torch.inference_mode():
                    batch_size = search_batch(model, size, device) if wanted == "auto" else int(wanted)
                    parts = Parts(model, noise(batch_size, size, device), pauses)
                    check_same(parts)
                    touched = bytes_touched(parts.calls[f"model {NO_PAUSE}"])
                    taken = time_interleaved(
                        list(parts.calls.values()), rounds=args.rounds, warmup=args.warmup, device=device, progress=True
                    )
                shares = [BLOCKS if name.startswith("block ") else 1 for name in parts.calls]
                seconds = {
                    name: np.array(own) / share for name, own, share in zip(parts.calls, taken, shares, strict=True)
                }
                about = {"backbone": backbone, "num_classes": num_classes, "batch_size": batch_size, "batch": wanted}
                about |= {"image_size": f"{size[0]}x{size[1]}", "dtype": args.dtype, "rounds": args.rounds}
                bandwidth = touched / np.median(seconds[f"model {NO_PAUSE}"])
                chip = {"peak_gflop_per_s": f"{ceilings['flop_per_s'] / 1e9:.1f}"}
                chip |= {"peak_gb_per_s": f"{ceilings['bytes_per_s'] / 1e9:.2f}", "gb_per_s": f"{bandwidth / 1e9:.2f}"}
                new = [{**about, **row, **chip, **state_of(device)} for row in rows_of(parts, seconds, ceilings)]
                print_rows(new)
                rows += new
                write_rows(args.out, rows)
    return rows


def check_same(parts: Parts) -> None:
    """That the three unpaused models compute the same, else their times say nothing."""
    ours = parts.calls[f"model {NO_PAUSE}"]().logits
    # Logits are normalised over the classes, so that they are of the order of 1.
    most = 1e-3 if ours.dtype == torch.float32 else 5e-2
    for name in ("timm", "2021"):
        difference = (ours.float() - parts.calls[name]().float()).abs().mean()
        assert difference < most, f"{name} differs by {difference:.2g} on average"
    counted = count_call(parts.calls[f"model {NO_PAUSE}"])
    assert counted == len(parts.images) * flop_formula(parts.model, NO_PAUSE, tuple(parts.images.shape[-2:]))
    synchronize(parts.images.device)


def print_rows(rows: Sequence[Row]) -> None:
    first = rows[0]
    print(
        f"\n{first['backbone']}, {first['num_classes']} classes, batch {first['batch_size']} ({first['batch']}), "
        f"{first['image_size']}, {first['dtype']}, {first['device_name']}, {first['threads']} threads, load "
        f"{first['load']}; unpaused over timm {first['over_timm']}, over 2021 {first['over_2021']}; "
        f"{first['gb_per_s']} of {first['peak_gb_per_s']} GB/s"
    )
    columns = ("ms", "of_ideal", "of_ideal_low", "of_ideal_high", "pausing_share", "speedup", "ideal_speedup")
    columns += ("flop_speedup", "of_peak_flops")
    print("pause".ljust(20) + "".join(column.rjust(15) for column in columns))
    for row in rows:
        print(row["pause"].ljust(20) + "".join(row[column].rjust(15) for column in columns), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["vit_tiny_patch16_384", "vit_small_patch16_384"])
    parser.add_argument("--num-classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--pauses", nargs="+", default=["@paper"])
    parser.add_argument("--image-size", type=int, nargs=2, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--batch-sizes", nargs="+", default=["1", "auto"], help="numbers, or auto: fills the device")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/ideal.csv"))
    args = parser.parse_args(argv)
    try:
        run(args)
    except InputError as error:
        parser.error(str(error))
    print(f"written to {args.out}")


if __name__ == "__main__":
    sys.exit(main())
