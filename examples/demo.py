"""The demo: one checkpoint at three speeds. Writes pictures and an index.html, prints a table.

Without --images it renders street scenes that the model has not seen and scores them; with --images it segments your
own photos with the CamVid model. `make demo` runs it.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import paumer
from paumer.data import create_dataset, list_images, read_image
from paumer.evaluate import evaluate
from paumer.files import make_folder, write_text
from paumer.pause import NO_PAUSE, PauseConfig
from paumer.visualize import colorize

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
PAUSES = [PauseConfig.parse(text) for text in ("none", "5:0.6", "3:0.4,5:0.4,7:0.4")]
ROUNDS = 15  # timed passes per configuration, after one that is not counted


@dataclass(frozen=True)
class Row:
    """What the demo found out about one configuration."""

    pause: PauseConfig
    miou: float | None  # per cent; None where there is no truth
    images_per_second: float
    speed_up: float  # over the unpaused model, same run
    paused: str  # share of all patches paused per layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="demo_out", help="folder to write to")
    parser.add_argument("--images", help="folder of photos of your own")
    parser.add_argument("--num-scenes", type=int, default=24, help="scenes to score without --images")
    parser.add_argument("--num-shown", type=int, default=6, help="images to draw")
    args = parser.parse_args()
    try:
        run(args)
    except paumer.InputError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    out = make_folder(args.out)
    model_path = CHECKPOINTS / ("camvid-vit-tiny" if args.images else "scenes-vit-tiny")
    predictor = paumer.Predictor(model_path, device="cpu")
    mious: dict[PauseConfig, float] = {}
    truths: list[torch.Tensor | None]
    if args.images:
        paths = list_images(args.images)
        images, names, skipped = [], [], []
        for path in paths:
            try:
                images.append(read_image(path))
                names.append(path.name)
            except paumer.InputError as error:
                skipped.append(str(error))
        for reason in skipped:
            print(f"skipped: {reason}", file=sys.stderr)
        if not images:
            raise paumer.InputError(f"no readable image in {args.images}: give a folder of photos")
        truths = [None] * len(images)
        what = f"{len(images)} photos of {args.images}"
    else:
        scenes = create_dataset("scenes", "val", num_images=args.num_scenes)
        print(f"scoring {len(scenes)} unseen scenes at {len(PAUSES)} speeds …")
        mious = {result.pause: result.miou for result in evaluate(predictor.model, scenes, PAUSES, progress=True)}
        samples = [scenes[index] for index in range(min(args.num_shown, len(scenes)))]
        images, names = [sample.image for sample in samples], [sample.name for sample in samples]
        truths = [sample.mask for sample in samples]
        what = f"{len(scenes)} generated scenes of {images[0].shape[2]}x{images[0].shape[1]}, held-out seeds"
    seconds = time_forward(predictor.model, images[0])
    rows = [make_row(predictor, pause, images[0], mious.get(pause), seconds) for pause in PAUSES]
    conditions = (
        f"{what}; images/s: from one {images[0].shape[2]}x{images[0].shape[1]} image to its mask on the CPU, batch 1, "
        f"{torch.get_num_threads()} threads, float32, torch {torch.__version__}, "
        f"median of {ROUNDS} interleaved rounds; checkpoint {model_path.name}"
    )
    shown = [draw(predictor, out, *item) for item in list(zip(images, names, truths, strict=True))[: args.num_shown]]
    predictor(images[0], PAUSES[-1]).save(out / "figure.jpg", "figure")
    write_text(out / "index.html", page(rows, shown, conditions))
    print_table(rows, conditions)
    for row in rows:
        print(json.dumps({"pause": str(row.pause), "miou": row.miou, "images_per_second": row.images_per_second}))
    print(f"look at {out / 'index.html'}")


def time_forward(model: paumer.Segmenter, image: torch.Tensor) -> dict[PauseConfig, list[float]]:
    """Seconds from an image to its mask; configurations take turns, so that a busy machine slows all of them alike."""
    seconds: dict[PauseConfig, list[float]] = {pause: [] for pause in PAUSES}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for pause in PAUSES:
                start = time.perf_counter()
                model.segment(image[None], pause)
                if turn:
                    seconds[pause].append(time.perf_counter() - start)
    return seconds


def make_row(
    predictor: paumer.Predictor,
    pause: PauseConfig,
    image: torch.Tensor,
    miou: float | None,
    seconds: dict[PauseConfig, list[float]],
) -> Row:
    prediction = predictor(image, pause)
    shares = {layer: float((prediction.paused_at == layer).mean()) for layer, _ in pause.steps}
    speed_up = statistics.median(base / own for base, own in zip(seconds[NO_PAUSE], seconds[pause], strict=True))
    return Row(
        pause,
        miou,
        images_per_second=1 / statistics.median(seconds[pause]),
        speed_up=speed_up,
        paused=", ".join(f"{100 * share:.0f} % after {layer}" for layer, share in shares.items()) or "nothing",
    )


def draw(
    predictor: paumer.Predictor, out: Path, image: torch.Tensor, name: str, truth: torch.Tensor | None
) -> list[tuple[str, str]]:
    """Writes the pictures of one image; returns (caption, file) in the order to show them."""
    stem = Path(name).stem
    pictures = {}
    base = predictor(image, NO_PAUSE)
    pictures["image"] = base.plot("overlay", alpha=0.0)
    if truth is not None:
        from PIL import Image

        pictures["truth"] = Image.fromarray(colorize(truth.numpy(), base.palette))
    for pause in PAUSES:
        prediction = base if pause == NO_PAUSE else predictor(image, pause)
        pictures[f"segmentation, pause {pause}"] = prediction.plot("overlay")
        if pause != NO_PAUSE:
            pictures[f"what paused, {pause}"] = prediction.plot("paused", legend=True)
            layer = pause.steps[0][0]
            pictures[f"entropy after layer {layer}"] = prediction.plot("entropy", layer=layer, legend=True)
    shown = []
    for number, (caption, picture) in enumerate(pictures.items()):
        file = f"{stem}_{number}.jpg"
        picture.convert("RGB").save(out / file, quality=90)
        shown.append((caption, file))
    return shown


def page(rows: list[Row], shown: list[list[tuple[str, str]]], conditions: str) -> str:
    """The HTML page: the table and the pictures, one file beside them, nothing from elsewhere."""
    scored = any(row.miou is not None for row in rows)
    head = "<th>pause<th>mIoU" * scored or "<th>pause"
    body = "".join(
        f"<tr><td>{row.pause}{f'<td>{row.miou:.2f}' if scored else ''}"
        f"<td>{row.images_per_second:.1f}<td>{row.speed_up:.2f}<td>{row.paused}"
        for row in rows
    )
    figures = "".join(
        "<section>"
        + "".join(
            f'<figure><img src="{html.escape(file)}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'
            for caption, file in pictures
        )
        + "</section>"
        for pictures in shown
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>PAUMER: one checkpoint, three speeds</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .3rem 1rem; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, th:first-child, td:last-child, th:last-child {{ text-align: left }}
section {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: .6rem;
  padding: 1rem 0; border-bottom: 1px solid #ddd }}
figure {{ margin: 0 }} img {{ width: 100% }} figcaption {{ font-size: .85rem; color: #555 }} .note {{ color: #555 }}
</style>
<h1>One checkpoint, three speeds</h1>
<p>Patches that an auxiliary decoder is already sure of pause: they take no part in later layers and go straight to the
decoder. The rest is processed further. The pause configuration is chosen at run time.</p>
<table><tr>{head}<th>images/s<th>speed-up<th>patches paused{body}</table>
<p class="note">{html.escape(conditions)}</p>
<figure><img src="figure.jpg" alt=""><figcaption>What paused, and why: {PAUSES[-1]}</figcaption></figure>
{figures}
</html>
"""


def print_table(rows: list[Row], conditions: str) -> None:
    table = Table(caption=conditions)
    for column in ("pause", "mIoU", "images/s", "speed-up", "patches paused"):
        table.add_column(column, justify="left" if column in ("pause", "patches paused") else "right")
    for row in rows:
        miou = "-" if row.miou is None else f"{row.miou:.2f}"
        table.add_row(str(row.pause), miou, f"{row.images_per_second:.1f}", f"{row.speed_up:.2f}", row.paused)
    Console(width=max(100, int(os.environ.get("COLUMNS", "100")))).print(table)


if __name__ == "__main__":
    main()
