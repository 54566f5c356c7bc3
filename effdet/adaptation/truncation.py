"""A narrower network that keeps the most important channels of a trained one.

One width changes at a time. Then every dimension of a tensor whose length changes is a dimension of that width, and all
of them must lose the same channels: those of the convolutions that write the channels, of the BNs behind them, of the
depthwise convolutions, and of the convolutions that read them. So no graph of the network has to be followed, and
layers that levels share, BNs of each level and fusion weights of each channel need no rule of their own. Two widths
stand for several sets of channels: ``heads`` has one behind every convolution of each tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effdet.adaptation.widths import widths_of
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.models.network import Network

State = dict[str, Tensor]
SILENT = ("running_mean", "running_var", "bias")  # say nothing about the importance of a channel


def truncate(model: EfficientDet, architecture: Architecture) -> EfficientDet:
    """Return a detector of a narrower architecture with the weights of a model.

    The importance of a channel is the sum of the L2 norms of its slices of all kernels and BN scales that the width
    touches, each divided by the mean of its tensor (filter pruning by magnitude, as in NetAdapt, Yang et al. 2018,
    §3.3). The most important channels stay, in their order. Of repeated layers, the first stay.

    Args:
        model: A trained detector; it is not changed.
        architecture: That of the model with smaller values of any of ``widths_of``.

    Raises:
        ValueError: If narrowing the model's architecture cannot give this one.
    """
    now, state = model.architecture, dict(model.network.state_dict())
    wanted = {name: width.value for name, width in widths_of(architecture).items() if not width.is_several}
    for name, value in wanted.items():
        width = widths_of(now).get(name) if now != architecture else None
        if width is not None and value < width.value:
            narrower = width.set(value)
            state = _cut(state, _shapes(narrower, model.num_classes), now.head_repeats)
            now = narrower
    if _shapes(now, model.num_classes) != _shapes(architecture, model.num_classes):
        raise ValueError(
            "a network must be truncated to an architecture that differs in smaller widths or depths alone, got one "
            "that differs from the model's in more; make it with effdet.adaptation.widths.widths_of"
        )
    return _with_state(model, architecture, state)


def _with_state(model: EfficientDet, architecture: Architecture, state: State) -> EfficientDet:
    result = EfficientDet(
        architecture,
        model.num_classes,
        image_size=model.image_size,
        class_names=model.class_names,
        category_ids=model.category_ids,
        stochastic_depth=model.stochastic_depth,
        settings=model.settings,
        preprocessing=model.preprocessing,
        training_tiles=model.training_tiles,
        predict_threshold=model.predict_threshold,
        value_range=model.value_range,
    )
    result.network.load_state_dict(state)
    result.mean.copy_(model.mean)
    result.std.copy_(model.std)
    return result.to(model.device).train(model.training)


def _shapes(architecture: Architecture, num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = Network(architecture, num_classes, stochastic_depth=0.0)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _cut(state: State, shapes: Mapping[str, torch.Size], head_layers: int) -> State:
    """Return the tensors with the lengths of ``shapes``; those that have no shape there go."""
    touched: dict[str, list[tuple[str, int]]] = {}
    for name, shape in shapes.items():
        for dim, (old, new) in enumerate(zip(state[name].shape, shape, strict=True)):
            if old != new:
                touched.setdefault(_channel_set(name, dim, head_layers), []).append((name, dim))
    result = {name: state[name] for name in shapes}
    for places in touched.values():
        name, dim = places[0]
        scores = importance([state[name].movedim(dim, 0) for name, dim in places if not name.endswith(SILENT)])
        kept = scores.sort(descending=True, stable=True).indices[: shapes[name][dim]].sort().values
        for name, dim in places:
            result[name] = result[name].index_select(dim, kept)
    return result


def importance(tensors: Sequence[Tensor]) -> Tensor:
    """Return the importance of each channel, (C,): ``Σₜ ‖tensorₜ[c]‖₂ / mean over c of it``.

    Args:
        tensors: Kernels and BN scales, each (C, …).
    """
    norms = [tensor.float().flatten(1).norm(dim=1) if tensor.ndim > 1 else tensor.float().abs() for tensor in tensors]
    return torch.stack([norm / norm.mean().clamp_min(1e-12) for norm in norms]).sum(0)


def _channel_set(name: str, dim: int, head_layers: int) -> str:
    """Return the name of the set of channels that a dimension of a tensor has, of the width that changes.

    In a head each convolution makes a set of its own, and the next one reads it. All else that changes at a time is one
    set: the channels of the neck are tied by the sums of its nodes, and the first convolution of each head reads them.
    """
    head, _, rest = name.partition(".")
    if head not in ("class_head", "box_head"):
        return "tied"
    part, _, inner = rest.partition(".")
    layer = head_layers if part == "predict" else int(inner.split(".")[0])
    writes = part == "bns" or (dim == 0 and not name.endswith("depthwise.weight"))
    made_by = layer if writes else layer - 1
    return f"{head} {made_by}" if made_by >= 0 else "tied"
