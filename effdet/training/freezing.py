"""Freeze parts of the network: they keep their weights and BN statistics while the other parts are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.config import Freeze


def freeze(network: Any, part: Freeze | str, *, bn_statistics: bool = False) -> list[nn.Module]:
    """Turn off the gradient of a part of the network, and return its modules for ``train_mode``.

    Pretrained BN statistics are often better than those of a small batch; ``bn_statistics`` keeps them.

    Args:
        network: Has ``backbone``, ``neck`` and ``stem_modules()``, the first modules of the backbone up to stride 4.
        part: "none", "stem" (the result of ``stem_modules()``; in an EfficientNet the stem and two stages),
            "backbone" or "backbone+neck".
        bn_statistics: Keep the BN statistics of the whole backbone; its weights are trained unless they are frozen.
    """
    modules = _frozen_modules(network, Freeze(part))
    for module in modules:
        module.requires_grad_(False)
    if bn_statistics:
        modules += [module for module in network.backbone.modules() if isinstance(module, _BatchNorm)]
    return modules


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Put a model into training mode, except its frozen modules, whose BN statistics therefore do not change."""
    model.train()
    for module in frozen:
        module.eval()


def _frozen_modules(network: Any, part: Freeze) -> list[nn.Module]:
    if part is Freeze.none:
        return []
    if part is Freeze.stem:
        return list(network.stem_modules())
    return [network.backbone] if part is Freeze.backbone else [network.backbone, network.neck]
