"""The pictures of a run, drawn when it has ended."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from effdet import EfficientDet
from effdet.detector.views import PLAIN
from effdet.runs.data import dataset_of
from effdet.runs.pictures import draw_pictures


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EfficientDet("lite0", 5, image_size=(64, 64)).eval()


@pytest.mark.parametrize("lost", ["first", "all"])
def test_images_that_cannot_be_read_are_not_drawn(model, demo_root, tmp_path, lost):
    root = shutil.copytree(demo_root, tmp_path / "data")
    (tmp_path / "metrics.csv").write_text("epoch,step,loss,class_loss,box_loss,ap,ap50\n1,2,3,2,1,0.5,0.75\n")
    val = dataset_of(root, "val")
    for index in range(len(val) if lost == "all" else 1):
        val.path(index).write_bytes(b"no picture")
    draw_pictures(tmp_path, model, val, PLAIN)
    assert (tmp_path / "curves.png").is_file()
    assert (tmp_path / "predictions.png").is_file() == (lost == "first")
    if lost == "first":
        assert len(np.unique(np.asarray(Image.open(tmp_path / "predictions.png")))) > 50
