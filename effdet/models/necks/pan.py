"""Path aggregation (arXiv 1803.01534), of effdet's cspresdext50pan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.fusion import MakeNode, make_nodes


class PANLayer(nn.Module):
    """Path aggregation (arXiv 1803.01534): as a BiFPN layer, but a node at both ends too, and no skips.

    top-down:  td[l]  = node(in[l], up(td[l+1])),    td[P7]  = node(in[P7])
    bottom-up: out[l] = node(td[l], down(out[l-1])), out[P3] = node(td[P3])
    """

    LATERALS: ClassVar[dict[str, int]] = {"input_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.top_down = make_nodes(make_node, 1, *[2] * (num_levels - 1))  # coarse to fine
        self.bottom_up = make_nodes(make_node, 1, *[2] * (num_levels - 1))  # fine to coarse

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        td = [self.top_down[0](inputs[-1])]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down[1:], strict=True):
            td.append(node(x, up(td[-1], size_of(x))))
        td.reverse()

        out = [self.bottom_up[0](td[0])]
        for x, node in zip(td[1:], self.bottom_up[1:], strict=True):
            out.append(node(x, down(out[-1])))
        return out  # L maps, each (B, C, H_l, W_l)
