"""The classes of a model, and a class head for other ones than it was trained for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import nn

from effdet.models.heads import DenseHead
from effdet.structures import check_same_length


def check_classes(
    num_classes: int, class_names: Sequence[str] | None, category_ids: Sequence[int] | None
) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """Return number, names and category ids of the classes; names and ids that are None are the labels.

    Raises:
        TypeError: If ``num_classes`` is no whole number, or ``class_names`` is one text.
        ValueError: If there is no class, or not one name and one id per class, or an id is given twice.
    """
    if not isinstance(num_classes, Integral):
        raise TypeError(f"num_classes must be a whole number, got {num_classes!r}")
    if isinstance(class_names, str):
        raise TypeError(f"class_names must be a list of texts, got the text {class_names!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, got {num_classes}")
    labels = range(num_classes)
    names = tuple(str(label) for label in labels) if class_names is None else tuple(class_names)
    ids = tuple(labels) if category_ids is None else tuple(int(i) for i in category_ids)
    check_same_length(names, ids, num_classes)
    if len(set(ids)) < num_classes:
        twice = Counter(ids).most_common(1)[0][0]
        raise ValueError(f"category_ids must differ from each other, got {twice} more than once")
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
