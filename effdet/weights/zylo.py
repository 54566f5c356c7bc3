"""Convert checkpoints of zylo117/Yet-Another-EfficientDet-Pytorch to our names and orders.

Its models are ``efficientdet-d0`` … ``efficientdet-d8`` (D8 is google's D7x). Nodes of the BiFPN are named by level and
direction, the BN layers of the heads are ordered by level first, and deltas are (dy, dx, dh, dw). The files of D6 and
larger models also hold fusion weights, which neither that project nor this one uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.models.published import list_variants
from effdet.weights.checkpoint import Checkpoint, check_fit, network_shapes
from effdet.weights.efficientnet_pytorch_names import EXPANDED, OUTER, SQUEEZE, UNEXPANDED
from effdet.weights.own_state_dict import mentioned

FAMILY = "zylo"
ANCHORS_PER_CELL = Architecture.named("efficientdet-d0").anchors_per_cell  # the same in all of its models
_MARK = re.compile(r"(?P<wrappers>(?:\w+\.)*?)backbone_net\.model\._conv_stem\.")
_UNUSED_FUSION = re.compile(r"bifpn\.\d+\.p\d_w[12]$")
_CLASSIFIER = ("backbone_net.model._conv_head.", "backbone_net.model._bn1.", "backbone_net.model._fc.")


def recognises(names: Collection[str]) -> bool:
    """Return whether the names are those of a detector of zylo117's project, with or without a wrapper's prefix."""
    return any(_MARK.match(name) for name in names) and any("regressor.header." in name for name in names)


def convert(tensors: Mapping[str, Tensor], hint: str = "") -> Checkpoint:
    """Convert a state dict to our names, shapes and orders.

    Args:
        tensors: A state dict of the detector, or of a wrapper around it (``module.``, ``model.``).
        hint: File name. It distinguishes D7 from D6, because their tensors are the same. The default is D6.

    Raises:
        ValueError: If none of the nine models has these tensors; the message lists those that are missing, unknown or
            of another shape.
    """
    names = _unwrapped(tensors)
    alike = _models_alike(names, tensors)
    variant = mentioned(alike, hint) or mentioned([name.removeprefix("efficientdet-") for name in alike], hint)
    variant = f"efficientdet-{variant.removeprefix('efficientdet-')}" if variant else alike[0]

    row, num_classes = Architecture.named(variant), _num_classes(names, tensors)
    shapes = network_shapes(row, num_classes)
    theirs = _names_in_file(row, shapes)
    state = {own: _convert(own, tensors[names[name]]) for own, name in theirs.items() if name in names}
    used = set(theirs.values())
    skipped = [name for name in names if name not in used and _is_unused(name, row)]
    check_fit(
        {theirs[own]: shape for own, shape in shapes.items()},
        {name: tensors[names[name]] for name in names if name not in skipped},
        f"the checkpoint is not {variant} with {num_classes} classes",
    )
    return Checkpoint(
        family=FAMILY,
        variant=variant,
        num_classes=num_classes,
        state=state,
        sources={own: names[theirs[own]] for own in state},
        skipped=tuple(names[name] for name in skipped) + tuple(set(tensors) - set(names.values())),
        alternatives=tuple(name for name in alike if name != variant),
    )


def _is_unused(name: str, row: Architecture) -> bool:
    return name.startswith(_CLASSIFIER) or (row.fusion == "sum" and _UNUSED_FUSION.match(name) is not None)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the name in the file for each name without the prefix that a wrapper put before it."""
    wrappers = next(match["wrappers"] for name in tensors if (match := _MARK.match(name)))
    return {name.removeprefix(wrappers): name for name in tensors if name.startswith(wrappers)}


def _convert(own: str, tensor: Tensor) -> Tensor:
    """Return our tensor: deltas as (x, y, w, h) instead of (y, x, h, w)."""
    if own.startswith("box_head.predict.pointwise"):
        tensor = tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)  # (A·4, …)
    return tensor.contiguous()


# -- which model it is -----------------------------------------------------------------------------------------------


