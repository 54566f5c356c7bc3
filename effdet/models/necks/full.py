"""The fully connected feature pyramid (paper §3.2, Table 5): every level feeds every level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.fusion import MakeNode, make_nodes


class FullLayer(nn.Module):
    """One node at every level, whose inputs are all levels.

    out[l] = node(to_l(in[P3]), …, to_l(in[P7])),    to_l brings a map to the size of level l

    Two of these layers have as many nodes as one of PAN. In the first layer each of the edges that start at the
    backbone has a lateral of its own, so there is a list of inputs for every node.
    """

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.nodes = make_nodes(make_node, *[num_levels] * num_levels)  # fine to coarse

    @staticmethod
    def laterals(num_levels: int) -> dict[str, int]:
        """Return the names of the lists of laterals, one for every node, and that each begins at the finest level."""
        return {f"laterals_of_node_{index}": 0 for index in range(num_levels)}

    def forward(self, *inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps for L lists of the same L levels, one for each node; all fine to coarse."""
        edges = [self._edges(source, inputs) for source in range(len(inputs))]
        return [node(*maps) for node, maps in zip(self.nodes, zip(*edges, strict=True), strict=True)]

    def _edges(self, source: int, inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Return the map of one level as each node takes it; what two nodes share is halved once."""
        edges: list[Tensor] = []
        for target, maps in enumerate(inputs):
            if target > source and maps[source] is inputs[target - 1][source]:
                edges.append(self.resampling.down(edges[-1]))
            else:
                edges.append(self.resampling.move(maps[source], target - source, size_of(inputs[target][target])))
        return edges
