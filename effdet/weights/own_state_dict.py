"""Plain state dicts by our own names, without a description: the variant follows from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.models.published import FAMILIES
from effdet.weights.checkpoint import Checkpoint, check_fit, network_shapes

_WRAPPER_PARTS = frozenset({"_orig_mod", "module"})  # what torch.compile and data parallelism put into names


def without_wrapper_parts(name: str) -> str:
    """Return the name that a tensor has without ``torch.compile`` and data parallelism, of the network or of a part."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)


def recognises(names: Collection[str]) -> bool:
    """Return whether the names are ours: those of ``EfficientDet.network.state_dict()``."""
    parts = {name.partition(".")[0] for name in names}
    return {"neck", "class_head"} <= parts


def convert(tensors: Mapping[str, Tensor], hint: str = "") -> Checkpoint:
    """Return the detector that the tensors are; the names stay as they are.

    Args:
        tensors: By names of ``EfficientDet.network``.
        hint: File or model name; decides between variants that fit equally. Without it the first of the tables is
            taken: google's before effdet's before zylo117's, d6 before d7.

    Raises:
        ValueError: If no variant fits; the message lists what differs from the nearest.
    """
    num_classes = _num_classes(tensors)
    similar = [name for rows in FAMILIES.values() for name, row in rows.items() if _is_similar(row, tensors)]
    if not similar:
        raise ValueError(
            f"the state dict fits no variant: it has {_described(tensors)}, which none of "
            f"{', '.join(f'list_variants({family!r})' for family in FAMILIES)} has"
        )
    fitting = [name for name in similar if _num_differences(name, num_classes, tensors) == 0]
    if not fitting:
        nearest = mentioned(similar, hint) or min(
            similar, key=lambda name: _num_differences(name, num_classes, tensors)
        )
        check_fit(
            network_shapes(Architecture.named(nearest), num_classes), tensors, f"the state dict does not fit {nearest}"
        )
    chosen = mentioned(fitting, hint) or fitting[0]
    return Checkpoint(
        family="ours",
        variant=chosen,
        num_classes=num_classes,
        state=dict(tensors),
        sources={name: name for name in tensors},
        alternatives=tuple(name for name in fitting if name != chosen),
    )


def mentioned(names: Collection[str], hint: str) -> str:
    """Return the longest of the names that stands in a file or model name as a word of its own; empty if none does."""
    found = [name for name in names if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", hint.lower())]
    return max(found, key=len, default="")


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    scores, deltas = _num_outputs(tensors, "class_head"), _num_outputs(tensors, "box_head")
    anchors = deltas // 4  # per cell
    if not anchors or not scores or scores % anchors:
        raise ValueError(
            f"class_head.predict must have one output for each class and each of the {anchors} anchors that "
            f"box_head.predict has in a cell, got {scores}"
        )
    return scores // anchors


def _num_outputs(tensors: Mapping[str, Tensor], head: str) -> int:
    for name in (f"{head}.predict.pointwise.bias", f"{head}.predict.bias"):
        if name in tensors:
            return len(tensors[name])
    raise ValueError(f"the state dict has no {head}.predict, which tells the number of classes; it is incomplete")


def _layout(tensors: Collection[str]) -> tuple[int, int, int]:
    """Return layers of the neck, layers of a head, levels."""
    found = []
    for pattern in (r"neck\.layers\.(\d+)\.", r"class_head\.bns\.(\d+)\.", r"class_head\.bns\.\d+\.(\d+)\."):
        numbers = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
        found.append(max(numbers, default=-1) + 1)
    return found[0], found[1], found[2]


def _width(tensors: Mapping[str, Tensor]) -> int:
    bn = tensors.get("class_head.bns.0.0.weight")
    return 0 if bn is None else len(bn)


def _is_similar(row: Architecture, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the counts agree; building a network for every row of the tables would take many seconds."""
    counts = (row.neck_repeats, row.head_repeats, row.num_levels)
    return row.channels == _width(tensors) and counts == _layout(tensors)


def _described(tensors: Mapping[str, Tensor]) -> str:
    neck, head, levels = _layout(tensors)
    return f"{_width(tensors)} channels, {neck} layers in the neck, {head} in a head, {levels} levels"


def _num_differences(variant: str, num_classes: int, tensors: Mapping[str, Tensor]) -> int:
    """Return how many tensors are missing, unknown or of another shape; counters of BN batches do not count."""
    wanted = set(network_shapes(Architecture.named(variant), num_classes).items())
    given = {(name, tensor.shape) for name, tensor in tensors.items()}
    return sum(not name.endswith("num_batches_tracked") for name, _ in wanted ^ given)
