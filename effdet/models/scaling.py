"""Compound scaling: one coefficient φ makes backbone, neck, heads and input larger together.

The EfficientDet paper (§4) scales from D0 to D7:

    backbone   EfficientNet-Bφ
    neck       64·1.35^φ channels, 3 + φ layers
    heads      3 + ⌊φ/3⌋ convolutions before the prediction
    input      512 + 128·φ pixels

``architecture_from_phi`` computes this for any real φ, and ``DEPARTURES`` has what the published models have instead.
D7x is on no φ: it is D7 with a B7 and one more level. The Lite models take the widths and depths of D0–D4 with smaller
inputs.

The EfficientNet paper (§3) scales any network: depth by α^φ, width by β^φ, resolution by γ^φ, where α·β²·γ² ≈ 2, so
that the multiply-adds double with each φ. ``scale`` does this to any architecture, for all three at once or for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from effdet.models.architecture import Architecture
from effdet.models.backbone_scaling import efficientnet_coefficients, scale_backbone

D0_SIDE, SIDE_PER_PHI = 512, 128  # pixels
DIVISOR = 8  # widths are multiples of it
MAX_PHI = 100.0  # a network of this size has never been built; larger numbers overflow
LARGEST_PUBLISHED = 7  # D7
LARGEST_BACKBONE = 8  # timm has B0 to B8
FIRST_SUM = 6.0  # from this φ on the fusion is a plain sum, as in the published D6 and D7, "for stability"

# Where the published models differ from the formulas: φ → field → (by the formulas, published).
DEPARTURES: dict[int, dict[str, tuple[Any, Any]]] = {
    2: {"channels": (120, 112)},
    4: {"channels": (216, 224)},
    5: {"neck_repeats": (8, 7), "image_size": ((1152, 1152), (1280, 1280))},
    6: {"neck_repeats": (9, 8)},
    7: {
        "backbone": ("tf_efficientnet_b7", "tf_efficientnet_b6"),
        "channels": (520, 384),
        "neck_repeats": (10, 8),
        "image_size": ((1408, 1408), (1536, 1536)),
        "anchor_scale": (4.0, 5.0),
    },
}


@dataclass(frozen=True)
class CompoundScale:
    """What one compound coefficient gives."""

    channels: int  # width of the BiFPN and of the heads
    neck_repeats: int  # BiFPN layers
    head_repeats: int  # convolutions in each head before the prediction
    image_size: int  # side of the square network input, pixels


def bifpn_width(phi: float) -> float:
    """Return the BiFPN width 64·1.35^φ before any rounding (paper eq. 1)."""
    return 64 * 1.35**phi


def compound_scale(phi: float, *, stride: int = 128) -> CompoundScale:
    """Return the sizes that the paper's formulas give.

    The width is rounded to the nearest multiple of 8, the depth of the neck to the nearest whole number, and the input
    to the nearest multiple of ``stride``; a half is rounded up.

    Args:
        phi: Compound coefficient, 0 or more; any real number.
        stride: The side of the input is a multiple of it. 128 is the stride of the coarsest level.

    Raises:
        TypeError: If phi is no number.
        ValueError: If phi is out of its range, or stride is below 1.
    """
    phi = check_phi(phi)
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    return CompoundScale(
        channels=_nearest(bifpn_width(phi), DIVISOR),
        neck_repeats=_nearest(3 + phi),
        head_repeats=3 + math.floor(phi / 3),
        image_size=_nearest(D0_SIDE + SIDE_PER_PHI * phi, stride),
    )


def architecture_from_phi(phi: float, *, formula: bool = False, stride: int = 128) -> Architecture:
    """Return the detector that the papers' scaling gives for a coefficient; see ``Architecture.from_phi``."""
    scale = compound_scale(phi, stride=stride)
    number = math.floor(phi)
    if not formula and number == phi and number <= LARGEST_PUBLISHED:
        published = Architecture.named(f"d{number}")
        height, width = (_nearest(side, stride) for side in published.image_size)
        return replace(published, image_size=(height, width))
    return replace(
        _backbone(phi),
        image_size=(scale.image_size, scale.image_size),
        channels=scale.channels,
        neck_repeats=scale.neck_repeats,
        head_repeats=scale.head_repeats,
        fusion="fast" if phi < FIRST_SUM else "sum",
        stochastic_depth=0.2 * min(1.0, float(phi)),  # D0 has none, D1 to D7 have 0.2
    )


