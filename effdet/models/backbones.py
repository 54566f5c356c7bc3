"""timm's feature extractors as backbones, and what the network must know of their inside.

timm has two kinds: those of the EfficientNet family have ``blocks``, a sequence of stages; all others are a flat
sequence of children.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from effdet.models.architecture import Variant

STEM_STRIDE = 4  # what lies before the first level that the detector could use


def build_backbone(variant: Variant, stochastic_depth: float) -> Any:
    """Return timm's feature extractor with random weights and outputs C3, C4, C5 at strides 8, 16, 32.

    Its parameters have timm's names.
    """
    location: dict[str, Any] = {"feature_location": "expansion"} if variant.wide_taps else {}
    backbone: Any = timm.create_model(
        variant.backbone, features_only=True, out_indices=variant.taps, drop_path_rate=stochastic_depth, **location
    )
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = variant.backbone_bn_eps
    if variant.wide_taps:  # the last projection lies behind the last tap: nobody hears it, so nothing can teach it
        last = backbone.blocks[-1][-1]
        for module in (last.conv_pwl, last.bn3):
            module.requires_grad_(False)
    return backbone


def stem_modules(backbone: Any) -> list[nn.Module]:
    """Return the modules that make the features up to stride 4: for an EfficientNet the stem and two stages."""
    last = [level for level in backbone.feature_info.info if level["reduction"] <= STEM_STRIDE][-1]
    children = dict(backbone.named_children())
    stages = children.pop("blocks", None)
    if stages is not None:
        return [*children.values(), *stages[: last["stage"]]]
    end = list(children).index(last["module"].replace(".", "_")) + 1
    return list(children.values())[:end]


def recomputed_modules(backbone: Any) -> list[nn.Module]:
    """Return the modules whose activations timm computes again in the backward pass under gradient checkpointing.

    None where it takes features from inside a block (``wide_taps``).
    """
    if hasattr(backbone, "blocks"):
        return [] if backbone.feature_hooks is not None else [backbone.blocks]
    inner = list(backbone.children())[1:-1]
    return [module for module in inner if getattr(module, "inplace", False) is not True]
