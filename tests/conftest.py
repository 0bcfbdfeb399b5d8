"""Fixtures that every test may use: real samples where they are at hand, a tiny data set and a tiny model where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]

# Two threads on two cores make tiny tensors slower, and results then depend on the machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos, labels and pretrained weights beside the repository; what needs them skips where they are absent."""
    folder = Path(os.environ.get("PAUMER_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the repository (set PAUMER_SHARED to the folder that holds data/)")
    return folder
