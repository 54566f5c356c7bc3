"""Compound scaling (paper §4): one coefficient φ scales width, depth, heads and input together.

The published models follow these formulas only in part; ``published/google.py`` holds the published values as literals:

    φ   width 64·1.35^φ → published    depth 3+φ → published    input 512+128φ → published
    0     64.0 → 64                       3 → 3                     512 → 512
    1     86.4 → 88                       4 → 4                     640 → 640
    2    116.6 → 112 (nearest 8: 120)     5 → 5                     768 → 768
    3    157.5 → 160                      6 → 6                     896 → 896
    4    212.6 → 224 (nearest 8: 216)     7 → 7                    1024 → 1024
    5    287.0 → 288                      8 → 7                    1152 → 1280
    6    387.4 → 384                      9 → 8                    1280 → 1280
    7    523.0 → 384                     10 → 8                    1408 → 1536

The depth of the heads, 3+⌊φ/3⌋, holds for every published φ. D7 is D6 at 1536 pixels with larger anchors; D7x has a
B7 backbone and one more level. The Lite models take the widths and depths of D0–D4 with smaller inputs.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def compound_scale(phi: int) -> CompoundScale:
    """Return the sizes that the paper's formulas give, with the width rounded to the nearest multiple of 8.

    Args:
        phi: Compound coefficient, 0 or more.

    Raises:
        ValueError: If phi is negative.
    """
    if phi < 0:
        raise ValueError(f"phi must be 0 or more, got {phi}")
    return CompoundScale(
        channels=8 * round(bifpn_width(phi) / 8),
        neck_repeats=3 + phi,
        head_repeats=3 + phi // 3,
        image_size=512 + 128 * phi,
    )
