"""Convert checkpoints of the original project, google/automl, to our names and axis orders.

Its variables are named by scope, for example ``fpn_cells/cell_0/fnode4/op_after_combine9/conv/pointwise_kernel``. Both
of its code paths write the same names. Moving averages differ: the legacy code stores them as
``…/ExponentialMovingAverage``, the Keras code may store them as ``MovingAverage/…/average``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.models.published import ADVPROP_MODELS, GOOGLE_MODELS
from effdet.weights.checkpoint import Checkpoint, check_fit, network_shapes
from effdet.weights.own_state_dict import mentioned

ANCHORS_PER_CELL = Architecture.named("d0").anchors_per_cell  # the same in all of its models
_FINEST = 3  # level of the first map of the pyramid
_SCOPES = ("backbone/", "fpn_cells/", "resample_p", "class_net/", "box_net/")  # scopes of the detector's variables
_CLASSIFIER = "backbone/head/"  # of an ImageNet model
_SLOTS = ("/Momentum", "/momentum", "/Adam", "/Adam_1", "/m", "/v", "/RMSProp", "/RMSProp_1")  # of optimizers


def recognises(names: Collection[str]) -> bool:
    """Return whether the names are those of an EfficientDet of google/automl."""
    scopes = {name.split("/")[0] for name in names}
    return {"fpn_cells", "class_net", "box_net"} <= scopes and any(s.startswith("efficientnet-") for s in scopes)


def convert(tensors: Mapping[str, Tensor], hint: str = "") -> Checkpoint:
    """Convert the variables of a checkpoint to our names, shapes and orders. Moving averages replace plain values.

    Args:
        tensors: Result of ``read_checkpoint``.
        hint: File or folder name. It distinguishes D7 from D6, and models trained with AdvProp ("d0_ap", or "advprop"
            anywhere) from others, because their variables are the same. The default is D6, without AdvProp.

    Raises:
        ValueError: If no published model has these variables; the message lists those that are missing, unknown or of
            another shape.
    """
    names = _names_in_file(tensors)
    layout = _read_layout(names, tensors)
    fitting = [name for name, row in GOOGLE_MODELS.items() if _expected(row) == layout]
    if not fitting:
        known = "; ".join(f"{name}: {_expected(row)}" for name, row in GOOGLE_MODELS.items())
        raise ValueError(f"the checkpoint is no published model of google: it has {layout}; known are {known}")
    alike = [*fitting, *(f"{name}_ap" for name in fitting if f"{name}_ap" in ADVPROP_MODELS)]
    variant = _choose(alike, hint)

    num_classes = _num_classes(names, tensors)
    shapes = network_shapes(Architecture.named(variant), num_classes)
    wanted = _wanted(shapes, levels=Architecture.named(variant).num_levels)
    state = {
        own: _convert(own, [tensors[names[part]] for part in parts])
        for own, parts in wanted.items()
        if all(part in names for part in parts)
    }
    used = {names[part] for own in state for part in wanted[own]}
    check_fit(
        {parts[0]: shapes[own] for own, parts in wanted.items()},
        {wanted[own][0]: tensor for own, tensor in state.items()}
        | {name: tensors[name] for name in _unknown(names, used)},
        f"the checkpoint is not {variant} with {num_classes} classes",
    )
    return Checkpoint(
        family="google",
        variant=variant,
        num_classes=num_classes,
        state=state,
        sources={own: names[wanted[own][0]] for own in state},
        skipped=tuple(name for name in tensors if name not in used),
        alternatives=tuple(name for name in alike if name != variant),
    )


# -- names in the file -----------------------------------------------------------------------------------------------


def _names_in_file(tensors: Iterable[str]) -> dict[str, str]:
    """Return the name in the file for each variable; if it has a moving average, the name of that.

    The backbone's scope (``efficientnet-b0``) becomes ``backbone``, and the name of its BN class
    (``batch_normalization`` with ``tpu_``, ``sync_`` or nothing in front) becomes ``bn``.
    """
    plain: dict[str, str] = {}
    averaged: dict[str, str] = {}
    for name in tensors:
        match = re.fullmatch(r"(.+)/ExponentialMovingAverage|MovingAverage/(.+)/average", name)
        target = averaged if match else plain
        variable = (match[1] or match[2]) if match else name
        variable = re.sub(r"^efficientnet-[^/]+/", "backbone/", variable)
        target[re.sub(r"/\w*batch_normalization(_\d+)?/", r"/bn\1/", variable)] = name
    return plain | averaged


def _unknown(names: Mapping[str, str], used: Collection[str]) -> list[str]:
    """Return variables of the detector that our model does not use, without optimizer slots and the classifier."""
    return [
        name
        for variable, name in names.items()
        if name not in used and variable.startswith(_SCOPES) and not variable.startswith(_CLASSIFIER)
        if not variable.endswith(_SLOTS)
    ]


# -- which model it is -----------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Numbers that distinguish the published models, except D6 from D7."""

    backbone: str
    channels: int
    cells: int
    head_repeats: int
    max_level: int
    weighted: bool

    def __str__(self) -> str:
        fusion = "weighted" if self.weighted else "plain"
        return (
            f"backbone {self.backbone}, {self.channels} channels, {self.cells} cells of {fusion} fusion, "
            f"{self.head_repeats} layers in a head, levels to P{self.max_level}"
        )


