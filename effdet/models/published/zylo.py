"""The nine models of zylo117's PyTorch project: google's with rounded anchors and a max-pool that pads with zeros."""

from __future__ import annotations

from dataclasses import replace

from effdet.models.architecture import ROUNDED_RATIOS, Architecture
from effdet.models.published.google import GOOGLE_MODELS


def _from_google(name: str) -> Architecture:
    return replace(GOOGLE_MODELS[name], aspect_ratios=ROUNDED_RATIOS, downsampling="max_zeros", stochastic_depth=0.2)


# What this project calls D8 is google's D7x.
ZYLO_MODELS: dict[str, Architecture] = {f"efficientdet-d{n}": _from_google(f"d{n}") for n in range(8)} | {
    "efficientdet-d8": _from_google("d7x")
}
