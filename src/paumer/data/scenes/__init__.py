"""Procedural street scenes with CamVid's 11 classes: labelled data that may be shipped, for the demo, the tests and CI.

Knows nothing of models. A seed gives the same bytes on every machine.
"""

from paumer.data.scenes.render import SceneDataset, render_scene
from paumer.data.scenes.stage import (
    BICYCLIST,
    BUILDING,
    CAR,
    FENCE,
    IGNORE,
    MIN_SIDE,
    PAVEMENT,
    PEDESTRIAN,
    POLE,
    ROAD,
    SCENE_CLASSES,
    SCENE_PALETTE,
    SIGN,
    SKY,
    TREE,
)

__all__ = [
    "BICYCLIST",
    "BUILDING",
    "CAR",
    "FENCE",
    "IGNORE",
    "MIN_SIDE",
    "PAVEMENT",
    "PEDESTRIAN",
    "POLE",
    "ROAD",
    "SCENE_CLASSES",
    "SCENE_PALETTE",
    "SIGN",
    "SKY",
    "TREE",
    "SceneDataset",
    "render_scene",
]
