"""What a report tells of a sweep: a row for each configuration, the front, and how numbers are written.

Knows nothing of HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10
from typing import Any

from paumer.front import Point, choose_within_drop, knee
from paumer.pause import NO_PAUSE, PAPER_CONFIGS, PauseConfig
from paumer.sweep_folder import SweepFolder, SweepPoint

TIMES, MINUS, UNKNOWN = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
DROPS = (0.5, 1.0, 2.0)  # mIoU points for which the page names the fastest configuration


@dataclass(frozen=True)
class Row:
    """One configuration. ``None`` stands for what was not measured."""

    point: SweepPoint
    miou: float | None  # per cent, on the images of `Results.subset`
    change: float | None  # mIoU points, against not pausing
    limit: float | None  # the speed-up that its arithmetic allows
    on_front: bool

    @property
    def pause(self) -> PauseConfig:
        return self.point.pause

    @property
    def in_paper(self) -> bool:
        return self.pause in PAPER_CONFIGS

    @property
    def reached(self) -> float | None:
        """The share of the limit that the speed-up is."""
        return None if self.limit is None else self.point.speedup / self.limit

    @property
    def times(self) -> str:
        return f"{self.point.speedup:.2f}{TIMES}"

    @property
    def quartiles(self) -> str:
        """Those of the speed-up; nothing for the unpaused model, whose speed-up is 1 by definition."""
        if self.pause == NO_PAUSE:
            return ""
        return f"{self.point.speedup_low:.2f}\N{EN DASH}{self.point.speedup_high:.2f}"

    @property
    def in_noise(self) -> bool:
        """Whether the speed-up cannot be told from none."""
        return self.pause != NO_PAUSE and not self.point.decided


@dataclass(frozen=True)
class Results:
    """A sweep as the page shows it. Rows go from slow to fast, and so does the front."""

    info: dict[str, Any]
    subset: str  # "all", or "search" while nothing is scored on the whole split
    rows: tuple[Row, ...]
    front: tuple[Point, ...]
    greedy: tuple[dict[str, Any], ...]

    @property
    def unpaused(self) -> Row | None:
        """The unpaused model, if it was scored."""
        return next((row for row in self.rows if row.pause == NO_PAUSE and row.miou is not None), None)

    @property
    def knee(self) -> Row:
        return self.row(knee(self.front).pause)

    def row(self, pause: PauseConfig) -> Row:
        return next(row for row in self.rows if row.pause == pause)

    def points(self, subset: str) -> list[Point]:
        """What was scored on ``all`` images or in the ``search``."""
        return [
            Point(row.pause, miou, row.point.images_per_second, row.point.speedup)
            for row in self.rows
            if (miou := row.point.miou(subset)) is not None
        ]

    def within(self, drop: float) -> Row | None:
        """The fastest configuration that loses at most ``drop`` points; None where the unpaused model has no score."""
        if self.unpaused is None:
            return None
        return self.row(choose_within_drop(self.points(self.subset), drop).pause)

    def facts(self, row: Row, subset: str) -> list[str]:
        """Speed and mIoU of a configuration in words, one line each."""
        miou = row.point.miou(subset)
        spread = f" ({row.quartiles})" if row.quartiles else ""
        lines = [f"{three_digits(row.point.images_per_second)} images/s, {row.times}{spread}"]
        if miou is not None:
            reference = self.unpaused.point.miou(subset) if self.unpaused else None
            lines.append(f"mIoU {miou:.2f}" + ("" if reference is None else f" ({signed(miou - reference)})"))
        return lines

    def scored_on(self, subset: str) -> str:
        """The images behind a score in words: ``all 100 images of scenes val``."""
        info = self.info
        count = next(row.point.scores[subset]["num_images"] for row in self.rows if subset in row.point.scores)
        part = f"all {count}" if count == info["num_images"] else f"{count} of the {info['num_images']}"
        return f"{part} images of {info['data']} {info['split']}"


def read_results(folder: SweepFolder) -> Results:
    """Everything a page shows.

    Raises:
        InputError: no sweep in the folder, nothing timed and scored yet, or a file of it that was cut short.
    """
    info, points = folder.info, folder.points()
    subset = "all" if any(point.miou("all") is not None for point in points) else "search"
    front = folder.front(subset).points
    unpaused = next((point for point in points if point.pause == NO_PAUSE), None)
    rows = tuple(_row(point, subset, unpaused, {point.pause for point in front}) for point in points)
    return Results(info, subset, rows, front, tuple(folder.greedy))


def _row(point: SweepPoint, subset: str, unpaused: SweepPoint | None, front: set[PauseConfig]) -> Row:
    miou, reference = point.miou(subset), unpaused.miou(subset) if unpaused else None
    return Row(
        point,
        miou,
        None if miou is None or reference is None else miou - reference,
        unpaused.gflops / point.gflops if unpaused else None,
        point.pause in front,
    )


def signed(value: float, digits: int = 2) -> str:
    """A change with its sign, a real minus: ``+0.11``, ``−1.25``; what rounds to nothing has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def three_digits(value: float) -> str:
    """A positive number with three significant digits and no exponent: ``1234``, ``123``, ``12.3``, ``0.123``."""
    return f"{value:.{max(0, 2 - floor(log10(value)))}f}"


def describe_device(info: dict[str, Any]) -> str:
    """What the times hold for: device, threads, dtype, batch and image size."""
    height, width = info["image_size"]
    threads = f", {info['threads']} threads" if str(info["device"]).startswith("cpu") else ""
    return f"{info['device_name']}{threads}, {info['dtype']}, batch {info['batch_size']}, {width}x{height} pixels"
