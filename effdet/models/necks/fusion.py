"""Fusion nodes: how a neck adds maps of one shape, and the convolution that follows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.models.architecture import ConvOrder, Fusion
from effdet.models.layers import ACTIVATIONS, batch_norm, conv3x3

FAST_EPS = 1e-4


def fast_shares(v: Tensor) -> Tensor:
    """Return ``relu(vᵢ) / (ε + Σⱼ relu(vⱼ))``, fast normalised fusion (§3.3); inputs are the first dimension."""
    w = F.relu(v)
    return w / (FAST_EPS + w.sum(0))


def softmax_shares(v: Tensor) -> Tensor:
    """Return ``exp(vᵢ) / Σⱼ exp(vⱼ)``, softmax-based fusion (§3.3); inputs are the first dimension."""
    return v.softmax(0)


def unbounded_shares(v: Tensor) -> Tensor:
    """Return ``vᵢ``, weights of any size and sign: unbounded fusion (§3.3)."""
    return v


SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "fast": fast_shares,
    "softmax": softmax_shares,
    "unbounded": unbounded_shares,
}


class WeightedFusion(nn.Module):
    """Learned fusion ``Σᵢ sᵢ·xᵢ`` of maps of one shape, where the shares s follow from learned weights v.

    Args:
        num_inputs: Maps that are added.
        kind: A name in ``SHARES``.
        channels: Gives every channel weights of its own; None: one weight for each input, as published.
    """

    def __init__(self, num_inputs: int, kind: str, channels: int | None = None) -> None:
        super().__init__()
        self.edge_weights = nn.Parameter(torch.ones(num_inputs, *(() if channels is None else (channels,))))  # v
        self.shares = SHARES[kind]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the weighted sum of maps (B, C, H, W) of one shape."""
        weights = self.weights()
        if weights.ndim == 2:
            weights = weights[:, :, None, None]  # (I, C) → (I, C, 1, 1)
        return sum(w_i.to(x_i.dtype) * x_i for w_i, x_i in zip(weights, inputs, strict=True))

    def weights(self) -> Tensor:
        """Return the share of each input: (I,), or (I, C) where every channel has its own."""
        return self.shares(self.edge_weights)


class SumFusion(nn.Module):
    """Plain sum, as D6, D7, D7x and the Lite models use it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum of maps of one shape."""
        return sum(inputs[1:], start=inputs[0])


def make_fusion(fusion: Fusion, num_inputs: int, channels: int) -> nn.Module:
    """Return what adds the inputs of a node.

    A share of softmax is 1 where there is one input, whatever the weight is, so such a node has none.

    Args:
        fusion: "sum", a name in ``SHARES``, or such a name with "channel_" before it.
        num_inputs: Maps that are added.
        channels: Of a map.
    """
    kind = fusion.removeprefix("channel_")
    if fusion == "sum" or (kind == "softmax" and num_inputs == 1):
        return SumFusion()
    return WeightedFusion(num_inputs, kind, channels if fusion.startswith("channel_") else None)


class FusionNode(nn.Module):
    """Fuse, activate, 3×3 convolution, BN, and nothing after the BN; or fuse, convolution, BN, activation.

    Args:
        channels: Of every map.
        num_inputs: Maps that are fused.
        fusion: See ``make_fusion``.
        activation: A name in ``ACTIVATIONS``.
        separable: Depthwise and pointwise convolution; otherwise a full one.
        bias: Whether the convolution has one.
        order: "act_conv_bn" is that of the published models, "conv_bn_act" that of the paper's text (§3.3).
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        fusion: Fusion,
        activation: str,
        separable: bool = True,
        bias: bool = True,
        order: ConvOrder = "act_conv_bn",
    ) -> None:
        super().__init__()
        self.fuse = make_fusion(fusion, num_inputs, channels)
        self.activation = ACTIVATIONS[activation]
        self.activates_first = order == "act_conv_bn"
        self.conv = conv3x3(channels, channels, separable=separable, bias=bias)
        self.bn = batch_norm(channels)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return one map of the shape that all inputs have."""
        fused = self.fuse(*inputs)
        if self.activates_first:
            return self.bn(self.conv(self.activation(fused)))
        return self.activation(self.bn(self.conv(fused)))


MakeNode = Callable[[int], FusionNode]  # number of inputs → node


def make_nodes(make_node: MakeNode, *num_inputs: int) -> nn.ModuleList:
    """Return one node for each number of inputs."""
    return nn.ModuleList(make_node(count) for count in num_inputs)
