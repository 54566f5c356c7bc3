import math

import pytest
import torch
import torch.nn.functional as F

from effdet.models.necks.fusion import FUSIONS, FastFusion, FusionNode, SumFusion


def test_fast_fusion_is_the_formula_of_the_paper():
    fusion = FastFusion(3)
    fusion.edge_weights.data = torch.tensor([0.5, -2.0, 1.5])  # the second is cut to 0
    x = [torch.full((1, 1, 1, 1), value) for value in (2.0, 100.0, 4.0)]
    by_hand = (0.5 * 2.0 + 0.0 * 100.0 + 1.5 * 4.0) / (0.5 + 0.0 + 1.5 + 0.0001)
    assert fusion(*x).item() == pytest.approx(by_hand, rel=1e-6)


def test_fast_fusion_stays_finite_when_every_weight_is_negative():
    fusion = FastFusion(2)
    fusion.edge_weights.data.fill_(-1.0)
    assert fusion(torch.ones(1), torch.ones(1)).item() == 0.0


def test_softmax_fusion_is_the_formula_of_the_paper():
    fusion = FUSIONS["softmax"](2)
    fusion.edge_weights.data = torch.tensor([0.0, math.log(3.0)])  # e^0 : e^ln 3 = 1 : 3
    assert fusion(torch.tensor(8.0), torch.tensor(4.0)).item() == pytest.approx(8.0 / 4 + 4.0 * 3 / 4, rel=1e-6)


def test_unbounded_fusion_is_the_formula_of_the_paper():
    fusion = FUSIONS["unbounded"](2)
    fusion.edge_weights.data = torch.tensor([3.0, -2.0])
    assert fusion(torch.tensor(8.0), torch.tensor(4.0)).item() == 3 * 8.0 - 2 * 4.0


@pytest.mark.parametrize(("name", "expected"), [("fast", 2.9999), ("softmax", 3.0), ("unbounded", 9.0), ("sum", 9.0)])
def test_a_new_node_weighs_its_inputs_equally(name, expected):
    fusion = FUSIONS[name](3)
    assert fusion(*torch.tensor([2.0, 3.0, 4.0])).item() == pytest.approx(expected, rel=1e-5)


def test_sum_fusion_has_no_weights_and_adds():
    assert not list(SumFusion().parameters())
    assert SumFusion()(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0)).item() == 7.0


def test_node_fuses_then_activates_then_convolves_then_normalises(randomise):
    node = randomise(FusionNode(4, 2, fusion="fast", activation="silu"))
    a, b = torch.randn(2, 1, 4, 6, 6)
    w = node.fuse.edge_weights.relu()
    fused = (w[0] * a + w[1] * b) / (w.sum() + 1e-4)
    out = F.conv2d(fused * fused.sigmoid(), node.conv.depthwise.weight, padding=1, groups=4)
    out = F.conv2d(out, node.conv.pointwise.weight, node.conv.pointwise.bias)
    mean, var = node.bn.running_mean.view(1, -1, 1, 1), node.bn.running_var.view(1, -1, 1, 1)
    out = (out - mean) / (var + 1e-3).sqrt() * node.bn.weight.view(1, -1, 1, 1) + node.bn.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(node(a, b), out, rtol=1e-4, atol=1e-5)
