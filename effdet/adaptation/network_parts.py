"""A network as a list of parts whose latencies add up to its own.

A part is as large as what a runtime may fuse: a whole block of the backbone, a lateral convolution, a layer of the
neck, a convolution of a head on all levels with its BNs and activation, the prediction of a head with the reordering
that follows it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from effdet.adaptation.backbone_widths import read_backbone
from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.models.network import Network

Map = tuple[int, int, int]  # channels, height, width
Maps = tuple[Map, ...]

STEM = ("conv_stem", "bn1", "act1")  # timm's names

# Fields that no part of neck and heads depends on, and those that a part names itself.
_ELSEWHERE = {
    *("backbone", "backbone_blocks", "stem_channels", "image_size", "in_channels", "channels", "neck_repeats"),
    *("head_repeats", "head_channels", "min_level", "max_level", "anchor_scale", "scales_per_octave", "aspect_ratios"),
    *("mean", "std", "backbone_bn_eps", "stochastic_depth", "expanded_features"),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a network.

    Attributes:
        key: What its latency depends on, as text: two parts with one key take the same time.
        inputs: The maps that it reads; none: it reads the image.
        outputs: The maps that it writes; none: it writes predictions.
        image: Channels, height and width of the network input, of a part that reads it.
        build: Return the module; it takes the list of maps, or the image, and returns a list of maps, or (B, N, O).
    """

    key: str
    inputs: Maps
    outputs: Maps
    image: Map | None = None
    build: Callable[[], nn.Module]


def parts_of(architecture: Architecture, num_classes: int, image_size: tuple[int, int]) -> list[Part]:
    """Return the parts of a network, from the image to the predictions; equal ones come as often as they are used.

    Args:
        architecture: What the network is.
        num_classes: K.
        image_size: Network input (height, width).
    """
    plan = _Plan(architecture, num_classes, image_size)
    return [*plan.backbone, *_neck(plan), *_head(plan, "class_head", num_classes), *_head(plan, "box_head", 4)]


class _Plan:
    """An architecture at one input size: its maps, and the network, which is built when a part of it is needed."""

    def __init__(self, architecture: Architecture, num_classes: int, image_size: tuple[int, int]) -> None:
        self.architecture, self.image = architecture, (architecture.in_channels, *image_size)
        self._make = lambda: Network(architecture, num_classes, stochastic_depth=0.0).eval()
        levels = range(architecture.min_level, architecture.max_level + 1)
        self.sizes = [_halved(image_size, level) for level in levels]
        self.backbone, channels = _backbone(self, image_size)
        self.features = self.maps(channels)

    @cached_property
    def network(self) -> Any:
        return self._make()

    def maps(self, channels: Sequence[int]) -> Maps:
        """Return the maps of the finest levels, with these channels."""
        return tuple((count, *size) for count, size in zip(channels, self.sizes, strict=False))

    def pyramid(self, channels: int) -> Maps:
        """Return the maps of all levels, with this number of channels."""
        return self.maps([channels] * len(self.sizes))

    def style(self) -> str:
        """Return the settings that change what neck and heads compute, those with another value than the default."""
        chosen = {
            field.name: value
            for field in fields(self.architecture)
            if field.name not in _ELSEWHERE and (value := getattr(self.architecture, field.name)) != field.default
        }
        return json.dumps(chosen, sort_keys=True)


