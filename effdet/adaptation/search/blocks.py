"""MnasNet's hierarchical space: backbones whose stages each have an operation, kernel, width and depth of their own.

MnasNet (§4.1) divides a backbone into stages. All layers of a stage have the same form, and different stages may have
different ones. The stages, their strides, and the widths and depths that the choices are relative to come from a base
network, in the paper MobileNetV2.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from timm.models._efficientnet_builder import round_channels

from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.models.backbones import family_of
from effdet.models.block_strings import Block, parse_block

OPERATIONS = {"inverted_residual": "ir", "depthwise": "ds", "convolution": "cn"}  # name here → kind of block
ACTIVATIONS = {"relu": "re", "relu6": "r6", "hardswish": "hs", "silu": "sw", "mish": "mi"}
OF_INPUT, OF_EXPANSION = "input", "expansion"


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    """What is chosen for each stage of the backbone; the defaults are those of MnasNet's paper.

    Raises:
        ValueError: If a choice is unknown or out of its range.
    """

    base: str = "mobilenetv2_100"  # timm's name of an EfficientNet-like model, which has the stages
    operations: tuple[str, ...] = tuple(OPERATIONS)
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[float, ...] = (3.0, 6.0)  # expanded width / input width of an inverted residual
    se_ratios: tuple[float, ...] = (0.0, 0.25)  # squeeze-and-excite; 0: none
    se_of: tuple[str, ...] = (OF_INPUT,)  # what the ratio counts from; MobileNetV3 has 0.25 of the "expansion"
    activations: tuple[str, ...] = ()  # such as "relu" and "hardswish"; none: that of the base
    layers: tuple[int, ...] = (-1, 0, 1)  # more or fewer than the base has
    widths: tuple[float, ...] = (0.75, 1.0, 1.25)  # relative to the base
    skips: tuple[bool, ...] = (True, False)  # skip connections, where input and output have the same shape

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "base":
                object.__setattr__(self, item.name, _choices(item.name, getattr(self, item.name)))
        stages_of(self.base)

    def propose(self, trial: Any, architecture: Architecture) -> Architecture:
        """Return the architecture with a backbone of this space.

        Args:
            trial: Chooses: Optuna's ``Trial``, or any object with ``suggest_categorical(name, choices)``.
            architecture: Everything but the backbone.
        """
        base, stages = stages_of(self.base)
        blocks = tuple((str(self._stage(trial, f"stage{i}", stage)),) for i, stage in enumerate(stages))
        own = {"backbone": base.backbone, "backbone_blocks": blocks, "stem_channels": base.stem_channels}
        return replace(architecture, **own)  # type: ignore[arg-type]

    def _stage(self, trial: Any, name: str, base: Block) -> Block:
        """Return the block that is repeated in a stage."""

        def choose(what: str, choices: tuple[Any, ...]) -> Any:
            return trial.suggest_categorical(f"{name}.{what}", list(choices)) if len(choices) > 1 else choices[0]

        kind = OPERATIONS[choose("operation", self.operations)]
        expansion = float(choose("expansion", self.expansions)) if kind == "ir" else None
        ratio = choose("se_ratio", self.se_ratios) if kind != "cn" else 0.0
        counts_from = choose("se_of", self.se_of) if ratio and kind == "ir" else OF_EXPANSION
        has_skip = choose("skip", self.skips)
        return Block(
            kind=kind,
            channels=round_channels(base.channels, choose("width", self.widths)),
            kernel=(choose("kernel", self.kernels),),
            stride=base.stride,
            expansion=expansion,
            se=_squeeze(self.base, float(ratio), expansion, counts_from),
            repeats=max(1, base.repeats + choose("layers", self.layers)),
            activation=ACTIVATIONS[choose("activation", self.activations)] if self.activations else None,
            skip={"cn": True if has_skip else None}.get(kind, None if has_skip else False),
        )


def _squeeze(base: str, ratio: float, expansion: float | None, counts_from: str) -> float:
    """Return the squeeze-and-excite ratio as the block strings of the family of a base count it."""
    if expansion is None or ratio == 0:
        return ratio
    if family_of(base).ratio_of_expanded:
        return ratio if counts_from == OF_EXPANSION else ratio / expansion
    return ratio * expansion if counts_from == OF_EXPANSION else ratio


@lru_cache(maxsize=16)
def stages_of(base: str) -> tuple[Architecture, tuple[Block, ...]]:
    """Return a base written out, and for each of its stages a block with the stage's stride, width and depth.

    Raises:
        ValueError: If the base is not of timm's EfficientNet or MobileNet classes.
    """
    whole = written_out(replace(Architecture.named("d0"), backbone=base))
    assert whole.backbone_blocks is not None
    stages = [[parse_block(text) for text in stage] for stage in whole.backbone_blocks]
    summary = [
        replace(stage[-1], stride=stage[0].stride, repeats=sum(block.repeats for block in stage)) for stage in stages
    ]
    return whole, tuple(summary)


_KNOWN: dict[str, tuple[Any, ...]] = {
    "operations": tuple(OPERATIONS),
    "activations": tuple(ACTIVATIONS),
    "se_of": (OF_INPUT, OF_EXPANSION),
    "skips": (True, False),
}
_IS_VALID = {
    "kernels": ("odd whole numbers", lambda value: type(value) is int and value > 0 and value % 2 == 1),
    "expansions": ("numbers of 1 or more", lambda value: _is_number(value) and value >= 1),
    "se_ratios": ("numbers in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1),
    "layers": ("whole numbers", lambda value: type(value) is int),
    "widths": ("positive numbers", lambda value: _is_number(value) and value > 0),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _choices(name: str, values: Any) -> tuple[Any, ...]:
    """Return the choices as a tuple."""
    if isinstance(values, str) or not isinstance(values, (list, tuple)):
        values = [values]
    if not values and name != "activations":
        raise ValueError(f"blocks.{name} must have at least one choice, got an empty list")
    for value in values:
        if name in _KNOWN and value not in _KNOWN[name]:
            raise ValueError(f"blocks.{name} must be among {', '.join(map(str, _KNOWN[name]))}, got {value!r}")
        if name in _IS_VALID and not _IS_VALID[name][1](value):
            raise ValueError(f"blocks.{name} must be {_IS_VALID[name][0]}, got {value!r}")
    return tuple(values)
