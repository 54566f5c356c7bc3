"""What the blocks of one family of backbones share: activation, padding, squeeze-and-excite, stem.

The values are read from a model of timm, so that a custom backbone has the settings of the model that it is named
after. timm has two classes of such models. They differ in the base of the squeeze-and-excite ratio:

    EfficientNet, MobileNetV1, V2, MnasNet, MixNet   se = squeezed width / input width of the block
    MobileNetV3, V4, LCNet, FBNet-V3, HardCoRe-NAS   se = squeezed width / expanded width

The squeezed width is rounded to a whole number, and to a multiple of 8 in the models of the second class whose own
widths are such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers.conv2d_same import Conv2dSame
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

LAYER_SCALE = 1e-5  # timm's initial value in the models that have it


@dataclass(frozen=True)
class Family:
    """Settings that every block of a backbone shares."""

    kind: Any  # timm's class of feature extractors
    activation: type[nn.Module]
    padding: str  # "same" as in TensorFlow, or "" for symmetric
    squeeze: Callable[..., nn.Module]
    squeeze_rounding: Callable[[float], int]
    ratio_of_expanded: bool  # whether squeeze-and-excite ratios count from the expanded width
    stem_channels: int
    stem_kernel: int
    layer_scale: bool

    def build(self, stages: Sequence[Sequence[str]], stem_channels: int | None, **options: Any) -> Any:
        """Return timm's feature extractor with random weights, its widths exactly as the blocks say.

        Args:
            stages: Block strings; see ``block_strings.py``.
            stem_channels: Width of the first convolution; None: that of the family.
            options: Other arguments of timm's class, such as ``out_indices``.
        """
        own: dict[str, Any] = {"stem_size": stem_channels or self.stem_channels}
        if self.kind is EfficientNetFeatures:
            own["stem_kernel_size"] = self.stem_kernel
        elif self.layer_scale:
            own["layer_scale_init_value"] = LAYER_SCALE
        return self.kind(
            decode_arch_def([list(stage) for stage in stages]),
            pad_type=self.padding,
            round_chs_fn=_as_it_is,
            act_layer=self.activation,
            norm_layer=nn.BatchNorm2d,
            se_layer=self.squeeze,
            **own,
            **options,
        )


def read_family(name: str, model: Any) -> Family:
    """Return the settings of a model.

    Args:
        name: timm's name of the model.
        model: Its feature extractor; may lie on the meta device.

    Raises:
        ValueError: If the model has no blocks that strings describe, or parts that they cannot say.
    """
    if type(model) not in (EfficientNetFeatures, MobileNetV3Features):
        raise ValueError(
            "backbone must be of timm's EfficientNet or MobileNet classes where its blocks are written as strings, got "
            f"'{name}'; choose one such as 'efficientnet_b0', 'tf_efficientnet_lite0' or 'mobilenetv3_large_100'"
        )
    squeezes = squeezes_of(model)
    _check_parts(name, model, squeezes)
    multiples = all(squeeze.conv_reduce.out_channels % 8 == 0 for _, squeeze in squeezes)
    of_expanded = type(model) is MobileNetV3Features
    rounding = round_channels if of_expanded and multiples else round
    return Family(
        kind=type(model),
        activation=type(model.act1 if of_expanded else model.bn1.act),
        padding="same" if isinstance(model.conv_stem, Conv2dSame) else "",
        squeeze=_squeeze_layer(squeezes, rounding),
        squeeze_rounding=rounding,
        ratio_of_expanded=of_expanded,
        stem_channels=model.conv_stem.out_channels,
        stem_kernel=model.conv_stem.kernel_size[0],
        layer_scale=any(type(module).__name__ == "LayerScale2d" for module in model.modules()),
    )


def squeezes_of(model: Any) -> list[tuple[Any, Any]]:
    """Return (block, its squeeze-and-excite part) of every block that has one."""
    blocks = [block for stage in model.blocks for block in stage]
    return [(block, block.se) for block in blocks if not isinstance(getattr(block, "se", nn.Identity()), nn.Identity)]


def activation_of(block: Any) -> type[nn.Module] | None:
    """Return the class of a block's activation; None for attention, which has none."""
    if hasattr(block, "attn"):
        return None
    return type(block.pw_exp.bn.act if hasattr(block, "pw_exp") else block.bn1.act)


def _check_parts(name: str, model: Any, squeezes: list[tuple[Any, Any]]) -> None:
    others = {type(squeeze).__name__ for _, squeeze in squeezes if type(squeeze) is not SqueezeExcite}
    if not isinstance(model.bn1, nn.BatchNorm2d):
        others.add(type(model.bn1).__name__)
    for stage in model.blocks:
        for path, part in stage.named_modules():
            if path.endswith("aa") and not isinstance(part, nn.Identity):
                others.add(type(part).__name__)
            if path.endswith("conv_s2d"):
                others.add("space to depth")
    if others:
        raise ValueError(
            f"backbone must have blocks that strings can say in full, but '{name}' has {', '.join(sorted(others))}; "
            "choose another model of the family"
        )


def _squeeze_layer(squeezes: list[tuple[Any, Any]], rounding: Callable[[float], int]) -> Callable[..., nn.Module]:
    options: dict[str, Any] = {"rd_round_fn": rounding}
    if squeezes:
        options["gate_layer"] = type(squeezes[0][1].gate)
    forced = {type(squeeze.act1) for block, squeeze in squeezes if type(squeeze.act1) is not activation_of(block)}
    if forced:
        options["force_act_layer"] = forced.pop()
    return partial(SqueezeExcite, **options)


def _as_it_is(channels: int) -> int:
    return channels
