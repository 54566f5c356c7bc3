"""Detectors of every kind become ``.tflite`` files: 1 and 90 classes, any script and shape, narrowed networks."""

import zipfile
from dataclasses import replace

import pytest
import torch

import effdet
from effdet import Architecture, EfficientDet
from effdet.adaptation.truncation import truncate
from effdet.adaptation.widths import narrowed_uniformly
from effdet.deployment.export import ExportOptions, as_exported, export
from effdet.deployment.tflite.graph import Graph, unpack
from effdet.deployment.tflite.nms import find_operator, options_of
from effdet.models.backbone_blocks import written_out
from effdet.ops.boxes import iou_matrix

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

SMALL = replace(Architecture.named("lite0"), channels=24, neck_repeats=1, head_repeats=1)
SCRIPTS = ["Ελιά", "ثمرة الزيتون", "オリーブ", "जैतून", "маслина", "ol­ive 🫒"]


def narrowed(model):
    """Return the model with its backbone block by block, four fifths as wide everywhere."""
    return truncate(model, narrowed_uniformly(written_out(model.architecture), 0.8))


KINDS = {
    "90 classes of many scripts, wide": {
        "num_classes": 90,
        "image_size": (64, 224),
        "class_names": [f"{SCRIPTS[label % len(SCRIPTS)]} {label}" for label in range(90)],
        "category_ids": [number for number in range(1, 104) if number % 8][:90],  # with gaps, as COCO's
    },
    "1 class, tall, narrowed": {"num_classes": 1, "image_size": (160, 96), "class_names": ["Ελιά"]},
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, cell_photos, like_trained, tmp_path_factory):
    """A model of a kind, and its file."""
    torch.manual_seed(0)
    model = like_trained(EfficientDet(SMALL, **KINDS[request.param]), cell_photos[:4])
    if "narrowed" in request.param:
        model = like_trained(narrowed(model), cell_photos[:4])
    file = tmp_path_factory.mktemp("kinds") / "model.tflite"
    export(model, file, ExportOptions(format="tflite"))
    return model, file


@pytest.fixture(scope="module")
def found(pair, cell_photos):
    """What PyTorch and the file detect on each photo."""
    model, file = pair
    detector = effdet.load(file, num_threads=1)
    photos = [image for _, image in cell_photos]
    twin = as_exported(model, detector.description)
    return [
        (twin.predict(photo, score_threshold=0.02)[0], detector.predict(photo, score_threshold=0.02)[0])
        for photo in photos
    ]


def test_a_file_detects_what_the_model_detects(found):
    """Rounding decides which of two boxes with nearly one score NMS keeps: one in fifty may differ."""
    agree = [
        bool(((iou_matrix(own.boxes, other.boxes) > 0.999) & alike(own, other)).any(1)[row])
        for own, other in found
        for row in range(len(own))
    ]
    assert len(agree) > 100
    assert sum(agree) >= 0.98 * len(agree)
    assert sum(len(own) for own, _ in found) == pytest.approx(sum(len(other) for _, other in found), rel=0.01)


def alike(own, other):
    """Return whether label and score are one, for each pair (D, D')."""
    return (own.labels[:, None] == other.labels) & ((own.scores[:, None] - other.scores).abs() < 1e-4)


def test_every_class_can_be_found(pair, found):
    """NMS inside the file looks at each class, also at the last of ninety."""
    own, other = ({label for two in found for label in two[side].labels.tolist()} for side in (0, 1))
    assert own == other
    assert max(other) > 0.8 * (pair[0].num_classes - 1) - 1


def test_a_file_says_what_the_model_says(pair):
    model, file = pair
    detector = effdet.load(file, num_threads=1)
    for name in ("class_names", "category_ids", "image_size"):
        assert getattr(detector, name) == getattr(model, name)
    assert detector.description.architecture == model.architecture
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(model.class_names)
    operator = find_operator(Graph(unpack(file.read_bytes())).model)
    assert options_of(operator)["num_classes"] == model.num_classes