def _halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    return -(-size[0] // 2**times), -(-size[1] // 2**times)


def _text(maps: Sequence[Map]) -> str:
    return " ".join(f"{channels}×{height}×{width}" for channels, height, width in maps)


def _backbone(plan: _Plan, image_size: tuple[int, int]) -> tuple[list[Part], list[int]]:
    """Return the parts of the backbone, and the channels of its features."""
    architecture = plan.architecture
    widths = read_backbone(architecture)
    if widths is None:
        return _whole_backbone(plan)
    written = written_out(architecture)
    assert written.backbone_blocks is not None
    texts = [text for stage in written.backbone_blocks for text in stage]
    size = _halved(image_size, 1)
    before: Map = (widths.stem, *size)
    family, in_channels = architecture.backbone, architecture.in_channels
    key = f"stem of {family} from {in_channels} {_text([before])}"
    parts = [Part(key=key, inputs=(), outputs=(before,), image=plan.image, build=lambda: _Stem(plan.network.backbone))]
    for block, text in zip(widths.blocks, texts, strict=True):
        size = _halved(size, 1) if block.block.stride == 2 else size
        after: Map = (block.output, *size)
        build = partial(_backbone_block, plan, block.stage, block.index)
        key = f"block {text} of {family} on {_text([before])}"
        parts.append(Part(key=key, inputs=(before,), outputs=(after,), build=build))
        before = after
    return parts, [widths.outputs()[number] for number in widths.features(architecture.min_level)]


def _whole_backbone(plan: _Plan) -> tuple[list[Part], list[int]]:
    channels = list(plan.network.backbone.feature_info.channels())
    chosen = plan.architecture
    names = (chosen.backbone, chosen.backbone_blocks, chosen.stem_channels, chosen.expanded_features)
    key = f"backbone {json.dumps(names)} on {_text([plan.image])}"
    part = Part(key=key, inputs=(), outputs=plan.maps(channels), image=plan.image, build=lambda: plan.network.backbone)
    return [part], channels


def _neck(plan: _Plan) -> Iterator[Part]:
    width, style = plan.architecture.channels, plan.style()
    pyramid, last = plan.pyramid(width), plan.features[-1:]
    coarse = pyramid[len(plan.features) :]
    key = f"coarse levels {_text(last)} to {_text(coarse)} {style}"
    yield Part(key=key, inputs=last, outputs=coarse, build=lambda: _CoarseLevels(plan.network.neck))
    for name, finest in plan.network.neck.finest_laterals.items():
        for index, feature in enumerate(plan.features[finest:]):
            if feature[0] != width:
                key = f"lateral {_text([feature])} to {width} {style}"
                after = ((width, *feature[1:]),)
                build = partial(_lateral, plan, name, index)
                yield Part(key=key, inputs=(feature,), outputs=after, build=build)
    for index in range(plan.architecture.neck_repeats):
        key = f"neck layer {_text(pyramid)} {style}"
        yield Part(key=key, inputs=pyramid, outputs=pyramid, build=partial(_NeckLayer, plan, index))


def _head(plan: _Plan, name: str, num_outputs: int) -> Iterator[Part]:
    architecture, style = plan.architecture, plan.style()
    before = plan.pyramid(architecture.channels)
    after = plan.pyramid(architecture.head_channels or architecture.channels)
    for index in range(architecture.head_repeats):
        key = f"head layer {_text(before)} to {after[0][0]} {style}"
        yield Part(key=key, inputs=before, outputs=after, build=partial(_HeadLayer, plan, name, index))
        before = after
    key = f"prediction {_text(before)} to {architecture.anchors_per_cell}×{num_outputs} {style}"
    yield Part(key=key, inputs=before, outputs=(), build=partial(_Prediction, plan, name))


# -- parts as modules: each takes a list of maps, or the image -------------------------------------------------------


class _Stem(nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(part for name, part in backbone.named_children() if name in STEM))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


class _OneMap(nn.Module):
    """A module from one map to one map."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.module(maps[0])]


def _backbone_block(plan: _Plan, stage: int, index: int) -> nn.Module:
    return _OneMap(plan.network.backbone.blocks[stage][index])


def _lateral(plan: _Plan, name: str, index: int) -> nn.Module:
    return _OneMap(getattr(plan.network.neck, name)[index])


class _CoarseLevels(nn.Module):
    """The levels that are pooled from C5."""

    def __init__(self, neck: Any) -> None:
        super().__init__()
        self.lateral, self.down, self.count = neck.to_p6, neck.resampling.down, neck.num_halved

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [self.lateral(maps[0])]
        for _ in range(self.count):
            levels.append(self.down(levels[-1]))
        return levels[1:]


class _NeckLayer(nn.Module):
    def __init__(self, plan: _Plan, index: int) -> None:
        super().__init__()
        neck = plan.network.neck
        self.layer, self.num_lists = neck.layers[index], len(neck.finest_laterals)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        result: list[Tensor] = self.layer(*[maps] * self.num_lists)
        return result


class _HeadLayer(nn.Module):
    def __init__(self, plan: _Plan, name: str, index: int) -> None:
        super().__init__()
        head = getattr(plan.network, name)
        self.conv, self.bns, self.activation = head.convs[index], head.bns[index], head.activation

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.activation(bn(self.conv(x))) for bn, x in zip(self.bns, maps, strict=True)]


class _Prediction(nn.Module):
    """A head without its tower."""

    def __init__(self, plan: _Plan, name: str) -> None:
        super().__init__()
        self.head = copy.copy(getattr(plan.network, name))
        self.head._modules = {**self.head._modules, "convs": nn.ModuleList(), "bns": nn.ModuleList()}

    def forward(self, maps: list[Tensor]) -> Tensor:
        outputs: Tensor = self.head(maps)
        return outputs
