"""What ``as_mediapipe`` does; tests/peer/test_mediapipe.py compares it with MediaPipe."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.commands import main
from effdet.deployment.mediapipe import as_mediapipe, propose_size, whole_pixels
from effdet.images.preprocessing import Preprocessing


def test_boxes_become_whole_pixels_as_mediapipe_reports_them():
    """As MediaPipe 1.2.3 answered: begin and size are each limited to the photo, here 300 wide and 100 high."""
    boxes = torch.tensor([[10.9, 20.2, 30.5, 40.1], [-12.5, 3.0, 27.5, 9.9], [229.1, 52.2, 308.0, 87.3]])
    assert whole_pixels(boxes, (100, 300)).tolist() == [[10, 20, 29, 39], [0, 3, 40, 9], [229, 52, 307, 87]]
    larger = torch.tensor([[-20.0, 30.0, 40.0, 160.0], [5.5, -9.0, 320.0, 101.0], [304.6, 110.0, 309.2, 120.5]])
    assert whole_pixels(larger, (100, 300)).tolist() == [[0, 30, 60, 130], [5, 0, 305, 100], [300, 100, 304, 110]]


@pytest.mark.parametrize(
    ("image_size", "photos", "expected"),
    [
        ((320, 320), [(480, 640)] * 3, (288, 384)),  # √(320² · 4/3) = 370, 384 · 3/4 = 288
        ((320, 320), [(1920, 1080)], (416, 224)),
        ((320, 416), [(480, 640)], None),  # 1.30 and 1.33
        ((320, 320), [(480, 480), (480, 480), (100, 900)], None),  # the median counts
        ((64, 64), [(100, 10000)], (32, 640)),
    ],
)
def test_a_size_with_the_shape_of_the_photos_is_proposed(image_size, photos, expected):
    assert propose_size(image_size, photos) == expected


@pytest.mark.slow
def test_the_export_proposes_a_size(model, photo_sets, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    small = replace(Architecture.named("lite0"), channels=16, neck_repeats=1, head_repeats=1)
    square = EfficientDet(small, 2, image_size=(128, 128)).eval()
    square.save_pretrained(tmp_path / "square.safetensors")
    photos = str(photo_sets / "bccd" / "images")
    command = ["export", "--weights", str(tmp_path / "square.safetensors"), "--format", "tflite", "--check", photos]
    command += ["--tolerance", "1", "0"]  # random weights give many boxes the same score
    assert main(command) == 0
    assert "--size 128 160 has the shape of these photos" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shapes = ["circle", "ring", "rectangle", "star", "triangle"]
    return EfficientDet("lite0", 5, image_size=(64, 96), class_names=shapes).eval()


def test_the_detector_itself_stays_as_it_is(model):
    image = np.random.default_rng(0).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    before = model.predict(image, score_threshold=0.0)[0]
    found = as_mediapipe(model).predict(image, score_threshold=0.0)[0]
    after = model.predict(image, score_threshold=0.0)[0]
    assert (model.preprocessing, model.settings.nms) == (Preprocessing(), "soft")
    assert torch.equal(before.boxes, after.boxes)
    assert torch.equal(found.boxes, found.boxes.round())
    assert not torch.equal(before.boxes, before.boxes.round())


def test_evaluate_answers_as_mediapipe(model, demo_root, tmp_path):
    model.save_pretrained(tmp_path / "model.safetensors")
    command = ["evaluate", "--weights", str(tmp_path / "model.safetensors"), "--data", str(demo_root), "--workers", "0"]
    sides = []
    for more in (["--as", "mediapipe"], []):
        assert main([*command, "--save-results", str(tmp_path / "results.json"), *more]) == 0
        rows = json.loads((tmp_path / "results.json").read_text())
        sides.append([float(side) for row in rows for side in row["bbox"]])
    assert all(side.is_integer() for side in sides[0])
    assert not all(side.is_integer() for side in sides[1])
