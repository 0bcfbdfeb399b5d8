"""How time and memory grow with resolution, batch, size of the model and depth of the pause, beside the formula.

Every job is a process of its own. Times: the unpaused model and all configurations in turns, median of the rounds, with
the final enlargement, eager, inference mode. Memory: by how much one forward pass makes a fresh process grow at its
peak (Linux; on CUDA what torch allocated), of `forward`, which gives logits of all pixels, and of `segment`, which
gives the mask alone. `gflop_per_s` is the formula's arithmetic over the time: where it stays level, the formula tells
the time.

The largest image (study `largest`, on a CPU) is searched with attention that gives its values back unread, and one
block: attention of a million tokens takes hours, its memory is that of its result, and blocks follow one another. That
this weighs the same is measured beside it, at the largest size that is tried in earnest.

    python benchmarks/scaling.py --out OUT.csv            # about half an hour on two CPU cores
    python benchmarks/scaling.py --device cuda --dtype bfloat16 --out OUT.csv
    python benchmarks/scaling.py --plot OUT.csv           # draws OUT.png from a finished table
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rows import Row, state_of, write_rows
from torch import Tensor
from tqdm import tqdm

from paumer.benchmark import resident_growth, time_interleaved
from paumer.device import DTYPES, choose_device
from paumer.errors import InputError
from paumer.inference import InferenceConfig, segment_image
from paumer.model import Segmenter, create_model
from paumer.model.cost import flop_formula
from paumer.pause import NO_PAUSE, PauseConfig

SIZES = {
    "Ti": "vit_tiny_patch16_384",
    "S": "vit_small_patch16_384",
    "B": "vit_base_patch16_384",
    "L": "vit_large_patch16_384",
}
PAUSES = ("5:0.6", "3:0.4,5:0.4,7:0.4")
# A machine of 16 GiB, of which one is for everything else.
MACHINE_BYTES, OTHERS_BYTES = 16 * 2**30, 2**30
RESOLUTIONS = ((512, 512), (768, 768), (1024, 1024), (1024, 2048), (1536, 1536), (2048, 2048))


def plan(device: str) -> list[Row]:
    """What is measured: (study, model, image size, batch, configurations)."""
    large = device == "cuda"
    jobs: list[Row] = []

    def add(study: str, size: str, image_size: tuple[int, int], batch_size: int, pauses: Sequence[str]) -> None:
        jobs.append(
            dict(study=study, size=size, image_size=image_size, batch_size=batch_size, pauses=list(pauses), whole=True)
        )

    for size in ("Ti", "S", "B", "L") if large else ("Ti", "S"):
        for image_size in RESOLUTIONS if size == "Ti" or large else RESOLUTIONS[:3]:
            add("resolution", size, image_size, 1, PAUSES)
    for size in SIZES:
        add("model", size, (512, 512), 1, PAUSES)
    for batch_size in (1, 2, 4, 8, 16, 32) if large else (1, 2, 4, 8):
        add("batch", "Ti", (512, 512), batch_size, PAUSES)
    add("depth", "Ti", (1024, 1024), 1, [f"{layer}:0.6" for layer in (1, 3, 5, 7, 9, 11)])
    # Weighed and not timed, with one block: memory does not depend on their number, and time does.
    weighed = dict(study="memory", size="Ti", batch_size=1, pauses=[], whole=True, blocks=1)
    jobs.append({**weighed, "image_size": (4096, 4096)})
    if not large:
        jobs.append({**weighed, "image_size": (4096, 4096), "attention": "none"})
        for what in ("forward", "segment"):
            # Weights as they are trained: positions are resized to the image in every call.
            jobs.append({**weighed, "study": "largest", "what": what, "attention": "none", "trained_size": (512, 512)})
    for crop, stride in (((768, 768), (512, 512)), ((512, 512), (512, 512))):
        window = dict(crop_size=crop, stride=stride)
        jobs.append(
            dict(study="window", size="Ti", image_size=(1024, 2048), batch_size=1, pauses=list(PAUSES), **window)
        )
    return jobs


# -- one job, in a process of its own ----------------------------------------------------------------------------------


def work(job: Row) -> list[Row]:
    device = choose_device(job["device"])
    model, images = load(job, device)
    forward = forward_of(job, model)
    pauses = [NO_PAUSE, *map(PauseConfig.parse, job["pauses"])]
    with torch.inference_mode():
        calls = [partial(forward, images, pause) for pause in pauses]
        start = time.perf_counter()
        calls[0]()
        first = time.perf_counter() - start
        # A quarter of an hour for one row helps nobody.
        rounds = int(np.clip(60 / (first * len(calls)), 2, job["rounds"]))
        seconds = time_interleaved(calls, rounds=rounds, warmup=1 if first < 5 else 0, device=device)
    rows = []
    for pause, own in zip(pauses, seconds, strict=True):
        flops = flops_of(job, model, pause)
        rows.append(
            {
                "pause": str(pause),
                "rounds": rounds,
                "ms_per_image": f"{1000 * np.median(own) / job['batch_size']:.2f}",
                "speedup": f"{np.median(np.divide(seconds[0], own)):.3f}",
                "gflop_per_image": f"{flops / 1e9:.2f}",
                "flop_speedup": f"{flops_of(job, model, NO_PAUSE) / flops:.3f}",
                "gflop_per_s": f"{flops * job['batch_size'] / np.median(own) / 1e9:.1f}",
                **state_of(device),
            }
        )
    return rows


def weigh(job: Row) -> dict[str, int | None]:
    """Bytes that one call adds to a fresh process, and those of the process; `what` is forward or segment."""
    device = choose_device(job["device"])
    if job.get("attention") == "none":
        F.scaled_dot_product_attention = lambda query, key, value, **options: torch.empty_like(query).copy_(value)
    model, images = load(job, device)
    pause = PauseConfig.parse(job["pause"])
    call = partial(forward_of(job, model), images, pause)
    if job["what"] == "segment":
        call = partial(model.segment, images, pause)
    with torch.inference_mode():
        model(images[:, :, :64, :64], pause)  # what torch keeps for itself from its first call on
        if device.type == "cuda":
            held = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call()
            return {"bytes": torch.cuda.max_memory_allocated(device) - held, "process": None}
        grown = resident_growth(call)
        if grown is None:
            return {"bytes": None, "process": None}
        import resource  # Windows has none

        return {"bytes": grown, "process": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def load(job: Row, device: torch.device) -> tuple[Segmenter, Tensor]:
    torch.manual_seed(0)
    trained_size = tuple(job.get("trained_size", job["image_size"]))
    model = create_model(SIZES[job["size"]], num_classes=job["num_classes"], image_size=trained_size)
    del model.encoder.blocks[job.get("blocks", len(model.encoder.blocks)) :]
    generator = torch.Generator().manual_seed(0)
    shape = (job["batch_size"], 3, *job["image_size"])
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return model.eval().to(device, DTYPES[job["dtype"]]), images.to(device)


def forward_of(job: Row, model: Segmenter) -> Callable[[Tensor, PauseConfig], Tensor]:
    if job.get("whole"):
        return lambda images, pause: model(images, pause).logits
    inference = InferenceConfig("slide", tuple(job["crop_size"]), tuple(job["stride"]))

    def in_windows(images: Tensor, pause: PauseConfig) -> Tensor:
        return segment_image(lambda windows: model(windows, pause).logits, images[0], inference)

    return in_windows


def flops_of(job: Row, model: Segmenter, pause: PauseConfig) -> int:
    """By the formula; a window is an image."""
    if job.get("whole"):
        return flop_formula(model, pause, tuple(job["image_size"]))
    (height, width), (ch, cw), (sh, sw) = job["image_size"], job["crop_size"], job["stride"]
    windows = (-(-(height - ch) // sh) + 1) * (-(-(width - cw) // sw) + 1)
    return windows * flop_formula(model, pause, (ch, cw))


# -- all of them -------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    rows: list[Row] = []
    common = dict(num_classes=args.num_classes, device=args.device, dtype=args.dtype, rounds=args.rounds)
    jobs = [{**job, **common} for job in plan(args.device) if not args.studies or job["study"] in args.studies]
    state = state_of(choose_device(args.device))
    for job in tqdm(jobs, unit="job"):
        about = {
            "study": job["study"],
            "model": job["size"],
            "image_size": "x".join(map(str, job.get("image_size", ()))),
        }
        about |= {"batch_size": job["batch_size"], "num_classes": args.num_classes, "dtype": args.dtype}
        about["window"] = "" if job.get("whole") else "{}x{} every {}x{}".format(*job["crop_size"], *job["stride"])
        about["attention"] = job.get("attention", "")
        if job["study"] == "largest":
            rows.append({**about, **largest(job)})
            write_rows(args.out, rows)
            continue
        for row in [{"pause": "none", **state}] if job["study"] == "memory" else in_process("work", job):
            for what in weighed(job, row["pause"]):
                weight = in_process("weigh", {**job, "pause": row["pause"], "what": what})["bytes"]
                row[f"{what}_mib"] = "" if weight is None else round(weight / 2**20)
            rows.append({**about, **row})
            write_rows(args.out, rows)
    print(f"written to {args.out}")


def largest(job: Row) -> Row:
    """The largest square image whose process stays below the machine's memory, to 256 pixels, and what it weighs."""

    def weight(side: int) -> int:
        found = in_process("weigh", {**job, "image_size": (side, side), "pause": "none"})["process"]
        if found is None:
            raise InputError("how much a process weighs is known on Linux only: leave the study 'largest' out")
        return found

    limit, step = MACHINE_BYTES - OTHERS_BYTES, 256
    weights = {side: weight(side) for side in (4096, 8192)}
    while True:
        # On the line through the two largest: memory grows with the pixels, beside what every process has.
        low, high = sorted(weights)[-2:]
        per_pixel = (weights[high] - weights[low]) / (high**2 - low**2)
        fits = max((side for side in weights if weights[side] <= limit), default=low)
        guess = int(((limit - weights[low]) / per_pixel + low**2) ** 0.5) // step * step
        if guess in weights:
            guess = fits + step
        if guess in weights:  # what is one step larger did not fit
            return {
                "pause": "none",
                "image_size": f"{fits}x{fits}",
                f"{job['what']}_mib": round(weights[fits] / 2**20),
                "machine_mib": MACHINE_BYTES // 2**20,
                "reserve_mib": OTHERS_BYTES // 2**20,
                **state_of(choose_device(job["device"])),
            }
        weights[guess] = weight(guess)


