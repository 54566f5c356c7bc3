"""``Architecture``: everything that tells one EfficientDet from another, as one value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias

from effdet.models.block_strings import BlockStrings, check_stages
from effdet.models.field_checks import (
    Check,
    any_number,
    aspect_ratio,
    block_string,
    flag,
    input_size,
    list_of,
    one_of,
    or_none,
    positive,
    rate,
    text,
    whole,
)

AspectRatios: TypeAlias = tuple[tuple[float, float], ...]
Neck = Literal["bifpn", "fpn", "pan", "nas_fpn", "full", "quad"]
Fusion = Literal["fast", "softmax", "sum", "unbounded", "channel_fast", "channel_softmax", "channel_unbounded"]
ConvOrder = Literal["act_conv_bn", "conv_bn_act"]
Activation = Literal["silu", "relu", "relu6", "leaky_relu", "hardswish", "mish"]
Downsampling = Literal["max_same", "max_symmetric", "max_zeros", "bilinear"]
Upsampling = Literal["nearest", "bilinear"]

# Anchors 1:1, 2:1 and 1:2 of one area, as (width, height) factors; and the same rounded to one digit, area 0.98.
EXACT_RATIOS: AspectRatios = tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in (1.0, 2.0, 0.5))
ROUNDED_RATIOS: AspectRatios = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

NAS_FPN_LEVELS = 5  # P3…P7 where it was found
_MAX_REPEATS, _MAX_LEVEL, _MAX_SCALES = 200, 20, 100

COARSEST_FEATURE = 5  # C5, at stride 32, is the coarsest map of the backbone; coarser levels are pooled from it


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a network is: its backbone, neck, heads, anchors and input. The defaults are those of google's D1–D5.

        Architecture.named("d0")                                    # a published one
        dataclasses.replace(Architecture.named("lite0"), channels=48)  # any other

    Two architectures with equal fields are equal. Lists become tuples, and whole numbers become floats where a float is
    meant, so values that were read from YAML or JSON fit.

    Raises:
        TypeError: If a value has a wrong type.
        ValueError: If a value is out of its range, or two values do not go together.
    """

    backbone: str  # timm name of a model with features at strides 8, 16 and 32
    backbone_blocks: BlockStrings | None = None  # in place of those of ``backbone``; see block_strings.py
    stem_channels: int | None = None  # width of the first convolution, with backbone_blocks; None: that of ``backbone``
    image_size: tuple[int, int]  # network input (height, width) in pixels; any other size works too
    in_channels: int = 3  # channels of an image
    channels: int  # width of the neck, and of the heads unless head_channels is given
    neck: Neck = "bifpn"  # how the levels of the pyramid are joined
    fusion: Fusion = "fast"  # how a node of the neck adds its inputs; see models/necks/fusion.py
    neck_repeats: int  # layers of the neck
    head_repeats: int  # convolutions in each head before the prediction
    head_channels: int | None = None  # width of these convolutions; None: that of the neck
    activation: Activation = "silu"  # of neck and heads
    head_activation: Activation | None = None  # of the heads; None: that of the neck
    separable: bool = True  # depthwise and pointwise convolutions in neck and heads; False: full ones
    conv_order: ConvOrder = "act_conv_bn"  # of activation, convolution and BN in a node of the neck
    skip_edges: bool = True  # of a BiFPN: the edge from a level's input to its output node
    single_input_nodes: bool = False  # of a BiFPN: the nodes with one input, which the paper takes out of PANet

    min_level: int = 3  # finest level of the pyramid, 2 to 5; the cells of level l have stride 2^l
    max_level: int = 7  # coarsest level, 6 or more
    anchor_scale: float = 4.0  # side of the smallest square anchor, in strides
    scales_per_octave: int = 3  # anchor sizes between a level and the next coarser one
    aspect_ratios: AspectRatios = EXACT_RATIOS  # of anchors: (width, height) factors; a number r stands for (√r, 1/√r)

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # one number per channel (RGB), of pixels in 0…255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)  # as mean: standard deviation of pixels

    backbone_bn_eps: float = 1e-3  # epsilon of the BN of the backbone
    stochastic_depth: float = 0.2  # drop rate of the last backbone block while training
    expanded_features: bool = False  # take features before the projection that ends a block, where they are wider
    downsampling: Downsampling = "max_same"  # from a level to the next coarser one
    upsampling: Upsampling = "nearest"  # from a level to the next finer one
    conv_bias: bool = True  # whether convolutions that a BN follows have a bias, which the BN makes redundant

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.min_level > COARSEST_FEATURE or self.max_level <= COARSEST_FEATURE:
            raise ValueError(
                f"min_level must lie in 2…{COARSEST_FEATURE} and max_level must be {COARSEST_FEATURE + 1} or more, got "
                f"{self.min_level} and {self.max_level}"
            )
        self._check_neck()
        self._check_blocks()
        for name in ("mean", "std"):
            numbers = getattr(self, name)
            if len(numbers) != self.in_channels:
                raise ValueError(
                    f"{name} must have one number for each of in_channels={self.in_channels} channels, got "
                    f"{list(numbers)}; give mean and std together with in_channels"
                )

    def _check_neck(self) -> None:
        for name, published in (("skip_edges", True), ("single_input_nodes", False)):
            if self.neck != "bifpn" and getattr(self, name) != published:
                raise ValueError(
                    f"{name} must be {str(published).lower()} for the neck '{self.neck}', got "
                    f"{str(not published).lower()}; only the neck 'bifpn' has the choice"
                )
        if self.neck == "nas_fpn" and self.num_levels != NAS_FPN_LEVELS:
            raise ValueError(
                f"the neck 'nas_fpn' must have {NAS_FPN_LEVELS} levels, which its published graph joins, got min_level "
                f"{self.min_level} and max_level {self.max_level}; choose others, or another neck"
            )

    def _check_blocks(self) -> None:
        if self.backbone_blocks is not None:
            check_stages("backbone_blocks", self.backbone_blocks)
        elif self.stem_channels is not None:
            raise ValueError(
                f"stem_channels must come together with backbone_blocks, got {self.stem_channels} without them; leave "
                "it out, or write the backbone out with effdet.models.backbone_blocks.written_out"
            )

    @classmethod
    def named(cls, name: str) -> Architecture:
        """Return a published architecture; ``list_variants`` has the names.

        Raises:
            ValueError: If there is none of this name; the message has the nearest.
        """
        from effdet.models.published import PUBLISHED, describe_families

        if name not in PUBLISHED:
            hint = _nearest(name.lower(), PUBLISHED, cutoff=0.3)
            raise ValueError(f"unknown model '{name}'; {hint}known: {describe_families()}")
        return PUBLISHED[name]

    @classmethod
    def from_phi(cls, phi: float, *, formula: bool = False, stride: int = 128) -> Architecture:
        """Return the detector of a compound coefficient: D0 to D7 for 0 to 7, and what lies between or beyond.

            Architecture.from_phi(1.5)  # a B1.5, 104 channels, 5 layers, 768 pixels

        The backbone is EfficientNet-Bφ. Neck and heads have 64·1.35^φ channels, to the nearest multiple of 8; the neck
        has 3+φ layers, each head 3+⌊φ/3⌋ convolutions, and the input 512+128φ pixels (EfficientDet §4).

        Args:
            phi: 0 or more; any real number. Beyond 7 nothing was published, and the formulas are used; D7x has no phi.
            formula: For whole numbers up to 7, take the formulas too. The published models differ from them in the
                places that ``effdet.models.scaling.DEPARTURES`` lists.
            stride: The sides of the input are rounded to a multiple of it.

        Raises:
            TypeError: If phi is no number.
            ValueError: If phi is negative or over 100, or stride is below 1.
        """
        from effdet.models.scaling import architecture_from_phi

        return architecture_from_phi(phi, formula=formula, stride=stride)

    @property
    def name(self) -> str:
        """The name of the published architecture that equals this one, or "custom"."""
        from effdet.models.published import PUBLISHED

        return next((name for name, published in PUBLISHED.items() if published == self), "custom")

    @property
    def num_levels(self) -> int:
        """L, levels of the pyramid."""
        return self.max_level - self.min_level + 1

    @property
    def anchors_per_cell(self) -> int:
        """A, anchors at each cell of each level."""
        return self.scales_per_octave * len(self.aspect_ratios)

    @property
    def coarsest_stride(self) -> int:
        """Pixels between neighbouring cells of the coarsest level."""
        return 2**self.max_level

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, such as YAML and JSON have; ``from_dict`` takes them back."""
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Return the architecture with these fields; those with a default may be absent.

        Raises:
            TypeError: If a value has a wrong type, or ``values`` is no mapping.
            ValueError: If a key is unknown or missing, or a value is out of its range.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"an architecture must be a section of keys and values, got {type(values).__name__}")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key '{key}'; {_nearest(str(key), known)}known: {', '.join(known)}")
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            must = f"an architecture must have the keys {', '.join(_REQUIRED)}"
            raise ValueError(f"{must}; missing: {', '.join(missing)}")
        return cls(**values)


_REQUIRED = ("backbone", "image_size", "channels", "neck_repeats", "head_repeats")


def _nearest(name: str, known: Any, cutoff: float = 0.5) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean '{near[0]}'? " if near else ""


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


_CHECKS: dict[str, Check] = {
    "backbone": text,
    "backbone_blocks": or_none(list_of(list_of(block_string, "a list of block strings"), "a list of stages")),
    "stem_channels": or_none(whole(1)),
    "image_size": input_size,
    "in_channels": whole(1),
    "channels": whole(1),
    "neck": one_of(Neck),
    "fusion": one_of(Fusion),
    "neck_repeats": whole(1, _MAX_REPEATS),
    "head_repeats": whole(1, _MAX_REPEATS),
    "head_channels": or_none(whole(1)),
    "activation": one_of(Activation),
    "head_activation": or_none(one_of(Activation)),
    "separable": flag,
    "conv_order": one_of(ConvOrder),
    "skip_edges": flag,
    "single_input_nodes": flag,
    "min_level": whole(2, _MAX_LEVEL),
    "max_level": whole(2, _MAX_LEVEL),
    "anchor_scale": positive,
    "scales_per_octave": whole(1, _MAX_SCALES),
    "aspect_ratios": list_of(aspect_ratio, "a list of numbers or of factors [width, height]"),
    "mean": list_of(any_number, "a list of numbers, one per channel"),
    "std": list_of(positive, "a list of numbers, one per channel"),
    "backbone_bn_eps": positive,
    "stochastic_depth": rate,
    "expanded_features": flag,
    "downsampling": one_of(Downsampling),
    "upsampling": one_of(Upsampling),
    "conv_bias": flag,
}
