"""Parts of the network that keep their weights and BN statistics while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from effdet.config import Freeze


def freeze(network: Any, part: Freeze | str, *, bn_statistics: bool = False) -> list[nn.Module]:
    """Take the gradient from a part of the network and return its modules for ``train_mode``.

    Pretrained BN statistics are better than those of a few images at a time, so a small batch may want to keep them.

    Args:
        network: Has ``backbone``, ``neck`` and ``stem_modules()``, the first modules of the backbone up to stride 4.
        part: "none", "stem" (those; of an EfficientNet the stem and two stages), "backbone" or "backbone+neck".
        bn_statistics: Keep those of the whole backbone; its weights still learn where they are not frozen.
    """
    modules = _frozen_modules(network, Freeze(part))
    for module in modules:
        module.requires_grad_(False)
    if bn_statistics:
        modules += [module for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    return modules


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Put a model into training mode except its frozen modules, whose BN statistics then do not move."""
    model.train()
    for module in frozen:
        module.eval()


def _frozen_modules(network: Any, part: Freeze) -> list[nn.Module]:
    if part is Freeze.none:
        return []
    if part is Freeze.stem:
        return list(network.stem_modules())
    return [network.backbone] if part is Freeze.backbone else [network.backbone, network.neck]
