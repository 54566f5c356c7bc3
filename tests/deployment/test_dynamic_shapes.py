"""A graph that was traced at one size equals the network at every size, whatever it resamples with."""

from dataclasses import replace

import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.deployment.onnx_graph import trace_onnx
from effdet.models.published import PUBLISHED

pytest.importorskip("onnxscript")

SIZES = [(128, 128), (96, 160), (65, 200), (130, 31)]
SMALL = {"channels": 24, "neck_repeats": 1, "head_repeats": 1}
RESAMPLED = {
    "nearest": {},
    "bilinear": {"downsampling": "bilinear", "upsampling": "bilinear"},
    "symmetric pool": {"downsampling": "max_symmetric"},
    "zero padding": {"downsampling": "max_zeros"},
}
BILINEAR = [name for name, one in PUBLISHED.items() if "bilinear" in (one.downsampling, one.upsampling)]


def give_statistics(network):
    """Give every BN the statistics of random images; without them, rounding errors grow from layer to layer."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 128, 128))
    network.eval()


def check(architecture, runtimes, sizes):
    torch.manual_seed(0)
    model = EfficientDet(architecture, num_classes=2)
    give_statistics(model.network)
    graph = trace_onnx(model, (128, 128), batch=None, dynamic_size=True).SerializeToString()
    for runtime in runtimes:
        compiled = runtime(graph, num_threads=1)
        for size in sizes:
            images = torch.randn(2, 3, *size)
            with torch.no_grad():
                expected = model.network(images)
            logits, deltas = (torch.from_numpy(output) for output in compiled.run(images.numpy()))
            torch.testing.assert_close(logits, expected.class_logits, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(deltas, expected.box_deltas, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("fields", RESAMPLED.values(), ids=RESAMPLED)
def test_every_resampling_takes_any_size(fields):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    from effdet.deployment.runtimes import OnnxRuntime, OpenVino

    check(replace(Architecture.named("lite0"), **SMALL, **fields), [OnnxRuntime, OpenVino], SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [BILINEAR[0], *(pytest.param(name, marks=pytest.mark.sweep) for name in BILINEAR[1:])])
def test_published_models_that_resample_bilinearly_take_any_size(name):
    pytest.importorskip("onnxruntime")
    from effdet.deployment.runtimes import OnnxRuntime

    check(replace(Architecture.named(name), **SMALL), [OnnxRuntime], SIZES[2:])


def test_the_published_models_that_resample_bilinearly_are_known():
    assert len(BILINEAR) == 5


def test_a_backbone_whose_images_are_padded_has_a_fixed_size():
    from effdet.deployment.export import ExportOptions, describe

    own = replace(Architecture.named("lite0"), backbone="convnext_atto", stochastic_depth=0.0, **SMALL)
    model = EfficientDet(own, 1)
    assert describe(model, ExportOptions(image_size=(70, 90))).image_size == (70, 90)
    with pytest.raises(ValueError, match="size of a file must be fixed for the backbone 'convnext_atto'"):
        describe(model, ExportOptions(dynamic_size=True))
