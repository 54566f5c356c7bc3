"""Weights of a first convolution for images of another number of channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RGB = 3


def inflate(kernel: Tensor, channels: int) -> Tensor:
    """Return the kernels of a convolution on RGB for images of any number of channels.

    The channels of the new kernels add up to those of the old ones, so a gray image that is repeated in all channels
    gives what its RGB copy gives, within rounding. Fewer than three channels share the sum evenly. Of more, channel i
    takes the kernel of R, G or B (i mod 3) divided by how often that is taken.

    Args:
        kernel: (O, 3, k, k).
        channels: C, 1 or more.

    Returns:
        (O, C, k, k).
    """
    if channels < RGB:
        return kernel.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels
    taken = torch.arange(channels) % RGB
    shares = torch.bincount(taken, minlength=RGB)[taken].to(kernel.dtype)
    return kernel[:, taken] / shares.view(1, -1, 1, 1)


def inflated(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which the first convolution is inflated from RGB to the channels that a network has.

    Args:
        state: Weights by the network's names.
        own: Those of the network.
    """
    return {name: _fitted(value, own.get(name)) for name, value in state.items()}


def _fitted(value: Tensor, own: Tensor | None) -> Tensor:
    if own is None or own.ndim != 4 or value.ndim != 4 or value.shape[1] != RGB or own.shape[1] == RGB:
        return value
    others = (own.shape[0], *own.shape[2:]) == (value.shape[0], *value.shape[2:])
    return inflate(value, own.shape[1]) if others else value
