"""A copy of a detector's network whose heads have a convolution of their own, with its BN folded in, for each level."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from effdet.deployment.onnx_graph import RawNetwork
from effdet.detector.efficientdet import EfficientDet
from effdet.models.heads import DenseHead, anchors_last
from effdet.models.layers import SeparableConv


def folded_network(model: EfficientDet) -> RawNetwork:
    """Return a copy of the network that gives the same outputs and shares no convolution between BNs.

    The levels of a head share convolutions, and each level has a BN of its own. A converter that folds the BN of one
    level into the shared weights changes all levels, silently. Here the BNs of the heads are folded already.
    """
    raw = RawNetwork(model)
    network: Any = raw.network
    network.class_head, network.box_head = _FoldedHead(network.class_head), _FoldedHead(network.box_head)
    return raw.eval().requires_grad_(False)


class _FoldedHead(nn.Module):
    """What a ``DenseHead`` computes in evaluation mode, with convolutions of its own for each level.

    Args:
        head: The head; it is not changed.
    """

    def __init__(self, head: DenseHead) -> None:
        super().__init__()
        self.num_outputs = head.num_outputs
        self.activation = head.activation
        num_levels = len(head.bns[0])  # type: ignore[arg-type]
        self.towers = nn.ModuleList(
            nn.ModuleList(_fold(conv, bns[level]) for conv, bns in zip(head.convs, head.bns, strict=True))  # type: ignore[index]
            for level in range(num_levels)
        )
        self.predict = head.predict

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return (B, N, O) for L maps (B, C, H_l, W_l); anchors in the order of ``make_anchors``."""
        outputs = [self._tower(x, level) for level, x in enumerate(pyramid)]
        return torch.cat([anchors_last(x, self.num_outputs) for x in outputs], dim=1)

    def _tower(self, x: Tensor, level: int) -> Tensor:
        for conv in self.towers[level]:  # type: ignore[attr-defined]
            x = self.activation(conv(x))
        result: Tensor = self.predict(x)
        return result


def _fold(conv: nn.Module, norm: Any) -> nn.Module:
    """Return a copy of a convolution, plain or separable, that also does what the BN behind it does."""
    folded = copy.deepcopy(conv).eval()
    if isinstance(folded, SeparableConv):
        folded.pointwise = fuse_conv_bn_eval(folded.pointwise, norm.eval())
        return folded
    return fuse_conv_bn_eval(folded, norm.eval())  # type: ignore[type-var]
