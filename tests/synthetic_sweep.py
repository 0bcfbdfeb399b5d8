"""A sweep folder with made-up numbers that several tests share: what a report says can be worked out by hand.

Knows nothing of what is tested with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paumer.sweep_folder import SweepFolder

NAMES = ("sky", "road", "pole")
PALETTE = ((70, 130, 180), (128, 64, 128), (200, 200, 120))
BASELINE = 0.1  # seconds of the unpaused model

# (pause, speed-up, half the distance of its quartiles, GFLOP, IoU of sky, road and pole)
NUMBERS: tuple[tuple[str, float, float, float, tuple[float | None, ...]], ...] = (
    ("none", 1.0, 0.0, 8.0, (90.0, 80.0, 40.0)),
    ("5:0.2", 1.02, 0.05, 7.0, (90.5, 79.6, 40.1)),
    ("3:0.2", 1.1, 0.02, 6.4, (89.0, 79.0, 39.0)),
    ("5:0.6", 1.25, 0.02, 5.0, (89.8, 79.9, 38.9)),
    ("4:0.5", 1.3, 0.02, 4.9, (88.0, 78.0, 37.0)),
    ("3:0.4,5:0.4", 1.4, 0.03, 4.0, (89.5, 79.5, 37.4)),
    ("3:0.6,5:0.5", 1.6, 0.03, 3.2, (90.2, 70.0, 22.8)),
)


def make_sweep(
    path: Path,
    numbers: Sequence[tuple[str, float, float, float, tuple[float | None, ...]]] = NUMBERS,
    *,
    subsets: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] = NAMES,
    **info: Any,
) -> SweepFolder:
    """Writes the folder. ``subsets`` says which configurations are scored on ``all`` and in the ``search``."""
    folder = SweepFolder(path)
    folder.open(sweep_info(names, **info))
    folder.add_times(
        [
            {
                "pause": pause,
                "seconds": BASELINE / speedup,
                "baseline_seconds": BASELINE,
                "speedup": speedup,
                "speedup_low": speedup - half,
                "speedup_high": speedup + half,
                "gflops": gflops,
            }
            for pause, speedup, half, gflops, _ in numbers
        ]
    )
    for subset, pauses in (subsets or {"all": [row[0] for row in numbers]}).items():
        for pause, *_, iou in numbers:
            if pause in pauses:
                folder.add_score(score_row(pause, subset, dict(zip(names, iou, strict=True))))
    return folder


def score_row(pause: str, subset: str, iou: Mapping[str, float | None]) -> dict[str, Any]:
    known = [value for value in iou.values() if value is not None]
    return {
        "pause": pause,
        "subset": subset,
        "num_images": {"all": 50, "search": 10}[subset],
        "miou": sum(known) / len(known),
        "pixel_accuracy": 90.0,
        "mean_accuracy": 80.0,
        "iou": dict(iou),
    }


def sweep_info(names: Sequence[str], **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "format": 1,
        "model": "models/tiny",
        "data": "scenes",
        "split": "val",
        "model_id": "0123456789abcdef",
        "num_images": 50,
        "search_images": 10,
        "criterion": "entropy",
        "seed": 0,
        "inference": {
            "mode": "whole",
            "crop_size": None,
            "stride": None,
            "scales": [1.0],
            "flip": False,
            "base_size": None,
            "window_batch": 1,
        },
        "names": list(names),
        "palette": [list(PALETTE[place % len(PALETTE)]) for place in range(len(names))],
        "device": "cpu",
        "device_name": "Test CPU",
        "threads": 2,
        "load": 0.1,
        "versions": {"paumer": "0.1.0", "torch": "2.14.1"},
        "dtype": "float32",
        "attention": "auto",
        "output": "mask",
        "batch_size": 1,
        "image_size": [48, 64],
        "rounds": 7,
    }
    return {**values, **changes}