def weighed(job: Row, pause: str) -> tuple[str, ...]:
    """Which calls are weighed: pausing hardly changes the peak, which one study is enough to show."""
    if not job.get("whole"):
        return ("forward",) if pause == "none" else ()
    return ("forward", "segment") if pause == "none" or (job["study"], pause) == ("model", PAUSES[-1]) else ()


def in_process(what: str, job: Row) -> list[Row] | Row:
    words = [sys.executable, __file__, "--worker", what, "--job", json.dumps(job)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{job['study']} {job['size']} {job['image_size']} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def draw(path: Path) -> Path:
    """Four panels: time by tokens, memory by pixels, speed-up by depth of the pause, arithmetic rate by tokens."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    looks = {"none": ("o", "-"), PAUSES[0]: ("s", "--"), PAUSES[1]: ("^", ":")}
    colors = {"Ti": "#0072b2", "S": "#d55e00", "B": "#009e73", "L": "#cc79a7"}
    for row in rows:
        height, width = map(int, row["image_size"].split("x"))
        row["tokens"], row["pixels"] = height * width / 256, height * width / 1e6
    for size, color in colors.items():
        for pause, (marker, line) in looks.items():
            own = [r for r in rows if r["study"] == "resolution" and r["model"] == size and r["pause"] == pause]
            own.sort(key=lambda r: r["tokens"])
            if not own:
                continue
            style = dict(color=color, marker=marker, linestyle=line, markersize=5, label=f"ViT-{size}, {pause}")
            tokens = [r["tokens"] for r in own]
            axes[0, 0].plot(tokens, [float(r["ms_per_image"]) / 1000 for r in own], **style)
            axes[1, 1].plot(tokens, [float(r["gflop_per_s"]) for r in own], **style)
    axes[0, 0].set(xscale="log", yscale="log", xlabel="tokens of the image", ylabel="seconds per image", title="Time")
    axes[1, 1].set(xscale="log", xlabel="tokens of the image", ylabel="GFLOP/s", title="Arithmetic per second")
    axes[1, 1].set_ylim(0, 1.1 * axes[1, 1].get_ylim()[1])
    tiny = [r for r in rows if r["study"] in ("resolution", "memory") and r["model"] == "Ti" and r["pause"] == "none"]
    tiny = [r for r in tiny if not r.get("attention")]
    tiny.sort(key=lambda r: r["pixels"])
    for what, marker, line, text in (
        ("forward", "o", "-", "logits of all pixels"),
        ("segment", "s", "--", "mask alone"),
    ):
        values = [float(r[f"{what}_mib"]) for r in tiny]
        axes[0, 1].plot([r["pixels"] for r in tiny], values, marker=marker, linestyle=line, color="#0072b2", label=text)
    axes[0, 1].set(xlabel="megapixels", ylabel="MiB at the peak, weights not counted", title="Memory, ViT-Ti, unpaused")
    depth = [r for r in rows if r["study"] == "depth" and r["pause"] != "none"]
    layers = [int(r["pause"].split(":")[0]) for r in depth]
    axes[1, 0].plot(layers, [float(r["speedup"]) for r in depth], "o-", color="#0072b2", label="measured")
    axes[1, 0].plot(layers, [float(r["flop_speedup"]) for r in depth], "--", color="#666666", label="arithmetic")
    axes[1, 0].set(
        xlabel="layer after which 60 % pause", ylabel="speed-up", title="Depth of the pause, ViT-Ti, 1024x1024"
    )
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    first = rows[0]
    figure.suptitle(
        f"{first['device_name']}, {first['threads']} threads, {first['dtype']}, {first['num_classes']} classes",
        fontsize=10,
    )
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=130)
    return target


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", nargs="+", default=[], help="resolution, model, batch, depth, memory, window; default: all"
    )
    parser.add_argument("--num-classes", type=int, default=19)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7, help="at most; fewer where a round takes long")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling.csv"))
    parser.add_argument("--plot", type=Path, help="a finished table, to be drawn")
    parser.add_argument("--worker", choices=("work", "weigh"), help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.worker:
            print(json.dumps({"work": work, "weigh": weigh}[args.worker](json.loads(args.job))))
        elif args.plot:
            print(f"drawn: {draw(args.plot)}")
        else:
            run(args)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
