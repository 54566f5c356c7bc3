"""MediaPipe Tasks takes our ``.tflite`` files, and ``as_mediapipe`` says what it answers."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet import EfficientDet, load
from effdet.deployment.export import ExportOptions, export
from effdet.deployment.mediapipe import as_mediapipe
from effdet.images.reading import read_image
from effdet.ops.boxes import iou_matrix
from effdet.ops.settings import PostprocessSettings

SIZE = (192, 256)


CLASS_NAMES = {
    "3 classes": ["Zelle „rot“", "weiß", "血小板"],
    "1 class": ["Ελιά"],
    "90 classes": [f"ثمرة {number}" for number in range(90)],
}
KINDS = ["3 classes", *(pytest.param(kind, marks=pytest.mark.sweep) for kind in ("1 class", "90 classes"))]


@pytest.fixture(scope="module", params=KINDS)
def file(request, photo_sets, tmp_path_factory, like_trained) -> Path:
    """A Lite0 with random weights that behave as trained ones: real statistics in every BN, scores that spread."""
    torch.manual_seed(0)
    names = CLASS_NAMES[request.param]
    model = EfficientDet("lite0", len(names), image_size=SIZE, class_names=names)
    photos = [(file.name, read_image(file)) for file in sorted((photo_sets / "bccd" / "images").iterdir())[:8]]
    file = tmp_path_factory.mktemp("mediapipe") / "model.tflite"
    export(like_trained(model, photos), file, ExportOptions(format="tflite"))
    return file


def ask_mediapipe(python: str, file: Path, photos: list[Path]) -> list[list[tuple[str, float, list[int]]]]:
    """Return (class name, score, xyxy box) of every detection of every photo."""
    answers = file.with_suffix(".json")
    script = Path(__file__).with_name("make_mediapipe.py")
    subprocess.run([python, str(script), str(file), str(answers), *map(str, photos)], check=True, capture_output=True)
    return [
        [
            (name, score, [x, y, x + width, y + height])
            for one in found
            for name, score in one["scores"].items()
            for x, y, width, height in [one["box"]]
        ]
        for found in json.loads(answers.read_text())
    ]


def resized(photo_sets: Path, folder: Path, size: tuple[int, int]) -> list[Path]:
    """Write four photos of this (height, width)."""
    files = []
    for photo in sorted((photo_sets / "bccd" / "images").iterdir())[:4]:
        with Image.open(photo) as opened:
            opened.convert("RGB").resize(size[::-1]).save(folder / f"{photo.stem}.png")
        files.append(folder / f"{photo.stem}.png")
    return files


def test_photos_of_the_networks_shape_give_the_same_detections(mediapipe_python, file, photo_sets, tmp_path):
    photos = resized(photo_sets, tmp_path, SIZE)
    ours = as_mediapipe(load(file, num_threads=1)).predict(photos, score_threshold=0.01)
    for found, answers in zip(ours, ask_mediapipe(mediapipe_python, file, photos), strict=True):
        assert len(found) == len(answers) > 20
        rest = list(answers)
        for one in found:
            alike = [other for other in rest if other[0] == one.class_name and abs(other[1] - one.score) < 1e-3]
            assert alike  # several may have nearly one score
            nearest = min(alike, key=lambda other: np.abs(np.subtract(other[2], one.box)).max())
            rest.remove(nearest)
            np.testing.assert_allclose(nearest[2], one.box, atol=2)


def test_photos_of_another_shape_are_emulated(mediapipe_python, shared_data, photo_sets, tmp_path):
    """With trained weights: random ones answer noise of one level with other boxes."""
    model = EfficientDet.from_pretrained(shared_data / "zylo_d0" / "efficientdet-d0.pth")
    model.settings = PostprocessSettings()
    export(model, tmp_path / "d0.tflite", ExportOptions(format="tflite", image_size=(256, 256)))
    photos = sorted((photo_sets / "coco_open" / "images").glob("*.jpg"))[:12]
    detector = load(tmp_path / "d0.tflite", num_threads=1)
    answers = ask_mediapipe(mediapipe_python, tmp_path / "d0.tflite", photos)

    def share(found):
        agree = [
            any(is_like(detection, other) for other in theirs)
            for one, theirs in zip(found, answers, strict=True)
            for detection in one
        ]
        assert len(agree) > 40
        return sum(agree) / len(agree)

    assert share(as_mediapipe(detector).predict(photos, score_threshold=0.1)) > 0.9
    assert share(detector.predict(photos, score_threshold=0.1)) < 0.6


def is_like(detection, answer) -> bool:
    name, score, box = answer
    iou = iou_matrix(torch.tensor([detection.box]), torch.tensor([box], dtype=torch.float32))
    return name == detection.class_name and abs(score - detection.score) < 0.03 and float(iou) > 0.9
