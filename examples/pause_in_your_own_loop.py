"""The model as a torch module: logits, and the trace of what paused where, from one forward pass."""

from __future__ import annotations

from pathlib import Path

import torch

import paumer
from paumer.data import create_dataset

model = paumer.Segmenter.from_pretrained(Path(__file__).parents[1] / "checkpoints" / "scenes-vit-tiny")
samples = create_dataset("scenes", "val", num_images=2)
images = torch.stack([samples[0].image, samples[1].image])  # (2, 3, H, W) uint8, not normalised

with torch.inference_mode():
    output = model(images, "3:0.4,5:0.4")
print("logits", tuple(output.logits.shape))
for step in output.trace.steps:
    print(f"after layer {step.layer}: {len(step.paused)} of {len(step.index)} running patches pause")
layers, counts = output.trace.paused_at().unique(return_counts=True)
for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
    print(f"{count} patches paused after layer {layer}" if layer else f"{count} patches ran to the end")
