"""The bi-directional feature pyramid of the paper (BiFPN, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.fusion import MakeNode, make_nodes


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass; every level keeps its shape.

    P7 ─────────────► P7'      top-down:  td[l]  = node(in[l], up(td[l+1]))
    P6 ──► P6td ────► P6'      bottom-up: out[l] = node(skip[l], td[l], down(out[l-1]))
    …                          ends:      td[P7] = in[P7],  out[P3] = td[P3]
    P3 ─────────────► P3'

    ``skips`` are the same levels as ``inputs``; only the first layer, whose edges have a lateral each, gives others.

    A BiFPN is PANet with two changes (§3.2). Each can be taken back; without both the layer is that of PANet.

    Args:
        num_levels: L.
        make_node: Returns a node for a number of inputs.
        resampling: How a map goes to the neighbouring level.
        skip_edges: The edge from ``skip[l]`` to ``out[l]``. Without it, forward takes no ``skips``.
        single_input_nodes: Whether the ends are nodes too: td[P7] = node(in[P7]) and out[P3] = node(td[P3]).
    """

    # The first layer's laterals of C3, C4, C5: P3 has none of its own to skip along.
    LATERALS: ClassVar[dict[str, int]] = {"input_laterals": 0, "skip_laterals": 1}
    LATERALS_WITHOUT_SKIPS: ClassVar[dict[str, int]] = {"input_laterals": 0}

    def __init__(
        self,
        num_levels: int,
        make_node: MakeNode,
        resampling: Resampling,
        *,
        skip_edges: bool = True,
        single_input_nodes: bool = False,
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.top_down = make_nodes(make_node, *[2] * (num_levels - 1))  # coarse to fine, below the coarsest
        self.bottom_up = make_nodes(make_node, *[3 if skip_edges else 2] * (num_levels - 2))  # above the finest
        self.coarsest = make_node(2)
        self.coarsest_input = make_node(1) if single_input_nodes else nn.Identity()
        self.finest_output = make_node(1) if single_input_nodes else nn.Identity()

    def forward(self, inputs: Sequence[Tensor], skips: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        td = [self.coarsest_input(inputs[-1])]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down, strict=True):
            td.append(node(x, up(td[-1], size_of(x))))
        td.reverse()  # fine to coarse, like every list of levels

        out = [self.finest_output(td[0])]
        for level, node in enumerate(self.bottom_up, start=1):
            skip = () if skips is None else (skips[level],)
            out.append(node(*skip, td[level], down(out[-1])))
        out.append(self.coarsest(td[-1], down(out[-1])))
        return out  # L maps, each (B, C, H_l, W_l)
