"""Every published architecture by its name: google's, those of PyPI's ``effdet``, and zylo117's."""

from __future__ import annotations

from effdet.models.architecture import Architecture
from effdet.models.published.effdet import EFFDET_MODELS
from effdet.models.published.google import ADVPROP_MODELS, GOOGLE_MODELS
from effdet.models.published.zylo import ZYLO_MODELS

__all__ = [
    "ADVPROP_MODELS",
    "EFFDET_MODELS",
    "FAMILIES",
    "GOOGLE_MODELS",
    "PUBLISHED",
    "ZYLO_MODELS",
    "describe_families",
    "list_variants",
]

FAMILIES: dict[str, dict[str, Architecture]] = {"google": GOOGLE_MODELS, "effdet": EFFDET_MODELS, "zylo": ZYLO_MODELS}
PUBLISHED: dict[str, Architecture] = GOOGLE_MODELS | EFFDET_MODELS | ZYLO_MODELS | ADVPROP_MODELS


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


def describe_families() -> str:
    """Return the names of google's models, and where those of the other families are listed, for error messages."""
    others = " and ".join(f"list_variants('{family}')" for family in FAMILIES if family != "google")
    return f"{', '.join(GOOGLE_MODELS)}, and those of {others}"
