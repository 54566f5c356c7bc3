"""Feature maps of ⌈H/s⌉ × ⌈W/s⌉ cells at stride s, from any backbone and for any input size.

timm's backbones differ in what they do at the lower and right edge of an image:

    round up      EfficientNet, MobileNet, ResNet, …: as they should
    round down    VGG, DenseNet, ConvNeXt, …: an input that 32 does not divide is padded there with zeros first
    cut the edge  Inception, Xception: convolutions without padding lose cells. They get the padding that keeps them
                  (as ``align_feature_maps`` of the TensorFlow detection API does); weights fit as before

A network on the meta device is asked which one it is, which costs no memory and little time.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.models.architecture import COARSEST_FEATURE

COARSEST = 2**COARSEST_FEATURE  # stride of C5
EVEN, ODD = (8 * COARSEST, 10 * COARSEST), (8 * COARSEST + 1, 10 * COARSEST + 1)  # every division of ODD has a rest


class Edge(Enum):
    """What a backbone does with the last, incomplete cells."""

    rounds_up = "up"
    rounds_down = "down"
    cuts = "cuts"


class Measured(NamedTuple):
    """What a backbone does that its name does not tell."""

    edge: Edge
    unused: tuple[str, ...] = ()  # parameters that none of its features depends on


def measure(name: str, probe: Any) -> Measured:
    """Run a backbone that has no memory for its tensors.

    Args:
        name: timm's name of the model, for messages.
        probe: The feature extractor on the meta device, with the outputs that are needed. One that cuts gets its
            padding here.

    Raises:
        ValueError: If it does not take images of any size, does not give (B, C, H, W), or cannot be made to give these
            sizes.
    """
    features = _run(name, probe, EVEN)
    edge = Edge.rounds_up
    if not _fits(probe, features, EVEN):
        edge, cut = Edge.cuts, [tuple(x.shape[2:]) for x in features]
        keep_edges(probe)
        features = _run_or_none(name, probe, EVEN) or []
        if not _fits(probe, features, EVEN):
            strides = probe.feature_info.reduction()
            raise ValueError(
                f"backbone must give features of {_text(cells(EVEN, strides))} cells at the strides "
                f"{', '.join(map(str, strides))} for an image of {_text([EVEN])}, but '{name}' gives {_text(cut)}, as "
                "it does not pad its edges; choose another model of timm, such as 'efficientnet_b0' or 'inception_v4'"
            )
    torch.stack([x.sum() for x in features]).sum().backward()
    unused = tuple(key for key, parameter in probe.named_parameters() if parameter.grad is None)
    if edge is Edge.rounds_up and not _fits(probe, _run_or_none(name, probe, ODD) or [], ODD):
        edge = Edge.rounds_down
    return Measured(edge, unused)


def cells(image_size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the size that the map of each stride must have: sides / stride, rounded up."""
    return [tuple(-(-side // stride) for side in image_size) for stride in strides]


def keep_edges(model: nn.Module) -> None:
    """Pad every convolution and pool that overlaps its neighbours and has no padding, so that no edge is lost."""
    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
            _keep_edges(module)


def _keep_edges(layer: Any) -> None:
    kernel, stride, padding = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding))
    if padding == (0, 0) and any(k > s for k, s in zip(kernel, stride, strict=True)):
        layer.padding = tuple((k - 1) // 2 for k in kernel)
        if isinstance(layer, nn.AvgPool2d):
            layer.count_include_pad = False


def features_of(backbone: Any, images: Tensor) -> list[Tensor]:
    """Return the feature maps of a backbone, C3 to C5 as a rule, each with ⌈H/s⌉ × ⌈W/s⌉ cells at its stride s.

    Args:
        backbone: From ``build_backbone``.
        images: (B, C, H, W).
    """
    height, width = images.shape[-2:]
    if backbone.edge is Edge.rounds_up or not (height % COARSEST or width % COARSEST):
        return backbone(images)
    features = backbone(F.pad(images, (0, -width % COARSEST, 0, -height % COARSEST)))
    wanted = cells((height, width), backbone.feature_info.reduction())
    return [x[..., :rows, :columns] for x, (rows, columns) in zip(features, wanted, strict=True)]


def _fits(probe: Any, features: Sequence[Tensor], image_size: Sequence[int]) -> bool:
    return [tuple(x.shape[2:]) for x in features] == cells(image_size, probe.feature_info.reduction())


def _run_or_none(name: str, probe: Any, image_size: Sequence[int]) -> list[Tensor] | None:
    """Return the features; None where branches of different sizes meet."""
    try:
        return _run(name, probe, image_size)
    except ValueError:
        return None


def _run(name: str, probe: Any, image_size: Sequence[int]) -> list[Tensor]:
    try:
        features: list[Tensor] = probe.eval()(torch.zeros(2, 3, *image_size, device="meta"))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ValueError(
            f"backbone must take images of any size, but '{name}' takes none of {_text([image_size])}: "
            f"{str(error).splitlines()[0]}; choose another model of timm"
        ) from error
    channels = probe.feature_info.channels()
    if any(x.ndim != 4 for x in features) or [x.shape[1] for x in features] != channels:
        raise ValueError(
            f"backbone must give features as (B, C, H, W), but '{name}' gives {[tuple(x.shape) for x in features]} "
            f"for B = 2 and C = {channels}; choose another model of timm, such as 'efficientnet_b0' or 'convnext_tiny'"
        )
    return features


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) if not isinstance(value, str) else (-1, -1)


def _text(sizes: Sequence[Sequence[int]]) -> str:
    return ", ".join(" × ".join(map(str, size)) for size in sizes)
