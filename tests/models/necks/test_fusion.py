import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from effdet.models.architecture import Fusion
from effdet.models.necks.fusion import FusionNode, SumFusion, WeightedFusion, make_fusion


def test_fast_fusion_is_the_formula_of_the_paper():
    fusion = WeightedFusion(3, "fast")
    fusion.edge_weights.data = torch.tensor([0.5, -2.0, 1.5])  # the second is cut to 0
    x = [torch.full((1, 1, 1, 1), value) for value in (2.0, 100.0, 4.0)]
    by_hand = (0.5 * 2.0 + 0.0 * 100.0 + 1.5 * 4.0) / (0.5 + 0.0 + 1.5 + 0.0001)
    assert fusion(*x).item() == pytest.approx(by_hand, rel=1e-6)


def test_fast_fusion_stays_finite_when_every_weight_is_negative():
    fusion = WeightedFusion(2, "fast")
    fusion.edge_weights.data.fill_(-1.0)
    assert fusion(torch.ones(1), torch.ones(1)).item() == 0.0


def test_softmax_fusion_is_the_formula_of_the_paper():
    fusion = WeightedFusion(2, "softmax")
    fusion.edge_weights.data = torch.tensor([0.0, math.log(3.0)])  # e^0 : e^ln 3 = 1 : 3
    assert fusion(torch.tensor(8.0), torch.tensor(4.0)).item() == pytest.approx(8.0 / 4 + 4.0 * 3 / 4, rel=1e-6)


def test_unbounded_fusion_is_the_formula_of_the_paper():
    fusion = WeightedFusion(2, "unbounded")
    fusion.edge_weights.data = torch.tensor([3.0, -2.0])
    assert fusion(torch.tensor(8.0), torch.tensor(4.0)).item() == 3 * 8.0 - 2 * 4.0


@pytest.mark.parametrize("kind", ["fast", "softmax", "unbounded"])
def test_channel_fusion_is_that_of_one_number_in_every_channel(kind):
    fusion = make_fusion(f"channel_{kind}", 3, channels=4)
    fusion.edge_weights.data = torch.randn(3, 4)
    x = torch.randn(3, 2, 4, 5, 6)
    found = fusion(*x)
    for channel in range(4):
        one = WeightedFusion(3, kind)
        one.edge_weights.data = fusion.edge_weights.data[:, channel]
        torch.testing.assert_close(found[:, channel], one(*x[:, :, channel]))


def test_a_node_with_one_input_has_no_softmax_weight():
    for fusion in get_args(Fusion):
        has_weight = bool(list(make_fusion(fusion, 1, 4).parameters()))
        assert has_weight == (fusion not in ("sum", "softmax", "channel_softmax"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fast", 2.9999),
        ("softmax", 3.0),
        ("unbounded", 9.0),
        ("sum", 9.0),
        ("channel_fast", 2.9999),
        ("channel_softmax", 3.0),
        ("channel_unbounded", 9.0),
    ],
)
def test_a_new_node_weighs_its_inputs_equally(name, expected):
    fusion = make_fusion(name, 3, 1)
    maps = torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1, 1, 1)
    assert fusion(*maps).item() == pytest.approx(expected, rel=1e-5)


def test_sum_fusion_has_no_weights_and_adds():
    assert not list(SumFusion().parameters())
    assert SumFusion()(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0)).item() == 7.0


ACTIVATION_FORMULAS = {
    "silu": lambda x: x / (1 + (-x).exp()),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "relu6": lambda x: torch.where(x > 6, 6.0, torch.where(x > 0, x, 0.0)),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "hardswish": lambda x: x * torch.clamp(x + 3, 0, 6) / 6,  # h-swish, MobileNetV3 §5.2
    "mish": lambda x: x * torch.tanh(torch.log(1 + x.exp())),
}


@pytest.mark.parametrize("order", ["act_conv_bn", "conv_bn_act"])
@pytest.mark.parametrize("activation", ACTIVATION_FORMULAS)
def test_node_is_fusion_convolution_and_bn_with_the_activation_where_it_belongs(randomise, activation, order):
    node = randomise(FusionNode(4, 2, fusion="fast", activation=activation, order=order))
    node.bn.weight.data *= 20  # beyond 6, where ReLU6 is flat
    activate = ACTIVATION_FORMULAS[activation]
    a, b = torch.randn(2, 1, 4, 6, 6) * 5
    w = node.fuse.edge_weights.relu()
    fused = (w[0] * a + w[1] * b) / (w.sum() + 1e-4)
    out = F.conv2d(
        activate(fused) if order == "act_conv_bn" else fused, node.conv.depthwise.weight, padding=1, groups=4
    )
    out = F.conv2d(out, node.conv.pointwise.weight, node.conv.pointwise.bias)
    mean, var = node.bn.running_mean.view(1, -1, 1, 1), node.bn.running_var.view(1, -1, 1, 1)
    out = (out - mean) / (var + 1e-3).sqrt() * node.bn.weight.view(1, -1, 1, 1) + node.bn.bias.view(1, -1, 1, 1)
    out = activate(out) if order == "conv_bn_act" else out
    torch.testing.assert_close(node(a, b), out, rtol=1e-4, atol=1e-4)
