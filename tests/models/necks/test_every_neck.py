"""Every neck with every fusion: what all of them must do."""

import copy
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.kernels.blocks import FusedNode, fuse_for_training
from effdet.kernels.library import load_kernels
from effdet.models.architecture import Fusion, Neck
from effdet.models.necks.pyramid import LAYERS, FeaturePyramid, bifpn_kind

BIFPNS = {
    "bifpn without skips": bifpn_kind(skip_edges=False, single_input_nodes=False),
    "bifpn with ends": bifpn_kind(skip_edges=True, single_input_nodes=True),
    "bifpn as pan": bifpn_kind(skip_edges=False, single_input_nodes=True),
}
KINDS = LAYERS | BIFPNS
ODD = [(8, (19, 23)), (12, (10, 12)), (16, (5, 6))]  # channels and size of C3, C4, C5

SMALL = Architecture(
    backbone="mobilenetv3_small_050",
    image_size=(96, 64),
    channels=8,
    neck_repeats=2,
    head_repeats=1,
    stochastic_depth=0.0,
    max_level=6,
)
PAIRS: list[tuple[Neck, Fusion]] = [
    ("bifpn", "fast"),
    ("fpn", "softmax"),
    ("pan", "unbounded"),
    ("nas_fpn", "sum"),
    ("full", "channel_fast"),
    ("quad", "channel_softmax"),
    ("nas_fpn", "channel_unbounded"),
]


def small(neck: Neck, fusion: Fusion) -> Architecture:
    return replace(SMALL, neck=neck, fusion=fusion, min_level=2 if neck == "nas_fpn" else 3)


@pytest.mark.parametrize(("kind", "fusion"), list(product(KINDS, get_args(Fusion))))
def test_every_parameter_gets_a_gradient_at_odd_sizes(kind, fusion):
    torch.manual_seed(0)
    neck = FeaturePyramid([8, 12, 16], 4, 2, kind=KINDS[kind], fusion=fusion)
    pyramid = neck([torch.randn(2, c, *size) for c, size in ODD])
    assert [tuple(x.shape[-2:]) for x in pyramid] == [(19, 23), (10, 12), (5, 6), (3, 3), (2, 2)]
    sum((x - torch.randn_like(x)).square().sum() for x in pyramid).backward()
    without = [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()]
    # A BN takes out what a factor or a bias before it does, so only rounding is left of their gradients.
    assert [name for name in without if not name.endswith(("conv.bias", "pointwise.bias"))] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nas_fpn"])  # its graph joins five levels
@pytest.mark.parametrize(("channels", "max_level"), [((6, 8, 12, 16), 8), ((8, 12, 16), 8), ((16,), 6)])
def test_levels_from_two_to_eight(kind, channels, max_level):
    num_levels = len(channels) + max_level - 5
    sides = [2 ** (max_level - 6 + len(channels) - i) for i in range(num_levels)]
    neck = FeaturePyramid(channels, 4, 2, kind=KINDS[kind], max_level=max_level).eval()
    levels = neck([torch.randn(1, c, side, side) for c, side in zip(channels, sides, strict=False)])
    assert [x.shape[-1] for x in levels] == sides


@pytest.mark.parametrize("kind", KINDS)
def test_fused_nodes_give_the_same_gradients(kind):
    if load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    torch.manual_seed(0)
    neck = FeaturePyramid([8, 12, 16], 8, 2, kind=KINDS[kind], order="conv_bn_act" if kind == "full" else "act_conv_bn")
    fused = copy.deepcopy(neck)
    for module in fused.modules():
        if type(module).__name__ == "FusionNode":
            module.__class__ = FusedNode
    features = [torch.randn(2, c, *size) for c, size in ODD]
    for each in (neck, fused):
        sum(x.square().mean() for x in each(features)).backward()
    torch.testing.assert_close(
        [p.grad for p in fused.parameters()], [p.grad for p in neck.parameters()], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(("neck", "fusion"), PAIRS)
def test_a_detector_with_it_trains_a_step_and_is_saved_and_loaded(neck, fusion, tmp_path):
    torch.manual_seed(0)
    model = EfficientDet(small(neck, fusion), 2)
    fuse_for_training(model.network)
    model.network.set_gradient_checkpointing()
    images = list(torch.rand(2, 3, 90, 61))
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 30.0]]), "labels": torch.tensor([1])}] * 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = copy.deepcopy(model.network.neck.state_dict())
    sum(model.train()(images, targets).values()).backward()
    optimizer.step()
    after = model.network.neck.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    model.eval().save_pretrained(tmp_path / "own.safetensors")
    again = EfficientDet.from_pretrained(tmp_path / "own.safetensors")
    assert again.architecture == small(neck, fusion)
    x = torch.rand(1, 3, 96, 64)
    torch.testing.assert_close(again.network(x).class_logits, model.eval().network(x).class_logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("neck", "fusion"), [*PAIRS[2:4], *(pytest.param(*p, marks=pytest.mark.sweep) for p in PAIRS[:2] + PAIRS[4:])]
)
def test_its_onnx_file_gives_the_same_detections(neck, fusion, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from effdet.deployment.export import ExportOptions, export
    from effdet.deployment.load import load

    torch.manual_seed(0)
    model = EfficientDet(replace(small(neck, fusion), neck_repeats=1), 2).eval()
    for name, parameter in model.network.neck.named_parameters():
        if "edge_weights" in name:
            parameter.data.uniform_(0.5, 2.0)
    export(model, tmp_path / "own.onnx", ExportOptions(format="onnx"))
    image = torch.rand(3, 90, 61)
    (ours,), (theirs,) = (each.predict(image, score_threshold=0.0) for each in (model, load(tmp_path / "own.onnx")))
    torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=1e-3, atol=1e-4)
