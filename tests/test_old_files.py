"""Files of earlier versions still load."""

import zipfile
from pathlib import Path

import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.deployment.load import load as load_detector

FOLDER = Path(__file__).with_name("old_files")
NAMES, IDS = ("cat", "dog"), (17, 18)


def unpacked(name, folder):
    with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder / name


def test_weights_that_name_their_model_load(tmp_path):
    model = EfficientDet.from_pretrained(unpacked("lite0.safetensors", tmp_path))
    assert (model.architecture, model.name) == (Architecture.named("lite0"), "lite0")
    assert (model.class_names, model.category_ids, model.image_size) == (NAMES, IDS, (64, 96))
    assert all(torch.all(parameter == 0.125) for parameter in model.parameters())


def test_an_export_that_names_its_model_runs(tmp_path):
    pytest.importorskip("onnxruntime")
    detector = load_detector(unpacked("lite0.onnx", tmp_path))
    described = detector.description
    assert (described.architecture, described.name) == (Architecture.named("lite0"), "lite0")
    assert (described.class_names, described.category_ids, described.image_size) == (NAMES, IDS, (64, 96))
    model = EfficientDet.from_pretrained(unpacked("lite0.safetensors", tmp_path))
    assert torch.equal(detector.anchors((64, 96)), model.anchors((64, 96), "cpu"))
    assert len(detector.predict(torch.rand(3, 64, 96))) == 1
