"""``.tflite`` files: they detect what PyTorch detects, and say what MediaPipe wants to know."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import effdet
from effdet import Architecture, EfficientDet
from effdet.deployment.compare import compare
from effdet.deployment.export import ExportOptions, as_exported, export
from effdet.detector.prediction import make_batch
from effdet.images.reading import read_image
from effdet.ops.settings import PostprocessSettings

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

SIZE = (96, 160)  # odd levels in both directions: 12, 6, 3, 2, 1 and 20, 10, 5, 3, 2 cells


def like_trained(model, photos):
    """Give a random model real statistics in every BN and scores that spread."""
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    images = model.network_input(make_batch(photos, model.letterbox))
    with torch.no_grad():
        model.network.train()(images)
        predictions = model.network.eval()(images)
        model.network.class_head.output_conv.weight.mul_(1.5 / predictions.class_logits.std())
        model.network.box_head.output_conv.weight.mul_(0.2 / predictions.box_deltas.std())
    return model.eval()


@pytest.fixture(scope="module")
def photos(demo_root):
    return [(file.name, read_image(file)) for file in sorted((demo_root / "images").glob("*.jpg"))[:4]]


@pytest.fixture(scope="module")
def model(photos):
    torch.manual_seed(0)
    small = replace(Architecture.named("lite0"), channels=24, neck_repeats=1, head_repeats=1)
    settings = PostprocessSettings(max_detections=30)
    return like_trained(
        EfficientDet(small, 3, image_size=SIZE, class_names=["赤血球", "a\nb", "c"], settings=settings), photos
    )


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("tflite") / "model.tflite"
    export(model, file, ExportOptions(format="tflite"))
    return file


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_file_detects_what_the_model_detects(model, file, photos, threads):
    detector = effdet.load(file, num_threads=threads)
    comparison = compare(as_exported(model, detector.description), detector, photos, min_score=0.001)
    assert comparison.detections >= 100
    assert comparison.max_score_difference < 1e-4
    assert comparison.min_iou > 0.999
    assert detector.class_names == ("赤血球", "a\nb", "c")


def test_raw_outputs_are_those_of_the_network(model, photos, tmp_path):
    export(model, tmp_path / "m.tflite", ExportOptions(format="tflite", postprocess=False))
    detector = effdet.load(tmp_path / "m.tflite")
    batch = make_batch(photos[:1], model.letterbox)
    with torch.no_grad():
        expected = model.network(model.network_input(batch))
    logits, deltas = detector.runtime.run(detector.network_input(batch).contiguous().numpy())
    for ours, theirs in ((logits, expected.class_logits.numpy()), (deltas, expected.box_deltas.numpy())):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.std(), rtol=1e-4)
