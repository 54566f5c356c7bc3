import pytest
import torch
import torch.nn.functional as F

from effdet.models.layers import downsample, upsample
from effdet.models.necks import BiFPN, BiFPNLayer, FastFusion, FusionNode, SumFusion


def randomise(module):
    """Give every tensor of the module a value that matters, BN statistics included."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + (1.0 if "var" in name else 0.0))
            if "var" in name or "edge_weights" in name:
                tensor.data.abs_()  # a variance is positive, and a negative edge weight would cut its edge
    return module.eval()


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


def test_sum_fusion_has_no_weights_and_adds():
    assert not list(SumFusion().parameters())
    assert SumFusion()(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0)).item() == 7.0


def test_node_fuses_then_activates_then_convolves_then_normalises():
    node = randomise(FusionNode(4, 2, weighted=True, activation="silu"))
    a, b = torch.randn(2, 1, 4, 6, 6)
    w = node.fuse.edge_weights.relu()
    fused = (w[0] * a + w[1] * b) / (w.sum() + 1e-4)
    out = F.conv2d(fused * fused.sigmoid(), node.conv.depthwise.weight, padding=1, groups=4)
    out = F.conv2d(out, node.conv.pointwise.weight, node.conv.pointwise.bias)
    mean, var = node.bn.running_mean.view(1, -1, 1, 1), node.bn.running_var.view(1, -1, 1, 1)
    out = (out - mean) / (var + 1e-3).sqrt() * node.bn.weight.view(1, -1, 1, 1) + node.bn.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(node(a, b), out, rtol=1e-4, atol=1e-5)


# The published node list for P3–P7: each node's level and its inputs; 0–4 are the inputs P3–P7, 5 the first node, ….
PUBLISHED_NODES = [
    (6, (3, 4)),
    (5, (2, 5)),
    (4, (1, 6)),
    (3, (0, 7)),
    (4, (1, 7, 8)),
    (5, (2, 6, 9)),
    (6, (3, 5, 10)),
    (7, (4, 11)),
]


@pytest.mark.parametrize(
    "sizes", [[(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)], [(19, 23), (10, 12), (5, 6), (3, 3), (2, 2)]]
)
def test_layer_follows_the_published_node_list(sizes):
    layer = randomise(BiFPNLayer(4, 5, weighted=True, activation="silu"))
    inputs = [torch.randn(1, 4, *size) for size in sizes]
    nodes = [*layer.top_down, *layer.bottom_up, layer.coarsest]

    values, levels = list(inputs), [3, 4, 5, 6, 7]
    for (level, sources), node in zip(PUBLISHED_NODES, nodes, strict=True):
        size = inputs[level - 3].shape[-2:]
        moved = []
        for source in sources:
            if levels[source] > level:
                moved.append(upsample(values[source], size))
            elif levels[source] < level:
                moved.append(downsample(values[source]))
            else:
                moved.append(values[source])
        values.append(node(*moved))
        levels.append(level)
    expected = [values[max(i for i, at in enumerate(levels) if at == level)] for level in range(3, 8)]

    for ours, theirs in zip(layer(inputs, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_first_layer_has_a_second_lateral_for_c4_and_c5_but_not_for_c3():
    neck = BiFPN([8, 12, 16], 4, 2)
    assert [lateral.conv.in_channels for lateral in neck.input_laterals] == [8, 12, 16]
    assert [lateral.conv.in_channels for lateral in neck.skip_laterals] == [12, 16]


def test_second_lateral_feeds_only_the_bottom_up_edges():
    neck = randomise(BiFPN([8, 12, 16], 4, 1))
    features = [torch.randn(1, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    before = neck(features)
    neck.skip_laterals[0].conv.bias.data += 1.0
    changed = [not torch.equal(a, b) for a, b in zip(before, neck(features), strict=True)]
    assert changed[:2] == [False, True]  # P3, which hears from every top-down node, does not hear of it


@pytest.mark.parametrize("max_level", [7, 8])
def test_coarse_levels_are_pooled_from_c5(max_level):
    neck = BiFPN([8, 12, 16], 4, 1, max_level=max_level)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 64), (12, 32), (16, 16)]]
    sides = [level.shape[-1] for level in neck(features)]
    assert sides == [64, 32, 16, 8, 4, 2][: max_level - 2]


def test_gradient_checkpointing_changes_no_gradient():
    neck = BiFPN([8, 12, 16], 4, 2)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    gradients = []
    for neck.gradient_checkpointing in (False, True):
        neck.zero_grad()
        sum(level.square().sum() for level in neck(features)).backward()
        gradients.append([p.grad.clone() for p in neck.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
