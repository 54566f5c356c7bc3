"""The blocks of a network in training on a CPU: fused passes where they apply, the plain forward elsewhere.

The blocks of the backbone are private classes of timm. ``PARTS`` says which parts this module knows; a block with
others, as another version of timm may have, keeps its plain forward. tests/kernels/test_timm_blocks.py compares.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from effdet.kernels.autograd import Parameters, Plan, as_autocast, fused_block, fused_norm, fused_sum
from effdet.kernels.library import Kernels, load_kernels
from effdet.models.heads import DenseHead
from effdet.models.layers import SeparableConv
from effdet.models.necks.fusion import FusionNode, WeightedFusion

try:
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
except ImportError as error:
    raise ImportError(
        f"this version of timm has other classes for the blocks of an EfficientNet ({error}); train with "
        "train.fused=false, or install a version that the package's requirements allow"
    ) from error

# Parts of timm's blocks, in the order in which their forward methods call them.
PARTS = {
    InvertedResidual: ("conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3", "drop_path"),
    DepthwiseSeparableConv: ("conv_dw", "bn1", "aa", "se", "conv_pw", "bn2", "drop_path"),
}
ACTIVATIONS = {nn.Identity: 0, nn.SiLU: 1, nn.ReLU6: 2}
FUNCTIONS: dict[Any, int] = {F.silu: 1, F.relu6: 2}
KERNEL_SIZES = ((3, 3), (5, 5))


class FusedInvertedResidual(InvertedResidual):
    """An inverted residual that is one step of autograd where it can be."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C'', H', W') for (B, C, H, W)."""
        kernels = kernels_for(self, x)
        if kernels is None:
            return super().forward(x)
        plan = _plan(kernels, x, self.conv_dw, self.bn2, self.bn3, expand_bn=self.bn1, activation=_code(self.bn1))
        y = fused_block(x, plan, _parameters(self, self.conv_pwl, self.bn2, self.bn3, self.conv_pw, self.bn1))
        return self.drop_path(y) + x if self.has_skip else y


class FusedDepthwiseSeparable(DepthwiseSeparableConv):
    """A block without expansion that is one step of autograd where it can be."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C'', H', W') for (B, C, H, W)."""
        kernels = kernels_for(self, x)
        if kernels is None:
            return super().forward(x)
        plan = _plan(kernels, x, self.conv_dw, self.bn1, self.bn2)
        y = fused_block(x, plan, _parameters(self, self.conv_pw, self.bn1, self.bn2))
        return self.drop_path(y) + x if self.has_skip else y


class FusedStemNorm(BatchNormAct2d):
    """BN and activation behind the first convolution, in one step of autograd where it can be."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) for (B, C, H, W)."""
        kernels = kernels_for(self, x)
        return super().forward(x) if kernels is None else fused_norm(x, self, kernels, _code(self))


class FusedNode(FusionNode):
    """A node of the neck that is two steps of autograd where it can be: the weighted sum, and all that follows."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return one map of the shape that all inputs have."""
        kernels = kernels_for(self, inputs[0])
        if kernels is None:
            return super().forward(*inputs)
        inputs = tuple(as_autocast(x).contiguous(memory_format=torch.channels_last) for x in inputs)
        fuse = self.fuse
        scalars = isinstance(fuse, WeightedFusion) and fuse.edge_weights.ndim == 1
        fused = fused_sum(fuse.weights(), inputs, kernels) if scalars else fuse(*inputs)  # type: ignore[operator]
        function = FUNCTIONS[self.activation]
        first, last = (function, 0) if self.activates_first else (0, function)
        return _separable(kernels, fused, self.conv, self.bn, activation=first, out_activation=last)


class FusedHead(DenseHead):
    """A head with one step of autograd for each layer where that can be."""

    def _tower(self, x: Tensor, level: int) -> Tensor:
        kernels = kernels_for(self, x)
        if kernels is None:
            return super()._tower(x, level)
        for conv, bns in zip(self.convs, self.bns, strict=True):
            x = _separable(kernels, x, conv, bns[level], out_activation=FUNCTIONS[self.activation])  # type: ignore[index]
        return _separable(kernels, x, self.predict, None)


FUSED = {InvertedResidual: FusedInvertedResidual, DepthwiseSeparableConv: FusedDepthwiseSeparable}


def fuse_for_training(network: Any) -> None:
    """Let a network's blocks take fused passes in training, where they fit; names of weights and results stay.

    Args:
        network: Has ``backbone`` (of timm), ``neck`` and two heads.
    """
    backbone = network.backbone
    for module in backbone.modules():
        fused = FUSED.get(type(module))
        if fused is not None and _fits(module):
            module.__class__ = fused
    if _norm_fits(getattr(backbone, "bn1", None)):
        backbone.bn1.__class__ = FusedStemNorm
    for module in network.neck.modules():
        if type(module) is FusionNode and _separable_fits(module.conv, module.activation):
            module.__class__ = FusedNode
    for head in (network.class_head, network.box_head):
        convs = (*head.convs, head.predict)
        if type(head) is DenseHead and all(_separable_fits(conv, head.activation) for conv in convs):
            head.__class__ = FusedHead


def _norm_fits(bn: Any) -> bool:
    return type(bn) is BatchNormAct2d and type(bn.act) in ACTIVATIONS and bn.num_features % 8 == 0


