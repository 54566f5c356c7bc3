"""The widths and depths of an architecture that adaptation may reduce, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from effdet.adaptation.backbone_widths import BackboneWidths, read_backbone, with_backbone
from effdet.models.architecture import Architecture

STEP = 8  # channels; kernels of all runtimes work on multiples of 8


@dataclass(frozen=True, kw_only=True)
class Width:
    """One number of an architecture that can be smaller.

    Attributes:
        name: As ``stage 2 output``; the same in an architecture and in those that were narrowed from it.
        value: The number as it is: channels, or layers.
        step: What smaller values are multiples of.
        excluded: Values at which a convolution between backbone and neck would go.
        is_several: Whether it sets widths that have names of their own, too.
        set: Return the architecture with another value of it.
    """

    name: str
    value: int
    step: int
    set: Callable[[int], Architecture]
    excluded: frozenset[int] = frozenset()
    is_several: bool = False

    def smaller(self) -> Iterator[int]:
        """Yield the smaller values, largest first."""
        values = range((self.value - 1) // self.step * self.step, 0, -self.step)
        return (value for value in values if value not in self.excluded)


def widths_of(architecture: Architecture) -> dict[str, Width]:
    """Return all widths of an architecture by their names.

        stem, stage 2 output          an output of the backbone with all that skip connections tie to it
        block 2.1 expansion           of one block: stage 2, block 1, both counted from 0
        stage 2 expansions            of all its blocks, by the same factor; its value is that of its widest block
        neck, heads                   channels
        neck layers, head layers      depths; the last layer goes first

    A backbone that block strings cannot describe has none. An output that has the width of the neck has none either:
    there is no convolution between the two, and a narrower one would need a new one. So has the neck.
    """
    found = [*_backbone(architecture), *_neck_and_heads(architecture)]
    return {width.name: width for width in found}


def narrowed_uniformly(architecture: Architecture, factor: float) -> Architecture:
    """Return an architecture with all channels multiplied by a factor, rounded to the nearest multiple of 8.

    Widths are 8 or more, and the neck does not get that of a map that it takes. Depths stay. This is the width
    multiplier of MobileNet, applied to stem, blocks, neck and heads.

    Raises:
        ValueError: If the factor does not lie in (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"factor must lie in (0, 1], got {factor}")
    result = architecture
    for name, before in widths_of(architecture).items():
        width = widths_of(result)[name]
        wanted = before.value * factor
        if before.step == STEP and not before.is_several and wanted < width.value:
            result = width.set(min([width.value, *width.smaller()], key=lambda value: abs(value - wanted)))
    return result


def _backbone(architecture: Architecture) -> Iterator[Width]:
    widths = read_backbone(architecture)
    if widths is None:
        return
    features = widths.features(architecture.min_level)
    for group in widths.tied_outputs():
        width = _output_width(architecture, widths, group)
        if not set(group) & set(features):
            yield width
        elif width.value != architecture.channels:
            yield replace(width, excluded=frozenset([architecture.channels]))
    for number, block in enumerate(widths.blocks):
        if block.expanded is not None:
            yield Width(
                name=f"block {block.stage}.{block.index} expansion",
                value=block.expanded,
                step=STEP,
                set=lambda value, number=number: with_backbone(  # type: ignore[misc]
                    architecture, widths.with_expanded(number, value)
                ),
            )
    yield from _stage_expansions(architecture, widths)


def _output_width(architecture: Architecture, widths: BackboneWidths, group: list[int]) -> Width:
    last = widths.blocks[group[-1] - 1] if group[-1] else None
    name = "stem" if last is None else f"stage {last.stage} output"
    if last is not None and widths.blocks[-1] is not last and widths.blocks[group[-1]].stage == last.stage:
        name += f" up to block {last.index}"
    return Width(
        name=name,
        value=widths.outputs()[group[-1]],
        step=STEP,
        set=lambda width: with_backbone(architecture, widths.with_outputs(group, width)),
    )


def _stage_expansions(architecture: Architecture, widths: BackboneWidths) -> Iterator[Width]:
    for stage in sorted({block.stage for block in widths.blocks}):
        members = {n: b.expanded for n, b in enumerate(widths.blocks) if b.stage == stage and b.expanded}
        if len(members) > 1:
            yield Width(
                name=f"stage {stage} expansions",
                value=max(members.values()),
                step=STEP,
                is_several=True,
                set=lambda value, members=members: _scale(architecture, widths, members, value),  # type: ignore[misc]
            )


def _scale(architecture: Architecture, widths: BackboneWidths, members: dict[int, int], value: int) -> Architecture:
    widest = max(members.values())
    for number, expanded in members.items():
        widths = widths.with_expanded(number, max(STEP, expanded * value // widest // STEP * STEP))
    return with_backbone(architecture, widths)


def _neck_and_heads(architecture: Architecture) -> Iterator[Width]:
    widths = read_backbone(architecture)
    outputs = [] if widths is None else [widths.outputs()[number] for number in widths.features(architecture.min_level)]
    heads = architecture.head_channels or architecture.channels

    if architecture.channels not in outputs:
        yield Width(
            name="neck",
            value=architecture.channels,
            step=STEP,
            set=lambda value: _with_channels(architecture, value, heads),
            excluded=frozenset(outputs),
        )
    yield Width(
        name="heads",
        value=heads,
        step=STEP,
        set=lambda value: _with_channels(architecture, architecture.channels, value),
    )
    for name, field in (("neck layers", "neck_repeats"), ("head layers", "head_repeats")):
        yield Width(
            name=name,
            value=getattr(architecture, field),
            step=1,
            set=lambda value, field=field: replace(architecture, **{field: value}),  # type: ignore[misc]
        )


def _with_channels(architecture: Architecture, neck: int, heads: int) -> Architecture:
    return replace(architecture, channels=neck, head_channels=None if heads == neck else heads)
