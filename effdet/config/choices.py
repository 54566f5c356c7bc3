"""What those keys of a config take that have a few names to choose from."""

from __future__ import annotations

from enum import Enum

AUTO_TILES = "auto"
AUTO_BATCH = "auto"


class Optimizer(str, Enum):
    """Optimisers that a run can use."""

    sgd = "sgd"
    adamw = "adamw"


class Precision(str, Enum):
    """Number formats of the forward and backward pass; fp16 needs CUDA."""

    auto = "auto"  # bf16 on a CUDA device that has it, or where it is faster on a CPU; else fp32
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Assigner(str, Enum):
    """Rules by which anchors learn boxes."""

    iou = "iou"  # IoU of anchor and box, as published
    atss = "atss"  # IoU of anchor and box above a threshold that each box finds
    simota = "simota"  # the anchors that predict class and place at the least cost
    task_aligned = "task_aligned"  # the anchors that already predict a box best


class ClassLoss(str, Enum):
    """Losses of the class head."""

    focal = "focal"
    quality_focal = "quality_focal"
    varifocal = "varifocal"


class BoxLoss(str, Enum):
    """Losses of the box head."""

    huber = "huber"
    iou = "iou"
    giou = "giou"
    diou = "diou"
    ciou = "ciou"


class Freeze(str, Enum):
    """Parts of the network that keep their weights and BN statistics."""

    none = "none"
    stem = "stem"
    backbone = "backbone"
    backbone_neck = "backbone+neck"


class Resize(str, Enum):
    """How images fit into the network input: by one factor and padding, or each axis by its own factor."""

    letterbox = "letterbox"
    stretch = "stretch"


class LoggerKind(str, Enum):
    """Where a run reports its numbers beside its own files."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class NmsKind(str, Enum):
    """Non-maximum suppression: drop overlapping boxes, or decay their scores (Gaussian)."""

    hard = "hard"
    soft = "soft"
