"""The widths of a backbone as plain numbers, and the backbone that has other ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from timm.layers.helpers import make_divisible
from torch import nn

from effdet.models.architecture import COARSEST_FEATURE, Architecture
from effdet.models.backbone_blocks import expansion_ratio, squeeze_ratio, written_out
from effdet.models.backbones import family_of, probe_of
from effdet.models.block_strings import Block, parse_block


@dataclass(frozen=True, kw_only=True)
class BlockWidths:
    """The widths of one block; its input is the output of the block before."""

    stage: int
    index: int  # within the stage
    block: Block  # all that is no width
    expanded: int | None  # None: the block has no expansion
    squeezed: int | None  # of squeeze-and-excite
    output: int
    has_skip: bool  # its output is added to its input, so both have the same channels


@dataclass(frozen=True, kw_only=True)
class BackboneWidths:
    """The widths of a backbone from its stem to its last block."""

    stem: int
    blocks: tuple[BlockWidths, ...]

    def tied_outputs(self) -> list[list[int]]:
        """Return the outputs that skip connections tie, as lists of numbers: 0 is the stem, i + 1 is block i."""
        groups = [[0]]
        for number, block in enumerate(self.blocks, start=1):
            if block.has_skip:
                groups[-1].append(number)
            else:
                groups.append([number])
        return groups

    def outputs(self) -> list[int]:
        """Return the widths that ``tied_outputs`` counts."""
        return [self.stem, *(block.output for block in self.blocks)]

    def features(self, min_level: int) -> list[int]:
        """Return the outputs that the neck takes, numbered as in ``tied_outputs``, from stride 2^min_level to 32."""
        stride, last_of_stride = 2, {2: 0}
        for number, block in enumerate(self.blocks, start=1):
            stride *= block.block.stride
            last_of_stride[stride] = number
        return [last_of_stride[2**level] for level in range(min_level, COARSEST_FEATURE + 1)]

    def with_outputs(self, numbers: Sequence[int], width: int) -> BackboneWidths:
        """Return these widths with another one for some outputs, numbered as in ``tied_outputs``."""
        blocks = tuple(
            replace(block, output=width) if number in numbers else block
            for number, block in enumerate(self.blocks, start=1)
        )
        return BackboneWidths(stem=width if 0 in numbers else self.stem, blocks=blocks)

    def with_expanded(self, number: int, width: int) -> BackboneWidths:
        """Return these widths with another expansion in block ``number``, counted from 0."""
        blocks = list(self.blocks)
        blocks[number] = replace(blocks[number], expanded=width)
        return replace(self, blocks=tuple(blocks))


def read_backbone(architecture: Architecture) -> BackboneWidths | None:
    """Return the widths of a backbone; None where strings cannot describe it or channels cannot be taken out of it.

    Channels cannot be taken out of convolutions with groups, with several kernels side by side or with experts, nor out
    of attention. They can where features are taken behind a block, not inside it (``expanded_features``).
    """
    try:
        written = written_out(architecture)
    except ValueError:
        return None
    assert written.backbone_blocks is not None
    assert written.stem_channels is not None
    modules = [block for stage in probe_of(written).blocks for block in stage]
    places = [(s, i, text) for s, stage in enumerate(written.backbone_blocks) for i, text in enumerate(stage)]
    width, blocks = written.stem_channels, []
    for (stage, index, text), module in zip(places, modules, strict=True):
        block = parse_block(text)
        if architecture.expanded_features or not _can_be_cut(block):
            return None
        squeeze: Any = getattr(module, "se", nn.Identity())
        found = BlockWidths(
            stage=stage,
            index=index,
            block=block,
            expanded=None if block.expansion is None else make_divisible(width * block.expansion),
            squeezed=None if isinstance(squeeze, nn.Identity) else squeeze.conv_reduce.out_channels,
            output=block.channels,
            has_skip=bool(getattr(module, "has_skip", False)),
        )
        blocks.append(found)
        width = block.channels
    return BackboneWidths(stem=written.stem_channels, blocks=tuple(blocks))


def with_backbone(architecture: Architecture, widths: BackboneWidths) -> Architecture:
    """Return an architecture with other widths in its backbone, written out block by block.

    Raises:
        ValueError: If an expanded width is no multiple of 8.
    """
    stages: list[list[str]] = []
    width = widths.stem
    for block in widths.blocks:
        if block.index == 0:
            stages.append([])
        stages[-1].append(str(_with_widths(architecture, block, width)))
        width = block.output
    return replace(architecture, backbone_blocks=tuple(tuple(stage) for stage in stages), stem_channels=widths.stem)


def _with_widths(architecture: Architecture, widths: BlockWidths, in_channels: int) -> Block:
    block = replace(widths.block, channels=widths.output, expansion_base=None)
    if widths.expanded is not None:
        block = replace(block, expansion=expansion_ratio(in_channels, widths.expanded))
    if widths.squeezed is not None:
        inner = widths.expanded or in_channels
        ratio = squeeze_ratio(family_of(architecture.backbone), inner, widths.squeezed, block.expansion)
        block = replace(block, se=ratio)
    if block.kind in ("cn", "dsa"):
        return block
    could_skip = block.stride == 1 and in_channels == widths.output
    return replace(block, skip=False if could_skip and not widths.has_skip else None)


def _can_be_cut(block: Block) -> bool:
    plain = block.group_size is None and block.experts is None and block.heads is None and block.expansion_base is None
    kernels = (block.kernel, block.first_kernel or (1,), block.last_kernel or (1,))
    return plain and all(len(kernel) == 1 for kernel in kernels)
