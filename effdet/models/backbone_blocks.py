"""A named backbone written out block by block, and the ratios that give exact widths.

A string says widths as ratios of the block's input width. timm rounds the expanded width to a multiple of 8, at least
8, so only such widths can be had; output widths, the stem and the squeezed width of the EfficientNet class can be any
whole number. ``backbone_family.py`` says what a squeeze-and-excite ratio counts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from timm.layers.create_act import get_act_layer
from timm.layers.helpers import make_divisible
from torch import nn

from effdet.models.architecture import Architecture
from effdet.models.backbone_family import Family, activation_of
from effdet.models.backbones import family_of, probe_of
from effdet.models.block_strings import ACTIVATIONS, Block

USUAL_SQUEEZE = 0.25  # the ratio in the papers of MnasNet, MobileNetV3 and EfficientNet

_KINDS = {
    "InvertedResidual": "ir",
    "CondConvResidual": "ir",
    "DepthwiseSeparableConv": "ds",
    "EdgeResidual": "er",
    "ConvBnAct": "cn",
    "UniversalInvertedResidual": "uir",
    "MobileAttention": "mha",
}


def written_out(architecture: Architecture) -> Architecture:
    """Return the same network with its backbone as one string for each block, so that any width can be changed.

    Parameters have the same names and shapes in the same order, and the outputs are equal.

    Raises:
        ValueError: If the backbone is not of timm's EfficientNet or MobileNet classes.
    """
    family, model = family_of(architecture.backbone), probe_of(architecture)
    stages = tuple(tuple(str(_read(family, block)) for block in stage) for stage in model.blocks)
    return replace(architecture, backbone_blocks=stages, stem_channels=model.conv_stem.out_channels)


def expansion_ratio(in_channels: int, expanded: int) -> float:
    """Return the ratio e, in few digits, with which timm expands ``in_channels`` to exactly ``expanded`` channels.

    Raises:
        ValueError: If ``expanded`` is no multiple of 8, which timm cannot make.
    """
    if expanded < 8 or expanded % 8:
        raise ValueError(f"the expanded width of a block must be a multiple of 8, got {expanded}")
    return _shortest(expanded / in_channels, lambda ratio: make_divisible(in_channels * ratio) == expanded)


def squeeze_ratio(family: Family, expanded: int, squeezed: int, expansion: float | None) -> float:
    """Return the ratio se, in few digits, with which a block has exactly ``squeezed`` channels in squeeze-and-excite.

    Args:
        family: From ``family_of``.
        expanded: Channels that are squeezed: the expanded ones, or the input of a block without expansion.
        squeezed: Channels in between.
        expansion: The block's e; None where it has none.

    Raises:
        ValueError: If the family rounds to multiples of 8 and ``squeezed`` is none.
    """
    base = 1.0 if family.ratio_of_expanded or expansion is None else expansion

    def gives(ratio: float) -> bool:
        return family.squeeze_rounding(expanded * (ratio / base)) == squeezed

    ratio = squeezed / expanded * base
    if not gives(ratio):
        raise ValueError(
            f"the squeezed width of a block must be a multiple of 8 in this family of backbones, got {squeezed}"
        )
    return USUAL_SQUEEZE if gives(USUAL_SQUEEZE) else _shortest(ratio, gives)


def _shortest(value: float, fits: Callable[[float], bool]) -> float:
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 17))
    return next((candidate for candidate in candidates if fits(candidate)), value)


def _read(family: Family, block: Any) -> Block:
    kind = _KINDS[type(block).__name__]
    read = {"cn": _read_conv, "uir": _read_universal, "mha": _read_attention}.get(kind, _read_residual)
    found: Block = read(kind, family, block)
    own = activation_of(block)
    code = None if own in (None, family.activation) else _activation_code(own)
    return replace(found, activation=code)


def _activation_code(kind: Any) -> str:
    codes = [code for code, name in ACTIVATIONS.items() if get_act_layer(name) is kind]
    if not codes:
        raise ValueError(
            f"the activation of a block must be one of {', '.join(ACTIVATIONS.values())} to be written as a string, "
            f"got {kind.__name__}; choose another backbone"
        )
    return codes[0]


def _read_residual(kind: str, family: Family, block: Any) -> Block:
    """Read an inverted residual, a fused one, or one without expansion."""
    main = block.conv_exp if kind == "er" else block.conv_dw
    project = block.conv_pw if kind == "ds" else block.conv_pwl
    inner = _channels(project)[0]
    expansion = None if kind == "ds" else expansion_ratio(_in_channels(block), inner)
    if kind == "ds" and block.has_pw_act:
        kind = "dsa"
    return Block(
        kind=kind,
        channels=_channels(project)[1],
        kernel=_kernel(main),
        stride=_stride(main),
        expansion=expansion,
        se=_se(family, block, inner, expansion),
        skip=None if kind == "dsa" else _skip(block, _in_channels(block), _channels(project)[1], _stride(main)),
        first_kernel=_unless_1(_kernel(block.conv_pw)) if kind == "ir" else None,
        last_kernel=_unless_1(_kernel(project)),
        group_size=_group_size(main, default=0 if kind == "er" else 1),
        experts=getattr(block, "num_experts", None),
    )


def _read_conv(kind: str, family: Family, block: Any) -> Block:
    conv = block.conv
    return Block(
        kind=kind,
        channels=conv.out_channels,
        kernel=_kernel(conv),
        stride=_stride(conv),
        skip=block.has_skip or None,
        group_size=None if conv.groups == 1 else conv.in_channels // conv.groups,
    )


def _read_universal(kind: str, family: Family, block: Any) -> Block:
    expand, project = block.pw_exp.conv, block.pw_proj.conv
    convs = [None if isinstance(part, nn.Identity) else part.conv for part in _depthwise(block)]
    first, middle, last = (_kernel(conv) if conv is not None else (0,) for conv in convs)
    stride = max((_stride(conv) for conv in convs if conv is not None), default=1)
    expansion = expansion_ratio(expand.in_channels, expand.out_channels)
    return Block(
        kind=kind,
        channels=project.out_channels,
        kernel=middle,
        stride=stride,
        expansion=expansion,
        se=_se(family, block, expand.out_channels, expansion),
        skip=_skip(block, expand.in_channels, project.out_channels, stride),
        first_kernel=first if any(first) else None,
        last_kernel=last if any(last) else None,
        group_size=next((_group_size(conv, default=1) for conv in convs if conv is not None), None),
    )


def _depthwise(block: Any) -> tuple[Any, Any, Any]:
    return block.dw_start, block.dw_mid, block.dw_end


def _read_attention(kind: str, family: Family, block: Any) -> Block:
    attention = block.attn
    single_key = hasattr(attention, "query")
    projections = attention.output.proj if single_key else attention.proj
    inner = attention.key_dim if single_key else projections.in_channels // attention.num_heads
    down = getattr(attention.key, "down_conv", None) if single_key else None
    return Block(
        kind="mqa" if single_key else kind,
        channels=projections.out_channels,
        kernel=(3,) if down is None else _kernel(down),
        skip=_skip(block, block.norm.num_features, projections.out_channels, 1),
        heads=attention.num_heads,
        head_width=inner,
        key_stride=block.kv_stride if block.kv_stride > 1 else None,
    )


# timm's convolutions: one Conv2d, one whose kernels come from experts, or several side by side (MixedConv2d)


def _parts(conv: Any) -> list[Any]:
    return list(conv.values()) if isinstance(conv, nn.ModuleDict) else [conv]


def _channels(conv: Any) -> tuple[int, int]:
    return sum(part.in_channels for part in _parts(conv)), sum(part.out_channels for part in _parts(conv))


def _in_channels(block: Any) -> int:
    first = block.conv_exp if hasattr(block, "conv_exp") else block.conv_dw if _is_plain(block) else block.conv_pw
    return _channels(first)[0]


def _is_plain(block: Any) -> bool:
    return not hasattr(block, "conv_pwl")


def _kernel(conv: Any) -> tuple[int, ...]:
    return tuple(part.kernel_size[0] for part in _parts(conv))


def _stride(conv: Any) -> int:
    return int(_parts(conv)[0].stride[0])


def _group_size(conv: Any, *, default: int) -> int | None:
    """Return the channels in a group; None where that is timm's default of the kind (0: all in one group)."""
    part = _parts(conv)[0]
    size = part.out_channels // part.groups  # what timm counts in a fused block
    usual = size == 1 if default == 1 else part.groups == 1
    return None if usual else size


def _unless_1(kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    return None if kernel == (1,) else kernel


def _skip(block: Any, in_channels: int, out_channels: int, stride: int) -> bool | None:
    """Return False where a block could have a skip connection and has none."""
    return False if in_channels == out_channels and stride == 1 and not block.has_skip else None


def _se(family: Family, block: Any, inner: int, expansion: float | None) -> float:
    if isinstance(block.se, nn.Identity):
        return 0.0
    return squeeze_ratio(family, inner, block.se.conv_reduce.out_channels, expansion)
