"""The pausing Segmenter."""

from paumer.model.criterion import CRITERIA, CRITERION_NAMES, entropy
from paumer.model.segmenter import Segmenter, SegmenterConfig, SegmenterOutput, create_model, load_strictly
from paumer.model.trace import PauseStep, Trace

__all__ = [
    "CRITERIA",
    "CRITERION_NAMES",
    "PauseStep",
    "Segmenter",
    "SegmenterConfig",
    "SegmenterOutput",
    "Trace",
    "create_model",
    "entropy",
    "load_strictly",
]
