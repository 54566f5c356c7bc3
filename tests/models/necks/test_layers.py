import pytest
import torch

from effdet.models.layers import Resampling, downsample_bilinear, upsample_bilinear
from effdet.models.necks.bifpn import BiFPNLayer
from effdet.models.necks.fusion import FusionNode
from effdet.models.necks.pan import PANLayer
from effdet.models.necks.quad import QuadLayer


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
def test_layers_follow_the_published_node_lists(randomise, make_layer, nodes, published, sizes, resampling):
    layer = randomise(make_layer(5, make_node, resampling))
    inputs = [torch.randn(1, 4, *size) for size in sizes]
    ours = layer(*[inputs] * len(layer.LATERALS))
    expected = run_node_list(nodes(layer), published, inputs, resampling)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
