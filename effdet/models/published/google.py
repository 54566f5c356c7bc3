"""The published EfficientDet models of google/automl (``hparams_config.py``), one row each."""

from __future__ import annotations

from dataclasses import replace

from effdet.models.architecture import Architecture

_ADVPROP_SCALE = (127.5, 127.5, 127.5)  # pixels in -1 … 1


def _row(backbone: str, side: int, channels: int, neck_repeats: int, head_repeats: int) -> Architecture:
    return Architecture(
        backbone=backbone,
        image_size=(side, side),
        channels=channels,
        neck_repeats=neck_repeats,
        head_repeats=head_repeats,
    )


def _lite(backbone: str, side: int, channels: int, neck: int, head: int, anchor_scale: float) -> Architecture:
    return replace(
        _row(backbone, side, channels, neck, head),
        fusion="sum",
        anchor_scale=anchor_scale,
        activation="relu6",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


# D6 and larger replace the learned fusion weights by a plain sum, "for stability".
_D6 = replace(_row("tf_efficientnet_b6", 1280, 384, 8, 5), fusion="sum")

GOOGLE_MODELS: dict[str, Architecture] = {
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
    "lite0": _lite("tf_efficientnet_lite0", 320, 64, 3, 3, anchor_scale=3.0),
    "lite1": _lite("tf_efficientnet_lite1", 384, 88, 4, 3, anchor_scale=3.0),
    "lite2": _lite("tf_efficientnet_lite2", 448, 112, 5, 3, anchor_scale=3.0),
    "lite3": _lite("tf_efficientnet_lite3", 512, 160, 6, 4, anchor_scale=4.0),
    "lite3x": _lite("tf_efficientnet_lite3", 640, 200, 6, 4, anchor_scale=3.0),
    "lite4": _lite("tf_efficientnet_lite4", 640, 224, 7, 4, anchor_scale=4.0),
}

# The same networks, trained with AdvProp on pixels scaled to -1 … 1.
ADVPROP_MODELS: dict[str, Architecture] = {
    f"d{n}_ap": replace(GOOGLE_MODELS[f"d{n}"], mean=_ADVPROP_SCALE, std=_ADVPROP_SCALE) for n in range(6)
}
