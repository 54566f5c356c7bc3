"""timm's feature extractors as backbones, and the parts of them that training treats apart.

timm has two kinds: those of the EfficientNet family have ``blocks``, a sequence of stages; all others are a flat
sequence of children. A backbone of the first kind can also be given as strings, one for each block.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn

from effdet.models.architecture import COARSEST_FEATURE, Architecture
from effdet.models.backbone_family import Family, read_family
from effdet.models.block_strings import BlockStrings
from effdet.models.feature_sizes import Edge, Measured, keep_edges, measure
from effdet.models.stochastic_depth import refusal, set_stochastic_depth

STEM_STRIDE = 4  # what ``stem_modules`` covers


def build_backbone(architecture: Architecture, stochastic_depth: float) -> Any:
    """Return timm's feature extractor with random weights; its parameters have timm's names.

    Its outputs are the feature maps from the pyramid's finest level to C5: C3, C4, C5 at strides 8, 16, 32 where
    ``min_level`` is 3. ``features_of`` gives them for any input size.

    Raises:
        ValueError: If timm has no such model, or it does not give these features.
    """
    measured = _measured(architecture)
    options = _options(architecture) | {"in_chans": architecture.in_channels}
    if stochastic_depth > 0:
        options["drop_path_rate"] = stochastic_depth
    backbone = _create(architecture, **options)
    backbone.edge = measured.edge
    if backbone.edge is Edge.cuts:
        keep_edges(backbone)
    if stochastic_depth > 0:
        set_stochastic_depth(architecture.backbone, backbone, stochastic_depth)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = architecture.backbone_bn_eps
    for name in measured.unused:  # no gradient would reach them
        backbone.get_parameter(name).requires_grad_(False)
    return backbone


def _options(architecture: Architecture) -> dict[str, Any]:
    options: dict[str, Any] = {"out_indices": feature_indices(architecture)}
    if architecture.expanded_features:
        _check_expands(architecture)
        options["feature_location"] = "expansion"
    return options


def feature_indices(architecture: Architecture) -> tuple[int, ...]:
    """Return which of timm's feature levels have the strides 2^min_level … 32, fine to coarse.

    Raises:
        ValueError: If timm has no such model, or it does not give these features.
    """
    strides = [2**level for level in range(architecture.min_level, COARSEST_FEATURE + 1)]
    name, probe = architecture.backbone, probe_of(architecture)
    index_of = {level["reduction"]: level["index"] for level in probe.feature_info.info}  # the last of each stride
    missing = [stride for stride in strides if stride not in index_of]
    if missing:
        raise ValueError(
            f"backbone must have features at the strides {', '.join(map(str, strides))}, but '{name}' has them at "
            f"{', '.join(map(str, index_of))}; choose another model of timm, such as 'efficientnet_b0' or 'resnet50'"
        )
    if str(getattr(probe, "output_fmt", "NCHW")).rpartition(".")[2] != "NCHW":
        raise ValueError(
            f"backbone must give features as (B, C, H, W), but '{name}' gives them channels last; choose another "
            "model of timm, such as 'efficientnet_b0' or 'convnext_tiny'"
        )
    return tuple(index_of[stride] for stride in strides)


def probe_of(architecture: Architecture) -> Any:
    """Return the feature extractor without memory for its tensors, to look at.

    Raises:
        ValueError: If timm has no such model, or it gives no feature maps.
    """
    stages = architecture.backbone_blocks
    if stages is None:
        return _probe(architecture.backbone)
    return _probe_blocks(architecture.backbone, stages, architecture.stem_channels)


@lru_cache(maxsize=64)
def family_of(backbone: str) -> Family:
    """Return what all blocks of a named backbone share.

    Raises:
        ValueError: If timm has no such model, or strings cannot describe its blocks.
    """
    return read_family(backbone, _probe(backbone))


def _measured(architecture: Architecture) -> Measured:
    """Return what has to be known of a backbone; most of the EfficientNet family round up and use all they have."""
    pools = (nn.AvgPool2d, nn.MaxPool2d)
    probe = probe_of(architecture)
    is_known = hasattr(probe, "blocks") and not any(isinstance(module, pools) for module in probe.modules())
    if is_known and not architecture.expanded_features:
        feature_indices(architecture)
        return Measured(Edge.rounds_up)
    return _measure(architecture)


@lru_cache(maxsize=64)
def _measure(architecture: Architecture) -> Measured:
    with torch.device("meta"):
        probe = _create(architecture, **_options(architecture))
    return measure(architecture.backbone, probe)


@lru_cache(maxsize=64)
def _probe(backbone: str) -> Any:
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else "; timm.list_models() has them"
        raise ValueError(f"backbone must be the name of a model of timm, got '{backbone}'{hint}")
    try:
        with torch.device("meta"):
            return timm.create_model(backbone, features_only=True)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"backbone '{backbone}' gives no feature maps in timm: {error}; choose another") from error


@lru_cache(maxsize=64)
def _probe_blocks(backbone: str, stages: BlockStrings, stem_channels: int | None) -> Any:
    family = family_of(backbone)
    try:
        with torch.device("meta"):
            return family.build(stages, stem_channels)
    except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"backbone_blocks must be blocks that timm can build, but it refused them ({error}); gs must divide the "
            "channels of its convolution"
        ) from error


def _create(architecture: Architecture, **options: Any) -> Any:
    name, stages = architecture.backbone, architecture.backbone_blocks
    if stages is not None:
        return family_of(name).build(stages, architecture.stem_channels, **options)
    try:
        return timm.create_model(name, features_only=True, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise refusal(name, options["drop_path_rate"]) from error


def _check_expands(architecture: Architecture) -> None:
    if not hasattr(probe_of(architecture), "blocks"):
        raise ValueError(
            f"expanded_features must be false for the backbone '{architecture.backbone}', which has no expanded blocks"
        )


def stem_modules(backbone: Any) -> list[nn.Module]:
    """Return the modules that make the features up to stride 4: for an EfficientNet the stem and two stages.

    Raises:
        ValueError: If the backbone has no such modules.
    """
    last = [level for level in backbone.feature_info.info if level["reduction"] <= STEM_STRIDE][-1]
    children = dict(backbone.named_children())
    stages = children.pop("blocks", None)
    if stages is not None:
        return [*children.values(), *stages[: last["stage"]]]
    name = last["module"].replace(".", "_")
    if name not in children:
        raise ValueError(
            f"the stem must be a part of its own to be frozen, which it is not in {type(backbone).__name__}; "
            "freeze nothing, or the whole backbone"
        )
    end = list(children).index(name) + 1
    return list(children.values())[:end]


def recomputed_modules(backbone: Any) -> list[nn.Module]:
    """Return the modules whose activations timm computes again in the backward pass under gradient checkpointing.

    None where it takes features from inside a block (``expanded_features``).
    """
    if hasattr(backbone, "blocks"):
        return [] if backbone.feature_hooks is not None else [backbone.blocks]
    inner = list(backbone.children())[1:-1]
    return [module for module in inner if getattr(module, "inplace", False) is not True]
