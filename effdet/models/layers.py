"""Bricks of neck and heads, with TensorFlow's ``SAME`` padding as the published weights expect it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.01  # Keras momentum 0.99

ACTIVATIONS = {"silu": F.silu, "relu6": F.relu6}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a BatchNorm with the published constants."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def downsample(x: Tensor) -> Tensor:
    """Halve height and width, rounding up: 3×3 max-pool, stride 2, ``SAME`` padding with -inf.

    ``SAME`` pads an even side by (0, 1) and an odd one by (1, 1). The last window of an even side reaches over the
    edge, which ``ceil_mode`` does without a padded copy.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, ⌈H/2⌉, ⌈W/2⌉).
    """
    height, width = x.shape[-2:]
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge to ``size`` by nearest neighbour: output cell i takes input cell ⌊i·in/out⌋."""
    return F.interpolate(x, size=size, mode="nearest")


class SeparableConv(nn.Module):
    """Depthwise 3×3 without bias, then pointwise 1×1 with bias; nothing between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W) for (B, in_channels, H, W)."""
        return self.pointwise(self.depthwise(x))


class Lateral(nn.Module):
    """1×1 convolution with bias, then BN: brings a backbone level to the width of the neck."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W) for (B, in_channels, H, W)."""
        return self.bn(self.conv(x))


def init_glorot_uniform(module: nn.Module) -> None:
    """Initialise every convolution below ``module`` as Keras does by default: Glorot uniform, biases 0."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            _init_conv(conv, lambda w, fan_in, fan_out: w.uniform_(-1, 1).mul_(math.sqrt(6 / (fan_in + fan_out))))


def init_scaled_normal(module: nn.Module) -> None:
    """Initialise every convolution below ``module`` by a normal of variance 1/fan_in, truncated at 2σ, biases 0."""
    # A normal cut at ±2σ has standard deviation 0.8796σ; dividing by it restores the variance.
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            _init_conv(
                conv,
                lambda w, fan_in, _: nn.init.trunc_normal_(w, a=-2.0, b=2.0).mul_(1 / 0.87962566 / math.sqrt(fan_in)),
            )


@torch.no_grad()
def _init_conv(conv: nn.Conv2d, draw) -> None:  # type: ignore[no-untyped-def]
    # Keras shapes a depthwise kernel (3, 3, C, 1) and so counts fan_in = 9·C, fan_out = 9.
    kernel = math.prod(conv.kernel_size)
    if conv.groups > 1:
        fan_in, fan_out = kernel * conv.in_channels, kernel
    else:
        fan_in, fan_out = kernel * conv.in_channels, kernel * conv.out_channels
    draw(conv.weight, fan_in, fan_out)
    if conv.bias is not None:
        conv.bias.zero_()
