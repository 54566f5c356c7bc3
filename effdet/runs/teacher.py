"""The teacher of a run: a trained detector, checked against the network that learns from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from effdet.config import ConfigError

if TYPE_CHECKING:
    from effdet.config import TrainConfig
    from effdet.detector.efficientdet import EfficientDet
    from effdet.training.distillation import Teacher

ANCHOR_KEYS = ("min_level", "max_level", "anchor_scale", "scales_per_octave", "aspect_ratios")

logger = logging.getLogger(__name__)


def build_teacher(train: TrainConfig, model: EfficientDet) -> Teacher | None:
    """Return the teacher that ``train.teacher`` names, on the device of the model; None if there is none.

    Raises:
        FileNotFoundError: If there are no such weights.
        ConfigError: If it lacks a class of the model, or has other anchors or takes other images.
        ValueError: If the weights are damaged or hold no detector.
    """
    if train.teacher is None:
        return None
    from effdet.detector.efficientdet import EfficientDet
    from effdet.training.distillation import Teacher

    teacher = EfficientDet.from_pretrained(train.teacher)
    _check_images(teacher, model)
    _check_anchors(teacher, model)
    classes = _classes_by_name(teacher, model)
    logger.info("teacher: %s from %s", teacher.name, train.teacher)
    weight = 1.0 if train.teacher_weight is None else train.teacher_weight
    return Teacher(teacher.to(model.device), classes.to(model.device), weight=weight)


def _check_images(teacher: EfficientDet, model: EfficientDet) -> None:
    theirs, ours = teacher.architecture.in_channels, model.architecture.in_channels
    if theirs != ours:
        raise ConfigError(f"train.teacher must take images of {ours} channels, as the network does; it takes {theirs}")
    if teacher.value_range != model.value_range:
        raise ConfigError(
            f"train.teacher must have data.value_range {model.value_range}, as the network does; "
            f"it has {teacher.value_range}"
        )


def _check_anchors(teacher: EfficientDet, model: EfficientDet) -> None:
    size = (model.image_size[0], model.image_size[1])
    theirs, ours = teacher.anchors(size, "cpu"), model.anchors(size, "cpu")
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=0.01):
        raise ConfigError(
            f"train.teacher must have the anchors of the network; it has {_differences(teacher, model)}; "
            "choose another teacher, or set these keys of model.architecture"
        )


def _differences(teacher: EfficientDet, model: EfficientDet) -> str:
    pairs = [(name, *(getattr(m.architecture, name) for m in (teacher, model))) for name in ANCHOR_KEYS]
    return ", ".join(f"{name} {theirs} instead of {ours}" for name, theirs, ours in pairs if theirs != ours)


def _classes_by_name(teacher: EfficientDet, model: EfficientDet) -> torch.Tensor:
    """Return the teacher's label of each class of the model: (K,) int64."""
    missing = [name for name in model.class_names if name not in teacher.class_names]
    if missing:
        raise ConfigError(
            f"train.teacher must know the classes of the data by their names; it lacks {', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}, and has {', '.join(teacher.class_names[:5])}"
            f"{', …' if len(teacher.class_names) > 5 else ''}"
        )
    return torch.tensor([teacher.class_names.index(name) for name in model.class_names])
