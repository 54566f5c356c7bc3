"""Describe a ``.tflite`` file that another program wrote, from its NMS operator and its TFLite metadata."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.deployment.description import Description
from effdet.deployment.tflite.contents import Contents
from effdet.deployment.tflite.graph import unpack
from effdet.deployment.tflite.metadata import NAME
from effdet.deployment.tflite.metadata_reader import Metadata, read_metadata
from effdet.deployment.tflite.nms import OPERATOR, find_operator, options_of
from effdet.images.preprocessing import Preprocessing
from effdet.ops.settings import PostprocessSettings

if TYPE_CHECKING:
    from effdet.deployment.tflite.runtime import LiteRt

_MALFORMED = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError)
_UNNAMED = "???"  # line of a label file for a class that does not exist


def describe(runtime: LiteRt) -> Description:
    """Return the description of a detector, and let the runtime give its outputs in the operator's order.

    Raises:
        ValueError: If the file does not say enough; the message says what is missing.
    """
    try:
        model = unpack(runtime.contents.data)
        operator, metadata = find_operator(model), read_metadata(_buffer(model, NAME))
        options = {} if operator is None else options_of(operator)
    except _MALFORMED as error:
        raise ValueError(f"it holds damaged tables: {error}; get the file again") from error
    if operator is None:
        raise ValueError(f"it has no description of this package, and no {OPERATOR}; export it with tools/export.py")
    runtime.order_outputs(list(operator.outputs))
    mean, std = _scale(runtime, metadata)
    height, width = runtime.image_size
    names = _class_names(metadata, runtime.contents, options["num_classes"])
    return Description(
        architecture=None,
        class_names=names,
        category_ids=tuple(range(len(names))),
        image_size=(height, width),
        mean=mean,
        std=std,
        preprocessing=Preprocessing(fit="stretch"),
        settings=_settings(options),
        input="pixels" if runtime.takes_uint8 else "normalised",
        outputs="detections",
        precision="int8" if runtime.takes_uint8 else "fp32",
    )


def _buffer(model: Any, name: str) -> bytes | None:
    """Return the metadata buffer with a name."""
    for entry in model.metadata or []:
        found = entry.name.decode() if isinstance(entry.name, bytes) else entry.name
        if found == name:
            return bytes(model.buffers[entry.buffer].data)
    return None


def _scale(runtime: LiteRt, metadata: Metadata) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for each channel; a uint8 input takes pixels as they are."""
    channels = int(runtime.inputs[0]["shape"][-1])
    if runtime.takes_uint8:
        return (0.0,) * channels, (1.0,) * channels
    if not metadata.mean or not metadata.std:
        raise ValueError(
            "its input is float, so its TFLite metadata must have NormalizationOptions with mean and std, which are "
            "missing; add them, or take a file with a uint8 input"
        )
    return _for_each(metadata.mean, channels, "mean"), _for_each(metadata.std, channels, "std")


def _for_each(values: tuple[float, ...], channels: int, name: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ValueError(f"{name} in its TFLite metadata must be 1 number or {channels}, got {len(values)}")
    return values * channels if len(values) == 1 else values


def _class_names(metadata: Metadata, contents: Contents, num_classes: int) -> tuple[str, ...]:
    """Return the lines of the label file; a background class at its beginning is left out."""
    texts = [name for name in contents.files if name.endswith(".txt")]
    file = metadata.label_file if metadata.label_file in contents.files else texts[0] if len(texts) == 1 else None
    if file is None:
        raise ValueError(
            "it must have a label file in the zip behind it, named by its TFLite metadata, which is missing; add one "
            "with a class name in each line"
        )
    names = [line.strip() for line in contents.files[file].splitlines()]
    if len(names) == num_classes + 1 and names[0] in (_UNNAMED, "background"):
        names = names[1:]
    if len(names) < num_classes:
        raise ValueError(f"its label file {file} must have {num_classes} lines, one for each class, got {len(names)}")
    return tuple(f"class {label}" if name in ("", _UNNAMED) else name for label, name in enumerate(names[:num_classes]))


def _settings(options: dict[str, Any]) -> PostprocessSettings:
    return PostprocessSettings(
        nms="hard",
        iou_threshold=float(np.clip(options["nms_iou_threshold"], 0, 1)),
        score_threshold=float(np.clip(options["nms_score_threshold"], 0, 1)),
        max_detections=int(options["max_detections"]),
        class_agnostic=not options.get("use_regular_nms", False),
    )
