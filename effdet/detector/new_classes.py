"""The classes of a model, and a class head for other ones than it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from effdet.models.heads import DenseHead
from effdet.structures import check_same_length


def check_classes(
    num_classes: int, class_names: Sequence[str] | None, category_ids: Sequence[int] | None
) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """Return number, names and category ids of the classes; names and ids that are None are the labels.

    Raises:
        ValueError: If there is no class, or not one name and one id per class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, got {num_classes}")
    labels = range(num_classes)
    names = tuple(str(label) for label in labels) if class_names is None else tuple(class_names)
    ids = tuple(labels) if category_ids is None else tuple(int(i) for i in category_ids)
    check_same_length(names, ids, num_classes)
    return num_classes, names, ids


def head_like(old: DenseHead, new: DenseHead) -> DenseHead:
    """Return a new head in the mode, device, data type and memory format of an old one, trained as the old one is."""
    weight = old.predict.weight if isinstance(old.predict, nn.Conv2d) else old.predict.pointwise.weight
    new.to(device=weight.device, dtype=weight.dtype)
    if weight.stride() != torch.empty(weight.shape, device="meta").stride():
        new.to(memory_format=torch.channels_last)
    new.__class__ = type(old)  # which may have passes of its own for training
    new.gradient_checkpointing = old.gradient_checkpointing
    return new.train(old.training)
