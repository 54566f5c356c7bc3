"""EfficientDet: train, evaluate and use it.

    from effdet import EfficientDet

Names are loaded when they are first used, so ``import effdet`` costs nothing and ``effdet --help`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdet.config import Config, ConfigError, load_config
    from effdet.deployment.load import load
    from effdet.detector.efficientdet import EfficientDet
    from effdet.evaluation.coco import CocoMetrics
    from effdet.models.architecture import Architecture
    from effdet.models.published import list_variants
    from effdet.runs.evaluate import evaluate
    from effdet.runs.find_lr import find_lr
    from effdet.runs.train import Run, train
    from effdet.structures import Batch, Detection, Detections, Predictions, Target

__version__ = "0.2.0.dev0"

__all__ = [
    "Architecture",
    "Batch",
    "CocoMetrics",
    "Config",
    "ConfigError",
    "Detection",
    "Detections",
    "EfficientDet",
    "Predictions",
    "Run",
    "Target",
    "__version__",
    "evaluate",
    "find_lr",
    "list_variants",
    "load",
    "load_config",
    "train",
]

_HOMES = {
    "Architecture": "effdet.models.architecture",
    "Batch": "effdet.structures",
    "CocoMetrics": "effdet.evaluation.coco",
    "Config": "effdet.config",
    "ConfigError": "effdet.config",
    "Detection": "effdet.structures",
    "Detections": "effdet.structures",
    "EfficientDet": "effdet.detector.efficientdet",
    "Predictions": "effdet.structures",
    "Run": "effdet.runs.train",
    "Target": "effdet.structures",
    "evaluate": "effdet.runs.evaluate",
    "find_lr": "effdet.runs.find_lr",
    "list_variants": "effdet.models.published",
    "load": "effdet.deployment.load",
    "load_config": "effdet.config",
    "train": "effdet.runs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