def _expected(row: Architecture) -> _Layout:
    backbone = row.backbone.removeprefix("tf_efficientnet_")
    return _Layout(backbone, row.channels, row.neck_repeats, row.head_repeats, row.max_level, row.fusion == "fast")


def _read_layout(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> _Layout:
    backbones = {match[1] for name in tensors if (match := re.search(r"(?:^|/)efficientnet-([^/]+)/", name))}
    predict = names.get("class_net/class-predict/depthwise_kernel")
    return _Layout(
        backbone=", ".join(sorted(backbones)),
        channels=tensors[predict].shape[2] if predict else 0,
        cells=_highest(r"fpn_cells/cell_(\d+)/", names) + 1,
        head_repeats=_highest(r"class_net/class-(\d+)/", names) + 1,
        max_level=_highest(r"class_net/class-0-bn-(\d+)/", names),
        weighted=any("/WSM" in name for name in names),
    )


def _choose(alike: list[str], hint: str) -> str:
    advprop = [name for name in alike if name.endswith("_ap")] if "advprop" in hint.lower() else []
    return (advprop or [mentioned(alike, hint)])[0] or alike[0]


def _highest(pattern: str, names: Iterable[str]) -> int:
    return max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=-1)


def _num_classes(names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    bias = names.get("class_net/class-predict/bias")
    outputs = 0 if bias is None else len(tensors[bias])
    if outputs == 0 or outputs % ANCHORS_PER_CELL:
        must = f"class_net/class-predict/bias must have {ANCHORS_PER_CELL} numbers for each class"
        raise ValueError(f"{must}, got {outputs}")
    return outputs // ANCHORS_PER_CELL


# -- our names → names in the file -----------------------------------------------------------------------------------

_BN = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_EXPANDED = {
    "conv_pw.weight": "conv2d/kernel",
    "conv_dw.weight": "depthwise_conv2d/depthwise_kernel",
    "conv_pwl.weight": "conv2d_1/kernel",
}
_UNEXPANDED = {"conv_dw.weight": "depthwise_conv2d/depthwise_kernel", "conv_pw.weight": "conv2d/kernel"}
_SQUEEZE = {
    "se.conv_reduce.weight": "se/conv2d/kernel",
    "se.conv_reduce.bias": "se/conv2d/bias",
    "se.conv_expand.weight": "se/conv2d_1/kernel",
    "se.conv_expand.bias": "se/conv2d_1/bias",
}
_SEPARABLE = {
    "depthwise.weight": "depthwise_kernel",
    "pointwise.weight": "pointwise_kernel",
    "pointwise.bias": "bias",
}
_LATERAL = {"conv.weight": "conv2d/kernel", "conv.bias": "conv2d/bias"}


def _wanted(shapes: Mapping[str, torch.Size], *, levels: int) -> dict[str, tuple[str, ...]]:
    """Return for each of our tensors its variables: one, or several scalars for the fusion weights of a node."""
    blocks = list(dict.fromkeys(m[0] for name in shapes if (m := re.match(r"backbone\.blocks\.\d+\.\d+", name))))
    wanted: dict[str, tuple[str, ...]] = {}
    for own in shapes:
        part, _, rest = own.partition(".")
        if own.endswith("num_batches_tracked"):
            continue
        if part == "backbone":
            wanted[own] = (_backbone_variable(own, shapes, blocks),)
        elif part == "neck":
            wanted[own] = _neck_variables(rest, levels, num_weights=shapes[own][0])
        else:
            wanted[own] = (_head_variable(part.removesuffix("_head"), rest),)
    return wanted


def _backbone_variable(own: str, shapes: Collection[str], blocks: list[str]) -> str:
    match = re.match(r"(backbone\.blocks\.\d+\.\d+)\.(.+)", own)
    if match is None:
        return "backbone/stem/conv2d/kernel" if own == "backbone.conv_stem.weight" else f"backbone/stem/{_bn(own)}"
    block, rest = match[1], match[2]
    convs = _EXPANDED if f"{block}.conv_pwl.weight" in shapes else _UNEXPANDED
    return f"backbone/blocks_{blocks.index(block)}/{(convs | _SQUEEZE).get(rest) or _bn(rest)}"


def _bn(rest: str) -> str:
    """``bn2.weight`` → ``bn_1/gamma``: the first BN of a scope has no number."""
    module, kind = rest.split(".")[-2:]
    number = int(module.removeprefix("bn") or 1) - 1
    return f"bn{f'_{number}' if number else ''}/{_BN[kind]}"


def _neck_variables(rest: str, levels: int, *, num_weights: int) -> tuple[str, ...]:
    """Return the variables of a tensor of the neck.

    The maps of a cell are numbered: 0…L-1 are its inputs, and node n makes map L + n. Nodes go from coarse to fine,
    then from fine to coarse: L-1 of the top-down pass, L-2 of the bottom-up pass, and the coarsest level.
    """
    lateral = re.match(r"(input_laterals|skip_laterals)\.(\d+)\.(.+)", rest)
    if rest.startswith("to_p6."):
        return (f"resample_p6/{_lateral_part(rest.removeprefix('to_p6.'))}",)
    if lateral:
        passes, number = lateral[1], int(lateral[2])
        level = number if passes == "input_laterals" else number + 1
        node = levels - 2 - level if passes == "input_laterals" else levels - 2 + level
        return (f"fpn_cells/cell_0/fnode{node}/resample_0_{level}_{levels + node}/{_lateral_part(lateral[3])}",)

    match = re.match(r"layers\.(\d+)\.(top_down|bottom_up|coarsest)(?:\.(\d+))?\.(fuse|conv|bn)\.(.+)", rest)
    assert match is not None, rest
    first = {"top_down": 0, "bottom_up": levels - 1, "coarsest": 2 * levels - 3}[match[2]]
    node = first + int(match[3] or 0)
    scope = f"fpn_cells/cell_{match[1]}/fnode{node}"
    if match[4] == "fuse":
        return tuple(f"{scope}/WSM{f'_{i}' if i else ''}" for i in range(num_weights))
    after = f"{scope}/op_after_combine{levels + node}"
    return (f"{after}/bn/{_BN[match[5]]}" if match[4] == "bn" else f"{after}/conv/{_SEPARABLE[match[5]]}",)


def _lateral_part(rest: str) -> str:
    return _LATERAL.get(rest) or f"bn/{_BN[rest.removeprefix('bn.')]}"


def _head_variable(head: str, rest: str) -> str:
    bn = re.match(r"bns\.(\d+)\.(\d+)\.(.+)", rest)
    if bn:
        return f"{head}_net/{head}-{bn[1]}-bn-{int(bn[2]) + _FINEST}/{_BN[bn[3]]}"
    match = re.match(r"(?:convs\.)?(\w+)\.(.+)", rest)
    assert match is not None, rest
    return f"{head}_net/{head}-{match[1]}/{_SEPARABLE[match[2]]}"


# -- axis orders -----------------------------------------------------------------------------------------------------


def _convert(own: str, parts: list[Tensor]) -> Tensor:
    """Return our tensor, with PyTorch's order of axes, and deltas as (x, y, w, h) instead of (y, x, h, w)."""
    if own.endswith("edge_weights"):
        return torch.stack([part.float().reshape(()) for part in parts])
    tensor = parts[0].float()
    if tensor.ndim == 4:  # (kH, kW, in, out), depthwise (kH, kW, C, 1)
        depthwise = "depthwise" in own or "conv_dw" in own
        tensor = tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
    if own.startswith("box_head.predict.pointwise"):
        tensor = tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)  # (A·4, …)
    return tensor.contiguous()
