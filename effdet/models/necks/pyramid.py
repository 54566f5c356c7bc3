"""``FeaturePyramid``: the neck, made of repeated layers of one kind.

A kind of layer has the names of its lists of laterals, each with the index of the finest backbone level that has one.
Its forward takes as many lists of levels P3…P7, fine to coarse, and returns one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effdet.models.architecture import ConvOrder, Fusion, Neck
from effdet.models.layers import Resampling, init_glorot_uniform, lateral
from effdet.models.necks.bifpn import BiFPNLayer
from effdet.models.necks.fpn import FPNLayer
from effdet.models.necks.full import FullLayer
from effdet.models.necks.fusion import FusionNode, MakeNode
from effdet.models.necks.nas_fpn import NASFPNLayer
from effdet.models.necks.pan import PANLayer
from effdet.models.necks.quad import QuadLayer


class LayerKind(NamedTuple):
    """One of the necks: its layer, and the laterals that the first layer needs."""

    make: Callable[[int, MakeNode, Resampling], nn.Module]  # number of levels, …
    laterals: Callable[[int], dict[str, int]]  # number of levels → list of laterals, index of its finest level


LAYERS: dict[Neck, LayerKind] = {
    "bifpn": LayerKind(BiFPNLayer, lambda _: BiFPNLayer.LATERALS),
    "fpn": LayerKind(FPNLayer, lambda _: FPNLayer.LATERALS),
    "pan": LayerKind(PANLayer, lambda _: PANLayer.LATERALS),
    "nas_fpn": LayerKind(NASFPNLayer, lambda _: NASFPNLayer.LATERALS),
    "full": LayerKind(FullLayer, FullLayer.laterals),
    "quad": LayerKind(QuadLayer, lambda _: QuadLayer.LATERALS),
}


def bifpn_kind(*, skip_edges: bool, single_input_nodes: bool) -> LayerKind:
    """Return the BiFPN with or without what sets it apart from PANet; see ``BiFPNLayer``."""
    laterals = BiFPNLayer.LATERALS if skip_edges else BiFPNLayer.LATERALS_WITHOUT_SKIPS
    make = partial(BiFPNLayer, skip_edges=skip_edges, single_input_nodes=single_input_nodes)
    return LayerKind(make, lambda _: laterals)


class FeaturePyramid(nn.Module):
    """Backbone levels C3, C4, C5 → pyramid P3…P7 (or P8), through repeated layers of one kind.

    P6 is C5 brought to the neck's width and halved; coarser levels are halved from it. In the first layer every
    edge that starts at the backbone has a 1×1 convolution with BN of its own; in a BiFPN that is one for C3, two for C4
    and for C5. A level that has the neck's width by itself has none.

    Args:
        in_channels: Channels of C3, C4, C5.
        channels: Width of the pyramid.
        num_layers: Layers of the neck.
        kind: A name in ``LAYERS``, or a kind of layer.
        max_level: Coarsest level, 6 or more.
        fusion: How a node adds its inputs; see ``make_fusion``.
        activation: A name in ``ACTIVATIONS``.
        separable: Depthwise and pointwise convolutions in the nodes; otherwise full ones.
        bias: Whether convolutions have one; a BN follows each.
        order: Of activation, convolution and BN in a node; see ``FusionNode``.
        resampling: How a map goes to the neighbouring level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_layers: int,
        *,
        kind: Neck | LayerKind = "bifpn",
        max_level: int = 7,
        fusion: Fusion = "fast",
        activation: str = "silu",
        separable: bool = True,
        bias: bool = True,
        order: ConvOrder = "act_conv_bn",
        resampling: Resampling | None = None,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.resampling = resampling or Resampling()
        self.to_p6 = lateral(in_channels[-1], channels, bias=bias)
        self.num_halved = max_level - 5  # P6, P7, …
        num_levels = len(in_channels) + self.num_halved
        layer = kind if isinstance(kind, LayerKind) else LAYERS[kind]
        self.finest_laterals = layer.laterals(num_levels)
        for name, finest in self.finest_laterals.items():
            self.add_module(name, nn.ModuleList(lateral(c, channels, bias=bias) for c in in_channels[finest:]))

        def make_node(num_inputs: int) -> FusionNode:
            return FusionNode(
                channels,
                num_inputs,
                fusion=fusion,
                activation=activation,
                separable=separable,
                bias=bias,
                order=order,
            )

        self.layers = nn.ModuleList(layer.make(num_levels, make_node, self.resampling) for _ in range(num_layers))
        init_glorot_uniform(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3…P7 (or P8), each (B, channels, H_l, W_l), for C3, C4, C5."""
        coarse = [self.resampling.down(self.to_p6(features[-1]))]
        while len(coarse) < self.num_halved:
            coarse.append(self.resampling.down(coarse[-1]))

        inputs = [self._project(name, features) + coarse for name in self.finest_laterals]
        pyramid = self._run(self.layers[0], inputs)
        for layer in self.layers[1:]:
            pyramid = self._run(layer, [pyramid] * len(inputs))
        return pyramid  # P3…P7, each (B, C, H_l, W_l)

    def _project(self, name: str, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the features at the neck's width; those finer than the first lateral stay, and no node reads them."""
        finest = self.finest_laterals[name]
        laterals: nn.ModuleList = getattr(self, name)
        projected = [module(x) for module, x in zip(laterals, features[finest:], strict=True)]
        return [*features[:finest], *projected]

    def _run(self, layer: nn.Module, inputs: list[list[Tensor]]) -> list[Tensor]:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)
