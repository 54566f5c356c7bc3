"""Every model by its name: google's, those of PyPI's ``effdet``, and zylo117's."""

from __future__ import annotations

import difflib
from dataclasses import replace

from effdet.models.architecture import ROUNDED_RATIOS, Variant
from effdet.models.published.effdet import EFFDET_VARIANTS
from effdet.models.published.google import GOOGLE_VARIANTS as VARIANTS

__all__ = ["FAMILIES", "VARIANTS", "Variant", "get_variant", "list_variants"]

# zylo117's nine are google's with rounded anchors and a max-pool that pads with zeros; "d8" is google's D7x.
_ZYLO_VARIANTS = {
    f"efficientdet-d{n}": replace(
        VARIANTS["d7x" if n == 8 else f"d{n}"],
        family="zylo",
        aspect_ratios=ROUNDED_RATIOS,
        downsampling="max_zeros",
        stochastic_depth=0.2,
    )
    for n in range(9)
}

# AdvProp's checkpoints are of the same networks, with pixels scaled to -1 … 1.
_ADVPROP_VARIANTS = {
    f"d{n}_ap": replace(VARIANTS[f"d{n}"], mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)) for n in range(6)
}

FAMILIES: dict[str, dict[str, Variant]] = {"google": VARIANTS, "effdet": EFFDET_VARIANTS, "zylo": _ZYLO_VARIANTS}
_ALL = _ADVPROP_VARIANTS | {name: row for rows in FAMILIES.values() for name, row in rows.items()}


def list_variants(family: str = "google") -> list[str]:
    """Return the names of a family's models, each of which ``EfficientDet(name)`` takes.

    Args:
        family: "google" for the published D0–D7x and Lite0–4, "effdet" for the 47 of the PyPI package, "zylo" for the
            nine of zylo117.

    Raises:
        ValueError: If there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got '{family}'")
    return list(FAMILIES[family])


def get_variant(name: str) -> Variant:
    """Return the row of the tables with this name.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    if name not in _ALL:
        near = difflib.get_close_matches(name.lower(), _ALL, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'? " if near else ""
        others = " and ".join(f"list_variants('{family}')" for family in FAMILIES if family != "google")
        raise ValueError(f"unknown model '{name}'; {hint}known: {', '.join(VARIANTS)}, and those of {others}")
    return _ALL[name]
