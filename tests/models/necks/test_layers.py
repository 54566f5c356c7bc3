from functools import partial

import pytest
import torch

from effdet.models.layers import Resampling, downsample_bilinear, upsample_bilinear
from effdet.models.necks.bifpn import BiFPNLayer
from effdet.models.necks.fpn import FPNLayer
from effdet.models.necks.full import FullLayer
from effdet.models.necks.fusion import FusionNode
from effdet.models.necks.nas_fpn import NASFPNLayer
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
BIFPN_WITHOUT_SKIPS = [*BIFPN[:4], (4, (7, 8)), (5, (6, 9)), (6, (5, 10)), (7, (4, 11))]
FPN = [(7, (4,)), (6, (3, 5)), (5, (2, 6)), (4, (1, 7)), (3, (0, 8))]
FULL = [(level, (0, 1, 2, 3, 4)) for level in range(3, 8)]
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


def bifpn_nodes_with_ends(layer):
    return [layer.coarsest_input, *layer.top_down, layer.finest_output, *layer.bottom_up, layer.coarsest]


def run_node_list(nodes, published, inputs, resampling):
    values, levels = list(inputs), [3, 4, 5, 6, 7]
    for (level, sources), node in zip(published, nodes, strict=True):
        size = inputs[level - 3].shape[-2:]
        moved = []
        for source in sources:
            if levels[source] > level:
                moved.append(resampling.up(values[source], size))
            else:
                moved.append(values[source])
                for _ in range(level - levels[source]):
                    moved[-1] = resampling.down(moved[-1])
        values.append(node(*moved))
        levels.append(level)
    return [values[max(i for i, at in enumerate(levels) if at == level)] for level in range(3, 8)]


SIZES = [[(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)], [(19, 23), (10, 12), (5, 6), (3, 3), (2, 2)]]
RESAMPLINGS = [Resampling(), Resampling(downsample_bilinear, upsample_bilinear)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize(
    ("make_layer", "nodes", "published", "num_lists"),
    [
        (BiFPNLayer, bifpn_nodes, BIFPN, 2),
        (partial(BiFPNLayer, skip_edges=False), bifpn_nodes, BIFPN_WITHOUT_SKIPS, 1),
        (partial(BiFPNLayer, skip_edges=False, single_input_nodes=True), bifpn_nodes_with_ends, PAN, 1),
        (FPNLayer, lambda layer: layer.top_down, FPN, 1),
        (FullLayer, lambda layer: layer.nodes, FULL, 5),
        (QuadLayer, quad_nodes, QUAD, 4),
        (PANLayer, pan_nodes, PAN, 1),
    ],
)
def test_layers_follow_the_node_lists(randomise, make_layer, nodes, published, num_lists, sizes, resampling):
    layer = randomise(make_layer(5, make_node, resampling))
    inputs = [torch.randn(1, 4, *size) for size in sizes]
    ours = layer(*[inputs] * num_lists)
    expected = run_node_list(nodes(layer), published, inputs, resampling)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_bifpn_with_skips_and_single_input_nodes_has_a_node_at_each_end_and_the_skips(randomise):
    layer = randomise(BiFPNLayer(5, make_node, Resampling(), single_input_nodes=True))
    inputs = [torch.randn(1, 4, *size) for size in SIZES[0]]
    plain = BiFPNLayer(5, make_node, Resampling()).eval()
    plain.load_state_dict(layer.state_dict(), strict=False)
    through = layer.coarsest_input(inputs[-1])
    expected = plain([*inputs[:-1], through], [*inputs[:-1], through])
    found = layer(inputs, inputs)
    torch.testing.assert_close(found[0], layer.finest_output(expected[0]))
    assert all(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# The published graph, as the authors' code writes it: for each cell the level as an index from the coarsest, 0 for sum
# and 1 for global pooling, and two inputs; 0–4 are P3–P7, 5 the first cell, …. The last five cells are the outputs.
NAS_FPN = [
    *[(3, 1, 1, 3), (3, 0, 1, 5), (4, 0, 0, 6), (3, 0, 6, 7), (2, 1, 7, 8), (0, 1, 6, 9), (1, 1, 9, 10)],
]


def run_nas_fpn(cells, inputs, resampling):
    """Build the graph as published: an output also adds a map of its level that no cell has used until then."""
    values, levels, used = list(inputs), [3, 4, 5, 6, 7], set()
    for index, ((from_coarsest, pooling, first, second), cell) in enumerate(zip(NAS_FPN, cells, strict=True)):
        level = 7 - from_coarsest
        a, b = (resampling.move(values[i], level - levels[i], inputs[level - 3].shape[-2:]) for i in (first, second))
        used |= {first, second}
        if pooling:
            coarse, fine = (a, b) if levels[first] >= levels[second] else (b, a)
            attention = torch.stack([channel.max() for channel in coarse[0]]).sigmoid()
            total = coarse + fine * attention.view(1, -1, 1, 1)
        else:
            total = a + b
        if index >= 2:
            unused = [i for i, at in enumerate(levels) if at == level and i not in used]
            total = total + sum(values[i] for i in unused)
            used |= set(unused)
        values.append(cell.bn(cell.conv(cell.activation(total))))
        levels.append(level)
    return [values[5 + next(i for i in range(2, 7) if 7 - NAS_FPN[i][0] == level)] for level in range(3, 8)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_nas_fpn_is_the_published_graph(randomise, sizes, resampling):
    layer = randomise(NASFPNLayer(5, partial(FusionNode, 4, fusion="sum", activation="relu"), resampling))
    inputs = [torch.randn(1, 4, *size) for size in sizes]
    expected = run_nas_fpn(layer.cells, inputs, resampling)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-6)
