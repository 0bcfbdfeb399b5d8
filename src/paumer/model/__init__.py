"""The pausing Segmenter."""

from paumer.model.compiled import COMPILE_MODES, compile_segmenter
from paumer.model.criterion import CRITERIA, CRITERION_NAMES, entropy
from paumer.model.segmenter import (
    Segmentation,
    Segmenter,
    SegmenterConfig,
    SegmenterOutput,
    create_model,
    load_strictly,
)
from paumer.model.trace import PauseStep, Trace

__all__ = [
    "COMPILE_MODES",
    "CRITERIA",
    "CRITERION_NAMES",
    "PauseStep",
    "Segmentation",
    "Segmenter",
    "SegmenterConfig",
    "SegmenterOutput",
    "Trace",
    "compile_segmenter",
    "create_model",
    "entropy",
    "load_strictly",
]
