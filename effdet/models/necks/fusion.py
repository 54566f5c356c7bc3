"""Fusion nodes: how a neck adds maps of one shape, and the convolution that follows."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.models.layers import ACTIVATIONS, batch_norm, conv3x3


class FastFusion(nn.Module):
    """Fast normalised fusion (§3.3): ``Σᵢ wᵢ·xᵢ / (ε + Σᵢ wᵢ)`` with ``wᵢ = relu(vᵢ)``."""

    def __init__(self, num_inputs: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.edge_weights = nn.Parameter(torch.ones(num_inputs))  # vᵢ
        self.eps = eps

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the weighted mean of maps of one shape."""
        return sum(w_i.to(x_i.dtype) * x_i for w_i, x_i in zip(self.weights(), inputs, strict=True))

    def weights(self) -> Tensor:
        """Return the share of each input."""
        w = F.relu(self.edge_weights)
        return w / (self.eps + w.sum())


class SoftmaxFusion(FastFusion):
    """Softmax-based fusion (§3.3): ``Σᵢ wᵢ·xᵢ`` with ``wᵢ = exp(vᵢ) / Σⱼ exp(vⱼ)``."""

    def weights(self) -> Tensor:
        """Return the share of each input."""
        return self.edge_weights.softmax(0)


class UnboundedFusion(FastFusion):
    """Unbounded fusion (§3.3): ``Σᵢ wᵢ·xᵢ`` with weights of any size and sign."""

    def weights(self) -> Tensor:
        """Return the factor of each input."""
        return self.edge_weights


class SumFusion(nn.Module):
    """Plain sum, as D6, D7, D7x and the Lite models use it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum of maps of one shape."""
        return sum(inputs[1:], start=inputs[0])


FUSIONS: dict[str, Callable[[int], nn.Module]] = {  # number of inputs → what adds them
    "fast": FastFusion,
    "softmax": SoftmaxFusion,
    "sum": lambda num_inputs: SumFusion(),
    "unbounded": UnboundedFusion,
}


class FusionNode(nn.Module):
    """Fuse, activate, 3×3 convolution, BN; nothing after the BN."""

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        fusion: str,
        activation: str,
        separable: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.fuse = FUSIONS[fusion](num_inputs)
        self.activation = ACTIVATIONS[activation]
        self.conv = conv3x3(channels, channels, separable=separable, bias=bias)
        self.bn = batch_norm(channels)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return one map of the shape that all inputs have."""
        return self.bn(self.conv(self.activation(self.fuse(*inputs))))


MakeNode = Callable[[int], FusionNode]  # number of inputs → node


def make_nodes(make_node: MakeNode, *num_inputs: int) -> nn.ModuleList:
    """Return one node for each number of inputs."""
    return nn.ModuleList(make_node(count) for count in num_inputs)
