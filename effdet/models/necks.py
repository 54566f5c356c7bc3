"""Feature pyramids: the bi-directional one of the paper (BiFPN, §3), and two that others put in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effdet.models.layers import (
    ACTIVATIONS,
    Resampling,
    batch_norm,
    conv3x3,
    init_glorot_uniform,
    lateral,
)


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


def _nodes(make_node: MakeNode, *num_inputs: int) -> nn.ModuleList:
    return nn.ModuleList(make_node(count) for count in num_inputs)


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass; every level keeps its shape.

    P7 ─────────────► P7'      top-down:  td[l]  = node(in[l], up(td[l+1]))
    P6 ──► P6td ────► P6'      bottom-up: out[l] = node(skip[l], td[l], down(out[l-1]))
    …                          ends:      td[P7] = in[P7],  out[P3] = td[P3]
    P3 ─────────────► P3'

    ``skips`` are the same levels as ``inputs``; only the first layer, whose edges have a lateral each, gives others.
    """

    # Where the backbone enters: each entrance has laterals of its own, for C3, C4, C5 or without the first.
    ENTRANCES: ClassVar[dict[str, int]] = {"input_laterals": 0, "skip_laterals": 1}  # name → finest level that it has

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.top_down = _nodes(make_node, *[2] * (num_levels - 1))  # coarse to fine, from the level below the coarsest
        self.bottom_up = _nodes(make_node, *[3] * (num_levels - 2))  # fine to coarse, from the level above the finest
        self.coarsest = make_node(2)

    def forward(self, inputs: Sequence[Tensor], skips: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        td = [inputs[-1]]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down, strict=True):
            td.append(node(x, up(td[-1], _size(x))))
        td.reverse()  # fine to coarse, like every list of levels

        out = [td[0]]
        for skip, x, node in zip(skips[1:-1], td[1:-1], self.bottom_up, strict=True):
            out.append(node(skip, x, down(out[-1])))
        out.append(self.coarsest(skips[-1], down(out[-1])))
        return out  # L maps, each (B, C, H_l, W_l)


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
        self.bottom_up = _nodes(make_node, *[2] * (num_levels - 1))  # fine to coarse, from the level above the finest
        self.top_down = _nodes(make_node, *[3] * (num_levels - 2))  # coarse to fine, from the level below the coarsest
        self.finest = make_node(2)

    def forward(self, inputs: Sequence[Tensor], skips: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        bu = [inputs[0]]
        for x, node in zip(inputs[1:], self.bottom_up, strict=True):
            bu.append(node(x, down(bu[-1])))

        out = [bu[-1]]  # built coarse to fine
        for skip, x, node in zip(skips[-2:0:-1], bu[-2:0:-1], self.top_down, strict=True):
            out.append(node(skip, x, up(out[-1], _size(skip))))
        out.append(self.finest(skips[0], up(out[-1], _size(skips[0]))))
        out.reverse()
        return out  # L maps, each (B, C, H_l, W_l)


class QuadLayer(nn.Module):
    """Quad-FPN (ieeexplore 9225379): a BiFPN layer and its mirror image side by side, fused level by level."""

    ENTRANCES: ClassVar[dict[str, int]] = BiFPNLayer.ENTRANCES | {"mirror_laterals": 0, "mirror_skip_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.upright = BiFPNLayer(num_levels, make_node, resampling)
        self.mirror = UpsideDownLayer(num_levels, make_node, resampling)
        self.join = _nodes(make_node, *[2] * num_levels)  # fine to coarse

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


class PANLayer(nn.Module):
    """Path aggregation (arXiv 1803.01534): as a BiFPN layer, but a node at both ends too, and no skips.

    top-down:  td[l]  = node(in[l], up(td[l+1])),    td[P7]  = node(in[P7])
    bottom-up: out[l] = node(td[l], down(out[l-1])), out[P3] = node(td[P3])
    """

    ENTRANCES: ClassVar[dict[str, int]] = {"input_laterals": 0}

    def __init__(self, num_levels: int, make_node: MakeNode, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.top_down = _nodes(make_node, 1, *[2] * (num_levels - 1))  # coarse to fine
        self.bottom_up = _nodes(make_node, 1, *[2] * (num_levels - 1))  # fine to coarse

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return L maps with the shapes of ``inputs``, both fine to coarse."""
        down, up = self.resampling
        td = [self.top_down[0](inputs[-1])]  # built coarse to fine
        for x, node in zip(inputs[-2::-1], self.top_down[1:], strict=True):
            td.append(node(x, up(td[-1], _size(x))))
        td.reverse()

        out = [self.bottom_up[0](td[0])]
        for x, node in zip(td[1:], self.bottom_up[1:], strict=True):
            out.append(node(x, down(out[-1])))
        return out  # L maps, each (B, C, H_l, W_l)


LAYERS: dict[str, Any] = {"bifpn": BiFPNLayer, "quad": QuadLayer, "pan": PANLayer}


class FeaturePyramid(nn.Module):
    """Backbone levels C3, C4, C5 → pyramid P3…P7 (or P8), through repeated layers of one kind.

    P6 is C5 brought to the neck's width and halved; coarser levels are halved from it. In the first layer every
    edge that starts at the backbone has a 1×1 convolution with BN of its own; in a BiFPN that is one for C3, two for C4
    and for C5. A level that has the neck's width by itself has none.

    Args:
        in_channels: Channels of C3, C4, C5.
        channels: Width of the pyramid.
        num_layers: Layers of the neck.
        kind: "bifpn", "quad" or "pan".
        max_level: Coarsest level, 6 or more.
        fusion: "fast", "softmax", "sum" or "unbounded".
        activation: A name in ``ACTIVATIONS``.
        separable: Depthwise and pointwise convolutions in the nodes; otherwise full ones.
        bias: Whether convolutions have one; a BN follows each.
        resampling: How a map goes to the neighbouring level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_layers: int,
        *,
        kind: str = "bifpn",
        max_level: int = 7,
        fusion: str = "fast",
        activation: str = "silu",
        separable: bool = True,
        bias: bool = True,
        resampling: Resampling | None = None,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.resampling = resampling or Resampling()
        self.to_p6 = lateral(in_channels[-1], channels, bias=bias)
        self.num_halved = max_level - 5  # P6, P7, …
        layer = LAYERS[kind]
        self.entrances = layer.ENTRANCES
        for name, finest in self.entrances.items():
            self.add_module(name, nn.ModuleList(lateral(c, channels, bias=bias) for c in in_channels[finest:]))

        def make_node(num_inputs: int) -> FusionNode:
            return FusionNode(
                channels, num_inputs, fusion=fusion, activation=activation, separable=separable, bias=bias
            )

        num_levels = len(in_channels) + self.num_halved
        self.layers = nn.ModuleList(layer(num_levels, make_node, self.resampling) for _ in range(num_layers))
        init_glorot_uniform(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3…P7 (or P8), each (B, channels, H_l, W_l), for C3, C4, C5."""
        coarse = [self.resampling.down(self.to_p6(features[-1]))]
        while len(coarse) < self.num_halved:
            coarse.append(self.resampling.down(coarse[-1]))

        entrances = [self._enter(name, features) + coarse for name in self.entrances]
        pyramid = self._run(self.layers[0], entrances)
        for layer in self.layers[1:]:
            pyramid = self._run(layer, [pyramid] * len(entrances))
        return pyramid  # P3…P7, each (B, C, H_l, W_l)

    def _enter(self, name: str, features: Sequence[Tensor]) -> list[Tensor]:
        # A level without a lateral does not enter here; its place is held by the level as it is, which nobody reads.
        finest = self.entrances[name]
        laterals: nn.ModuleList = getattr(self, name)
        entering = [bring(x) for bring, x in zip(laterals, features[finest:], strict=True)]
        return [*features[:finest], *entering]

    def _run(self, layer: nn.Module, entrances: list[list[Tensor]]) -> list[Tensor]:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, *entrances, use_reentrant=False)
        return layer(*entrances)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
