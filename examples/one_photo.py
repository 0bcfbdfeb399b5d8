"""One photo at three speeds: python examples/one_photo.py photo.jpg --out speeds"""

from __future__ import annotations

import argparse
from pathlib import Path

import paumer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photo")
parser.add_argument("--model", default=str(Path(__file__).parents[1] / "checkpoints" / "camvid-vit-tiny"))
parser.add_argument("--out", default="speeds")
args = parser.parse_args()

predictor = paumer.Predictor(args.model)
for pause in ("none", "5:0.6", "3:0.4,5:0.4,7:0.4"):
    prediction = predictor(args.photo, pause)
    prediction.save(Path(args.out) / f"{pause.replace(':', '_').replace(',', '-')}.png", "figure")
    largest = max(prediction.shares().items(), key=lambda item: item[1])
    running = (prediction.paused_at == 0).mean()
    print(f"{pause}: {100 * running:.0f} % of the patches ran to the end; most of the photo is {largest[0]}")
print(f"look at {args.out}/*.png")