def _backbone(phi: float) -> Architecture:
    """Return D0 with the backbone EfficientNet-Bφ: a model of timm where there is one, else its blocks."""
    d0 = Architecture.named("d0")
    if phi == math.floor(phi) and phi <= LARGEST_BACKBONE:
        return replace(d0, backbone=f"tf_efficientnet_b{math.floor(phi)}")
    width, depth = efficientnet_coefficients(phi)
    return scale_backbone(d0, width=width, depth=depth)


@dataclass(frozen=True, kw_only=True)
class ScalingRule:
    """How much larger each dimension of a network becomes when φ grows by one; the defaults are the papers'."""

    depth: float = 1.2  # α, repeats of the backbone's blocks
    width: float = 1.1  # β, channels of the backbone
    resolution: float = 1.15  # γ, side of the input
    neck_width: float = 1.35  # channels of neck and heads

    def __post_init__(self) -> None:
        for name in ("depth", "width", "resolution", "neck_width"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} of a scaling rule must be a number, 1 or more, got {getattr(self, name)}")

    @property
    def growth(self) -> float:
        """α·β²·γ²: by how much the backbone's multiply-adds grow; the papers ask for about 2."""
        return self.depth * self.width**2 * self.resolution**2


PAPER_RULE = ScalingRule()


def scale(
    base: Architecture,
    *,
    depth: float = 0.0,
    width: float = 0.0,
    resolution: float = 0.0,
    rule: ScalingRule = PAPER_RULE,
    stride: int = 32,
) -> Architecture:
    """Return an architecture that is larger, or smaller, in some of its dimensions.

        scale(base, depth=1, width=1, resolution=1)   # compound scaling with φ = 1
        scale(base, width=2)                          # width alone

    Each dimension has a coefficient φ of its own, and 0 leaves it as it is:

        depth        α^φ times the repeats of each backbone stage; the neck gets φ layers more, each head ⌊φ/3⌋
        width        β^φ times the channels of the backbone; neck and heads get 1.35^φ times theirs
        resolution   γ^φ times the sides of the input

    Repeats are rounded up and widths of the backbone to multiples of 8, as in EfficientNet; the width of the neck to
    the nearest multiple of 8, its depth to the nearest whole number, the input to the nearest multiple of ``stride``.

    Raises:
        ValueError: If the backbone must change and is not of timm's EfficientNet or MobileNet classes, a coefficient is
            not finite, or stride is below 1.
    """
    for name, value in (("depth", depth), ("width", width), ("resolution", resolution)):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    result = base
    if depth or width:
        result = scale_backbone(base, width=rule.width**width, depth=rule.depth**depth)
    if width:
        factor = rule.neck_width**width
        heads = None if base.head_channels is None else _nearest(base.head_channels * factor, DIVISOR)
        result = replace(result, channels=_nearest(base.channels * factor, DIVISOR), head_channels=heads)
    if depth:
        result = replace(
            result,
            neck_repeats=_nearest(base.neck_repeats + depth),
            head_repeats=max(1, base.head_repeats + math.floor(depth / 3)),
        )
    if resolution:
        height, width_of_input = (_nearest(side * rule.resolution**resolution, stride) for side in base.image_size)
        result = replace(result, image_size=(height, width_of_input))
    return result


def check_phi(phi: float) -> float:
    """Return phi as a float.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, not finite, or over 100.
    """
    if isinstance(phi, bool | str):
        raise TypeError(f"phi must be a number, got {phi!r}")
    if not 0 <= phi <= MAX_PHI:
        raise ValueError(f"phi must lie in 0…{MAX_PHI:.0f}, got {phi}")
    return float(phi)


def _nearest(value: float, step: int = 1) -> int:
    """Return the multiple of ``step`` that is nearest, at least one; a half is rounded up."""
    return max(1, math.floor(value / step + 0.5)) * step