def _separable(
    kernels: Kernels,
    x: Tensor,
    conv: Any,
    bn: nn.BatchNorm2d | None,
    *,
    activation: int = 0,
    out_activation: int = 0,
) -> Tensor:
    """Return bn(conv(activation(x))), with another activation behind it."""
    plan = Plan(
        kernels=kernels,
        kernel_size=3,
        stride=1,
        padding=(1, 1, 1, 1),
        activation=activation,
        out_bn=bn,
        out_activation=out_activation,
    )
    parameters = Parameters(
        depthwise=conv.depthwise.weight,
        project=conv.pointwise.weight,
        project_bias=conv.pointwise.bias,
        out_scale=bn.weight if bn else None,
        out_shift=bn.bias if bn else None,
    )
    return fused_block(x, plan, parameters)


def _separable_fits(conv: nn.Module, activation: Any) -> bool:
    return isinstance(conv, SeparableConv) and conv.depthwise.in_channels % 8 == 0 and activation in FUNCTIONS


def kernels_for(block: nn.Module, x: Tensor) -> Kernels | None:
    """Return the kernels if a block's fused pass applies to x, on the CPU, with gradients, without hooks.

    x must be float32, or under autocast to bfloat16 either of the two.
    """
    autocast = torch.is_autocast_enabled("cpu")
    plain = (
        x.device.type != "cpu"
        or (x.dtype != torch.float32 and not (autocast and x.dtype == torch.bfloat16))
        or (autocast and torch.get_autocast_dtype("cpu") != torch.bfloat16)
        or not torch.is_grad_enabled()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch.compiler.is_compiling()
        or any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
    )
    return None if plain else load_kernels()


def _fits(block: Any) -> bool:
    """Return whether a block has the parts that the fused pass knows, and no others."""
    known = next(parts for kind, parts in PARTS.items() if isinstance(block, kind))
    if tuple(name for name, _ in block.named_children()) != known:
        return False
    pointwise = (block.conv_pw, block.conv_pwl) if isinstance(block, InvertedResidual) else (block.conv_pw,)
    if not all(isinstance(conv, nn.Conv2d) for conv in (block.conv_dw, *pointwise)):  # timm has others, as in MixNet
        return False
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    se_fits = isinstance(block.se, nn.Identity) or (
        type(block.se.act1) is nn.SiLU and type(block.se.gate) is nn.Sigmoid and block.se.conv_reduce.bias is not None
    )
    return (
        isinstance(block.aa, nn.Identity)
        and se_fits
        and block.conv_dw.kernel_size in KERNEL_SIZES
        and block.conv_dw.groups == block.conv_dw.in_channels == block.conv_dw.out_channels
        and block.conv_dw.dilation == (1, 1)
        and block.conv_dw.stride in ((1, 1), (2, 2))
        and block.conv_dw.bias is None
        and block.conv_dw.in_channels % 8 == pointwise[-1].out_channels % 8 == 0
        and all(conv.kernel_size == (1, 1) and conv.groups == 1 for conv in pointwise)
        and all(bn.affine and bn.track_running_stats and bn.momentum is not None for bn in norms)
        and all(type(bn.act) in ACTIVATIONS and isinstance(bn.drop, nn.Identity) for bn in norms)
    )


def _plan(
    kernels: Kernels,
    x: Tensor,
    conv: nn.Conv2d,
    depthwise_bn: Any,
    out_bn: Any,
    *,
    expand_bn: Any = None,
    activation: int = 0,
) -> Plan:
    return Plan(
        kernels=kernels,
        kernel_size=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=_padding(conv, (x.shape[-2], x.shape[-1])),
        expand_bn=expand_bn,
        activation=activation,
        depthwise_bn=depthwise_bn,
        depthwise_activation=_code(depthwise_bn),
        out_bn=out_bn,
        out_activation=_code(out_bn),
    )


def _parameters(
    block: Any, project: nn.Conv2d, depthwise_bn: Any, out_bn: Any, expand: Any = None, expand_bn: Any = None
) -> Parameters:
    se = None if isinstance(block.se, nn.Identity) else block.se
    return Parameters(
        depthwise=block.conv_dw.weight,
        project=project.weight,
        project_bias=project.bias,
        expand=expand.weight if expand else None,
        expand_scale=expand_bn.weight if expand_bn else None,
        expand_shift=expand_bn.bias if expand_bn else None,
        depthwise_scale=depthwise_bn.weight,
        depthwise_shift=depthwise_bn.bias,
        out_scale=out_bn.weight,
        out_shift=out_bn.bias,
        reduce=se.conv_reduce.weight if se else None,
        reduce_bias=se.conv_reduce.bias if se else None,
        excite=se.conv_expand.weight if se else None,
        excite_bias=se.conv_expand.bias if se else None,
    )


def _code(bn: Any) -> int:
    return ACTIVATIONS[type(bn.act)]


def _padding(conv: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the columns and rows that a convolution adds: left, right, top, bottom."""
    if not isinstance(conv, Conv2dSame):
        vertical, horizontal = (int(side) for side in conv.padding)
        return horizontal, horizontal, vertical, vertical
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    rows, columns = (max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in size)
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
