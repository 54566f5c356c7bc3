"""Layers of neck and heads, with the padding and resampling that the published weights expect."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.01  # Keras momentum 0.99

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "hardswish": F.hardswish,
    "mish": F.mish,
}


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


def downsample_symmetric(x: Tensor) -> Tensor:
    """Halve height and width, rounding up: 3×3 max-pool, stride 2, one cell of -inf on every side."""
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def downsample_zeros(x: Tensor) -> Tensor:
    """Halve height and width, rounding up: 3×3 max-pool, stride 2, ``SAME`` padding with zeros.

    A zero wins over negative cells at the padded edges: the right and lower one, and all four where a side is odd.
    """
    height, width = x.shape[-2:]
    return F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1)), kernel_size=3, stride=2)


def downsample_bilinear(x: Tensor) -> Tensor:
    """Halve height and width, rounding up, by bilinear interpolation between pixel centres, without antialias."""
    size = (-(-x.shape[-2] // 2), -(-x.shape[-1] // 2))
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge to ``size`` by nearest neighbour: output cell i takes input cell ⌊i·in/out⌋."""
    return F.interpolate(x, size=size, mode="nearest")


def upsample_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge to ``size`` by bilinear interpolation between pixel centres."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def size_of(x: Tensor) -> tuple[int, int]:
    """Return the height and width of a map (B, C, H, W)."""
    return x.shape[-2], x.shape[-1]


class Resampling(NamedTuple):
    """How a map goes to the neighbouring level."""

    down: Callable[[Tensor], Tensor] = downsample
    up: Callable[[Tensor, tuple[int, int]], Tensor] = upsample

    def move(self, x: Tensor, levels: int, size: tuple[int, int]) -> Tensor:
        """Bring a map to another level of the pyramid: halved once per level, or enlarged in one step.

        Args:
            x: (B, C, H, W).
            levels: How much coarser the other level is; negative where it is finer.
            size: Height and width of a map of that level.
        """
        if levels < 0:
            return self.up(x, size)
        for _ in range(levels):
            x = self.down(x)
        return x


DOWNSAMPLING: dict[str, Callable[[Tensor], Tensor]] = {
    "max_same": downsample,
    "max_symmetric": downsample_symmetric,
    "max_zeros": downsample_zeros,
    "bilinear": downsample_bilinear,
}
UPSAMPLING: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "nearest": upsample,
    "bilinear": upsample_bilinear,
}


class SeparableConv(nn.Module):
    """Depthwise 3×3 without bias, then pointwise 1×1; nothing between them."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W) for (B, in_channels, H, W)."""
        return self.pointwise(self.depthwise(x))


def conv3x3(in_channels: int, out_channels: int, *, separable: bool, bias: bool) -> SeparableConv | nn.Conv2d:
    """Return a 3×3 convolution that keeps height and width: depthwise and pointwise, or a full one."""
    if separable:
        return SeparableConv(in_channels, out_channels, bias=bias)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


class Lateral(nn.Module):
    """1×1 convolution, then BN: brings a backbone level to the width of the neck."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W) for (B, in_channels, H, W)."""
        return self.bn(self.conv(x))


def lateral(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Module:
    """Return what brings a backbone level to the width of the neck: nothing where it has that width already."""
    return nn.Identity() if in_channels == out_channels else Lateral(in_channels, out_channels, bias=bias)


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


def init_small_normal(module: nn.Module) -> None:
    """Initialise every convolution below ``module`` by a normal of standard deviation 0.01, biases 0."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            _init_conv(conv, lambda w, *_: w.normal_(std=0.01))


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
