"""Wider and deeper backbones: the coefficients of EfficientNet-B0 to B8, and the rules that round what they give.

A coefficient multiplies each width and the repeats of each stage. Widths are rounded to the nearest multiple of 8, but
never by more than 10 % down; repeats are rounded up (``round_filters`` and ``round_repeats`` of the published code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from timm.models._efficientnet_builder import round_channels

from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.models.block_strings import Block, parse_block

# EfficientNet-Bφ: (width, depth), from the published code; B8 is that of AdvProp.
EFFICIENTNET_COEFFICIENTS = (
    (1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1), (2.2, 3.6),
)  # fmt: skip


def efficientnet_coefficients(phi: float) -> tuple[float, float]:
    """Return (width, depth) of EfficientNet-Bφ: published for whole φ up to 8, linear between, and on beyond B8.

    Args:
        phi: 0 or more.
    """
    left = min(math.floor(phi), len(EFFICIENTNET_COEFFICIENTS) - 2)
    before, after = EFFICIENTNET_COEFFICIENTS[left : left + 2]
    share = phi - left  # over 1 beyond B8
    width, depth = (round(a + share * (b - a), 6) for a, b in zip(before, after, strict=True))
    return width, depth


def scale_backbone(architecture: Architecture, *, width: float, depth: float) -> Architecture:
    """Return an architecture whose backbone has ``width`` times the channels and ``depth`` times the blocks.

    The ratios of expansion and squeeze-and-excite stay. A deeper stage repeats its last block, a shallower one loses
    its last. As in the published models, EfficientNet-Lite keeps the width of its stem and the depth of its first and
    last stage.

    Raises:
        ValueError: If the backbone is not of timm's EfficientNet or MobileNet classes, or a factor is not positive.
    """
    for name, factor in (("width", width), ("depth", depth)):
        if not 0 < factor < math.inf:
            raise ValueError(f"{name} must be a positive number, got {factor}")
    is_lite = "efficientnet_lite" in architecture.backbone
    base = architecture if architecture.backbone_blocks is not None else written_out(architecture)
    assert base.backbone_blocks is not None
    last = len(base.backbone_blocks) - 1
    stages = []
    for number, stage in enumerate(base.backbone_blocks):
        blocks = [block for text in stage for block in _one_by_one(parse_block(text))]
        count = len(blocks) if is_lite and number in (0, last) else scaled_repeats(len(blocks), depth)
        stages.append(tuple(str(_wider(block, width)) for block in _repeat(blocks, count)))
    stem = base.stem_channels if is_lite or base.stem_channels is None else scaled_width(base.stem_channels, width)
    return replace(base, backbone_blocks=tuple(stages), stem_channels=stem)


def scaled_width(channels: int, width: float) -> int:
    """Return channels · width as a multiple of 8: the nearest, or the next where that is over 10 % less."""
    return channels if width == 1 else int(round_channels(channels, width))


def scaled_repeats(repeats: int, depth: float) -> int:
    """Return ⌈repeats · depth⌉, at least 1."""
    return max(1, math.ceil(round(repeats * depth, 6)))  # 10 · 1.1 is 11.000000000000002 in floating point


def _one_by_one(block: Block) -> list[Block]:
    """Return one block for each repeat; only the first has the stride."""
    return [replace(block, repeats=1), *[replace(block, repeats=1, stride=1)] * (block.repeats - 1)]


def _repeat(blocks: Sequence[Block], count: int) -> list[Block]:
    more = count - len(blocks)
    return [*blocks[:count], *[replace(blocks[-1], stride=1)] * more]


def _wider(block: Block, width: float) -> Block:
    return replace(block, channels=scaled_width(block.channels, width))
