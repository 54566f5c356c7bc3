"""The class head and the box head: one design, two instances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effdet.models.layers import (
    ACTIVATIONS,
    SeparableConv,
    batch_norm,
    conv3x3,
    init_scaled_normal,
    init_small_normal,
)


class DenseHead(nn.Module):
    """A tower of 3×3 convolutions shared by all levels, with a BN for each (layer, level).

    Each layer is convolution → BN of that layer and level → activation; the prediction is one more convolution, shared,
    with neither.

    Args:
        channels: Width of the pyramid.
        num_layers: Convolutions before the prediction.
        num_levels: Levels of the pyramid.
        num_anchors: A, anchors per cell.
        num_outputs: O, numbers per anchor: K logits, or 4 deltas.
        width: Width of the tower; None: that of the pyramid.
        activation: A name in ``ACTIVATIONS``.
        separable: Depthwise and pointwise convolutions; otherwise full ones.
        bias: Whether the convolutions of the tower have one; the prediction always has.
        prior: Score that every anchor starts with; sets the bias to ``-ln((1 - prior) / prior)``. None: bias 0.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int,
        num_levels: int,
        *,
        num_anchors: int,
        num_outputs: int,
        width: int | None = None,
        activation: str = "silu",
        separable: bool = True,
        bias: bool = True,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.gradient_checkpointing = False
        self.activation = ACTIVATIONS[activation]
        width = width or channels
        inputs = [channels, *[width] * num_layers]  # of each convolution of the tower, and of the prediction
        self.convs = nn.ModuleList(conv3x3(count, width, separable=separable, bias=bias) for count in inputs[:-1])
        self.bns = nn.ModuleList(nn.ModuleList(batch_norm(width) for _ in range(num_levels)) for _ in self.convs)
        self.predict = conv3x3(inputs[-1], num_anchors * num_outputs, separable=separable, bias=True)
        if separable:
            init_scaled_normal(self)
        else:
            init_small_normal(self)
        if prior is not None:
            nn.init.constant_(self.output_conv.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    @property
    def output_conv(self) -> nn.Conv2d:
        """The convolution whose channels are the outputs, by anchor and then by number per anchor."""
        return self.predict.pointwise if isinstance(self.predict, SeparableConv) else self.predict

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return (B, N, O) for L maps (B, C, H_l, W_l); anchors in the order of ``make_anchors``."""
        outputs = [self._run(x, level) for level, x in enumerate(pyramid)]
        return torch.cat([anchors_last(x, self.num_outputs) for x in outputs], dim=1)  # (B, N, O)

    def _run(self, x: Tensor, level: int) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self._tower, x, level, use_reentrant=False)
        return self._tower(x, level)

    def _tower(self, x: Tensor, level: int) -> Tensor:
        for conv, bns in zip(self.convs, self.bns, strict=True):
            x = self.activation(bns[level](conv(x)))  # type: ignore[index]
        return self.predict(x)


def anchors_last(x: Tensor, num_outputs: int) -> Tensor:
    """(B, A·O, H, W) → (B, H·W·A, O)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, num_outputs)
