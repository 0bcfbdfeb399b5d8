"""One page of everything that `performance.sh` measured: tables, the figure of how time and memory grow, conditions.

    python benchmarks/performance_page.py OUT        # reads OUT/*.csv, writes OUT/README.md and OUT/scaling.png

A table that is not there is left out. Knows nothing of how anything was measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import scaling

from paumer.errors import InputError
from paumer.files import write_text

Row = dict[str, str]
MODELS = {"vit_tiny_patch16_384": "ViT-Ti", "vit_small_patch16_384": "ViT-S"}


def read(path: Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> list[str]:
    """Markdown; columns before ``numbers_from`` are words and stand on the left."""
    rule = ["---" if place < numbers_from else "--:" for place in range(len(header))]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def numbers(rows: Iterable[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows]


def between(values: Sequence[float], digits: int = 2) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def short(text: str, digits: int = 2) -> str:
    return f"{float(text):.{digits}f}" if text else ""


def per_cent(text: str, digits: int = 1) -> str:
    return f"{100 * float(text):.{digits}f} %" if text else ""


def beside_arithmetic(row: Row) -> str:
    """The measured speed-up, and in brackets what arithmetic allows."""
    return f"{short(row['speedup'])} ({short(row['flop_speedup'])})"


def code(text: str) -> str:
    return f"`{text}`"


def conditions(rows: Sequence[Row]) -> str:
    """What all rows of a table share of the machine, and the load that they saw."""
    first = rows[0]
    versions = json.loads(first["versions"])
    stated = [first["device_name"], f"{first['threads']} threads", "/".join(unique(row["dtype"] for row in rows))]
    stated += [f"{name} {versions[name]}" for name in ("torch", "timm", "python", "paumer")]
    load = f"load before {between(numbers(rows, 'load'), 1)}"
    return f"{', '.join(stated)}; {load}; {first.get('rounds', '')} rounds in turns."


# -- one section for each table ---------------------------------------------------------------------------------------


def ideal_section(rows: Sequence[Row]) -> list[str]:
    def setting(row: Row) -> str:
        return (
            f"{MODELS.get(row['backbone'], row['backbone'])}, {row['num_classes']} classes, batch {row['batch_size']}"
        )

    lines = [
        "Each cell: time over the sum of its layers / speed-up over not pausing / speed-up if time were that sum. "
        f"Without the final enlargement, {rows[0]['image_size']}.",
    ]
    for wanted, title in (("auto", "The batch that fills the device"), ("1", "Batch 1")):
        own = [row for row in rows if row["batch"] == wanted]
        settings = unique(map(setting, own))
        cells = {(setting(row), row["pause"]): row for row in own}
        body = []
        for pause in unique(row["pause"] for row in own):
            line = [code(pause)]
            for name in settings:
                row = cells[name, pause]
                parts = [row["of_ideal"], row["speedup"], row["ideal_speedup"]][: 1 if pause == "none" else 3]
                line.append(" / ".join(short(part) for part in parts))
            body.append(line)
        if own:
            lines += ["", f"### {title}", "", *table(["pause", *settings], body), "", *ideal_summary(own)]
    none = [row for row in rows if row["pause"] == "none"]
    lines += ["", "### Against other code, and against the chip", ""]
    header = [
        "unpaused",
        "ms",
        "timm's time over ours",
        "that of 2021 over ours",
        "GFLOP/s",
        "of peak",
        "GB/s",
        "of peak",
    ]
    body = []
    for row in none:
        bandwidth = float(row["gb_per_s"]) / float(row["peak_gb_per_s"])
        cells = [setting(row), short(row["ms"], 1), short(row["over_timm"]), short(row["over_2021"])]
        cells += [short(row["gflop_per_s"], 0), per_cent(row["of_peak_flops"], 0)]
        body.append([*cells, row["gb_per_s"], per_cent(str(bandwidth), 0)])
    lines += table(header, body)
    first = rows[0]
    return [
        *lines,
        "",
        f"Peaks were measured: {first['peak_gflop_per_s']} GFLOP/s in a large matrix product, "
        f"{first['peak_gb_per_s']} GB/s in a copy that no cache holds. Bytes are what every kernel reads and writes if "
        "nothing stays in a cache.",
    ]


def ideal_summary(rows: Sequence[Row]) -> list[str]:
    paused = [row for row in rows if row["pause"] != "none"]
    above = [row for row in paused if float(row["of_ideal"]) > 1.05]
    slowest = min(paused, key=lambda row: float(row["speedup"]))
    costly = [row for row in paused if float(row["pausing_share"]) > 0.02]
    share = [100 * value for value in numbers(paused, "pausing_share")]
    worst = ", ".join(
        f"{code(row['pause'])} of {MODELS.get(row['backbone'], row['backbone'])} with {row['num_classes']} classes "
        f"({row['of_ideal']}, quartiles {short(row['of_ideal_low'])} to {short(row['of_ideal_high'])})"
        for row in above
    )
    return [
        f"- {len(paused) - len(above)} of {len(paused)} configurations take at most 1.05 times their ideal time; the "
        f"largest is {max(numbers(paused, 'of_ideal')):.3f}." + (f" Above it: {worst}." if above else ""),
        f"- The smallest speed-up over not pausing is {short(slowest['speedup'])} ({code(slowest['pause'])}, "
        f"{MODELS.get(slowest['backbone'], slowest['backbone'])}, {slowest['num_classes']} classes).",
        f"- Scoring, selecting, gathering and assembling take {between(share, 1)} % of the forward pass, median "
        f"{statistics.median(share):.1f} %; {len(costly)} of {len(paused)} rows lie above 2 %.",
    ]


def adaptive_section(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    lines = [
        f"{first['data']} {first['split']}, {first['num_images']} images of {first['image_size']}, {first['model']}, "
        f"batches of {first['batch_size']} different images, {first['batches']} of them timed. Thresholds are such "
        "that over all images as many tokens pause as with the ratio. Time over fixed: the share that pauses as many "
        "in the same batch. Padded: every image as long as the longest of the batch, with a mask. Masked: all tokens "
        "stay.",
        "",
    ]
    header = ["images", "pause", "mIoU", "tokens", "paused per image", "speed-up", "time over fixed, equal tokens"]
    header += ["speed-up, padded", "speed-up, masked"]
    body = []
    for row in rows:
        over = "1"
        paused = ""
        if row["over_fixed"]:
            over = f"{short(row['over_fixed'])} ({short(row['over_fixed_low'])} to {short(row['over_fixed_high'])})"
            paused = f"{per_cent(row['paused'], 0)} ({per_cent(row['least'], 0)} to {per_cent(row['most'], 0)})"
        cells = [
            row["images"],
            code(row["pause"]),
            row["miou"],
            per_cent(row["tokens"]),
            paused,
            short(row["speedup"]),
            over,
        ]
        body.append([*cells, short(row["padded_speedup"]), short(row["masked_speedup"])])
    lines += table(header, body, numbers_from=2)
    adaptive = [row for row in rows if row["over_fixed"]]
    return [
        *lines,
        "",
        f"- Packed budgets take {between(numbers(adaptive, 'over_fixed'))} times as long as fixed counts at equal "
        "tokens.",
        f"- Masking takes {between(numbers(adaptive, 'packed_over_masked'))} times as long as packing, padding to the "
        f"longest {between(numbers(adaptive, 'packed_over_padded'))} times.",
    ]


def mask_section(rows: Sequence[Row]) -> list[str]:
    header = [
        "logits",
        "enlarge, then argmax",
        "`upsampled_argmax`",
        "times as fast",
        "the network",
        "pixels that differ",
    ]
    kinds = {"real": "of real images", "noise": "noise, every cell mixed"}
    body = [
        [
            f"{kinds[row['logits']]}, {row['num_classes']} classes",
            f"{short(row['plain_ms'], 1)} ms",
            f"{short(row['fused_ms'], 1)} ms",
            f"{short(row['speedup'], 1)} ({short(row['speedup_low'], 1)} to {short(row['speedup_high'], 1)})",
            f"{short(row['network_ms'], 0)} ms",
            row["pixels_that_differ"],
        ]
        for row in rows
    ]
    return [f"{rows[0]['image_size']}, batch {rows[0]['batch_size']}, {rows[0]['model']}.", "", *table(header, body)]


def dtypes_section(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    header = ["dtype", "pause", "mIoU", "same pixels as float32", "ms per image", "over float32", "speed-up by pausing"]
    body = [
        [
            row["dtype"],
            code(row["pause"]),
            row["miou"],
            per_cent(row["same_pixels"], 2),
            short(row["ms_per_image"], 1),
            f"{short(row['over_float32'])} ({short(row['over_float32_low'])} to {short(row['over_float32_high'])})",
            short(row["speedup"]),
        ]
        for row in rows
    ]
    about = (
        f"{first['data']} {first['split']}, {first['num_images']} images of {first['image_size']}, {first['model']}, "
    )
    about += f"batch {first['batch_size']}, from the image to the mask. "
    about += "Over float32: times as fast at the same configuration."
    best = max(rows, key=lambda row: float(row["speedup_over_float32_none"]))
    return [
        *(about, "", *table([*header, "over float32, `none`"], _with_last(rows, body), numbers_from=2), ""),
        f"Both together: {code(best['pause'])} in {best['dtype']} is {short(best['speedup_over_float32_none'])} times "
        "as fast as not pausing in float32.",
    ]


def _with_last(rows: Sequence[Row], body: Sequence[list[str]]) -> list[list[str]]:
    return [[*cells, short(row["speedup_over_float32_none"])] for row, cells in zip(rows, body, strict=True)]


def allocator_section(rows: Sequence[Row]) -> list[str]:
    header = ["dtype", "pause", "ms, usual", "ms, kept", "time saved", "page faults of a call, usual", "kept"]
    body = [
        [
            row["dtype"],
            code(row["pause"]),
            row["usual_ms"],
            row["kept_ms"],
            f"{per_cent(row['saved'], 0)} ({per_cent(row['saved_least'], 0)} to {per_cent(row['saved_most'], 0)})",
            row["usual_faults"],
            row["kept_faults"],
        ]
        for row in rows
    ]
    first = rows[0]
    about = f"{first['processes']} processes of either kind in turns, an image of {first['data']} {first['split']}, "
    return [about + f"{first['model']}, from the image to the mask.", "", *table(header, body, numbers_from=2)]


def compiled_section(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    header = ["compile", "pause", "ms", "times as fast as eager", "speed-up by pausing", "making it", "graphs made"]
    body = [
        [
            code(row["compile"]),
            code(row["pause"]),
            short(row["ms"], 1),
            f"{short(row['over_eager'])} ({short(row['over_eager_low'])} to {short(row['over_eager_high'])})",
            short(row["speedup"]),
            "" if row["compile"] == "off" else f"{short(row['seconds_to_make'], 1)} s",
            row["graphs_made"],
        ]
        for row in rows
    ]
    about = (
        f"{MODELS.get(first['backbone'], first['backbone'])}, {first['num_classes']} classes, {first['image_size']}, "
    )
    return [about + f"batch {first['batch_size']}, {first['dtype']}.", "", *table(header, body, numbers_from=2)]


def training_section(rows: Sequence[Row]) -> list[str]:
    header = ["", "crop", "batch", "plain step", "time over it, drawn", "quartiles of the draws", "scored only"]
    body = [
        [
            MODELS.get(row["backbone"], row["backbone"]),
            row["crop"],
            row["batch_size"],
            f"{short(row['plain_ms'], 0)} ms",
            short(row["drawn_over_plain"]),
            " to ".join(short(part) for part in row["quartiles"].split("-")[::2]),
            short(row["scored_over_plain"]),
        ]
        for row in rows
    ]
    return [
        "A step is forward, both losses, backward and update, on random images; drawn: a layer of 3 to 9 and a ratio "
        "of 0.2 to 0.8 for each step. Scored only: one layer is scored and nothing pauses, which is what the auxiliary "
        "head costs.",
        "",
        *table(header, body, numbers_from=2),
    ]


def scaling_section(rows: Sequence[Row]) -> list[str]:
    def of(study: str, **wanted: str) -> list[Row]:
        return [row for row in rows if row["study"] == study and all(row[key] == text for key, text in wanted.items())]

    def beside(study_rows: Sequence[Row], key: Callable[[Row], object]) -> list[tuple[Row, list[Row]]]:
        """Each unpaused row with the paused ones of the same job."""
        return [
            (row, [other for other in study_rows if other["pause"] != "none" and key(other) == key(row)])
            for row in study_rows
            if row["pause"] == "none"
        ]

    lines = ["![time, memory, depth of the pause and arithmetic rate](scaling.png)", ""]
    pauses = [code(pause) for pause in scaling.PAUSES]
    lines += [
        "Speed-ups: measured, in brackets by arithmetic. With the final enlargement. Memory: growth of the process.",
        "",
    ]
    header = ["unpaused", "tokens", "s per image", "GFLOP/s", *pauses, "MiB, logits", "MiB, mask"]
    body = []
    resolution = of("resolution")
    for row, others in beside(resolution, lambda row: (row["model"], row["image_size"])):
        height, width = map(int, row["image_size"].split("x"))
        speeds = [beside_arithmetic(other) for other in others]
        cells = [f"ViT-{row['model']}, {row['image_size']}", str(height * width // 256)]
        cells += [short(str(float(row["ms_per_image"]) / 1000)), short(row["gflop_per_s"], 0), *speeds]
        body.append([*cells, row["forward_mib"], row["segment_mib"]])
    lines += ["### Resolution", "", *table(header, body)]
    body = [
        [
            f"ViT-{row['model']}",
            short(row["ms_per_image"], 0),
            short(row["gflop_per_image"], 1),
            short(row["gflop_per_s"], 0),
            *(beside_arithmetic(other) for other in others),
        ]
        for row, others in beside(of("model"), lambda row: row["model"])
    ]
    header = ["512x512", "ms per image", "GFLOP", "GFLOP/s", *pauses]
    lines += ["", "### Size of the model", "", *table(header, body)]
    body = [
        [
            row["batch_size"],
            short(row["ms_per_image"], 0),
            short(row["gflop_per_s"], 0),
            *(beside_arithmetic(other) for other in others),
        ]
        for row, others in beside(of("batch"), lambda row: row["batch_size"])
    ]
    lines += ["", "### Batch", "", *table(["batch", "ms per image", "GFLOP/s", *pauses], body, numbers_from=0)]
    body = [
        [code(row["pause"]), short(row["speedup"]), short(row["flop_speedup"])]
        for row in of("depth")
        if row["pause"] != "none"
    ]
    lines += ["", "### Depth of the pause", "", *table(["ViT-Ti, 1024x1024", "speed-up", "by arithmetic"], body)]
    whole = of("resolution", model="Ti", image_size="1024x2048")
    body = []
    for row, others in beside([*whole, *of("window")], lambda row: row["window"]):
        cells = [row["window"] or "whole image", short(str(float(row["ms_per_image"]) / 1000))]
        cells += [
            short(row["gflop_per_image"], 0),
            *(short(str(float(other["ms_per_image"]) / 1000)) for other in others),
        ]
        body.append(cells)
    header = ["ViT-Ti, 1024x2048", "s, `none`", "GFLOP", *(f"s, {pause}" for pause in pauses)]
    lines += ["", "### Windows or the whole image", "", *table(header, body)]
    memory = [
        f"{row['image_size']} with one block{', attention that gives its values back' if row['attention'] else ''}: "
        f"{row['forward_mib']} MiB with the logits of all pixels, {row['segment_mib']} MiB with the mask alone."
        for row in of("memory")
    ]
    for row in of("largest"):
        what, weight = (
            ("mask alone", row["segment_mib"]) if row["segment_mib"] else ("logits of all pixels", row["forward_mib"])
        )
        memory.append(
            f"The largest square image that a machine of {int(row['machine_mib']) // 1024} GiB can take, {what}: "
            f"{row['image_size']} ({weight} MiB for the whole process, {row['reserve_mib']} left for everything else)."
        )
    return [*lines, "", "### Memory", "", *(f"- {line}" for line in memory)] if memory else lines


SECTIONS: tuple[tuple[str, str, Callable[[Sequence[Row]], list[str]]], ...] = (
    ("ideal", "Fixed counts against the sum of their layers", ideal_section),
    ("ideal_bfloat16", "The same in bfloat16", ideal_section),
    ("adaptive", "Budgets that follow the image", adaptive_section),
    ("mask", "The mask without the logits of all pixels", mask_section),
    ("dtypes", "Half precision", dtypes_section),
    ("allocator", "Freed memory that is kept", allocator_section),
    ("compiled", "Compiled graphs", compiled_section),
    ("compiled_bfloat16", "Compiled graphs in bfloat16", compiled_section),
    ("training_step", "A step of training", training_section),
    ("scaling", "How time and memory grow", scaling_section),
)


def page(folder: Path) -> str:
    lines = [
        "# Performance, measured",
        "",
        "Made by `benchmarks/performance.sh` from the tables beside it; what follows from it for a user is in "
        "`docs/performance.md`. Ratios are medians of ratios taken round by round, all calls of a table in turns.",
    ]
    found = [(name, title, write) for name, title, write in SECTIONS if (folder / f"{name}.csv").is_file()]
    if not found:
        raise InputError(f"{folder} holds none of the tables of performance.sh")
    for name, title, write in found:
        rows = read(folder / f"{name}.csv")
        lines += ["", f"## {title}", "", f"`{name}.csv`: {conditions(rows)}", "", *write(rows)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    try:
        if (args.folder / "scaling.csv").is_file():
            scaling.draw(args.folder / "scaling.csv")
        write_text(args.folder / "README.md", page(args.folder))
    except InputError as error:
        parser.error(str(error))
    print(f"written: {args.folder / 'README.md'}")


if __name__ == "__main__":
    main()
