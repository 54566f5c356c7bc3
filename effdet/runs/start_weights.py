"""The model of a run with the weights that it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from effdet.weights.stem import RGB, inflated

if TYPE_CHECKING:
    from effdet.config import Config, ModelConfig
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.models.architecture import Architecture
    from effdet.weights.loading import Loaded


def build_model(config: Config, data: Dataset, *, resumed: bool) -> EfficientDet:
    """Return the model with its first weights; a resumed run brings its own.

    Raises:
        ConfigError: If the config names two kinds of weights, or weights of another model.
        FileNotFoundError: If there are no such weights.
        ValueError: If they do not fit.
    """
    from effdet.config import ConfigError
    from effdet.detector.efficientdet import EfficientDet
    from effdet.images.pixel_format import PixelFormat
    from effdet.images.preprocessing import Preprocessing
    from effdet.ops.settings import PostprocessSettings
    from effdet.runs.architecture import architecture_of
    from effdet.runs.training_tiles import tiles_like_training, tiles_of
    from effdet.training.checkpoint import load_tensors, tensors_of

    wanted, options = config.model, config.eval
    if wanted.weights and wanted.backbone_weights:
        raise ConfigError("model.weights is a whole detector: leave out model.backbone_weights, or model.weights")
    own_pixels = not (data.pixels or PixelFormat()).is_rgb  # whose mean is that of the data
    first = _first_detector(wanted, data.num_classes, own_pixels) if wanted.weights and not resumed else None
    model = EfficientDet(
        architecture_of(wanted) if first is None else first.architecture,
        data.num_classes,
        backbone_weights=None if resumed else wanted.backbone_weights,
        image_size=config.data.image_size,
        class_names=data.class_names,
        category_ids=data.category_ids,
        stochastic_depth=wanted.stochastic_depth,
        preprocessing=Preprocessing(fit=config.data.resize.value),
        value_range=config.data.value_range,
        settings=PostprocessSettings(
            nms=options.nms.value,
            iou_threshold=options.iou_threshold,
            sigma=options.sigma,
            score_threshold=options.score_threshold,
            max_candidates=options.max_candidates,
            max_detections=options.max_detections,
        ),
    )
    shown = tiles_of(config.data)
    model.training_tiles = shown or tiles_like_training(model.image_size, model.preprocessing, data)
    if first is not None:
        load_tensors(model, tensors_of(first))
        model.start = first.start
    return model


def _first_detector(wanted: ModelConfig, num_classes: int, own_pixels: bool) -> EfficientDet:
    """Return the detector of ``model.weights``, with a new class head if the data has another number of classes.

    The weights say which architecture it is, unless ``model.phi`` is set or ``model.architecture`` has keys. Another
    project's model with the same tensors may have our name, as tf_efficientdet_d0 that of d0; it keeps its own anchors
    then.
    """
    from effdet.config import ConfigError
    from effdet.detector.efficientdet import EfficientDet
    from effdet.runs.architecture import architecture_of
    from effdet.weights.checkpoint import have_same_network
    from effdet.weights.loading import load

    assert wanted.weights is not None
    found = load(wanted.weights)
    architecture = architecture_of(wanted, of_weights=found.architecture)
    if architecture.in_channels != found.architecture.in_channels == RGB:
        found = _inflated(found, architecture)
    if not have_same_network(architecture, found.architecture):
        raise ConfigError(
            f"model.name, model.phi and model.architecture say {architecture.name}, but model.weights holds "
            f"{found.architecture.name}; make them agree, or leave them out"
        )
    is_alternative = found.checkpoint is not None and wanted.name in found.checkpoint.alternatives
    if is_alternative or wanted.phi is not None or wanted.architecture.given():
        found = replace(found, architecture=architecture)
    first = EfficientDet.from_loaded(found)
    if own_pixels:
        first.mean.copy_(torch.tensor(architecture.mean))
        first.std.copy_(torch.tensor(architecture.std))
    if first.num_classes != num_classes:
        first.reset_classes(num_classes)
        first.start += f", with a new class head for {num_classes} classes"
    return first


def _inflated(found: Loaded, architecture: Architecture) -> Loaded:
    """Return weights for RGB as weights of the same network for images of other channels."""
    from effdet.detector.efficientdet import EfficientDet

    channels = {name: getattr(architecture, name) for name in ("in_channels", "mean", "std")}
    other = replace(found.architecture, **channels)
    own = EfficientDet(other, found.num_classes).state_dict()
    return replace(found, architecture=other, state=inflated(found.state, own), mean=None, std=None)
