"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

# Set before any test imports the libraries that read them; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # sums keep their order, and pytest-xdist workers do not fight for cores


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real photos with COCO annotations that lies beside the project; read only."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data with real photos does not lie beside the project")
    return folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small drawn data set of 16 training and 8 validation images; read only, copy it to change it."""
    from effdet.data.demo import draw_demo

    root = tmp_path_factory.mktemp("demo")
    draw_demo(root, num_train=16, num_val=8, seed=0)
    return root
