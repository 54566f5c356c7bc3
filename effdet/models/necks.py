"""The repeatable bi-directional feature pyramid (BiFPN, paper §3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effdet.models.layers import (
    ACTIVATIONS,
    Lateral,
    SeparableConv,
    batch_norm,
    downsample,
    init_glorot_uniform,
    upsample,
)


class FastFusion(nn.Module):
    """Fast normalised fusion (§3.3): ``Σᵢ wᵢ·xᵢ / (ε + Σᵢ wᵢ)`` with ``wᵢ = relu(vᵢ)``."""

    def __init__(self, num_inputs: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.edge_weights = nn.Parameter(torch.ones(num_inputs))  # vᵢ
        self.eps = eps

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the weighted mean of maps of one shape."""
        w = F.relu(self.edge_weights)
        w = w / (self.eps + w.sum())
        return sum(w_i.to(x_i.dtype) * x_i for w_i, x_i in zip(w, inputs, strict=True))


class SumFusion(nn.Module):
    """Plain sum, as D6, D7, D7x and the Lite models use it."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum of maps of one shape."""
        return sum(inputs[1:], start=inputs[0])


class FusionNode(nn.Module):
    """Fuse, activate, separable convolution, BN; nothing after the BN."""

    def __init__(self, channels: int, num_inputs: int, *, weighted: bool, activation: str) -> None:
        super().__init__()
        self.fuse = FastFusion(num_inputs) if weighted else SumFusion()
        self.activation = ACTIVATIONS[activation]
        self.conv = SeparableConv(channels, channels)
        self.bn = batch_norm(channels)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return one map of the shape that all inputs have."""
        return self.bn(self.conv(self.activation(self.fuse(*inputs))))


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass; every level keeps its shape.

    P7 ─────────────► P7'      top-down:  td[l]  = node(in[l], up(td[l+1]))
    P6 ──► P6td ────► P6'      bottom-up: out[l] = node(skip[l], td[l], down(out[l-1]))
    …                          ends:      td[P7] = in[P7],  out[P3] = td[P3]
    P3 ─────────────► P3'

    ``skips`` are the same levels as ``inputs``; only the first layer, whose edges have a lateral each, gives others.
    """

    def __init__(self, channels: int, num_levels: int, *, weighted: bool, activation: str) -> None:
        super().__init__()

        def nodes(count: int, num_inputs: int) -> nn.ModuleList:
            return nn.ModuleList(
                FusionNode(channels, num_inputs, weighted=weighted, activation=activation) for _ in range(count)
            )

        self.top_down = nodes(num_levels - 1, num_inputs=2)  # coarse to fine, from the level below the coarsest
        self.bottom_up = nodes(num_levels - 2, num_inputs=3)  # fine to coarse, from the level above the finest
        self.coarsest = FusionNode(channels, 2, weighted=weighted, activation=activation)

    def forward(self, inputs: Sequence[Tensor], skips: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        td = [inputs[-1]]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down, strict=True):
            td.append(node(x, upsample(td[-1], (x.shape[-2], x.shape[-1]))))
        td.reverse()  # fine to coarse, like every list of levels

        out = [td[0]]
        for skip, x, node in zip(skips[1:-1], td[1:-1], self.bottom_up, strict=True):
            out.append(node(skip, x, downsample(out[-1])))
        out.append(self.coarsest(skips[-1], downsample(out[-1])))
        return out  # L maps, each (B, C, H_l, W_l)


class BiFPN(nn.Module):
    """Backbone levels C3, C4, C5 → pyramid P3…P7 (or P8), through repeated BiFPN layers.

    P6 is C5 brought to the neck's width and max-pooled; coarser levels are pooled from it. In the first layer every
    edge that starts at the backbone has a 1×1 convolution with BN of its own: one for C3, two for C4 and for C5.

    Args:
        in_channels: Channels of C3, C4, C5.
        channels: Width of the pyramid.
        num_layers: BiFPN layers.
        max_level: Coarsest level, 6 or more.
        weighted: Fast normalised fusion; otherwise a plain sum.
        activation: "silu" or "relu6".
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_layers: int,
        *,
        max_level: int = 7,
        weighted: bool = True,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.to_p6 = Lateral(in_channels[-1], channels)
        self.num_pooled = max_level - 5  # P6, P7, …
        self.input_laterals = nn.ModuleList(Lateral(c, channels) for c in in_channels)
        self.skip_laterals = nn.ModuleList(Lateral(c, channels) for c in in_channels[1:])
        num_levels = len(in_channels) + self.num_pooled
        self.layers = nn.ModuleList(
            BiFPNLayer(channels, num_levels, weighted=weighted, activation=activation) for _ in range(num_layers)
        )
        init_glorot_uniform(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3…P7 (or P8), each (B, channels, H_l, W_l), for C3, C4, C5."""
        coarse = [downsample(self.to_p6(features[-1]))]
        while len(coarse) < self.num_pooled:
            coarse.append(downsample(coarse[-1]))

        inputs = [lateral(x) for lateral, x in zip(self.input_laterals, features, strict=True)] + coarse
        skips = [lateral(x) for lateral, x in zip(self.skip_laterals, features[1:], strict=True)] + coarse
        pyramid = self._run(self.layers[0], inputs, [inputs[0], *skips])
        for layer in self.layers[1:]:
            pyramid = self._run(layer, pyramid, pyramid)
        return pyramid  # P3…P7, each (B, C, H_l, W_l)

    def _run(self, layer: nn.Module, inputs: list[Tensor], skips: list[Tensor]) -> list[Tensor]:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, inputs, skips, use_reentrant=False)
        return layer(inputs, skips)
