"""The architecture in one glance: backbone, neck, two heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.models.architecture import Architecture, Neck
from effdet.models.backbones import build_backbone, recomputed_modules, stem_modules
from effdet.models.feature_sizes import features_of
from effdet.models.heads import DenseHead
from effdet.models.layers import BN_MOMENTUM, DOWNSAMPLING, UPSAMPLING, Resampling
from effdet.models.necks.pyramid import FeaturePyramid, LayerKind, bifpn_kind
from effdet.structures import Predictions

CLASS_PRIOR = 0.01


class Network(nn.Module):
    """Normalised images → raw predictions for every anchor.

    Any input size works, square or not: each level has ⌈H/2^l⌉ × ⌈W/2^l⌉ cells.

    Args:
        architecture: What the network is.
        num_classes: K.
        stochastic_depth: Drop rate of the last backbone block; block l of L drops with rate · l / L.
    """

    def __init__(self, architecture: Architecture, num_classes: int, *, stochastic_depth: float) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.backbone = build_backbone(architecture, stochastic_depth)
        self.neck = _build_neck(architecture, self.backbone.feature_info.channels())
        self.class_head = build_class_head(architecture, num_classes)
        self.box_head = _build_head(architecture, num_outputs=4, prior=None)
        self.set_bn_momentum(BN_MOMENTUM)

    def forward(self, images: Tensor) -> Predictions:
        """Return predictions for (B, C, H, W) float images with mean and standard deviation already taken out."""
        features = features_of(self.backbone, images)  # C3, C4, C5 at strides 8, 16, 32
        pyramid = self.neck(features)  # P3…P7, each (B, C, H_l, W_l)
        return Predictions(
            class_logits=self.class_head(pyramid),  # (B, N, K)
            box_deltas=self.box_head(pyramid),  # (B, N, 4)
        )

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, more time."""
        try:
            self.backbone.set_grad_checkpointing(enable)
        except AssertionError as error:
            raise ValueError(
                f"gradient checkpointing must be off for a backbone of {type(self.backbone).__name__}, which cannot "
                "recompute its activations in timm"
            ) from error
        self.neck.gradient_checkpointing = enable
        self.class_head.gradient_checkpointing = enable
        self.box_head.gradient_checkpointing = enable
        self.gradient_checkpointing = enable
        self.set_bn_momentum(BN_MOMENTUM)

    def set_bn_momentum(self, momentum: float) -> None:
        """Let the running statistics of every BN move by this share towards each batch.

        Where activations are recomputed, a BN meets every batch twice. Two updates by ``1 - √(1 - m)`` equal one by
        ``m``, so it gets that.
        """
        twice = (*recomputed_modules(self.backbone), self.neck.layers, self.class_head.bns, self.box_head.bns)
        _set_momentum(self, momentum)
        if self.gradient_checkpointing:
            for part in twice:
                _set_momentum(part, 1 - math.sqrt(1 - momentum))

    def stem_modules(self) -> list[nn.Module]:
        """Return the first modules of the backbone, up to stride 4."""
        return stem_modules(self.backbone)


def build_class_head(architecture: Architecture, num_classes: int) -> DenseHead:
    """Return a class head with random weights and the bias of the published prior, 0.01."""
    return _build_head(architecture, num_outputs=num_classes, prior=CLASS_PRIOR)


def _build_head(architecture: Architecture, *, num_outputs: int, prior: float | None) -> DenseHead:
    return DenseHead(
        architecture.channels,
        architecture.head_repeats,
        num_levels=architecture.num_levels,
        num_anchors=architecture.anchors_per_cell,
        num_outputs=num_outputs,
        width=architecture.head_channels,
        activation=architecture.head_activation or architecture.activation,
        separable=architecture.separable,
        bias=architecture.conv_bias,
        prior=prior,
    )


def _build_neck(architecture: Architecture, in_channels: Sequence[int]) -> FeaturePyramid:
    kind: Neck | LayerKind = architecture.neck
    if kind == "bifpn":
        kind = bifpn_kind(skip_edges=architecture.skip_edges, single_input_nodes=architecture.single_input_nodes)
    return FeaturePyramid(
        in_channels,
        architecture.channels,
        architecture.neck_repeats,
        kind=kind,
        max_level=architecture.max_level,
        fusion=architecture.fusion,
        activation=architecture.activation,
        separable=architecture.separable,
        bias=architecture.conv_bias,
        order=architecture.conv_order,
        resampling=Resampling(DOWNSAMPLING[architecture.downsampling], UPSAMPLING[architecture.upsampling]),
    )


def _set_momentum(part: nn.Module, momentum: float) -> None:
    for module in part.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
