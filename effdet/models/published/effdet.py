"""The models of PyPI's ``effdet`` 0.4.1, one row each, under its own names.

``tf_efficientdet_*`` are google's models by another name. The others were made for PyTorch: padding is symmetric, and
a convolution before a BN has no bias.
"""

from __future__ import annotations

from dataclasses import replace

from effdet.models.architecture import EXACT_RATIOS, ROUNDED_RATIOS, Architecture
from effdet.models.published.google import GOOGLE_MODELS

_HALF = (127.5, 127.5, 127.5)

# Families of rows; a row below says only what is its own. "Symmetric" is what most share.
_SYMMETRIC = Architecture(
    backbone="efficientnet_b0",
    image_size=(512, 512),
    channels=64,
    neck_repeats=3,
    head_repeats=3,
    backbone_bn_eps=1e-5,
    downsampling="max_symmetric",
    conv_bias=False,
    aspect_ratios=ROUNDED_RATIOS,
)
_EXACT = replace(_SYMMETRIC, aspect_ratios=EXACT_RATIOS)
_BILINEAR = replace(_EXACT, downsampling="bilinear", upsampling="bilinear")
_FULL = replace(_EXACT, separable=False)  # 3×3 convolutions in neck and heads
_CSP = replace(_FULL, activation="leaky_relu")
_QUAD = replace(_SYMMETRIC, neck="quad")
# Three rows state neither padding nor bias, so they have google's, with a backbone that pads symmetrically.
_MIXED = replace(_SYMMETRIC, downsampling="max_same", conv_bias=True)


def _row(
    base: Architecture, backbone: str, side: int, channels: int, neck_repeats: int, head_repeats: int, drop: float = 0.2
) -> Architecture:
    return replace(
        base,
        backbone=backbone,
        image_size=(side, side),
        channels=channels,
        neck_repeats=neck_repeats,
        head_repeats=head_repeats,
        stochastic_depth=drop,
    )


_OWN: dict[str, Architecture] = {
    #                              backbone, input, width, neck, head, stochastic depth
    "efficientdet_d0": _row(_SYMMETRIC, "efficientnet_b0", 512, 64, 3, 3, 0.1),
    "efficientdet_d1": _row(_SYMMETRIC, "efficientnet_b1", 640, 88, 4, 3),
    "efficientdet_d2": _row(_SYMMETRIC, "efficientnet_b2", 768, 112, 5, 3),
    "efficientdet_d3": _row(_SYMMETRIC, "efficientnet_b3", 896, 160, 6, 4),
    "efficientdet_d4": _row(_MIXED, "efficientnet_b4", 1024, 224, 7, 4),
    "efficientdet_d5": _row(_MIXED, "efficientnet_b5", 1280, 288, 7, 4),
    "efficientdetv2_dt": _row(_BILINEAR, "efficientnetv2_rw_t", 768, 128, 5, 3),
    "efficientdetv2_ds": _row(_BILINEAR, "efficientnetv2_rw_s", 1024, 256, 7, 4),
    "resdet50": replace(_row(_FULL, "resnet50", 640, 88, 4, 3), activation="relu", aspect_ratios=ROUNDED_RATIOS),
    "cspresdet50": replace(
        _row(_CSP, "cspresnet50", 768, 88, 4, 3),
        head_activation="silu",
        downsampling="bilinear",
        upsampling="bilinear",
    ),
    "cspresdext50": _row(_CSP, "cspresnext50", 640, 88, 4, 3),
    "cspresdext50pan": replace(_row(_CSP, "cspresnext50", 640, 88, 3, 3), neck="pan"),
    "cspdarkdet53": _row(_CSP, "cspdarknet53", 640, 88, 4, 3),
    "cspdarkdet53m": replace(
        _row(_CSP, "cspdarknet53", 768, 96, 4, 3),
        neck="quad",
        head_activation="mish",
        downsampling="bilinear",
        upsampling="bilinear",
    ),
    "mixdet_m": _row(_EXACT, "mixnet_m", 512, 64, 3, 3, 0.1),
    "mixdet_l": _row(_EXACT, "mixnet_l", 640, 88, 4, 3),
    "mobiledetv2_110d": replace(_row(_EXACT, "mobilenetv2_110d", 384, 48, 3, 3, 0.05), activation="relu6"),
    "mobiledetv2_120d": replace(_row(_EXACT, "mobilenetv2_120d", 512, 56, 3, 3, 0.1), activation="relu6"),
    "mobiledetv3_large": replace(_row(_EXACT, "mobilenetv3_large_100", 512, 64, 3, 3, 0.1), activation="hardswish"),
    "efficientdet_q0": _row(_QUAD, "efficientnet_b0", 512, 64, 3, 3, 0.1),
    "efficientdet_q1": replace(
        _row(_QUAD, "efficientnet_b1", 640, 88, 3, 3), downsampling="bilinear", upsampling="bilinear"
    ),
    "efficientdet_q2": _row(_QUAD, "efficientnet_b2", 768, 112, 4, 3),
    "efficientdet_w0": replace(_row(_EXACT, "efficientnet_b0", 512, 80, 3, 3, 0.1), expanded_features=True),
    "efficientdet_es": replace(_row(_FULL, "efficientnet_es", 512, 72, 3, 3, 0.1), activation="relu"),
    "efficientdet_em": replace(_row(_FULL, "efficientnet_em", 640, 96, 4, 3), activation="relu"),
    "efficientdet_lite0": replace(
        _row(_MIXED, "efficientnet_lite0", 384, 64, 3, 3, 0.1), conv_bias=False, activation="relu6"
    ),
}


def _from_google(name: str) -> Architecture:
    """Google's model as effdet defines it: rounded anchors, and stochastic depth in D0 but not in Lite0."""
    row = replace(GOOGLE_MODELS[name], aspect_ratios=ROUNDED_RATIOS)
    if name.startswith("lite"):
        row = replace(row, mean=_HALF, std=_HALF)
    return replace(row, stochastic_depth=0.0 if name == "lite0" else 0.2)


def _advprop(name: str) -> Architecture:
    """The same network trained with AdvProp, on pixels scaled to -1…1."""
    return replace(_from_google(name), mean=_HALF, std=_HALF)


_TF = {f"tf_efficientdet_{name}": _from_google(name) for name in GOOGLE_MODELS}
_TF_ADVPROP = {f"tf_efficientdet_d{n}_ap": _advprop(f"d{n}") for n in range(6)}

EFFDET_MODELS: dict[str, Architecture] = _OWN | _TF | _TF_ADVPROP
