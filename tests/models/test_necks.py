import pytest
import torch
import torch.nn.functional as F

from effdet.models.layers import Resampling, downsample_bilinear, upsample_bilinear
from effdet.models.necks import (
    LAYERS,
    BiFPNLayer,
    FastFusion,
    FeaturePyramid,
    FusionNode,
    PANLayer,
    QuadLayer,
    SumFusion,
)


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
    node = randomise(FusionNode(4, 2, fusion="fast", activation="silu"))
    a, b = torch.randn(2, 1, 4, 6, 6)
    w = node.fuse.edge_weights.relu()
    fused = (w[0] * a + w[1] * b) / (w.sum() + 1e-4)
    out = F.conv2d(fused * fused.sigmoid(), node.conv.depthwise.weight, padding=1, groups=4)
    out = F.conv2d(out, node.conv.pointwise.weight, node.conv.pointwise.bias)
    mean, var = node.bn.running_mean.view(1, -1, 1, 1), node.bn.running_var.view(1, -1, 1, 1)
    out = (out - mean) / (var + 1e-3).sqrt() * node.bn.weight.view(1, -1, 1, 1) + node.bn.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(node(a, b), out, rtol=1e-4, atol=1e-5)


def make_node(num_inputs):
    return FusionNode(4, num_inputs, fusion="fast", activation="silu")


# Published node lists for P3–P7: each node's level and its inputs; 0–4 are the inputs P3–P7, 5 the first node, ….
BIFPN = [
    (6, (3, 4)),
    (5, (2, 5)),
    (4, (1, 6)),
    (3, (0, 7)),
    (4, (1, 7, 8)),
    (5, (2, 6, 9)),
    (6, (3, 5, 10)),
    (7, (4, 11)),
]
PAN = [
    *[(7, (4,)), (6, (3, 5)), (5, (2, 6)), (4, (1, 7)), (3, (0, 8))],
    *[(3, (9,)), (4, (8, 10)), (5, (7, 11)), (6, (6, 12)), (7, (5, 13))],
]
QUAD = [
    *BIFPN,
    *[(4, (1, 0)), (5, (2, 13)), (6, (3, 14)), (7, (4, 15))],
    *[(6, (3, 15, 16)), (5, (2, 14, 17)), (4, (1, 13, 18)), (3, (0, 19))],
    *[(3, (8, 20)), (4, (9, 19)), (5, (10, 18)), (6, (11, 17)), (7, (12, 16))],
]


def bifpn_nodes(layer):
    return [*layer.top_down, *layer.bottom_up, layer.coarsest]


def quad_nodes(layer):
    mirror = layer.mirror
    return [*bifpn_nodes(layer.upright), *mirror.bottom_up, *mirror.top_down, mirror.finest, *layer.join]


def pan_nodes(layer):
    return [*layer.top_down, *layer.bottom_up]


def run_node_list(nodes, published, inputs, resampling):
    values, levels = list(inputs), [3, 4, 5, 6, 7]
    for (level, sources), node in zip(published, nodes, strict=True):
        size = inputs[level - 3].shape[-2:]
        moved = []
        for source in sources:
            if levels[source] > level:
                moved.append(resampling.up(values[source], size))
            elif levels[source] < level:
                moved.append(resampling.down(values[source]))
            else:
                moved.append(values[source])
        values.append(node(*moved))
        levels.append(level)
    return [values[max(i for i, at in enumerate(levels) if at == level)] for level in range(3, 8)]


@pytest.mark.parametrize(
    "sizes", [[(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)], [(19, 23), (10, 12), (5, 6), (3, 3), (2, 2)]]
)
@pytest.mark.parametrize("resampling", [Resampling(), Resampling(downsample_bilinear, upsample_bilinear)])
@pytest.mark.parametrize(
    ("make_layer", "nodes", "published"),
    [(BiFPNLayer, bifpn_nodes, BIFPN), (QuadLayer, quad_nodes, QUAD), (PANLayer, pan_nodes, PAN)],
)
def test_layers_follow_the_published_node_lists(make_layer, nodes, published, sizes, resampling):
    layer = randomise(make_layer(5, make_node, resampling))
    inputs = [torch.randn(1, 4, *size) for size in sizes]
    ours = layer(*[inputs] * len(layer.ENTRANCES))
    expected = run_node_list(nodes(layer), published, inputs, resampling)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_first_layer_has_a_second_lateral_for_c4_and_c5_but_not_for_c3():
    neck = FeaturePyramid([8, 12, 16], 4, 2)
    assert [lateral.conv.in_channels for lateral in neck.input_laterals] == [8, 12, 16]
    assert [lateral.conv.in_channels for lateral in neck.skip_laterals] == [12, 16]


def test_second_lateral_feeds_only_the_bottom_up_edges():
    neck = randomise(FeaturePyramid([8, 12, 16], 4, 1))
    features = [torch.randn(1, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    before = neck(features)
    neck.skip_laterals[0].conv.bias.data += 1.0
    changed = [not torch.equal(a, b) for a, b in zip(before, neck(features), strict=True)]
    assert changed[:2] == [False, True]  # P3, which hears from every top-down node, does not hear of it


def test_every_edge_from_the_backbone_has_a_lateral_of_its_own():
    features = [torch.randn(1, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    for kind, count in [("bifpn", 5), ("quad", 11), ("pan", 3)]:
        neck = randomise(FeaturePyramid([8, 12, 16], 4, 1, kind=kind))
        laterals = [m for name in neck.entrances for m in getattr(neck, name)]
        assert len(laterals) == count
        before = neck(features)
        for lateral in laterals:  # each is heard
            lateral.bn.bias.data += 1.0
            assert any(not torch.equal(a, b) for a, b in zip(before, neck(features), strict=True))
            lateral.bn.bias.data -= 1.0


def test_a_level_that_has_the_necks_width_enters_as_it_is():
    neck = randomise(FeaturePyramid([8, 4, 16], 4, 1))
    assert not list(neck.input_laterals[1].parameters())
    assert not list(neck.skip_laterals[0].parameters())
    assert len(neck([torch.randn(1, c, s, s) for c, s in [(8, 16), (4, 8), (16, 4)]])) == 5


@pytest.mark.parametrize("max_level", [7, 8])
def test_coarse_levels_are_pooled_from_c5(max_level):
    neck = FeaturePyramid([8, 12, 16], 4, 1, max_level=max_level)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 64), (12, 32), (16, 16)]]
    sides = [level.shape[-1] for level in neck(features)]
    assert sides == [64, 32, 16, 8, 4, 2][: max_level - 2]


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    neck = FeaturePyramid([8, 12, 16], 4, 2, kind=kind)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    gradients = []
    for neck.gradient_checkpointing in (False, True):
        neck.zero_grad()
        sum(level.square().sum() for level in neck(features)).backward()
        gradients.append([p.grad.clone() for p in neck.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
