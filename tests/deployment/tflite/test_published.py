"""Published models as ``.tflite``: the raw outputs are those of PyTorch, at several input sizes, on real photos.

A random network amplifies rounding: PyTorch itself is up to 2.7e-3 of a standard deviation away from the same network
in float64. Files are compared with float64. Those with squeeze-and-excite sum whole maps in float32, which a random
network amplifies to 7e-3; a trained D0 is within 2e-6. A wrong rule for the nearest neighbour gives 1 or more.
"""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

import effdet
from effdet import EfficientDet
from effdet.deployment.export import ExportOptions, export
from effdet.deployment.tflite.graph import Graph, unpack
from effdet.detector.batches import make_batch
from effdet.images.sources import iterate_images

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

LITE, WITH_SE = ["lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"], ["d0", "d1", "d2"]
# At 320, 416 and 192 the coarsest levels have odd sides, where rules for the nearest neighbour differ.
OTHER_SIZES = [("lite0", size) for size in ((416, 416), (320, 416), (192, 192), (512, 512))]
EACH_TIME = [("lite0", None), ("lite4", None), ("d2", None), *OTHER_SIZES]
REST = [(name, None) for name in LITE + WITH_SE if (name, None) not in EACH_TIME]
CASES = EACH_TIME + [pytest.param(*case, marks=pytest.mark.sweep) for case in REST]

ALLOWED = {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "MEAN", "SUM", "LOGISTIC", "MAX_POOL_2D", "CONCATENATION"}
ALLOWED |= {"RESIZE_NEAREST_NEIGHBOR", "RESHAPE", "PADV2", "PAD", "SUB", "RELU6"}


def with_statistics_of(photos, model):
    """Give a random model the BN statistics of photos: without them, signals die on the way and hide mistakes."""
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.network.train()(model.network_input(make_batch(photos, model.letterbox)))
    return model.eval()


def first_photos(folder, count):
    return list(islice(iterate_images(folder / "images"), count))


def raw_outputs(model, photo, file):
    """Return what a file without NMS gives, and the same of PyTorch in float32 and in float64."""
    export(model, file, ExportOptions(format="tflite", postprocess=False))
    batch = make_batch([photo], model.letterbox)
    inputs = model.network_input(batch)
    with torch.no_grad():
        single, double = model.network(inputs), model.network.double()(inputs.double())
    detector = effdet.load(file, num_threads=1)
    found = detector.runtime.run(np.ascontiguousarray(detector.network_input(batch)))
    return zip(map(torch.from_numpy, found), *((p.class_logits, p.box_deltas) for p in (single, double)), strict=True)


@pytest.mark.parametrize(("name", "size"), CASES, ids=lambda value: "x".join(map(str, np.atleast_1d(value))))
def test_raw_outputs_of_published_models(name, size, shared_data, tmp_path):
    photos = first_photos(shared_data / "bccd", 2)
    torch.manual_seed(0)
    model = with_statistics_of(photos, EfficientDet(name, 3, image_size=size))
    file = tmp_path / "model.tflite"
    least = 2e-2 if name in WITH_SE else 2e-3
    for found, single, exact in raw_outputs(model, photos[0], file):
        rounding = (single - exact).abs().max()
        assert (found - exact).abs().max() < max(1.5 * rounding, least * exact.std())

    graph = Graph(unpack(file.read_bytes()))
    kinds = Counter(graph.kind(operator) for operator in graph.subgraph.operators)
    assert set(kinds) <= ALLOWED, kinds
    assert not any(getattr(op.builtinOptions, "halfPixelCenters", False) for op in graph.subgraph.operators)


def test_raw_outputs_of_a_trained_d0(shared_data, tmp_path):
    model = EfficientDet.from_pretrained(shared_data / "zylo_d0" / "efficientdet-d0.pth").eval()
    (photo,) = first_photos(shared_data / "coco_open", 1)
    for found, _, exact in raw_outputs(model, photo, tmp_path / "model.tflite"):
        assert (found - exact).abs().max() < 1e-4 * exact.std()
