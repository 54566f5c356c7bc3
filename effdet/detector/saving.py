"""Write a model to a file, a folder or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from effdet.detector.evaluation_copies import without_wrapper_names
from effdet.weights.hub import upload_folder
from effdet.weights.own_format import is_folder, save_folder, save_native

if TYPE_CHECKING:
    from effdet.detector.efficientdet import EfficientDet


def save(model: EfficientDet, path: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write a model, or other weights for it; see ``EfficientDet.save_pretrained``."""
    write = save_folder if is_folder(path) else save_native
    write(path, without_wrapper_names(model.state_dict() if state is None else state), describe(model))


def push(
    model: EfficientDet,
    repository: str,
    *,
    private: bool | None,
    revision: str | None,
    message: str,
    token: str | None,
) -> str:
    """Upload a model to the hub and return the address of the commit; see ``EfficientDet.push_to_hub``."""
    state = without_wrapper_names(model.state_dict())
    with TemporaryDirectory() as folder:
        save_folder(folder, state, describe(model), source=f"hf-hub:{repository}")
        return upload_folder(folder, repository, private=private, revision=revision, message=message, token=token)


def describe(model: EfficientDet) -> dict[str, Any]:
    """Return all that a file of weights says besides the weights; plain JSON values."""
    return {
        "name": model.name,
        "architecture": model.architecture.to_dict(),
        "num_classes": model.num_classes,
        "class_names": list(model.class_names),
        "category_ids": list(model.category_ids),
        "image_size": list(model.image_size),
        "mean": list(model.letterbox.mean),
        "std": list(model.letterbox.std),
        "stochastic_depth": model.stochastic_depth,
        "settings": asdict(model.settings),
        "preprocessing": asdict(model.preprocessing),
        "value_range": model.value_range and list(model.value_range),
        "predict_threshold": model.predict_threshold,
        "training_tiles": model.training_tiles and asdict(model.training_tiles),
    }
