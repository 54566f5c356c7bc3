"""Stochastic depth (Huang et al. 2016): in training, a block with a skip connection is left out for some images.

Block l of L, counted from 1, survives with probability p_l = 1 − (l/L)·(1 − p_L), so the last one with p_L. Where it
survives, its output is multiplied by 1/p_l, so that nothing changes for prediction.

timm and google's code count from 0, or to L − 1: there the last block of an EfficientNet drops with (L − 1)/L of the
rate that is asked for, and the first block never.
"""

from __future__ import annotations

from typing import Any

from timm.layers.drop import DropPath
from torch import nn


def set_stochastic_depth(name: str, backbone: Any, rate: float) -> None:
    """Let every block of a backbone drop by the formula.

    A block is what has one ``drop_path`` in timm. A backbone whose blocks have several keeps timm's rates.

    Args:
        name: timm's name of the model, for messages.
        backbone: Feature extractor, made with this rate.
        rate: 1 − p_L, drop rate of the last block.

    Raises:
        ValueError: If no block has a skip connection.
    """
    blocks = [module for module in backbone.modules() if _is_block(module)]
    for number, block in enumerate(blocks, start=1):
        if getattr(block, "has_skip", True):
            block.drop_path = DropPath(rate * number / len(blocks))
        elif isinstance(block.drop_path, DropPath):
            block.drop_path = nn.Identity()
    if not any(isinstance(module, DropPath) for module in backbone.modules()):
        raise refusal(name, rate)


def refusal(name: str, rate: float) -> ValueError:
    """Return the error for a backbone whose blocks cannot be dropped."""
    return ValueError(
        f"stochastic_depth must be 0 for the backbone '{name}', whose blocks cannot be dropped, got {rate}"
    )


def _is_block(module: nn.Module) -> bool:
    part = getattr(module, "drop_path", 0)
    return part is None or isinstance(part, (nn.Identity, DropPath))
