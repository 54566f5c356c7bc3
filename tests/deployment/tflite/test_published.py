"""Published models as ``.tflite``: the raw outputs are those of PyTorch, at several input sizes, on real photos.

A random network amplifies rounding: PyTorch itself is 2.7e-3 of a standard deviation away from the same network in
float64. So the file is compared with float64, and may be as far from it as PyTorch, and half as much again.
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
from effdet.detector.prediction import make_batch
from effdet.images.sources import iterate_images

pytest.importorskip("onnxscript")
pytest.importorskip("ai_edge_litert")

OWN_SIZE = ["lite0", "lite1", "lite2", "lite3", "lite3x", "lite4", "d0", "d1", "d2"]
OTHER_SIZES = [("lite0", size) for size in ((416, 416), (320, 416), (192, 192), (512, 512))]
# In these the coarsest levels have odd sides, where rules for the nearest neighbour differ.
CASES = [(name, None) for name in OWN_SIZE] + OTHER_SIZES

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


@pytest.mark.parametrize(("name", "size"), CASES, ids=lambda value: "x".join(map(str, np.atleast_1d(value))))
def test_raw_outputs_of_published_models(name, size, shared_data, tmp_path):
    photos = list(islice(iterate_images(shared_data / "bccd" / "images"), 2))
    torch.manual_seed(0)
    model = with_statistics_of(photos, EfficientDet(name, 3, image_size=size))
    file = tmp_path / "model.tflite"
    export(model, file, ExportOptions(format="tflite", postprocess=False))

    batch = make_batch(photos[:1], model.letterbox)
    inputs = model.network_input(batch)
    with torch.no_grad():
        single, double = model.network(inputs), model.network.double()(inputs.double())
    detector = effdet.load(file, num_threads=1)
    outputs = detector.runtime.run(detector.network_input(batch).contiguous().numpy())
    for found, name in zip(outputs, ("class_logits", "box_deltas"), strict=True):
        exact = getattr(double, name)
        rounding = (getattr(single, name) - exact).abs().max()
        assert (torch.from_numpy(found) - exact).abs().max() < max(1.5 * rounding, 2e-3 * exact.std())

    graph = Graph(unpack(file.read_bytes()))
    kinds = Counter(graph.kind(operator) for operator in graph.subgraph.operators)
    assert set(kinds) <= ALLOWED, kinds
    assert not any(getattr(op.builtinOptions, "halfPixelCenters", False) for op in graph.subgraph.operators)
