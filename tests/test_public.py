from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import paumer

NAMES = {
    "BenchResult",
    "CRITERION_NAMES",
    "EntropyStudy",
    "Front",
    "InferenceConfig",
    "InputError",
    "NO_PAUSE",
    "PAPER_CONFIGS",
    "PauseConfig",
    "Prediction",
    "Predictor",
    "Segmenter",
    "SegmenterConfig",
    "SweepConfig",
    "SweepFolder",
    "TrainConfig",
    "__version__",
    "check_dataset",
    "compile_segmenter",
    "convert_checkpoint",
    "create_dataset",
    "create_model",
}


def test_all_lists_the_public_names():
    assert sorted(paumer.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there(name):
    assert getattr(paumer, name) is not None
    assert name in dir(paumer)


def test_names_are_those_of_their_modules():
    from paumer.model import Segmenter
    from paumer.pause import NO_PAUSE

    assert paumer.Segmenter is Segmenter
    assert paumer.NO_PAUSE is NO_PAUSE


def test_no_public_name_is_that_of_a_module():
    # Importing `paumer.evaluate` puts the module into the package, in the place of a function of that name.
    modules = {path.stem for path in Path(paumer.__file__).parent.iterdir()}
    assert not modules & (NAMES - {"__version__"})


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'paumer' has no attribute 'Segmentor'"):
        _ = paumer.Segmentor


def test_import_paumer_is_cheap():
    heavy = ("torch", "torchvision", "timm", "numpy", "matplotlib", "PIL", "huggingface_hub")
    code = f"import sys, paumer, paumer.pause; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_pause_configs_of_the_package_need_no_torch():
    code = "import sys, paumer; print(paumer.PauseConfig.parse('3:.4'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "3:0.4 False"
