"""The tables of docs/results.md, as Markdown, from sweep folders.

    python benchmarks/tables.py entropy=OUT/sweeps/entropy-0 random=OUT/sweeps/random-0 …

The first folder gives the speed-ups and GFLOP of the first table. Further tables: mIoU at +X % images per second, read
off each series' front, and the classes that pay. Several folders of one name, as of several seeds, give mean ±
deviation. With `--speeds FOLDER` all speed-ups are those of one sweep of the same architecture: weights do not matter
to them, and one measurement on a quiet machine serves all series alike.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from paumer.errors import InputError
from paumer.front import Point, skyline
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig
from paumer.sweep_folder import SweepFolder, SweepPoint

Series = dict[str, list[dict[PauseConfig, SweepPoint]]]


def read(words: Sequence[str]) -> Series:
    series: Series = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals:
            raise InputError(f"write NAME=FOLDER, got {word}")
        points = {point.pause: point for point in SweepFolder(path).points() if "all" in point.scores}
        series.setdefault(name, []).append(points)
    return series


def with_speeds(series: Series, folder: SweepFolder) -> Series:
    """The same scores at the speeds of another sweep; what that one did not time falls out."""
    timed = {point.pause: point for point in folder.points()}
    return {
        name: [
            {pause: replace(timed[pause], scores=point.scores) for pause, point in run.items() if pause in timed}
            for run in runs
        ]
        for name, runs in series.items()
    }


def spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table_1(series: Series) -> list[str]:
    first = next(iter(series.values()))[0]
    lines = [row(["pause", "GFLOP", "arithmetic", "speed-up", *series])]
    lines.append("|---|--:|--:|--:|" + "--:|" * len(series))
    unpaused = first[NO_PAUSE]
    for pause in (NO_PAUSE, *PAPER_CONFIGS):
        if pause not in first:
            continue
        point = first[pause]
        speed = f"{point.speedup:.2f}" if point.decided or pause == NO_PAUSE else "noise"
        cells: list[object] = [f"`{pause}`", f"{point.gflops:.2f}", f"{unpaused.gflops / point.gflops:.2f}", speed]
        for runs in series.values():
            mious = [run[pause].miou() for run in runs if pause in run]
            cells.append(spread([miou for miou in mious if miou is not None]) if mious else "")
        lines.append(row(cells))
    return lines


def at_speed(points: dict[PauseConfig, SweepPoint], speedup: float) -> float | None:
    """mIoU at that speed-up, read off the front by straight lines between its points; None beyond its end."""
    front = skyline(
        Point(point.pause, miou, point.speedup) for point in points.values() if (miou := point.miou()) is not None
    )
    pairs = [(point.images_per_second, point.miou) for point in front]
    if speedup <= pairs[0][0]:
        return pairs[0][1]  # what is best is faster than asked for
    for (slow, high), (fast, low) in pairwise(pairs):
        if slow <= speedup <= fast:
            return high + (low - high) * (speedup - slow) / (fast - slow)
    return None


def mious_at(series: Series, speedups: Sequence[float]) -> list[str]:
    lines = [row(["", *(f"+{100 * (speedup - 1):.0f} %" for speedup in speedups)]), "|---|" + "--:|" * len(speedups)]
    for name, runs in series.items():
        cells = []
        for speedup in speedups:
            found = [miou for run in runs if (miou := at_speed(run, speedup)) is not None]
            cells.append(spread(found) if found else "not reached")
        lines.append(row([name, *cells]))
    return lines


def who_pays(points: dict[PauseConfig, SweepPoint], pauses: Sequence[PauseConfig]) -> list[str]:
    known = points[NO_PAUSE].scores["all"]["iou"]
    unpaused = {name: iou for name, iou in known.items() if iou is not None}  # None: no pixel of it anywhere
    lines = [row(["class", "`none`", *(f"`{pause}`" for pause in pauses)]), "|---|" + "--:|" * (1 + len(pauses))]
    for name in sorted(unpaused, key=lambda name: points[pauses[-1]].scores["all"]["iou"][name] - unpaused[name]):
        changes = [points[pause].scores["all"]["iou"][name] - unpaused[name] for pause in pauses]
        lines.append(row([name, f"{unpaused[name]:.1f}", *(f"{change:+.1f}" for change in changes)]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--speeds", metavar="FOLDER", help="a sweep whose speed-ups hold for all series")
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.2, 1.4, 1.5, 1.6])
    args = parser.parse_args()
    series = read(args.series)
    if args.speeds:
        series = with_speeds(series, SweepFolder(args.speeds))
    first = next(iter(series.values()))[0]
    print("\n".join(table_1(series)), "\n")
    print("\n".join(mious_at(series, args.speedups)), "\n")
    fastest = [pause for pause in map(PauseConfig.parse, ("5:0.6", "3:0.4,5:0.4,7:0.4")) if pause in first]
    print("\n".join(who_pays(first, fastest)))


if __name__ == "__main__":
    main()