def _models_alike(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the models with the same numbers of channels, layers and blocks."""
    stem = names.get("regressor.header.depthwise_conv.conv.weight")
    channels = len(tensors[stem]) if stem else 0
    cells = _count(r"bifpn\.(\d+)\.", names)
    repeats = _count(r"regressor\.conv_list\.(\d+)\.", names)
    levels = _count(r"regressor\.bn_list\.(\d+)\.", names)
    found = (channels, cells, repeats, levels)
    rows = {name: Architecture.named(name) for name in list_variants(FAMILY)}
    alike = [name for name, row in rows.items() if found == _counts(row)]
    if not alike:
        known = "; ".join(f"{name} {_counts(row)}" for name, row in rows.items())
        raise ValueError(
            "the checkpoint is none of zylo117's models: its (channels, cells, layers in a head, levels) are "
            f"{found}; known are {known}"
        )
    return alike


def _counts(row: Architecture) -> tuple[int, int, int, int]:
    return row.channels, row.neck_repeats, row.head_repeats, row.num_levels


def _count(pattern: str, names: Collection[str]) -> int:
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)


def _num_classes(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    bias = names.get("classifier.header.pointwise_conv.conv.bias")
    outputs = len(tensors[bias]) if bias else 0
    if outputs == 0 or outputs % ANCHORS_PER_CELL:
        must = f"the bias of classifier.header must have {ANCHORS_PER_CELL} numbers for each class"
        raise ValueError(f"{must}, got {outputs}; models with other anchors than the published are not supported")
    return outputs // ANCHORS_PER_CELL


# -- our names → names in the file -----------------------------------------------------------------------------------

_SEPARABLE = {"depthwise": "depthwise_conv.conv", "pointwise": "pointwise_conv.conv"}
_LATERAL = {"conv": "0.conv", "bn": "1"}


def _names_in_file(row: Architecture, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
    """Return the name in the file for each of ours."""
    blocks = list(dict.fromkeys(m[0] for name in shapes if (m := re.match(r"backbone\.blocks\.\d+\.\d+", name))))
    unexpanded = {block for block in blocks if f"{block}.conv_pwl.weight" not in shapes}
    return {own: _name_in_file(own, row, blocks, unexpanded) for own in shapes}


def _name_in_file(own: str, row: Architecture, blocks: list[str], unexpanded: Collection[str]) -> str:
    if own.endswith("fuse.edge_weights"):
        return _fusion(own, row)
    module, _, kind = own.rpartition(".")
    part, _, rest = module.partition(".")
    name: dict[str, Callable[[], str]] = {
        "backbone": lambda: _backbone_module(module, blocks, unexpanded),
        "neck": lambda: _neck_module(rest, row),
        "box_head": lambda: f"regressor.{_head_module(rest)}",
        "class_head": lambda: f"classifier.{_head_module(rest)}",
    }
    return f"{name[part]()}.{kind}"


def _backbone_module(module: str, blocks: list[str], unexpanded: Collection[str]) -> str:
    match = re.match(r"(backbone\.blocks\.\d+\.\d+)\.(.+)", module)
    if match is None:
        name = OUTER[module.removeprefix("backbone.")]
    else:
        block, rest = match[1], match[2]
        inner = SQUEEZE | (UNEXPANDED if block in unexpanded else EXPANDED)
        name = f"_blocks.{blocks.index(block)}.{inner[rest]}"
    is_norm = name.rpartition(".")[2].startswith("_bn")
    return f"backbone_net.model.{name}" if is_norm else f"backbone_net.model.{name}.conv"


def _level(way: str, number: int, row: Architecture) -> int:
    """Return the level that a node computes: 6 for P6."""
    return {"top_down": row.max_level - 1 - number, "bottom_up": 4 + number, "coarsest": row.max_level}[way]


_NODE = re.compile(r"layers\.(\d+)\.(top_down|bottom_up|coarsest)(?:\.(\d+))?\.(.+)")


def _fusion(own: str, row: Architecture) -> str:
    match = _NODE.match(own.removeprefix("neck."))
    assert match is not None, own
    level = _level(match[2], int(match[3] or 0), row)
    return f"bifpn.{match[1]}.p{level}_w{1 if match[2] == 'top_down' else 2}"


def _neck_module(rest: str, row: Architecture) -> str:
    lateral = re.match(r"(to_p6|(input|skip)_laterals\.(\d+))\.(conv|bn)$", rest)
    if lateral:
        names = {
            None: "p5_to_p6",
            "input": f"p{int(lateral[3] or 0) + 3}_down_channel",
            "skip": f"p{int(lateral[3] or 0) + 4}_down_channel_2",
        }
        return f"bifpn.0.{names[lateral[2]]}.{_LATERAL[lateral[4]]}"
    match = _NODE.match(rest)
    assert match is not None, rest
    way = "up" if match[2] == "top_down" else "down"
    node = f"bifpn.{match[1]}.conv{_level(match[2], int(match[3] or 0), row)}_{way}"
    return f"{node}.{_SEPARABLE.get(match[4].removeprefix('conv.'), match[4])}"


def _head_module(rest: str) -> str:
    bn = re.match(r"bns\.(\d+)\.(\d+)$", rest)
    if bn:
        return f"bn_list.{bn[2]}.{bn[1]}"
    place, _, conv = rest.rpartition(".")
    return f"{'header' if place == 'predict' else place.replace('convs', 'conv_list')}.{_SEPARABLE[conv]}"
