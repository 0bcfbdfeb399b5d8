"""As good as the clock allows: python examples/keep_up.py photo.jpg --fps 3

The model folder must hold a front (`paumer sweep` puts it there); the shipped checkpoints do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import paumer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photo")
parser.add_argument("--model", default=str(Path(__file__).parents[1] / "checkpoints" / "camvid-vit-tiny"))
parser.add_argument("--fps", type=float, help="images per second; by default half of what the fastest reaches here")
args = parser.parse_args()

front = paumer.Front.load(Path(args.model) / "pareto.json")
points = paumer.Predictor(args.model).time_front(front)
for point in points:
    print(f"{point.pause!s:30} {point.images_per_second:6.1f} images/s here, mIoU {point.miou:.2f}")
fps = args.fps or 0.5 * max(point.images_per_second for point in points)
predictor = paumer.Predictor(args.model, target_throughput=fps)
print(f"for {fps:.1f} images/s: {predictor.pause}")
print(predictor(args.photo).shares())
