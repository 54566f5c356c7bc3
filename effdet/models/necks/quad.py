"""Quad-FPN (ieeexplore 9225379), of effdet's efficientdet_q models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.bifpn import BiFPNLayer
from effdet.models.necks.fusion import MakeNode, make_nodes


class UpsideDownLayer(nn.Module):
    """A BiFPN layer upside down: bottom-up first, then top-down.

    P7 ─────────────► P7'      bottom-up: bu[l]  = node(in[l], down(bu[l-1]))
    P6 ──► P6bu ────► P6'      top-down:  out[l] = node(skip[l], bu[l], up(out[l+1]))
    …                          ends:      bu[P3] = in[P3],  out[P7] = bu[P7]
    P3 ─────────────► P3'
    """

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.bottom_up = make_nodes(make_node, *[2] * (num_levels - 1))  # fine to coarse, above the finest
        self.top_down = make_nodes(make_node, *[3] * (num_levels - 2))  # coarse to fine, below the coarsest
        self.finest = make_node(2)

    def forward(self, inputs: Sequence[Tensor], skips: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        bu = [inputs[0]]
        for x, node in zip(inputs[1:], self.bottom_up, strict=True):
            bu.append(node(x, down(bu[-1])))

        out = [bu[-1]]  # built coarse to fine
        for skip, x, node in zip(skips[-2:0:-1], bu[-2:0:-1], self.top_down, strict=True):
            out.append(node(skip, x, up(out[-1], size_of(skip))))
        out.append(self.finest(skips[0], up(out[-1], size_of(skips[0]))))
        out.reverse()
        return out  # L maps, each (B, C, H_l, W_l)


class QuadLayer(nn.Module):
    """Quad-FPN (ieeexplore 9225379): a BiFPN layer and its mirror image side by side, fused level by level."""

    LATERALS: ClassVar[dict[str, int]] = BiFPNLayer.LATERALS | {"mirror_laterals": 0, "mirror_skip_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.upright = BiFPNLayer(num_levels, make_node, resampling)
        self.mirror = UpsideDownLayer(num_levels, make_node, resampling)
        self.join = make_nodes(make_node, *[2] * num_levels)  # fine to coarse

    def forward(
        self,
        inputs: Sequence[Tensor],
        skips: Sequence[Tensor],
        mirror_inputs: Sequence[Tensor],
        mirror_skips: Sequence[Tensor],
    ) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, all fine to coarse."""
        upright = self.upright(inputs, skips)
        mirror = self.mirror(mirror_inputs, mirror_skips)
        return [node(a, b) for node, a, b in zip(self.join, upright, mirror, strict=True)]
