"""The feature pyramid network (FPN, arXiv 1612.03144): one top-down pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.fusion import MakeNode, make_nodes


class FPNLayer(nn.Module):
    """One top-down pass with a node at every level: the first half of a PAN layer.

    out[l] = node(in[l], up(out[l+1])),    out[P7] = node(in[P7])

    Two of these layers have as many nodes as one of PAN.
    """

    LATERALS: ClassVar[dict[str, int]] = {"input_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.top_down = make_nodes(make_node, 1, *[2] * (num_levels - 1))  # coarse to fine

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        out = [self.top_down[0](inputs[-1])]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down[1:], strict=True):
            out.append(node(x, self.resampling.up(out[-1], size_of(x))))
        out.reverse()
        return out  # L maps, each (B, C, H_l, W_l)
