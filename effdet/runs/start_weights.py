"""The model of a run with the weights that it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effdet.config import Config, ModelConfig
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet


def build_model(config: Config, data: Dataset, *, resumed: bool) -> EfficientDet:
    """Return the model with its first weights; a resumed run brings its own.

    Raises:
        ConfigError: If the config names two kinds of weights, or weights of another model.
        FileNotFoundError: If there are no such weights.
        ValueError: If they do not fit.
    """
    from effdet.config import ConfigError
    from effdet.detector.efficientdet import EfficientDet
    from effdet.ops.postprocess import PostprocessSettings
    from effdet.training.checkpoint import load_tensors, tensors_of

    wanted, options = config.model, config.eval
    if wanted.weights and wanted.backbone_weights:
        raise ConfigError("model.weights is a whole detector: leave out model.backbone_weights, or model.weights")
    first = _first_detector(wanted, data.num_classes) if wanted.weights and not resumed else None
    model = EfficientDet(
        wanted.name if first is None else first.architecture,
        data.num_classes,
        backbone_weights=None if resumed else wanted.backbone_weights,
        image_size=config.data.image_size,
        class_names=data.class_names,
        category_ids=data.category_ids,
        stochastic_depth=wanted.stochastic_depth,
        settings=PostprocessSettings(
            nms=options.nms.value,
            iou_threshold=options.iou_threshold,
            sigma=options.sigma,
            score_threshold=options.score_threshold,
            max_candidates=options.max_candidates,
            max_detections=options.max_detections,
        ),
    )
    if first is not None:
        load_tensors(model, tensors_of(first))
        model.start = first.start
    return model


def _first_detector(wanted: ModelConfig, num_classes: int) -> EfficientDet:
    """Return the detector of ``model.weights``, with a new class head if the data has another number of classes.

    The weights say which architecture it is. Another project's model of the same structure may stand under our name, as
    tf_efficientdet_d0 under d0; what else tells them apart, such as the shapes of anchors, is then that of the weights.
    """
    from effdet.config import ConfigError
    from effdet.detector.efficientdet import EfficientDet
    from effdet.models.architecture import Architecture
    from effdet.weights.fit import have_same_network
    from effdet.weights.loading import load

    assert wanted.weights is not None
    found = load(wanted.weights)
    architecture = Architecture.named(wanted.name)
    if found.checkpoint is not None and wanted.name in found.checkpoint.alternatives:
        found = replace(found, architecture=architecture)
    if not have_same_network(architecture, found.architecture):
        held = found.architecture.name
        raise ConfigError(f"model.name is {wanted.name}, but model.weights holds {held}; make them agree")
    first = EfficientDet.from_loaded(found)
    if first.num_classes != num_classes:
        first.reset_classes(num_classes)
        first.start += f", with a new class head for {num_classes} classes"
    return first
