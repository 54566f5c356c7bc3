"""What a network costs, without building it in memory: multiply-adds and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet.models.architecture import Architecture
from effdet.models.network import Network


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The size of a network."""

    macs: int  # multiply-adds of one image in convolutions and matrix products; the papers' "FLOPs"
    parameters: int  # numbers that training changes, without BN statistics


@lru_cache(maxsize=1024)
def network_cost(
    architecture: Architecture, *, num_classes: int = 90, image_size: tuple[int, int] | None = None
) -> Cost:
    """Return what a network costs; takes well under a second, as no tensor gets memory.

        network_cost(Architecture.named("d0")).macs  # 2.5e9

    Args:
        architecture: What the network is.
        num_classes: K; COCO's 90 as in the papers.
        image_size: Network input (height, width) in pixels. None: that of the architecture.

    Raises:
        ValueError: If the backbone gives no features at the strides that are needed.
    """
    height, width = image_size or architecture.image_size
    with torch.device("meta"):
        network = Network(architecture, num_classes, stochastic_depth=0.0).eval()
        images = torch.empty(1, architecture.in_channels, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return Cost(
        macs=counter.get_total_flops() // 2,  # the counter takes a multiply-add for two
        parameters=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
    )
