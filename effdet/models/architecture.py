"""What tells one EfficientDet from another: the fields of a row in the tables of models."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

AspectRatios = tuple[tuple[float, float], ...]

# Anchors 1:1, 2:1 and 1:2 of one area, as (width, height) factors; and the same rounded to one digit, area 0.98.
EXACT_RATIOS: AspectRatios = ((1.0, 1.0), (sqrt(2.0), 1 / sqrt(2.0)), (sqrt(0.5), 1 / sqrt(0.5)))
ROUNDED_RATIOS: AspectRatios = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Everything that tells one published model from another. The defaults are those of google's D0–D5."""

    backbone: str  # timm architecture
    image_size: tuple[int, int]  # published input (height, width); any other size works too
    channels: int  # width of neck and heads
    neck_repeats: int  # layers of the neck
    head_repeats: int  # convolutions in each head before the prediction
    family: Literal["google", "effdet", "zylo"] = "google"  # project that defined it

    taps: tuple[int, ...] = (2, 3, 4)  # timm's feature levels that are C3, C4, C5
    wide_taps: bool = False  # take them before the last block's projection, where they are wider
    backbone_bn_eps: float = 1e-3
    stochastic_depth: float = 0.2  # drop rate of the last backbone block

    neck: Literal["bifpn", "quad", "pan"] = "bifpn"
    max_level: int = 7  # coarsest level of the pyramid; the finest is P3
    weighted_fusion: bool = True  # fast normalised fusion; False: plain sum
    downsampling: Literal["max_same", "max_symmetric", "max_zeros", "bilinear"] = "max_same"
    upsampling: Literal["nearest", "bilinear"] = "nearest"
    separable: bool = True  # depthwise and pointwise convolutions in neck and heads; False: full ones
    conv_bias: bool = True  # of the convolutions that a BN follows, which makes them redundant
    activation: str = "silu"
    head_activation: str | None = None  # None: as in the neck

    anchor_scale: float = 4.0  # side of the smallest square anchor, in strides
    aspect_ratios: AspectRatios = EXACT_RATIOS  # (width, height) factors of the anchors

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, of pixels in 0…255
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
