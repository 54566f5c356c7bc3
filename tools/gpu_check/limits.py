"""How fast a machine could be: multiply-adds at its rate of matrix products, bytes at the bandwidth of its memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effdet.models.architecture import Architecture
from effdet.models.cost import network_cost
from effdet.models.network import Network
from gpu_check.machine import bandwidth, matrix_rate

TRAINING = 3  # a backward pass computes two gradients for each result of the forward pass


@dataclass(frozen=True)
class Limits:
    """What one machine can do in bfloat16."""

    flops: float  # a second
    bytes: float  # read and written, a second

    @classmethod
    def of(cls, device: torch.device, *, quick: bool) -> Limits:
        """Measure the machine."""
        return cls(matrix_rate(device, torch.bfloat16, quick=quick), bandwidth(device, quick=quick))

    def milliseconds(
        self, network: Network, architecture: Architecture, side: int, batch: int, *, training: bool
    ) -> float:
        """Return the least time of a batch: each layer reads its inputs once and writes its outputs once."""
        passes = TRAINING if training else 1
        macs = network_cost(architecture, num_classes=90, image_size=(side, side)).macs
        flops, traffic = 2 * macs * batch * passes, _bytes(network, side) * batch * passes
        return 1000 * max(flops / self.flops, traffic / self.bytes)


@torch.no_grad()
def _bytes(network: Network, side: int) -> int:
    """Return the bytes that the layers of a network read and write for one image, at two bytes a number."""
    total = 0

    def count(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal total
        for value in (*inputs, output):
            total += 2 * value.numel() if isinstance(value, Tensor) else 0

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        parameter = next(network.parameters())
        network(torch.zeros(2, 3, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return total // 2
