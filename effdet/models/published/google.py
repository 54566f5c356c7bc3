"""The published EfficientDet models, one row each (google/automl ``hparams_config.py``)."""

from __future__ import annotations

from dataclasses import replace

from effdet.models.architecture import Variant


def _row(backbone: str, side: int, channels: int, neck_repeats: int, head_repeats: int) -> Variant:
    return Variant(
        backbone=backbone,
        image_size=(side, side),
        channels=channels,
        neck_repeats=neck_repeats,
        head_repeats=head_repeats,
    )


def _lite_row(backbone: str, side: int, channels: int, neck_repeats: int, head_repeats: int, scale: float) -> Variant:
    return replace(
        _row(backbone, side, channels, neck_repeats, head_repeats),
        weighted_fusion=False,
        anchor_scale=scale,
        activation="relu6",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


# D6 and larger replace the learned fusion weights by a plain sum, "for stability".
_D6 = replace(_row("tf_efficientnet_b6", 1280, 384, 8, 5), weighted_fusion=False)

GOOGLE_VARIANTS: dict[str, Variant] = {
    #                             backbone, input, width, neck, head
    "d0": replace(_row("tf_efficientnet_b0", 512, 64, 3, 3), stochastic_depth=0.0),  # switched off for B0
    "d1": _row("tf_efficientnet_b1", 640, 88, 4, 3),
    "d2": _row("tf_efficientnet_b2", 768, 112, 5, 3),
    "d3": _row("tf_efficientnet_b3", 896, 160, 6, 4),
    "d4": _row("tf_efficientnet_b4", 1024, 224, 7, 4),
    "d5": _row("tf_efficientnet_b5", 1280, 288, 7, 4),
    "d6": _D6,
    "d7": replace(_D6, image_size=(1536, 1536), anchor_scale=5.0),
    "d7x": replace(_D6, backbone="tf_efficientnet_b7", image_size=(1536, 1536), max_level=8),
    "lite0": _lite_row("tf_efficientnet_lite0", 320, 64, 3, 3, scale=3.0),
    "lite1": _lite_row("tf_efficientnet_lite1", 384, 88, 4, 3, scale=3.0),
    "lite2": _lite_row("tf_efficientnet_lite2", 448, 112, 5, 3, scale=3.0),
    "lite3": _lite_row("tf_efficientnet_lite3", 512, 160, 6, 4, scale=4.0),
    "lite3x": _lite_row("tf_efficientnet_lite3", 640, 200, 6, 4, scale=3.0),
    "lite4": _lite_row("tf_efficientnet_lite4", 640, 224, 7, 4, scale=4.0),
}
