"""NAS-FPN (arXiv 1904.07392): the graph that an architecture search found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from effdet.models.layers import Resampling, size_of
from effdet.models.necks.fusion import MakeNode, make_nodes


def global_pooling(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return ``c + f · sigmoid(max c)``: the coarse map tells, channel by channel, how much of the fine one passes.

    Args:
        coarse: (B, C, H, W), which came from the coarser of two levels.
        fine: (B, C, H, W), which came from the finer one.
    """
    return coarse + fine * coarse.amax((2, 3), keepdim=True).sigmoid()


class NASFPNLayer(nn.Module):
    """The seven merging cells of the published graph (Figure 6), in their order.

    Each is a sum or a global pooling (gp), then activation, convolution and BN:

        P4a = gp(P6, P4)               P4b = sum(P4, P4a)
        P3' = sum(P3, P4b)             P4' = sum(P3', P4b)
        P5' = sum(P5, gp(P4', P3'))    P7' = sum(P7, gp(P5', P4b))
        P6' = gp(P7', P5')

    A map that comes from another level is brought to the size of the cell. Where the neck has another fusion than the
    plain sum, it takes the place of ``sum``.
    """

    LATERALS: ClassVar[dict[str, int]] = {"input_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        assert num_levels == 5, num_levels  # ``Architecture`` checks it
        self.resampling = resampling
        self.cells = make_nodes(make_node, 1, 2, 2, 2, 2, 2, 1)  # P4a, P4b, P3', P4', P5', P7', P6'

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return five maps with the shapes of ``inputs``, both fine to coarse."""
        p3, p4, p5, p6, p7 = inputs
        move = self.resampling.move
        size3, size4, size5, size6, size7 = map(size_of, inputs)
        p4a, p4b, new_p3, new_p4, new_p5, new_p7, new_p6 = self.cells

        a = p4a(global_pooling(move(p6, -2, size4), p4))
        b = p4b(p4, a)
        p3 = new_p3(p3, move(b, -1, size3))
        p4 = new_p4(move(p3, 1, size4), b)
        p5 = new_p5(p5, global_pooling(move(p4, 1, size5), move(p3, 2, size5)))
        p7 = new_p7(p7, global_pooling(move(p5, 2, size7), move(b, 3, size7)))
        p6 = new_p6(global_pooling(move(p7, -1, size6), move(p5, 1, size6)))
        return [p3, p4, p5, p6, p7]  # each (B, C, H_l, W_l)
