"""PAUMER: segmentation transformers whose certain patches pause. One checkpoint, every speed.

>>> import paumer
>>> prediction = paumer.Predictor("checkpoints/camvid-vit-tiny", pause="5:0.6")("street.jpg")
>>> prediction.plot().save("overlay.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives. They are imported when first used, so that `import paumer` costs no torch. Functions
# with the name of their module (`paumer.train.train`, `evaluate`, `benchmark`, `sweep`) are not here.
_HOMES = {
    "BenchResult": "paumer.benchmark",
    "CRITERION_NAMES": "paumer.model",
    "EntropyStudy": "paumer.entropy_study",
    "Front": "paumer.front",
    "InferenceConfig": "paumer.inference",
    "InputError": "paumer.errors",
    "NO_PAUSE": "paumer.pause",
    "PAPER_CONFIGS": "paumer.pause",
    "PauseConfig": "paumer.pause",
    "Prediction": "paumer.prediction",
    "Predictor": "paumer.predictor",
    "Segmenter": "paumer.model",
    "SegmenterConfig": "paumer.model",
    "SweepConfig": "paumer.sweep",
    "SweepFolder": "paumer.sweep_folder",
    "TrainConfig": "paumer.train",
    "check_dataset": "paumer.data",
    "compile_segmenter": "paumer.model",
    "convert_checkpoint": "paumer.checkpoint",
    "create_dataset": "paumer.data",
    "create_model": "paumer.model",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:  # `as` says to type checkers that the name is public here
    from paumer.benchmark import BenchResult as BenchResult
    from paumer.checkpoint import convert_checkpoint as convert_checkpoint
    from paumer.data import check_dataset as check_dataset
    from paumer.data import create_dataset as create_dataset
    from paumer.entropy_study import EntropyStudy as EntropyStudy
    from paumer.errors import InputError as InputError
    from paumer.front import Front as Front
    from paumer.inference import InferenceConfig as InferenceConfig
    from paumer.model import CRITERION_NAMES as CRITERION_NAMES
    from paumer.model import Segmenter as Segmenter
    from paumer.model import SegmenterConfig as SegmenterConfig
    from paumer.model import compile_segmenter as compile_segmenter
    from paumer.model import create_model as create_model
    from paumer.pause import NO_PAUSE as NO_PAUSE
    from paumer.pause import PAPER_CONFIGS as PAPER_CONFIGS
    from paumer.pause import PauseConfig as PauseConfig
    from paumer.prediction import Prediction as Prediction
    from paumer.predictor import Predictor as Predictor
    from paumer.sweep import SweepConfig as SweepConfig
    from paumer.sweep_folder import SweepFolder as SweepFolder
    from paumer.train import TrainConfig as TrainConfig


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'paumer' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
