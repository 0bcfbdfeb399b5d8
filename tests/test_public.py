from __future__ import annotations

import os
import subprocess
import sys

import pytest

import paumer

NAMES = {
    "Segmenter",
    "SegmenterConfig",
    "create_model",
    "PauseConfig",
    "NO_PAUSE",
    "PAPER_CONFIGS",
    "Predictor",
    "Prediction",
    "evaluate",
    "InferenceConfig",
    "create_dataset",
    "__version__",
}


def test_all_lists_the_public_names():
    assert set(paumer.__all__) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there(name):
    assert getattr(paumer, name) is not None
    assert name in dir(paumer)


def test_names_are_those_of_their_modules():
    from paumer.evaluate import evaluate
    from paumer.model import Segmenter
    from paumer.pause import NO_PAUSE

    assert paumer.Segmenter is Segmenter
    assert paumer.NO_PAUSE is NO_PAUSE
    # `paumer.evaluate` is a module as well, and importing it puts the module into the package.
    assert paumer.evaluate is evaluate


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
