"""Typed configuration: YAML sections ``model``, ``data``, ``train``, ``eval``, ``run``, checked on arrival.

    config = load_config("configs/d0_coco.yaml", ["train.epochs=12", "run.name=short"])

Every key is a field in ``sections.py``, with its unit. An unknown key or a wrong type is a ``ConfigError`` that names
file and key.
"""

from effdet.config.choices import (
    AUTO_BATCH,
    AUTO_TILES,
    Assigner,
    BoxLoss,
    ClassLoss,
    Freeze,
    LoggerKind,
    NmsKind,
    Optimizer,
    Precision,
    Resize,
)
from effdet.config.errors import ConfigError
from effdet.config.loading import config_to_yaml, load_config, type_in_words, with_overrides
from effdet.config.sections import (
    ArchitectureConfig,
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "AUTO_BATCH",
    "AUTO_TILES",
    "ArchitectureConfig",
    "Assigner",
    "AugmentConfig",
    "BoxLoss",
    "ClassLoss",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "Freeze",
    "LoggerKind",
    "ModelConfig",
    "NmsKind",
    "Optimizer",
    "Precision",
    "Resize",
    "RunConfig",
    "TrainConfig",
    "config_to_yaml",
    "load_config",
    "type_in_words",
    "with_overrides",
]
