"""A sweep on disk: what was swept, its times and scores line by line, and the points they join to.

Knows nothing of how anything was measured. Lines are only ever appended, so a sweep that was killed has lost nothing
but the measurement it was at.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paumer.errors import InputError
from paumer.files import make_folder, write_beside, write_text
from paumer.front import FRONT_FILE, Front, Point, skyline
from paumer.pause import NO_PAUSE, PauseConfig

# What may differ when a sweep goes on: the same weights may lie elsewhere, and the load is never the same.
FREE_ON_RESUME = ("model", "load")
SUBSETS = ("search", "all")


@dataclass(frozen=True)
class SweepPoint:
    """One configuration with everything that is known of it.

    Args:
        pause: the configuration.
        seconds: median time of one image.
        speedup: over not pausing, median over rounds in which both were timed; ``speedup_low`` and ``speedup_high`` are
            its quartiles.
        images_per_second: the unpaused model's, median over the whole sweep, times ``speedup``: so that points timed at
            different moments compare.
        gflops: arithmetic of one image in 1e9 FLOP.
        scores: ``{"search": {...}, "all": {...}}``, as far as scored: ``miou``, ``pixel_accuracy``,
            ``mean_accuracy``, ``num_images`` and ``iou`` ``{class name: per cent}``. ``search`` is the fixed part of
            the split that the search was done on.
    """

    pause: PauseConfig
    seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float
    images_per_second: float
    gflops: float
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def miou(self, subset: str = "all") -> float | None:
        return self.scores[subset]["miou"] if subset in self.scores else None

    @property
    def decided(self) -> bool:
        """Whether the difference of the speed-up from 1 is larger than the distance of its quartiles."""
        return self.speedup_high - self.speedup_low <= abs(self.speedup - 1)


class SweepFolder:
    """Files of one sweep.

    ``sweep.json`` (what was swept, under which conditions), ``times.jsonl``, ``scores.jsonl``, ``greedy.json``; made
    from them: ``points.csv`` and ``pareto.json``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # -- what is swept ------------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """Model, data and conditions: ``model, model_id, data, split, num_images, search_images, criterion, inference,
        names, palette, device, device_name, dtype, threads, batch_size, image_size, attention, rounds, versions``.

        Raises:
            InputError: the folder holds no sweep, or its ``sweep.json`` was cut short.
        """
        path = self.path / "sweep.json"
        if not path.is_file():
            raise InputError(f"{self.path} holds no sweep (no sweep.json); make one by  paumer sweep MODEL --data DATA")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["model_id"], values["data"], values["image_size"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a whole description of a sweep; sweep again into another --out") from error
        return values

    def open(self, info: dict[str, Any]) -> None:
        """Makes the folder for a sweep of that description, or goes on with the one in it.

        Raises:
            InputError: the sweep in the folder is of another model, data set or condition.
        """
        info = json.loads(json.dumps(info))  # tuples as the lists that come back
        if (self.path / "sweep.json").is_file():
            old = self.info
            for key in info:
                if key not in FREE_ON_RESUME and old.get(key) != info[key]:
                    raise InputError(
                        f"{self.path} holds a sweep with another {key}: {shorten(old.get(key))} there, "
                        f"{shorten(info[key])} now; give another --out"
                    )
            return
        make_folder(self.path)
        write_text(self.path / "sweep.json", json.dumps(info, indent=2) + "\n")

    # -- measurements -------------------------------------------------------------------------------------------------

    def times(self) -> dict[PauseConfig, dict[str, Any]]:
        """``{configuration: its line of times.jsonl}``."""
        return {PauseConfig.parse(row["pause"]): row for row in self._read("times.jsonl", "speedup")}

    def scores(self, subset: str) -> dict[PauseConfig, dict[str, Any]]:
        """``{configuration: its line of scores.jsonl}`` for ``search`` or ``all``."""
        rows = self._read("scores.jsonl", "miou")
        return {PauseConfig.parse(row["pause"]): row for row in rows if row["subset"] == subset}

    def add_times(self, rows: Sequence[dict[str, Any]]) -> None:
        self._append("times.jsonl", rows)

    def add_score(self, row: dict[str, Any]) -> None:
        self._append("scores.jsonl", [row])

    def _append(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self._mend(name)
        with open(self.path / name, "a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)

    def _mend(self, name: str) -> None:
        """Takes away the half line that a killed sweep may have left."""
        path = self.path / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text and not text.endswith("\n"):
            write_text(path, text[: text.rfind("\n") + 1])

    def _read(self, name: str, key: str) -> list[dict[str, Any]]:
        path = self.path / name
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
        rows = []
        for number, line in enumerate(lines[:-1], start=1):  # behind the last line break: nothing, or half a line
            try:
                row = json.loads(line)
                row[key], PauseConfig.parse(row["pause"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {path} is damaged: delete that line and sweep again into the same folder, "
                    "which measures only what is missing"
                ) from error
            rows.append(row)
        return rows

    @property
    def greedy(self) -> list[dict[str, Any]]:
        """The stages of the greedy search, ``{"fixed", "candidates", "chosen"}`` as texts; empty if there was none."""
        path = self.path / "greedy.json"
        if not path.is_file():
            return []
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} was cut short: delete it and sweep again into the same folder") from error

    def save_greedy(self, stages: list[dict[str, Any]]) -> None:
        write_text(self.path / "greedy.json", json.dumps(stages, indent=2) + "\n")

    # -- what they join to --------------------------------------------------------------------------------------------

    def points(self) -> list[SweepPoint]:
        """Everything that was timed, from slow to fast, with the scores there are."""
        times = self.times()
        scores = {subset: self.scores(subset) for subset in SUBSETS}
        if not times:
            return []
        baseline = statistics.median(row["baseline_seconds"] for row in times.values())
        points = [
            SweepPoint(
                pause,
                row["seconds"],
                row["speedup"],
                row["speedup_low"],
                row["speedup_high"],
                row["speedup"] / baseline,
                row["gflops"],
                {subset: found[pause] for subset, found in scores.items() if pause in found},
            )
            for pause, row in times.items()
        ]
        return sorted(points, key=lambda point: point.images_per_second)

    def scored(self, subset: str = "all") -> list[Point]:
        """The points with a score on ``subset``, as values to choose among."""
        return [
            Point(point.pause, miou, point.images_per_second, point.speedup)
            for point in self.points()
            if (miou := point.miou(subset)) is not None
        ]

    def front(self, subset: str = "all") -> Front:
        """The skyline of what was scored on ``subset``."""
        points = self.scored(subset)
        if not points:
            raise InputError(f"nothing in {self.path} is timed and scored yet: go on with its sweep")
        info = self.info
        first = self.scores(subset)[points[0].pause]
        conditions = {key: value for key, value in info.items() if key not in ("names", "palette")}
        return Front(tuple(skyline(points)), {**conditions, "scored_images": first["num_images"]})

    def write_results(self) -> Front | None:
        """Writes ``points.csv``, and ``pareto.json`` as soon as anything is scored on the whole split."""
        points = self.points()
        front = self.front() if any("all" in point.scores for point in points) else None
        on_front = {point.pause for point in front.points} if front else set()
        unpaused = next((point.miou() for point in points if point.pause == NO_PAUSE), None)
        with write_beside(self.path / "points.csv") as beside, open(beside, "w", newline="", encoding="utf-8") as file:
            rows = [_csv_row(point, unpaused, point.pause in on_front) for point in points]
            writer = csv.DictWriter(file, list(rows[0]) if rows else ["pause"])
            writer.writeheader()
            writer.writerows(rows)
        if front:
            front.save(self.path / FRONT_FILE)
        return front


def _csv_row(point: SweepPoint, unpaused: float | None, on_front: bool) -> dict[str, Any]:
    miou, search = point.miou(), point.miou("search")
    return {
        "pause": str(point.pause),
        "images_per_second": f"{point.images_per_second:.4g}",
        "speedup": f"{point.speedup:.3f}",
        "speedup_low": f"{point.speedup_low:.3f}",
        "speedup_high": f"{point.speedup_high:.3f}",
        "gflops": f"{point.gflops:.4f}",
        "miou": "" if miou is None else f"{miou:.2f}",
        "change": "" if miou is None or unpaused is None else f"{miou - unpaused:+.2f}",
        "search_miou": "" if search is None else f"{search:.2f}",
        "on_front": int(on_front),
    }


def shorten(value: Any) -> str:
    """A value for a sentence: what is long is cut."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
