"""Fine-tune a shipped checkpoint on your own labelled images, described by a YAML file (see docs/data.md).

python examples/fine_tune.py mydata.yaml --steps 500 --out runs/mine
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paumer.train import TrainConfig, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="YAML file, or scenes")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--crop", type=int, default=352)
parser.add_argument("--out", default="runs/mine")
args = parser.parse_args()

config = TrainConfig(
    out=args.out,
    data=args.data,
    init=str(Path(__file__).parents[1] / "checkpoints" / "camvid-vit-tiny"),
    backbone="deit_tiny_patch16_224",
    crop_size=(args.crop, args.crop),
    optimizer="adamw",
    lr=1e-4,
    steps=args.steps,
    batch_size=4,
    val_every=max(args.steps // 5, 1),
    val_images=50,
    workers=0,
    log_with="none",
)
print(train(config))
